//! The paths of Docker that go round a rule from port to port, on a real engine: first each of them opens without the
//! agent, then it opens or is denied as the policy says, and the event names the right reason, hook and sender.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod out_of_reach;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use integration_tests::detours::{Answer, Call, Detours, NAMES, PROJECT, ROLES, Role, Transport, WEB, make};
use integration_tests::{ATTEMPTS, agent_binary, prepare};
use lab::agent::{Agent, Inventory};
use lab::engine::{DockerHost, HOST_V4, HOST_V6};
use lab::expectation::Party;
use lab::interrupt::wait_for;
use lab::observed::{Event, sum};
use lab::outside::UPLINK;

const POLICY: &str = "version: 1
policy: detours
applies_to: { project: detours }
profile: production
services:
  open: { exposure: public, ports: [80/tcp, 53/udp] }
  inner: { ports: [80/tcp, { port: 53/udp, from: [far, both] }] }
  local: { exposure: localhost, ports: [80/tcp, 53/udp] }
  open4: { exposure: public, ports: [80/tcp, 53/udp] }
  inner4: { ports: [80/tcp, { port: 53/udp, from: [both] }] }
  local4: { exposure: localhost, ports: [80/tcp, 53/udp] }
  both: { exposure: public, ports: [80/tcp, 53/udp], egress: [world] }
  near: { egress: [world] }
  mute: {}
  far: { egress: [world] }
  guest: { egress: [host] }
";

/// What should come of a call with the agent; without it all of them open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Opens,
    /// Reason and hook.
    Denied(&'static str, &'static str),
}

use Expected::{Denied, Opens};

const SPOOFED: Expected = Denied("spoofed_source", "from_endpoint");

#[derive(Debug)]
struct Cell {
    call: Call,
    /// Who answers.
    target: &'static str,
    expected: Expected,
}

fn service(name: &str) -> Party {
    Party::Service { instance: PROJECT.to_owned(), service: name.to_owned() }
}

/// `loner` is in no policy: it publishes what it likes.
fn is_public(target: &str) -> bool {
    matches!(target, "open" | "open4" | "both" | "loner")
}

fn from_world(target: &str, hook: &'static str) -> Expected {
    if is_public(target) { Opens } else { Denied("not_exposed", hook) }
}

/// The host is asked for where it calls; docker-proxy makes it the host's own call all the same.
fn from_host(target: &str) -> Expected {
    if is_public(target) || target.starts_with("local") {
        Opens
    } else {
        Denied("host_denied", "to_endpoint")
    }
}

/// A container that calls an address of the host acts as an outsider.
fn as_outsider(caller: &str, target: &str) -> Expected {
    match caller {
        // What no covered container publishes is the host's own.
        "guest" if target == "loner" => Opens,
        "near" | "far" | "both" if target == "loner" => Denied("egress_denied", "from_endpoint"),
        "near" | "far" | "both" | "stray" | "loner" => from_world(target, "from_endpoint"),
        _ => Denied("egress_denied", "from_endpoint"),
    }
}

/// The cells of a lab.
struct Table<'a> {
    lab: &'a Detours,
    /// Whether docker-proxy runs. Without it nothing carries IPv6 to a container that has none, and nobody listens on
    /// the host's `::1`.
    proxy: bool,
    cells: Vec<Cell>,
}

impl Table<'_> {
    fn all(lab: &Detours, proxy: bool) -> Vec<Cell> {
        let mut table = Table { lab, proxy, cells: Vec::new() };
        table.routed_by_a_neighbour();
        table.published_to_the_world();
        table.published_to_the_host();
        table.published_to_containers();
        table.link_local();
        table.across_bridges();
        table.on_two_networks();
        table.cells
    }

    fn add(
        &mut self,
        from: Party,
        to: (IpAddr, u16),
        by: Transport,
        target: &'static str,
        expected: Expected,
    ) {
        let carried = to.0 == Ipv6Addr::LOCALHOST || (to.0 == HOST_V6 && target.ends_with('4'));
        if carried && !self.proxy {
            return;
        }
        let call = Call { from, to: to.into(), by, source: None };
        self.cells.push(Cell { call, target, expected });
    }

    fn address(&self, name: &str, number: usize) -> IpAddr {
        self.lab.addresses(name).unwrap()[number]
    }

    /// Containers that publish ports, with the port.
    fn publishing() -> impl Iterator<Item = (Role, u16)> {
        ROLES.into_iter().filter_map(|role| Some((role, role.published?)))
    }

    /// A neighbour on the LAN has a route to the containers by way of the host.
    fn routed_by_a_neighbour(&mut self) {
        for (role, _) in Self::publishing() {
            for address in self.lab.addresses(role.name).unwrap() {
                for (port, by) in [(WEB, Transport::Tcp), (NAMES, Transport::Udp)] {
                    // Its answer would leave by the way to its default gateway: another network's port.
                    let astray = role.name == "both" && *address == self.address("both", 2);
                    let expected = if astray { SPOOFED } else { from_world(role.name, "to_endpoint") };
                    self.add(Party::Outside, (*address, port), by, role.name, expected);
                }
            }
        }
    }

    /// By DNAT, and by docker-proxy where a container has no address of the family.
    fn published_to_the_world(&mut self) {
        for (role, port) in Self::publishing() {
            for address in [IpAddr::V4(HOST_V4), IpAddr::V6(HOST_V6)] {
                for by in [Transport::Tcp, Transport::Udp] {
                    let expected = from_world(role.name, "from_uplink");
                    self.add(Party::Outside, (address, port), by, role.name, expected);
                }
            }
        }
        // Published on the host's loopback, but nothing keeps the neighbour's packets out.
        for (role, port) in ROLES.into_iter().filter_map(|role| Some((role, role.loopback?))) {
            let expected = from_world(role.name, "from_uplink");
            self.add(Party::Outside, (Ipv4Addr::LOCALHOST.into(), port), Transport::Tcp, role.name, expected);
        }
    }

    fn published_to_the_host(&mut self) {
        let everywhere = [
            IpAddr::V4(HOST_V4),
            IpAddr::V6(HOST_V6),
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        for (role, port) in Self::publishing() {
            for address in everywhere {
                self.add(Party::Host, (address, port), Transport::Tcp, role.name, from_host(role.name));
            }
        }
        for (role, port) in ROLES.into_iter().filter_map(|role| Some((role, role.loopback?))) {
            let to = (Ipv4Addr::LOCALHOST.into(), port);
            self.add(Party::Host, to, Transport::Tcp, role.name, from_host(role.name));
        }
    }

    /// On the same bridge and on others, a container's own port among them.
    fn published_to_containers(&mut self) {
        for caller in ["near", "mute", "far", "guest", "stray", "loner", "open", "both"] {
            let gateway = gateway(self.address(caller, 0));
            // docker-proxy answers datagrams by the address that the route back prefers: no other would do.
            let mut hosts = vec![
                (IpAddr::V4(HOST_V4), Transport::Tcp),
                (gateway, Transport::Tcp),
                (gateway, Transport::Udp),
            ];
            // The network `four` has no IPv6.
            if self.lab.addresses(caller).unwrap().len() > 1 {
                hosts.push((HOST_V6.into(), Transport::Tcp));
            }
            for (role, port) in Self::publishing() {
                for (host, by) in &hosts {
                    let expected = as_outsider(caller, role.name);
                    self.add(service(caller), (*host, port), *by, role.name, expected);
                }
            }
        }
    }

    /// docker-proxy listens on every address, also on those that only neighbours can call.
    fn link_local(&mut self) {
        if !self.proxy {
            return;
        }
        for (from, interface, through) in [
            (Party::Outside, UPLINK, "lan0"),
            (service("stray"), "br-dual", "eth0"),
            (service("near"), "br-dual", "eth0"),
        ] {
            let mut address = self.lab.link_local(interface, &from, through).unwrap();
            for (role, port) in Self::publishing() {
                address.set_port(port);
                let expected = match &from {
                    Party::Outside => from_world(role.name, "from_uplink"),
                    from if *from == service("stray") => as_outsider("stray", role.name),
                    // A covered container may only use the addresses that Docker gave it.
                    _ => SPOOFED,
                };
                let call = Call { from: from.clone(), to: address.into(), by: Transport::Tcp, source: None };
                self.cells.push(Cell { call, target: role.name, expected });
            }
        }
    }

    /// Docker hides the sender's address from the other network; who it is shows all the same.
    fn across_bridges(&mut self) {
        let denied = Denied("no_rule", "to_endpoint");
        for (caller, target) in [("far", "open"), ("far", "inner"), ("near", "inner4"), ("loner", "open")] {
            let address = self.address(target, 0);
            self.add(service(caller), (address, WEB), Transport::Tcp, target, denied);
        }
        let address = self.address("inner", 0);
        self.add(service("far"), (address, NAMES), Transport::Udp, "inner", Opens);
        self.add(service("loner"), (address, NAMES), Transport::Udp, "inner", denied);
    }

    /// Each port stands for its own addresses only.
    fn on_two_networks(&mut self) {
        let own = self.lab.addresses("both").unwrap();
        let [dual, _, four] = *own else { panic!("`both` has {own:?}") };
        for (target, right, wrong) in [("inner", dual, four), ("inner4", four, dual)] {
            let to = SocketAddr::new(self.address(target, 0), NAMES);
            for (source, expected) in [(right, Opens), (wrong, SPOOFED)] {
                let call = Call { from: service("both"), to, by: Transport::Udp, source: Some(source) };
                self.cells.push(Cell { call, target, expected });
            }
        }
    }
}

/// The host's own address on a container's network.
fn gateway(address: IpAddr) -> IpAddr {
    let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1).into()
}

/// Panics with every call that came out otherwise.
fn check(cells: &[Cell], answers: &[Answer], expected: impl Fn(&Cell) -> Expected) {
    let wrong: Vec<String> = cells
        .iter()
        .zip(answers)
        .filter(|(cell, answer)| {
            let right = (expected(cell) == Opens).then_some(cell.target);
            answer.name.as_deref() != right
        })
        .map(|(cell, answer)| {
            let call = &cell.call;
            let by = call.source.map(|source| format!(" as {source}")).unwrap_or_default();
            let wanted = expected(cell);
            let name = answer.name.as_deref().unwrap_or("nobody");
            format!(
                "{}{by} -> {} {:?} ({}): {name} answered, not {wanted:?}",
                call.from, call.to, call.by, cell.target
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
}

/// Whether an event tells of this call.
fn tells(event: &Event, cell: &Cell, answer: &Answer, reason: &str, hook: &str) -> bool {
    let by = if cell.call.by == Transport::Tcp { "tcp" } else { "udp" };
    if (event.protocol.as_str(), event.reason.as_str(), event.hook.as_str()) != (by, reason, hook) {
        return false;
    }
    if reason == "spoofed_source" {
        // The call, or its answer; under a false address nobody is asked for.
        let port = [event.source.port, event.destination.port].contains(&answer.port);
        return port && matches!(event.source.service.as_deref(), Some("both" | "near"));
    }
    let caller = match &cell.call.from {
        Party::Host => event.source.kind == "host",
        Party::Outside => event.source.kind == "world",
        Party::Service { service, .. } => {
            event.source.service.as_ref() == Some(service)
                || (event.source.kind == "unmanaged" && event.source.container.as_ref() == Some(service))
        }
    };
    // The host's connections may be docker-proxy's, which have a port of their own.
    let port = cell.call.from == Party::Host || event.source.port == answer.port;
    let target = match cell.target {
        "loner" => event.destination.kind == "host",
        target => event.destination.service.as_deref() == Some(target),
    };
    caller && port && target
}

/// The denied calls, each with its reason and hook.
fn denied<'a>(
    cells: &'a [Cell],
    answers: &'a [Answer],
) -> impl Iterator<Item = (&'a Cell, &'a Answer, &'static str, &'static str)> {
    cells.iter().zip(answers).filter_map(|(cell, answer)| match cell.expected {
        Denied(reason, hook) => Some((cell, answer, reason, hook)),
        Opens => None,
    })
}

/// Every denied call has its event, and every event is that of a denied call.
fn check_events(agent: &Agent, cells: &[Cell], answers: &[Answer]) {
    let missing = |events: &[Event]| -> Vec<String> {
        let untold = denied(cells, answers).filter(|(cell, answer, reason, hook)| {
            !events.iter().any(|event| tells(event, cell, answer, reason, hook))
        });
        let shown = untold.map(|(cell, answer, reason, hook)| {
            let of_port = events.iter().filter(|event| event.source.port == answer.port).map(shown);
            let (told, call) = (of_port.collect::<Vec<_>>(), &cell.call);
            format!(
                "{} -> {} {:?} ({}): no {reason} at {hook}, but {told:?}",
                call.from, call.to, call.by, cell.target
            )
        });
        shown.collect()
    };
    let waited = wait_for("an event for every denied call", Duration::from_secs(5), || {
        Ok(missing(&agent.events()?).is_empty().then_some(()))
    });
    let events = agent.events().unwrap();
    if waited.is_err() {
        let missing = missing(&events);
        panic!("{} calls without their event:\n{}", missing.len(), missing.join("\n"));
    }
    let others: Vec<String> = events
        .iter()
        .filter(|event| ["tcp", "udp"].contains(&event.protocol.as_str()))
        .filter(|event| {
            !denied(cells, answers)
                .any(|(cell, answer, reason, hook)| tells(event, cell, answer, reason, hook))
        })
        .map(shown)
        .collect();
    assert!(others.is_empty(), "events of no denied call:\n{}", others.join("\n"));
}

/// Each denied call is counted once, by the hook that decides. Of answers under a false address every frame counts.
fn check_counts(agent: &Agent, cells: &[Cell], answers: &[Answer]) {
    let samples = agent.metrics().unwrap();
    for (by, protocol) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
        let all = sum(&samples, ATTEMPTS, &[("protocol", protocol)]);
        let spoofed = sum(&samples, ATTEMPTS, &[("protocol", protocol), ("reason", "spoofed_source")]);
        let made = denied(cells, answers).filter(|(cell, ..)| cell.call.by == by && cell.expected != SPOOFED);
        assert_eq!(all - spoofed, made.count() as f64, "{protocol}");
    }
}

fn shown(event: &Event) -> String {
    format!("{} at {}: {}", event.reason, event.hook, event.sentence())
}

/// Docker hid the sender's address, or the test of its identity shows nothing.
fn check_masqueraded(lab: &Detours, cells: &[Cell], answers: &[Answer]) {
    let hidden = cells.iter().zip(answers).find(|(cell, _)| {
        cell.call.from == service("far") && cell.target == "inner" && cell.call.to.port() == NAMES
    });
    let seen = hidden.unwrap().1.seen.clone();
    assert_eq!(seen, Some(gateway(lab.addresses("inner").unwrap()[0]).to_string()));
}

fn start_agent(host: &DockerHost, policy: &str) -> Agent {
    let policies = host.scratch().path().join("policies");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("detours.yaml"), policy).unwrap();
    let inventory = Inventory::Docker(host.url());
    let binary = agent_binary().unwrap();
    Agent::start(&binary, host.netns(), host.scratch(), &policies, &inventory, "production").unwrap()
}

fn every_path(engine: &[&str], proxy: bool) {
    prepare().unwrap();
    let lab = Detours::start(engine).unwrap();
    let cells = Table::all(&lab, proxy);
    assert!(cells.len() > 250, "only {} calls", cells.len());
    let calls: Vec<Call> = cells.iter().map(|cell| cell.call.clone()).collect();
    let answers = make(&lab, &calls).unwrap();
    check(&cells, &answers, |_| Opens);
    check_masqueraded(&lab, &cells, &answers);

    let agent = start_agent(&lab.host, POLICY);
    let answers = make(&lab, &calls).unwrap();
    check(&cells, &answers, |cell| cell.expected);
    check_masqueraded(&lab, &cells, &answers);
    check_events(&agent, &cells, &answers);
    check_counts(&agent, &cells, &answers);
}

#[test]
fn docker_detours_with_its_proxy() {
    every_path(&[], true);
}

/// Docker then leaves every call to DNAT, also those from the same bridge (hairpin), and IPv6 has rules of its own.
#[test]
fn docker_detours_without_its_proxy() {
    every_path(&["--userland-proxy=false", "--experimental", "--ip6tables"], false);
}
