//! Networks of every kind that an engine of this version knows, the newer ones without IPv4 or without an address of
//! the host: the policy holds on each of them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::detours::run_all;
use integration_tests::{prepare, tell};
use lab::agent::Agent;
use lab::beyond::wait_until_listening;
use lab::compose::{Container, containers};
use lab::docker_lab::netns_of;
use lab::engine::DockerHost;
use lab::image;
use lab::interrupt::wait_for;
use lab::observed::sum;
use lab::outside::Outside;
use lab::probe::{Outcome, attempts};
use lab::process::run;
use lab::tools::Tools;

use crate::start_agent;

const POLICY: &str = "version: 1
policy: networks
applies_to: { project: networks }
profile: production
services:
  open: { exposure: public, ports: [80/tcp] }
  inner: { ports: [80/tcp], from: [caller] }
  caller: {}
";

const SERVICES: [&str; 3] = ["open", "inner", "caller"];

/// A kind of network: its name, the version that brought it, and whether the outside can call into it.
struct Kind {
    name: &'static str,
    since: (u32, u32),
    options: &'static str,
    from_outside: bool,
}

/// `{}` is the number of the network.
const KINDS: [Kind; 8] = [
    Kind {
        name: "plain",
        since: (20, 10),
        options: "--subnet 198.18.{}.0/24 --ipv6 --subnet 2001:db8:30:{}::/64",
        from_outside: true,
    },
    Kind {
        name: "unmasked",
        since: (20, 10),
        options: "--subnet 198.18.{}.0/24 --opt com.docker.network.bridge.enable_ip_masquerade=false",
        from_outside: true,
    },
    Kind {
        name: "apart",
        since: (20, 10),
        options: "--subnet 198.18.{}.0/24 --opt com.docker.network.bridge.enable_icc=false",
        from_outside: true,
    },
    Kind {
        name: "internal",
        since: (20, 10),
        options: "--subnet 198.18.{}.0/24 --internal",
        from_outside: false,
    },
    Kind {
        name: "routed",
        since: (27, 0),
        options: "--subnet 198.18.{}.0/24 --ipv6 --subnet 2001:db8:30:{}::/64 \
                  --opt com.docker.network.bridge.gateway_mode_ipv4=routed \
                  --opt com.docker.network.bridge.gateway_mode_ipv6=routed",
        from_outside: true,
    },
    Kind {
        name: "unprotected",
        since: (28, 0),
        options: "--subnet 198.18.{}.0/24 --ipv6 --subnet 2001:db8:30:{}::/64 \
                  --opt com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected \
                  --opt com.docker.network.bridge.gateway_mode_ipv6=nat-unprotected",
        from_outside: true,
    },
    Kind {
        name: "isolated",
        since: (28, 0),
        options: "--subnet 198.18.{}.0/24 --internal --opt com.docker.network.bridge.gateway_mode_ipv4=isolated",
        from_outside: false,
    },
    Kind {
        name: "six",
        since: (28, 0),
        options: "--ipv4=false --ipv6 --subnet 2001:db8:30:{}::/64",
        from_outside: true,
    },
];

fn start_containers(host: &DockerHost, kind: &Kind, port: usize) {
    run_all(
        host,
        SERVICES.iter().zip(port..).map(|(service, port)| {
            let name = format!("{}-{service}", kind.name);
            let mut words = vec!["run".to_owned(), "--detach".to_owned(), format!("--name={name}")];
            words.push(format!("--network={}", kind.name));
            words.push("--label=com.docker.compose.project=networks".to_owned());
            words.push(format!("--label=com.docker.compose.service={service}"));
            words.push(format!("--publish={port}:80"));
            words.extend(["--restart=always", "--stop-signal=SIGKILL"].map(str::to_owned));
            words.extend([image::NAME, "stand-in", &name, "80"].map(str::to_owned));
            words
        }),
    )
    .unwrap();
}

/// Tries every address of a container's port 80; the number of those that opened and of those that did not.
fn call(from: PathBuf, to: &Container) -> (usize, usize) {
    let targets: Vec<SocketAddr> = to.addresses.iter().map(|address| SocketAddr::new(*address, 80)).collect();
    let tried = targets.len();
    let made = attempts(&from, targets).unwrap();
    let open = made.iter().filter(|attempt| attempt.outcome == Outcome::Open(to.name.clone())).count();
    (open, tried - open)
}

struct Lab {
    outside: Outside,
    host: DockerHost,
    kinds: Vec<(usize, &'static Kind)>,
    containers: Vec<Container>,
}

impl Lab {
    fn start() -> Self {
        let host = DockerHost::start(Tools::locate().unwrap()).unwrap();
        let outside = Outside::attach(host.netns()).unwrap();
        let known = |(_, kind): &(usize, &Kind)| kind.since <= host.version();
        let kinds: Vec<_> = KINDS.iter().enumerate().filter(known).collect();
        for (number, kind) in &kinds {
            let options = kind.options.replace("{}", &(40 + number).to_string());
            let mut command = host.docker();
            run(command.args(["network", "create"]).args(options.split_whitespace()).arg(kind.name)).unwrap();
            start_containers(&host, kind, 9000 + 10 * number);
        }
        let mut lab = Self { outside, host, kinds, containers: Vec::new() };
        lab.look();
        lab
    }

    /// Waits until every container runs and listens. They may have other addresses and namespaces than before.
    fn look(&mut self) {
        let count = self.kinds.len() * SERVICES.len();
        let found = wait_for("the containers", Duration::from_secs(60), || {
            let found = containers(&self.host)?;
            Ok((found.len() == count && found.iter().all(|container| container.pid > 0)).then_some(found))
        });
        self.containers = found.unwrap();
        for container in &self.containers {
            wait_until_listening(&netns_of(container), &container.name, 80).unwrap();
        }
        self.host.open_paths().unwrap();
    }

    fn container(&self, kind: &Kind, service: &str) -> &Container {
        let name = format!("{}-{service}", kind.name);
        self.containers.iter().find(|container| container.name == name).unwrap()
    }

    /// Who calls whom on a network, and whether that opens.
    fn calls(&self, kind: &Kind, enforced: bool) -> Vec<(PathBuf, &Container, bool)> {
        let [open, inner, caller] = SERVICES.map(|service| self.container(kind, service));
        let host = self.host.netns().path();
        // There the host has no address and so no way to them.
        let isolated = kind.name == "isolated";
        let mut calls = vec![
            (netns_of(caller), inner, true),
            (netns_of(caller), open, !enforced),
            (netns_of(open), inner, !enforced),
            (host.clone(), open, !isolated),
            (host, inner, !enforced && !isolated),
        ];
        if kind.from_outside {
            let outside = self.outside.netns().path();
            calls.extend([(outside.clone(), open, true), (outside, inner, !enforced)]);
        }
        calls
    }

    /// Makes all calls; panics with each that came out otherwise.
    fn check(&self, enforced: bool, what: &str) {
        let (mut count, mut wrong) = (0, Vec::new());
        for (_, kind) in &self.kinds {
            for (from, to, opens) in self.calls(kind, enforced) {
                let (open, shut) = call(from.clone(), to);
                count += open + shut;
                if open + shut == 0 || (if opens { shut } else { open }) > 0 {
                    wrong.push(format!("{} -> {}: {open} opened, {shut} did not", from.display(), to.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
        let engine = self.host.description().unwrap();
        let names: Vec<&str> = self.kinds.iter().map(|(_, kind)| kind.name).collect();
        let names = names.join(", ");
        tell(&format!("Docker {engine}: {count} of {count} calls as they should be, {what}, on {names}"))
            .unwrap();
    }
}

/// Waits until the agent enforces every container that runs.
fn wait_until_enforced(agent: &Agent, containers: usize) {
    wait_for("the enforcement of every container", Duration::from_secs(20), || {
        let samples = agent.metrics()?;
        let in_state = |state| sum(&samples, "portcullis_endpoints", &[("state", state)]);
        Ok((in_state("enforced") == containers as f64 && in_state("pending") == 0.0).then_some(()))
    })
    .unwrap();
}

/// At last the engine restarts and takes its containers with it: they come back on new ports of the bridges.
#[test]
fn docker_engine_networks_of_every_kind() {
    prepare().unwrap();
    let mut lab = Lab::start();
    lab.check(false, "without the agent");
    let policies = lab.host.scratch().path().join("policies");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("networks.yaml"), POLICY).unwrap();
    let agent = start_agent(&lab.host, &policies);
    lab.check(true, "with the agent");
    let status = agent.status().unwrap();
    assert_eq!(status["unenforceable"].as_array().map(Vec::len), Some(0), "{status}");

    let before: Vec<u32> = lab.containers.iter().map(|container| container.pid).collect();
    lab.host.stop();
    lab.host.resume().unwrap();
    lab.look();
    assert!(lab.containers.iter().all(|container| !before.contains(&container.pid)), "some went on");
    wait_until_enforced(&agent, lab.containers.len());
    lab.check(true, "with the agent and containers that came back");
}
