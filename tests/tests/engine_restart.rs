//! A real engine that goes away and comes back: with `--live-restore`, when its containers run on without it, and
//! without, when they end with it and start anew.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::{agent_binary, prepare, tell};
use lab::agent::{Agent, Inventory};
use lab::compose::{Container, containers};
use lab::docker_lab::netns_of;
use lab::engine::DockerHost;
use lab::image;
use lab::interrupt::wait_for;
use lab::observed::sum;
use lab::probe::attempts;
use lab::process::run;
use lab::tools::Tools;

const CONNECTED: &str = "portcullis_inventory_connected";
const PROJECT: &str = "myapp-dev";
const SOON: Duration = Duration::from_secs(20);

fn start_container(host: &DockerHost, name: &str, service: &str, port: &str) {
    let label = |key: &str, value: &str| format!("com.docker.compose.{key}={value}");
    run(host
        .docker()
        .args(["run", "--detach", "--restart", "always", "--stop-signal", "SIGKILL"])
        .args(["--network", "app", "--name", name])
        .args(["--label", &label("project", PROJECT), "--label", &label("service", service)])
        .args([image::NAME, "stand-in", service, port]))
    .unwrap();
}

fn start(arguments: &[&str]) -> (DockerHost, Agent) {
    prepare().unwrap();
    let host = DockerHost::start_with(Tools::locate().unwrap(), arguments).unwrap();
    run(host.docker().args(["network", "create", "app"])).unwrap();
    for (service, port) in [("frontend", "8080"), ("backend", "8000"), ("db", "5432")] {
        start_container(&host, service, service, port);
    }
    host.open_paths().unwrap();
    let (binary, inventory) = (agent_binary().unwrap(), Inventory::Docker(host.url()));
    let policies = Path::new("policies");
    let agent =
        Agent::start(&binary, host.netns(), host.scratch(), policies, &inventory, "production").unwrap();
    // The agent goes first.
    (host, agent)
}

fn opens(all: &[Container], from: &str, to: &str, port: u16) -> bool {
    let named = |name: &str| all.iter().find(|container| container.name == name).unwrap();
    let target = SocketAddr::new(named(to).v4().unwrap(), port);
    attempts(&netns_of(named(from)), vec![target]).unwrap().remove(0).outcome.is_open()
}

fn wait_until_enforced(agent: &Agent, all: &[Container], from: &str) -> Duration {
    let since = Instant::now();
    wait_for("the allowed connection", SOON, || Ok(opens(all, from, "db", 5432).then_some(())))
        .unwrap_or_else(|error| panic!("{error}:\n{}", agent.log_tail()));
    assert!(!opens(all, "frontend", "db", 5432), "{}", agent.log_tail());
    since.elapsed()
}

fn wait_until_connected(agent: &Agent, wanted: f64) {
    wait_for("the agent to notice", SOON, || {
        Ok((sum(&agent.metrics()?, CONNECTED, &[]) == wanted).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}:\n{}", agent.log_tail()));
}

#[test]
fn docker_restarts_under_containers_that_live_on() {
    let (mut host, agent) = start(&["--live-restore"]);
    let before = containers(&host).unwrap();
    wait_until_enforced(&agent, &before, "backend");
    let revision = agent.status().unwrap()["revision"].clone();

    host.stop();
    wait_until_connected(&agent, 0.0);
    wait_until_enforced(&agent, &before, "backend");
    assert_eq!(agent.get("/readyz").unwrap().0, 200);

    host.resume().unwrap();
    host.open_paths().unwrap();
    wait_until_connected(&agent, 1.0);
    assert_eq!(containers(&host).unwrap().len(), before.len());
    wait_until_enforced(&agent, &before, "backend");
    assert_eq!(agent.status().unwrap()["revision"], revision);
    // What is started from now on is known again.
    start_container(&host, "backend-2", "backend", "8000");
    let took = wait_until_enforced(&agent, &containers(&host).unwrap(), "backend-2");
    tell(&format!(
        "docker: live-restore: a container started afterwards is served after {:.1} s",
        took.as_secs_f64()
    ))
    .unwrap();
}

#[test]
fn docker_restarts_with_its_containers() {
    let (mut host, agent) = start(&[]);
    wait_until_enforced(&agent, &containers(&host).unwrap(), "backend");
    let revision = agent.status().unwrap()["revision"].clone();
    host.stop();
    wait_until_connected(&agent, 0.0);
    host.resume().unwrap();
    host.open_paths().unwrap();
    let since = Instant::now();
    let all = wait_for("the containers", SOON, || {
        let all = containers(&host)?;
        Ok((all.len() == 3 && all.iter().all(|container| container.v4().is_some())).then_some(all))
    })
    .unwrap();
    wait_until_enforced(&agent, &all, "backend");
    wait_until_connected(&agent, 1.0);
    assert_eq!(agent.status().unwrap()["revision"], revision);
    tell(&format!(
        "docker: restart: all is served {:.1} s after the engine answers",
        since.elapsed().as_secs_f64()
    ))
    .unwrap();
}
