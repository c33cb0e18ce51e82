//! The agent and its absence on plain bridges and namespaces, with the file inventory: what needs no engine, quickly.

use lab::plain_lab::PlainLab;

#[test]
fn scenario_0_without_the_agent_everything_is_reachable() {
    let lab = PlainLab::start(&|step| println!("{step}")).unwrap();
    let mut matrix = lab.matrix("production").unwrap();
    matrix.run_all_open(&|_| {}).unwrap();
    let shut = matrix.differences();
    assert!(
        shut.is_empty(),
        "{} of {} shut:\n{}",
        shut.len(),
        matrix.cells.len(),
        shut.join("\n")
    );
    assert_eq!(matrix.wrong_answers(), [] as [String; 0]);
}
