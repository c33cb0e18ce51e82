//! The agent and its absence on plain bridges and namespaces, with the file inventory: what needs no engine, quickly.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::path::Path;

use integration_tests::{agent_binary, assert_as_expected, assert_counts_exactly, prepare};
use lab::agent::{Agent, Inventory};
use lab::plain_lab::PlainLab;

const PROFILE: &str = "production";

fn start() -> PlainLab {
    prepare().unwrap();
    PlainLab::start(&|step| eprintln!("lab: {step}")).unwrap()
}

fn start_agent(lab: &PlainLab) -> Agent {
    let inventory = Inventory::File(lab.inventory());
    Agent::start(
        &agent_binary().unwrap(),
        lab.host(),
        lab.scratch(),
        Path::new("policies"),
        &inventory,
        PROFILE,
    )
    .unwrap()
}

#[test]
fn without_the_agent_everything_is_reachable() {
    let lab = start();
    let mut matrix = lab.matrix(PROFILE).unwrap();
    assert!(matrix.cells.len() > 900, "only {} cells", matrix.cells.len());
    matrix.run_all_open(&|_| {}).unwrap();
    assert_as_expected(&matrix);
}

#[test]
fn with_the_agent_the_matrix_is_what_the_documents_say_and_denials_are_counted_exactly() {
    let lab = start();
    let agent = start_agent(&lab);
    let mut matrix = lab.matrix(PROFILE).unwrap();
    assert_counts_exactly(&agent, &mut matrix);
}

#[test]
fn detaching_opens_everything_again() {
    let lab = start();
    let mut agent = start_agent(&lab);
    agent.stop();
    let mut matrix = lab.matrix(PROFILE).unwrap();
    matrix.run(&|_| {}).unwrap();
    // What was enforced stays in force without the agent.
    assert_as_expected(&matrix);
    agent.detach().unwrap();
    let mut matrix = lab.matrix(PROFILE).unwrap();
    matrix.run_all_open(&|_| {}).unwrap();
    assert_as_expected(&matrix);
}
