//! The host and its policies in the words that the agent reads: a snapshot, and YAML.

use std::collections::BTreeMap;
use std::fmt::Write;

use datapath_model::decision::{Known, TCP};
use datapath_model::host::{Container, Interface, Net};
use datapath_model::policy::{Exposure, Keys, Peer, Policy, Port, Ports, Service};
use datapath_model::verdict::{Mode, Severity};
use portcullis::inventory::snapshot::{self, Bridge, Endpoint, Snapshot};

/// What the inventory would say.
pub(crate) fn snapshot(known: &Known) -> Snapshot {
    let mut snapshot =
        Snapshot { host_addresses: known.host.addresses.iter().copied().collect(), ..Snapshot::default() };
    let named = |ifindex: u32| snapshot::Interface { ifindex, name: format!("if{ifindex}") };
    for (&ifindex, interface) in &known.host.interfaces {
        match interface {
            Interface::Bridge { subnets } => snapshot.bridges.push(Bridge {
                interface: named(ifindex),
                network: format!("n{ifindex}"),
                subnets: subnets.iter().map(|net| text(net).parse().unwrap()).collect(),
            }),
            Interface::Uplink => {
                snapshot.uplinks.push(snapshot::Uplink {
                    interface: named(ifindex),
                    ethernet: true,
                    port: false,
                });
            }
            Interface::Port { bridge, container } => {
                snapshot.ports.push(snapshot::Port { interface: named(ifindex), bridge: *bridge });
                snapshot.endpoints.extend(container.as_ref().map(|each| endpoint(ifindex, *bridge, each)));
            }
        }
    }
    snapshot
}

fn endpoint(port: u32, bridge: u32, container: &Container) -> Endpoint {
    Endpoint {
        container_id: format!("id-{port}"),
        container: format!("container-{port}"),
        project: container.project.clone(),
        service: container.service.clone(),
        labels: BTreeMap::new(),
        network: format!("n{bridge}"),
        bridge: format!("if{bridge}"),
        port: Some(snapshot::Interface { ifindex: port, name: format!("if{port}") }),
        mac: container.mac,
        addresses: container.addresses.clone(),
        published: Vec::new(),
        resolvers: container.resolvers.clone(),
    }
}

fn text(net: &Net) -> String {
    format!("{}/{}", net.address, net.prefix)
}

/// The policies as one file.
pub(crate) fn yaml(policies: &[Policy]) -> String {
    policies.iter().map(policy).collect::<Vec<_>>().join("---\n")
}

fn policy(policy: &Policy) -> String {
    let mut text =
        format!("version: 1\npolicy: {}\napplies_to: {{ project: \"{}\" }}\n", policy.name, policy.projects);
    let mut line = |key: &str, value: &str| writeln!(text, "{key}: {value}").unwrap();
    if let Some(mode) = policy.mode {
        line("mode", word(mode));
    }
    if let Some(profile) = &policy.profile {
        line("profile", profile);
    }
    line("groups", "");
    for (name, nets) in &policy.groups {
        line(&format!("  {name}"), &list(nets, |net| format!("\"{}\"", self::text(net))));
    }
    line("services", "");
    for (name, each) in &policy.services {
        line(&format!("  {name}"), &service(each));
    }
    text
}

fn list<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(each).collect::<Vec<_>>().join(", "))
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    }
}

fn service(service: &Service) -> String {
    let mut items = keys(&service.keys);
    if let Some(profiles) = &service.only_in {
        items.push(format!("only_in: {}", list(profiles, Clone::clone)));
    }
    if !service.profiles.is_empty() {
        let overlays: Vec<String> = service
            .profiles
            .iter()
            .map(|(profile, overlay)| format!("{profile}: {{ {} }}", keys(overlay).join(", ")))
            .collect();
        items.push(format!("profiles: {{ {} }}", overlays.join(", ")));
    }
    format!("{{ {} }}", items.join(", "))
}

fn keys(keys: &Keys) -> Vec<String> {
    let severity = |severity| match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    [
        keys.exposure.map(|value| format!("exposure: {}", exposure(value))),
        keys.ports.as_ref().map(|value| format!("ports: {}", list(value, port))),
        keys.from.as_ref().map(|value| format!("from: {}", list(value, peer))),
        keys.egress.as_ref().map(|value| {
            let entry = |entry: &datapath_model::policy::Egress| match &entry.ports {
                None => peer(&entry.to),
                Some(ports) => format!("{{ to: {}, ports: {} }}", peer(&entry.to), list(ports, numbers)),
            };
            format!("egress: {}", list(value, entry))
        }),
        keys.severity.map(|value| format!("severity: {}", severity(value))),
        keys.mode.map(|value| format!("mode: {}", word(value))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const fn exposure(exposure: Exposure) -> &'static str {
    match exposure {
        Exposure::Internal => "internal",
        Exposure::Localhost => "localhost",
        Exposure::Public => "public",
    }
}

fn port(port: &Port) -> String {
    let mut items = vec![format!("port: {}", numbers(&port.ports))];
    items.extend(port.from.as_ref().map(|from| format!("from: {}", list(from, peer))));
    items.extend(port.exposure.map(|value| format!("exposure: {}", exposure(value))));
    if items.len() == 1 { numbers(&port.ports) } else { format!("{{ {} }}", items.join(", ")) }
}

fn numbers(ports: &Ports) -> String {
    match *ports {
        Ports::Any => "any".to_owned(),
        Ports::Range { protocol, first, last } => {
            let protocol = if protocol == TCP { "tcp" } else { "udp" };
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("{range}/{protocol}")
        }
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Host => "host".to_owned(),
        Peer::World => "world".to_owned(),
        Peer::Dns => "dns".to_owned(),
        Peer::Service(name) | Peer::Group(name) => name.clone(),
        Peer::Net(net) => format!("\"{}\"", text(net)),
        Peer::Labelled { project, service } => {
            format!("{{ project: \"{project}\", service: \"{service}\" }}")
        }
    }
}
