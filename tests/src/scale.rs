//! A host and a policy of a wanted size, as values: as many endpoints as a large machine has, and as many rules as
//! nobody writes by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use portcullis::inventory::snapshot::{Bridge, Endpoint, Interface, Port, Snapshot};

/// The compose project that everything belongs to.
const PROJECT: &str = "large";
/// Of each service: how many ports it has, and how many others may open all of them.
const PORTS: usize = 9;
const CALLERS: usize = 9;
/// The kernel's entries for one service: the name of each port, and for each caller every port and ping.
pub const RULES_OF_A_SERVICE: usize = PORTS + CALLERS * (PORTS + 1);
/// A bridge of Linux has room for 1,023 ports.
const PORTS_OF_A_BRIDGE: usize = 1_000;
const FIRST_PORT: u32 = 1_000_000;
const FIRST_BRIDGE: u32 = 900_000;

/// A policy of so many services, each with [`RULES_OF_A_SERVICE`] entries. `turn` moves who may call whom: two policies
/// with another one have no rule in common but the names of ports.
#[must_use]
pub fn policy(services: usize, turn: usize) -> String {
    let mut text = format!("version: 1\npolicy: large\napplies_to: {{ project: {PROJECT} }}\nservices:\n");
    for service in 0..services {
        let caller = |number: usize| format!("s{}", (service + 1 + turn * CALLERS + number) % services);
        let callers: Vec<String> = (0..CALLERS).map(caller).collect();
        let ports: Vec<String> = (0..PORTS).map(|port| format!("{}/tcp", 8000 + port)).collect();
        text += &format!(
            "  s{service}:\n    ports: [{}]\n    from: [{}]\n",
            ports.join(", "),
            callers.join(", ")
        );
    }
    text
}

/// A policy whose `services` may be reached by the same group of so many ranges that have nothing in common.
#[must_use]
pub fn policy_of_ranges(services: usize, ranges: usize) -> String {
    let range =
        |number: usize| format!("10.{}.{}.{}/31", number >> 15, number >> 7 & 255, (number & 127) * 2);
    let ranges: Vec<String> = (0..ranges).map(range).collect();
    let mut text = format!(
        "version: 1\npolicy: large\napplies_to: {{ project: {PROJECT} }}\ngroups:\n  partners: [{}]\nservices:\n",
        ranges.join(", ")
    );
    for service in 0..services {
        text += &format!("  s{service}: {{ ports: [443/tcp], from: [partners] }}\n");
    }
    text
}

/// A host with so many endpoints, which share `services` among them, on as many bridges as they need. None of the
/// interfaces is there.
#[must_use]
pub fn host(endpoints: usize, services: usize) -> Snapshot {
    let bridges = (0..endpoints.div_ceil(PORTS_OF_A_BRIDGE)).map(bridge).collect();
    Snapshot {
        endpoints: (0..endpoints).map(|number| endpoint(number, number % services)).collect(),
        bridges,
        ports: (0..endpoints)
            .map(|number| Port { interface: port(number), bridge: bridge_of(number) })
            .collect(),
        ..Snapshot::default()
    }
}

fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn bridge_of(endpoint: usize) -> u32 {
    FIRST_BRIDGE + number(endpoint / PORTS_OF_A_BRIDGE)
}

fn port(endpoint: usize) -> Interface {
    Interface { ifindex: FIRST_PORT + number(endpoint), name: format!("port{endpoint}") }
}

/// 10.B.0.0/16 is the subnet of bridge B.
fn bridge(place: usize) -> Bridge {
    let subnet = Ipv4Addr::from(0x0a00_0000 | number(place) << 16);
    Bridge {
        interface: Interface { ifindex: FIRST_BRIDGE + number(place), name: format!("bridge{place}") },
        network: format!("network{place}"),
        subnets: Ipv4Net::new(subnet, 16).map(IpNet::V4).into_iter().collect(),
    }
}

fn endpoint(place: usize, service: usize) -> Endpoint {
    let (bridge, host) = (place / PORTS_OF_A_BRIDGE, place % PORTS_OF_A_BRIDGE + 2);
    let [_, a, b, c] = number(place).to_be_bytes();
    Endpoint {
        container_id: format!("{place:064x}"),
        container: format!("{PROJECT}-s{service}-{place}"),
        project: Some(PROJECT.to_owned()),
        service: Some(format!("s{service}")),
        labels: BTreeMap::new(),
        network: format!("network{bridge}"),
        bridge: format!("bridge{bridge}"),
        port: Some(port(place)),
        mac: Some([2, 0, 0, a, b, c]),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | number(bridge) << 16 | number(host)))],
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}
