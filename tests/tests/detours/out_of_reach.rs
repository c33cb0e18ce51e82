//! Containers that no hook sees or tells apart, on a real engine: `status`, metrics and the log name each of them.

use std::net::SocketAddr;
use std::time::Duration;

use integration_tests::detours::{WEB, labels, run_all};
use integration_tests::prepare;
use lab::beyond::wait_until_listening;
use lab::compose::containers;
use lab::docker_lab::netns_of;
use lab::engine::DockerHost;
use lab::image;
use lab::interrupt::wait_for;
use lab::observed::sum;
use lab::outside::{Outside, UPLINK};
use lab::probe::attempts;
use lab::process::run;
use lab::tools::Tools;

use crate::start_agent;

const POLICY: &str = "version: 1
policy: detours
applies_to: { project: detours }
profile: production
services:
  app: { exposure: public, ports: [80/tcp] }
  twin: { exposure: public, ports: [80/tcp] }
  side: { exposure: public, ports: [80/tcp] }
  agent: {}
  printer: {}
  idle: {}
  for-app: { ports: [80/tcp], from: [app, twin] }
  for-side: { ports: [80/tcp], from: [side] }
";

/// Starts containers by their names and networks.
fn start_all(host: &DockerHost, containers: &[(&str, &str)]) {
    let commands = containers.iter().map(|(name, network)| {
        let mut words: Vec<String> =
            ["run", "--detach", "--name", name, "--network", network].map(str::to_owned).into();
        words.extend(labels(name));
        words.extend([image::NAME, "stand-in", name].map(str::to_owned));
        if name.starts_with("for-") {
            words.push(WEB.to_string());
        }
        words
    });
    run_all(host, commands).unwrap();
}

/// The kernel this runs on decides whether macvlan is there; where it is not this test fails and says so.
#[test]
fn docker_detours_containers_out_of_reach_are_told() {
    prepare().unwrap();
    let host = DockerHost::start(Tools::locate().unwrap()).unwrap();
    let _outside = Outside::attach(host.netns()).unwrap();
    let network = |arguments: &str| {
        run(host.docker().args(["network", "create"]).args(arguments.split_whitespace())).unwrap();
    };
    network("--subnet 198.18.21.0/24 dual");
    network(&format!("--driver macvlan --subnet 198.18.24.0/24 --opt parent={UPLINK} lan"));
    start_all(
        &host,
        &[
            ("app", "dual"),
            ("for-app", "dual"),
            ("for-side", "dual"),
            ("agent", "host"),
            ("printer", "lan"),
            ("idle", "none"),
        ],
    );
    start_all(&host, &[("side", "container:app"), ("twin", "container:app")]);
    let containers = containers(&host).unwrap();
    let named = |name: &str| containers.iter().find(|container| container.name == name).unwrap();
    for name in ["for-app", "for-side"] {
        wait_until_listening(&netns_of(named(name)), name, WEB).unwrap();
    }

    let agent = start_agent(&host, POLICY);
    let status = agent.status().unwrap();
    let told: Vec<(&str, &str)> = status["unenforceable"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["container"].as_str().unwrap(), one["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("agent", "host_network"), ("printer", "macvlan"), ("side", "shared_network")]);
    let samples = agent.metrics().unwrap();
    let counted = |reason| sum(&samples, "portcullis_unenforceable_containers", &[("reason", reason)]);
    assert_eq!(
        ["host_network", "macvlan", "shared_network", "swarm", "ipvlan"].map(counted),
        [1.0, 1.0, 1.0, 0.0, 0.0]
    );
    for (name, _) in &told {
        assert!(agent.log().contains(&format!("container `{name}` cannot be enforced")), "{}", agent.log());
    }

    // What `side` sends is sent by `app`.
    let call = |to: &str| {
        let address = SocketAddr::new(named(to).v4().unwrap(), WEB);
        attempts(&netns_of(named("side")), vec![address]).unwrap().remove(0)
    };
    assert!(call("for-app").outcome.is_open());
    let port = call("for-side").from.unwrap().port();
    let event = wait_for("the event", Duration::from_secs(5), || {
        Ok(agent.events()?.into_iter().find(|event| event.source.port == Some(port)))
    });
    let event = event.unwrap();
    let parties = (event.source.service.as_deref(), event.destination.service.as_deref());
    assert_eq!((parties, event.reason.as_str()), ((Some("app"), Some("for-side")), "no_rule"));
}
