//! The agent and its absence on a real Docker Engine. One engine serves all tests of this file, since it is slow to
//! start; they run one after the other and in the order of their names, which `docker_` tells apart from the rest.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use integration_tests::{
    ATTEMPTS, agent_binary, assert_as_expected, assert_counts_exactly, copy_policies, docker_lab,
};
use lab::agent::{Agent, Inventory};
use lab::docker_lab::{DockerLab, netns_of};
use lab::interrupt::wait_for;
use lab::matrix::Way;
use lab::observed::sum;
use lab::probe::{Outcome, attempts};

const PROFILE: &str = "production";

fn start_agent(lab: &DockerLab, policies: &Path) -> Agent {
    let inventory = Inventory::Docker(lab.host.url());
    Agent::start(
        &agent_binary().unwrap(),
        lab.host.netns(),
        lab.host.scratch(),
        policies,
        &inventory,
        PROFILE,
    )
    .unwrap()
}

/// One attempt of `from` at `to`'s first IPv4 address, both services of `myapp-dev`.
fn attempt(lab: &DockerLab, from: &str, to: &str, port: u16) -> Outcome {
    let address = lab
        .container("myapp-dev", to)
        .unwrap()
        .addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv4())
        .unwrap();
    let place = netns_of(lab.container("myapp-dev", from).unwrap());
    attempts(&place, vec![SocketAddr::new(address, port)]).unwrap().remove(0).outcome
}

/// Every cell of the matrix can open by topology, the forbidden ones too: sources that share no network are routed by
/// the host, whose own filters the lab has opened. Only two kinds of pairs have no cell: a container and its own
/// address, which no packet leaves it for, and a port published on the host's loopback and anybody but the host.
#[test]
fn docker_0_without_the_agent_everything_is_reachable() {
    let shared = docker_lab().unwrap();
    let mut matrix = shared.lab().unwrap().matrix(PROFILE).unwrap();
    assert!(matrix.cells.len() > 1000, "only {} cells", matrix.cells.len());
    matrix.run_all_open(&|_| {}).unwrap();
    assert_as_expected(&matrix);
}

/// At a container's own address each attempt meets exactly one hook that decides it; a published port may be tried a
/// second time by docker-proxy's own connection, which goes on trying for minutes: so this comes first.
#[test]
fn docker_1_every_denied_attempt_is_counted_exactly_once() {
    let shared = docker_lab().unwrap();
    let lab = shared.lab().unwrap();
    let agent = start_agent(lab, Path::new("policies"));
    let mut matrix = lab.matrix(PROFILE).unwrap();
    matrix.retain(|_, target| target.way == Way::Direct);
    assert_counts_exactly(&agent, &mut matrix);
}

#[test]
fn docker_2_with_the_agent_the_matrix_is_what_the_documents_say() {
    let shared = docker_lab().unwrap();
    let lab = shared.lab().unwrap();
    let _agent = start_agent(lab, Path::new("policies"));
    let mut matrix = lab.matrix(PROFILE).unwrap();
    matrix.run(&|_| {}).unwrap();
    assert_as_expected(&matrix);
}

#[test]
fn docker_3_a_denied_attempt_is_told_with_its_policy_line_and_counted_once() {
    const TRIED: usize = 3;
    let shared = docker_lab().unwrap();
    let lab = shared.lab().unwrap();
    let agent = start_agent(lab, Path::new("policies"));
    let labels = [
        ("policy", "app"),
        ("project", "myapp-dev"),
        ("source", "frontend"),
        ("destination", "db"),
        ("port", "5432"),
        ("protocol", "tcp"),
        ("reason", "no_rule"),
        ("verdict", "dropped"),
    ];
    // The file also holds what the agents of earlier tests told.
    let earlier = agent.events().unwrap().len();
    let before = sum(&agent.metrics().unwrap(), ATTEMPTS, &labels);
    for _ in 0..TRIED {
        assert_eq!(attempt(lab, "frontend", "db", 5432), Outcome::Timeout);
    }
    assert!(attempt(lab, "backend", "db", 5432).is_open());
    assert!(attempt(lab, "proxy", "backend", 8000).is_open());
    assert_eq!(sum(&agent.metrics().unwrap(), ATTEMPTS, &labels) - before, TRIED as f64);

    let told = wait_for("the events of the attempts", Duration::from_secs(5), || {
        let told: Vec<_> = agent
            .events()?
            .into_iter()
            .skip(earlier)
            .filter(|event| {
                event.source.service.as_deref() == Some("frontend")
                    && event.destination.service.as_deref() == Some("db")
            })
            .collect();
        Ok((told.len() >= TRIED).then_some(told))
    })
    .unwrap();
    assert_eq!(told.len(), TRIED);
    let event = &told[0];
    assert_eq!(
        (event.reason.as_str(), event.verdict.as_str(), event.policy.as_str()),
        ("no_rule", "dropped", "app")
    );
    assert_eq!((event.source.project.as_deref(), event.destination.port), (Some("myapp-dev"), Some(5432)));
    let (file, line) = event.rule_at.rsplit_once(':').unwrap();
    assert!(file.ends_with("policies/app.yaml"), "{}", event.rule_at);
    let policy = fs::read_to_string(lab::tools::repository().join("policies/app.yaml")).unwrap();
    let decides = policy.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap();
    assert!(decides.trim_start().starts_with("db:"), "line {line} is `{decides}`");
}

#[test]
fn docker_4_a_broken_policy_changes_nothing_but_the_log_and_a_metric() {
    const RELOADED: &str = "portcullis_config_last_reload_successful";
    let shared = docker_lab().unwrap();
    let lab = shared.lab().unwrap();
    let policies = lab.host.scratch().path().join("policies");
    copy_policies(&policies).unwrap();
    let agent = start_agent(lab, &policies);
    let reloaded = |wanted: f64| {
        wait_for("the reload", Duration::from_secs(10), || {
            Ok((sum(&agent.metrics()?, RELOADED, &[]) == wanted).then_some(()))
        })
    };
    reloaded(1.0).unwrap();
    let revision = agent.status().unwrap()["revision"].clone();

    let app = policies.join("app.yaml");
    let good = fs::read_to_string(&app).unwrap();
    fs::write(&app, format!("{good}\nno_such_key: true\n")).unwrap();
    agent.reload().unwrap();
    reloaded(0.0).unwrap();
    assert!(agent.log().contains("no_such_key"), "the log does not name the mistake:\n{}", agent.log_tail());
    assert_eq!(agent.status().unwrap()["revision"], revision, "the revision moved");
    assert_eq!(attempt(lab, "frontend", "db", 5432), Outcome::Timeout);
    assert!(attempt(lab, "backend", "db", 5432).is_open());

    fs::write(&app, good).unwrap();
    agent.reload().unwrap();
    reloaded(1.0).unwrap();
}
