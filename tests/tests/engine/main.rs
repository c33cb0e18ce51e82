//! Engines of different versions with their own filters as they are: what each closes by itself, the agent beside it,
//! its end and return under running containers, and networks of kinds that only newer ones have.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod networks;

use std::path::Path;
use std::time::Duration;

use integration_tests::{agent_binary, assert_as_expected, prepare, tell};
use lab::agent::{Agent, Inventory};
use lab::beyond::BEYOND;
use lab::docker_lab::{DockerLab, UNMANAGED};
use lab::engine::DockerHost;
use lab::expectation::Party;
use lab::interrupt::wait_for;
use lab::matrix::{Expected, Matrix, Target, Way};
use lab::observed::sum;

const PROFILE: &str = "production";

/// From this version on an engine filters IPv6 as it does IPv4.
const FILTERS_IPV6: (u32, u32) = (27, 0);
/// From this version on nobody outside is let through to a container's own address, its published ports included.
const CLOSES_DIRECT: (u32, u32) = (28, 0);

/// Whether an engine closes this by itself, whatever a policy says.
fn closes(version: (u32, u32), from: &Party, to: &Target, published: bool) -> bool {
    if to.way != Way::Direct || to.instance == BEYOND {
        return false;
    }
    let filters = to.address.is_ipv4() || version >= FILTERS_IPV6;
    match from {
        Party::Service { instance, service } => {
            filters && network(instance, service) != network(&to.instance, &to.service)
        }
        Party::Outside => version >= CLOSES_DIRECT || (filters && !published),
        Party::Host => false,
    }
}

/// Each project has a network; of those in none, one is a guest in a project's.
fn network<'a>(instance: &'a str, service: &'a str) -> &'a str {
    match (instance, service) {
        (UNMANAGED, "stray") => "myapp-dev",
        (UNMANAGED, _) => service,
        _ => instance,
    }
}

/// Every pair of the lab; what the engine closes is not expected to open. Returns how many that are.
fn matrix(lab: &DockerLab, policy: bool) -> (Matrix, usize) {
    let mut matrix = lab.matrix(PROFILE).unwrap();
    let Matrix { sources, targets, cells } = &mut matrix;
    let mut closed = 0;
    for cell in cells {
        let to = &targets[cell.target];
        let published = targets.iter().any(|other| {
            other.way != Way::Direct
                && (&other.instance, &other.service, other.port) == (&to.instance, &to.service, to.port)
        });
        if closes(lab.host.version(), &sources[cell.source].party, to, published) {
            cell.expected = Expected::Denied;
            closed += 1;
        } else if !policy {
            cell.expected = Expected::Open;
        }
    }
    (matrix, closed)
}

fn start_agent(host: &DockerHost, policies: &Path) -> Agent {
    let inventory = Inventory::Docker(host.url());
    Agent::start(&agent_binary().unwrap(), host.netns(), host.scratch(), policies, &inventory, PROFILE)
        .unwrap()
}

fn run(mut matrix: Matrix, engine: &str, what: &str) {
    matrix.run(&|_| {}).unwrap();
    assert_as_expected(&matrix);
    let count = matrix.cells.len();
    tell(&format!("Docker {engine}: {count} of {count} attempts as they should be, {what}")).unwrap();
}

/// The engine ends and returns under running containers. What was allowed stays so and what was denied too, at each
/// moment; published ports need docker-proxy, which ends with the engine.
#[test]
fn docker_engine_as_it_is_with_and_without_the_agent() {
    prepare().unwrap();
    let mut lab = DockerLab::start_closed(&["--live-restore"], &|step| eprintln!("lab: {step}")).unwrap();
    let engine = lab.host.description().unwrap();

    let (alone, closed) = matrix(&lab, false);
    run(alone, &engine, &format!("{closed} closed by the engine itself, without the agent"));

    let agent = start_agent(&lab.host, Path::new("policies"));
    run(matrix(&lab, true).0, &engine, "with the agent");
    let revision = agent.status().unwrap()["revision"].clone();
    let connected = |wanted: f64| {
        wait_for("the agent's view of the engine", Duration::from_secs(30), || {
            Ok((sum(&agent.metrics()?, "portcullis_inventory_connected", &[]) == wanted).then_some(()))
        })
        .unwrap();
    };
    connected(1.0);

    lab.host.stop();
    connected(0.0);
    let (mut direct, _) = matrix(&lab, true);
    direct.retain(|_, target| target.way == Way::Direct);
    run(direct, &engine, "with the agent and the engine gone");

    lab.host.resume().unwrap();
    connected(1.0);
    run(matrix(&lab, true).0, &engine, "with the agent and the engine back");
    assert_eq!(agent.status().unwrap()["revision"], revision, "a restart of the engine changed the entries");
}
