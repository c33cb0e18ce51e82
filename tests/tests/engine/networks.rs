//! Networks of every kind that an engine of this version knows, the newer ones without IPv4 or without an address of
//! the host: the policy holds on each of them.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use integration_tests::detours::run_all;
use integration_tests::{prepare, tell};
use lab::beyond::wait_until_listening;
use lab::compose::{Container, containers};
use lab::docker_lab::netns_of;
use lab::engine::DockerHost;
use lab::image;
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

#[test]
fn docker_engine_networks_of_every_kind() {
    prepare().unwrap();
    let host = DockerHost::start(Tools::locate().unwrap()).unwrap();
    let outside = Outside::attach(host.netns()).unwrap();
    let kinds: Vec<(usize, &Kind)> =
        KINDS.iter().enumerate().filter(|(_, kind)| kind.since <= host.version()).collect();
    for (number, kind) in &kinds {
        let options = kind.options.replace("{}", &(40 + number).to_string());
        run(host.docker().args(["network", "create"]).args(options.split_whitespace()).arg(kind.name))
            .unwrap();
        start_containers(&host, kind, 9000 + 10 * number);
    }
    host.open_paths().unwrap();
    let containers = containers(&host).unwrap();
    let named = |kind: &Kind, service: &str| {
        let name = format!("{}-{service}", kind.name);
        containers.iter().find(|container| container.name == name).unwrap()
    };
    for container in &containers {
        wait_until_listening(&netns_of(container), &container.name, 80).unwrap();
    }

    let tried = |enforced: bool| {
        let mut count = 0;
        for (_, kind) in &kinds {
            let [open, inner, caller] = SERVICES.map(|service| named(kind, service));
            let mut cells = vec![
                ("caller", netns_of(caller), inner, true),
                ("caller", netns_of(caller), open, !enforced),
                ("open", netns_of(open), inner, !enforced),
                ("host", host.netns().path(), open, kind.name != "isolated"),
                ("host", host.netns().path(), inner, !enforced && kind.name != "isolated"),
            ];
            if kind.from_outside {
                cells.push(("outside", outside.netns().path(), open, true));
                cells.push(("outside", outside.netns().path(), inner, !enforced));
            }
            for (from, place, to, opens) in cells {
                let (open, shut) = call(place, to);
                count += open + shut;
                let wrong = if opens { shut } else { open };
                assert_eq!(
                    wrong, 0,
                    "{from} -> {}: {open} opened, {shut} did not, enforced: {enforced}",
                    to.name
                );
            }
        }
        count
    };
    tried(false);
    let policies = host.scratch().path().join("policies");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("networks.yaml"), POLICY).unwrap();
    let agent = start_agent(&host, &policies);
    let count = tried(true);
    let status = agent.status().unwrap();
    assert_eq!(status["unenforceable"].as_array().map(Vec::len), Some(0), "{status}");
    let names: Vec<&str> = kinds.iter().map(|(_, kind)| kind.name).collect();
    let engine = host.description().unwrap();
    tell(&format!(
        "Docker {engine}: {count} of {count} calls as the policy says, on networks {}",
        names.join(", ")
    ))
    .unwrap();
}
