//! Random hosts and policies: small enough that everything meets everything, strange enough that it matters.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath_model::decision::{Known, TCP, UDP};
use datapath_model::host::{Container, Host, Interface, Net};
use datapath_model::policy::{Egress, Exposure, Keys, Peer, Policy, Port, Ports, Service};
use datapath_model::verdict::{Mode, Severity};

use crate::random::Random;

/// The ports that exist, with or without a container.
pub(crate) const PORTS: std::ops::RangeInclusive<u32> = 10..=21;
pub(crate) const BRIDGES: [u32; 3] = [100, 101, 102];
pub(crate) const UPLINKS: [u32; 2] = [200, 201];
/// An interface that stands for nobody.
pub(crate) const NOBODY: u32 = 300;
pub(crate) const MARK_MASK: u32 = 0xffff_0000;

/// The MAC of whatever is beyond a bridge.
pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];

const PROJECTS: [&str; 4] = ["shop-1", "shop-2", "tools", "other"];
const SERVICES: [&str; 6] = ["web", "api", "db", "mail", "agent", "rogue"];
/// The ports that policies and packets choose from.
pub(crate) const NUMBERS: [u16; 10] = [1, 53, 80, 443, 5432, 8000, 8005, 8010, 8011, 65535];
pub(crate) const WORLD: [&str; 6] = [
    "203.0.113.9",
    "203.0.113.200",
    "198.51.100.9",
    "2001:db8:ff::9",
    "2001:db8:ff:1::9",
    "2001:db8:aaaa::9",
];
const RANGES: [(&str, u8); 9] = [
    ("203.0.113.0", 24),
    ("203.0.113.0", 28),
    ("203.0.113.9", 32),
    ("0.0.0.0", 0),
    ("172.16.0.0", 12),
    ("2001:db8:ff::", 48),
    ("2001:db8:ff::", 64),
    ("2000::", 3),
    ("198.51.0.0", 16),
];
const RESOLVERS: [&str; 5] = ["198.51.100.53", "2001:db8:53::53", "172.18.0.1", "172.18.0.200", "127.0.0.11"];

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(bridge: u32) -> u8 {
    u8::try_from(bridge - BRIDGES[0] + 18).unwrap()
}

/// An address on a bridge.
pub(crate) fn on_bridge(bridge: u32, family: usize, host: u8) -> IpAddr {
    if family == 0 {
        Ipv4Addr::new(172, network(bridge), 0, host).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, network(bridge).into(), 0, 0, 0, 0, host.into()).into()
    }
}

pub(crate) fn mac(port: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(port).unwrap()]
}

/// A host with its policies.
pub(crate) fn known(random: &mut Random) -> Known {
    Known { host: host(random), policies: policies(random) }
}

/// The same with something changed.
pub(crate) fn changed(known: &Known, random: &mut Random) -> Known {
    let mut changed = known.clone();
    match random.below(6) {
        0 => {
            let port = 10 + u32::try_from(random.below(PORTS.count())).unwrap();
            if let Some(bridge) = known.host.bridge_of(port) {
                changed.host.interfaces.insert(port, self::port(port, bridge, random));
            }
        }
        1 => changed.policies = policies(random),
        _ => {
            let policy = random.below(changed.policies.len());
            let groups: Vec<String> = changed.policies[policy].groups.keys().cloned().collect();
            let names: Vec<String> = changed.policies[policy].services.keys().cloned().collect();
            for _ in 0..=random.below(3) {
                let name = random.pick(&names).clone();
                let service = service(&names, &groups, random);
                changed.policies[policy].services.insert(name, service);
            }
        }
    }
    changed
}

fn host(random: &mut Random) -> Host {
    let mut host = Host { mark_mask: MARK_MASK, ..Host::default() };
    for bridge in BRIDGES {
        let subnets = vec![
            Net { address: on_bridge(bridge, 0, 0), prefix: 16 },
            Net { address: on_bridge(bridge, 1, 0), prefix: 64 },
        ];
        host.interfaces.insert(bridge, Interface::Bridge { subnets });
        host.addresses.extend([on_bridge(bridge, 0, 1), on_bridge(bridge, 1, 1)]);
    }
    host.addresses.extend([address("192.0.2.1"), address("2001:db8:2::1")]);
    for uplink in UPLINKS {
        host.interfaces.insert(uplink, Interface::Uplink);
    }
    for number in PORTS {
        // Most share a bridge.
        let bridge = *random.pick(&[BRIDGES[0], BRIDGES[0], BRIDGES[0], BRIDGES[1], BRIDGES[1], BRIDGES[2]]);
        host.interfaces.insert(number, port(number, bridge, random));
    }
    host
}

fn port(port: u32, bridge: u32, random: &mut Random) -> Interface {
    if random.chance(1, 12) {
        return Interface::Port { bridge, container: None };
    }
    let project = (!random.chance(1, 8)).then(|| (*random.pick(&PROJECTS)).to_owned());
    let service = project.is_some().then(|| (*random.pick(&SERVICES)).to_owned());
    let families = *random.pick(&[&[0, 1][..], &[0, 1], &[0], &[1]]);
    let several = if random.chance(1, 4) { 2 + random.below(3) } else { 1 };
    let copies = if random.chance(1, 60) { 9 } else { several };
    let own = u8::try_from(port).unwrap();
    let addresses = families
        .iter()
        .flat_map(|&family| {
            (0..copies).map(move |copy| on_bridge(bridge, family, own + 20 * u8::try_from(copy).unwrap()))
        })
        .collect();
    Interface::Port {
        bridge,
        container: Some(Container {
            project,
            service,
            mac: (!random.chance(1, 8)).then(|| mac(port)),
            addresses,
            resolvers: random.some(&RESOLVERS.map(address), 1, 3),
        }),
    }
}

fn policies(random: &mut Random) -> Vec<Policy> {
    let mut found = vec![policy("shop", if random.chance(1, 4) { "shop-1" } else { "shop-*" }, random)];
    if random.chance(1, 2) {
        found.push(policy("tools", "tools", random));
    }
    found
}

fn policy(name: &str, projects: &str, random: &mut Random) -> Policy {
    let groups: BTreeMap<String, Vec<Net>> =
        ["office", "partner"].map(|name| (name.to_owned(), nets(random))).into();
    let group_names: Vec<String> = groups.keys().cloned().collect();
    let mut names: Vec<String> = random.some(&SERVICES[..5], 4, 5).iter().map(ToString::to_string).collect();
    if names.is_empty() {
        names.push("web".to_owned());
    }
    let services = names.iter().map(|name| (name.clone(), service(&names, &group_names, random))).collect();
    Policy {
        name: name.to_owned(),
        projects: projects.to_owned(),
        mode: mode(random),
        profile: random.chance(1, 2).then(|| "production".to_owned()),
        groups,
        services,
    }
}

fn nets(random: &mut Random) -> Vec<Net> {
    let (address, prefix) = *random.pick(&RANGES);
    let first = Net { address: self::address(address), prefix };
    let mut found = vec![first];
    if random.chance(1, 2) {
        let (address, prefix) = *random.pick(&RANGES);
        found.push(Net { address: self::address(address), prefix });
        found.dedup();
    }
    found
}

fn mode(random: &mut Random) -> Option<Mode> {
    match random.below(6) {
        0 => Some(Mode::Observe),
        1 => Some(Mode::Enforce),
        _ => None,
    }
}

fn service(names: &[String], groups: &[String], random: &mut Random) -> Service {
    let only_in = random
        .chance(1, 8)
        .then(|| vec![if random.chance(1, 2) { "production" } else { "development" }.to_owned()]);
    let profiles = if only_in.is_none() && random.chance(1, 4) {
        let profile = if random.chance(2, 3) { "production" } else { "development" };
        BTreeMap::from([(profile.to_owned(), keys(names, groups, random, 3))])
    } else {
        BTreeMap::new()
    };
    Service { keys: keys(names, groups, random, 1), only_in, profiles }
}

/// Each key is there in one of `rarely` + 1 cases or so.
fn keys(names: &[String], groups: &[String], random: &mut Random, rarely: usize) -> Keys {
    Keys {
        exposure: random.chance(1, 1 + rarely).then(|| exposure(random)),
        ports: random.chance(3, 3 + rarely).then(|| ports(names, groups, random)),
        from: random.chance(2, 2 + rarely).then(|| from(names, groups, random)),
        egress: random.chance(1, 1 + rarely).then(|| egress(groups, random)),
        severity: random
            .chance(1, 2 + rarely)
            .then(|| *random.pick(&[Severity::Info, Severity::Warning, Severity::Critical])),
        mode: if random.chance(1, rarely) { mode(random) } else { None },
    }
}

fn exposure(random: &mut Random) -> Exposure {
    *random.pick(&[Exposure::Internal, Exposure::Localhost, Exposure::Public])
}

fn number(random: &mut Random) -> Ports {
    let first = *random.pick(&NUMBERS);
    Ports::Range { protocol: *random.pick(&[TCP, TCP, UDP]), first, last: first }
}

fn ports(names: &[String], groups: &[String], random: &mut Random) -> Vec<Port> {
    let mut found: Vec<Ports> = (0..random.below(4)).map(|_| number(random)).collect();
    if random.chance(1, 3) {
        found.push(Ports::Any);
    }
    if random.chance(1, 2) {
        let (first, last) = *random.pick(&[(8000, 8010), (8001, 8012), (1, 1024), (440, 8004), (1, 65535)]);
        found.push(Ports::Range { protocol: *random.pick(&[TCP, UDP]), first, last });
    }
    if random.chance(1, 3) {
        // One in the other in the third.
        let protocol = *random.pick(&[TCP, UDP]);
        let range = |first, last| Ports::Range { protocol, first, last };
        found = vec![Ports::Any, range(8000, 8010), range(8005, 8005)];
    }
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|ports| {
            let apart = random.chance(1, 2);
            Port {
                ports,
                from: (apart && random.chance(2, 3)).then(|| from(names, groups, random)),
                exposure: (apart && random.chance(1, 2)).then(|| exposure(random)),
            }
        })
        .collect()
}

fn labelled(random: &mut Random) -> Peer {
    let project = random.pick(&["shop-1", "shop-*", "tools", "other", "*"]);
    let service = random.pick(&["web", "api", "rogue", "*"]);
    Peer::Labelled { project: (*project).to_owned(), service: (*service).to_owned() }
}

fn outside(groups: &[String], random: &mut Random) -> Peer {
    match random.below(6) {
        0 => Peer::Host,
        1 => Peer::World,
        2 => Peer::Group(random.pick(groups).clone()),
        3 => Peer::Net(nets(random)[0]),
        _ => labelled(random),
    }
}

fn from(names: &[String], groups: &[String], random: &mut Random) -> Vec<Peer> {
    let mut found: Vec<Peer> = (0..random.below(4))
        .map(|_| {
            if random.chance(1, 2) {
                Peer::Service(random.pick(names).clone())
            } else {
                outside(groups, random)
            }
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn egress(groups: &[String], random: &mut Random) -> Vec<Egress> {
    let mut found: Vec<Egress> = (0..random.below(4))
        .map(|_| {
            if random.chance(1, 4) {
                return Egress { to: Peer::Dns, ports: None };
            }
            let ports = random.chance(1, 2).then(|| (0..=random.below(2)).map(|_| number(random)).collect());
            Egress { to: outside(groups, random), ports }
        })
        .collect();
    found.dedup_by(|a, b| a.to == b.to);
    found
}
