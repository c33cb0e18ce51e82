//! The host that the programs are tried on: two instances and some containers that no policy covers, on three bridges,
//! with their policy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use integration_tests::packet::{Ethernet, Mac, Payload, ip};
use portcullis::inventory::snapshot::{Bridge, Endpoint, Interface, Port, Snapshot, Uplink};

pub(crate) const WEB: u32 = 10;
pub(crate) const API: u32 = 11;
pub(crate) const DB: u32 = 12;
/// Not in the profile in force.
pub(crate) const MAIL: u32 = 13;
/// Of an instance whose policy does not name it.
pub(crate) const ROGUE: u32 = 14;
/// Unmanaged, on a bridge with covered endpoints.
pub(crate) const STRAY: u32 = 15;
/// Open to the host.
pub(crate) const ADMIN: u32 = 16;
/// Only observed.
pub(crate) const WATCH: u32 = 17;
/// The second instance, on a bridge of its own.
pub(crate) const API_2: u32 = 18;
pub(crate) const DB_2: u32 = 19;
/// Unmanaged, on a bridge without covered endpoints.
pub(crate) const LONER: u32 = 20;
/// Unmanaged, but named by the policy.
pub(crate) const BACKUP: u32 = 21;
/// A port that nothing is known of yet.
pub(crate) const NEW: u32 = 22;

/// Every port, known or not.
pub(crate) const PORTS: std::ops::RangeInclusive<u32> = WEB..=NEW;
pub(crate) const COVERED: [u32; 9] = [WEB, API, DB, MAIL, ROGUE, ADMIN, WATCH, API_2, DB_2];
pub(crate) const UNMANAGED: [u32; 3] = [STRAY, LONER, BACKUP];

pub(crate) const BRIDGE_1: u32 = 100;
pub(crate) const BRIDGE_2: u32 = 101;
pub(crate) const BRIDGE_3: u32 = 102;
pub(crate) const UPLINK: u32 = 200;
/// What `ingress_ifindex` is for the host's own packets.
pub(crate) const HOST: u32 = 0;
/// An interface that stands for nobody.
pub(crate) const NOBODY: u32 = 300;

/// In the group that the policy calls `office`, and not.
pub(crate) const OFFICE: [&str; 2] = ["203.0.113.9", "2001:db8:0ff::9"];
pub(crate) const ELSEWHERE: [&str; 2] = ["198.51.100.9", "2001:db8:aaaa::9"];
/// One of the host's addresses that is no gateway of a bridge.
pub(crate) const HOST_ADDRESS: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
/// The one that Docker gives its bridges.
pub(crate) const HOST_LINK: &str = "fe80::1";
/// The resolvers of every container.
pub(crate) const RESOLVER: [&str; 2] = ["198.51.100.53", "2001:db8:53::53"];

pub(crate) const POLICY: &str = r#"
version: 1
policy: shop
applies_to: { project: "shop-*" }
profile: production
groups:
  office: [203.0.113.0/24, "2001:db8:ff::/48"]
services:
  web:
    exposure: public
    ports: [443/tcp, 8000-8010/tcp]
    egress: [world, host]
  api:
    ports: [9000/tcp, 53/udp, { port: 9001/tcp, from: [office] }]
    from: [web]
    egress: [dns, office, { to: host, ports: [5000/tcp] }, { project: tools, service: backup }]
  db:
    severity: critical
    ports: [any, { port: 5432/tcp, from: [api, watch] }]
    from: [admin]
  mail:
    only_in: [development]
    ports: [1025/tcp]
    exposure: localhost
    from: [api]
  admin:
    exposure: localhost
    ports: [8080/tcp]
    from: [{ project: tools, service: backup }, { project: shop-2, service: api }]
  watch:
    mode: observe
    ports: [9100/tcp]
    from: [api]
"#;

/// One container of the town.
#[derive(Clone, Copy, Debug)]
struct Inhabitant {
    ifindex: u32,
    project: &'static str,
    service: &'static str,
}

const fn inhabitant(ifindex: u32, project: &'static str, service: &'static str) -> Inhabitant {
    Inhabitant { ifindex, project, service }
}

const INHABITANTS: [Inhabitant; 12] = [
    inhabitant(WEB, "shop-1", "web"),
    inhabitant(API, "shop-1", "api"),
    inhabitant(DB, "shop-1", "db"),
    inhabitant(MAIL, "shop-1", "mail"),
    inhabitant(ROGUE, "shop-1", "rogue"),
    inhabitant(STRAY, "", ""),
    inhabitant(ADMIN, "shop-1", "admin"),
    inhabitant(WATCH, "shop-1", "watch"),
    inhabitant(API_2, "shop-2", "api"),
    inhabitant(DB_2, "shop-2", "db"),
    inhabitant(LONER, "", ""),
    inhabitant(BACKUP, "tools", "backup"),
];

/// The bridge of a port.
pub(crate) const fn bridge_of(port: u32) -> u32 {
    match port {
        API_2 | DB_2 | BACKUP => BRIDGE_2,
        LONER => BRIDGE_3,
        _ => BRIDGE_1,
    }
}

fn number(port: u32) -> u8 {
    u8::try_from(port).unwrap()
}

fn network(bridge: u32) -> u8 {
    u8::try_from(bridge - BRIDGE_1 + 18).unwrap()
}

pub(crate) fn v4(port: u32) -> IpAddr {
    Ipv4Addr::new(172, network(bridge_of(port)), 0, number(port)).into()
}

pub(crate) fn v6(port: u32) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, u16::from(network(bridge_of(port))), 0, 0, 0, 0, u16::from(number(port)))
        .into()
}

/// A port's address of either family: 0 for IPv4, 1 for IPv6.
pub(crate) fn address(port: u32, family: usize) -> IpAddr {
    if family == 0 { v4(port) } else { v6(port) }
}

/// The address of a bridge.
pub(crate) fn gateway(bridge: u32, family: usize) -> IpAddr {
    if family == 0 {
        Ipv4Addr::new(172, network(bridge), 0, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(network(bridge)), 0, 0, 0, 0, 1).into()
    }
}

/// An address that is of IPv4.
pub(crate) fn four(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("not IPv4"),
    }
}

/// An address that is of IPv6.
pub(crate) fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(_) => panic!("not IPv6"),
        IpAddr::V6(address) => address,
    }
}

pub(crate) fn mac(port: u32) -> Mac {
    [2, 0, 0, 0, 0, number(port)]
}

/// The MAC of whatever is beyond a port's bridge.
pub(crate) const BRIDGE_MAC: Mac = [2, 0, 0, 0, 1, 0];

pub(crate) fn parsed(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A frame that a container sends from its own MAC.
pub(crate) fn sent_by(port: u32, source: IpAddr, destination: IpAddr, payload: &Payload) -> Vec<u8> {
    Ethernet::new(mac(port), BRIDGE_MAC).ip(&ip(source, destination, payload))
}

/// A frame on its way into a container.
pub(crate) fn delivered_to(port: u32, source: IpAddr, destination: IpAddr, payload: &Payload) -> Vec<u8> {
    Ethernet::new(BRIDGE_MAC, mac(port)).ip(&ip(source, destination, payload))
}

/// Everything that is known of the host.
pub(crate) fn snapshot() -> Snapshot {
    let interface = |ifindex: u32, name: &str| Interface { ifindex, name: format!("{name}{ifindex}") };
    let endpoints = INHABITANTS
        .iter()
        .map(|inhabitant| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let port = inhabitant.ifindex;
            Endpoint {
                container_id: format!("id-{port}"),
                container: format!("{}-{}-{port}", inhabitant.project, inhabitant.service),
                project: some(inhabitant.project),
                service: some(inhabitant.service),
                labels: BTreeMap::new(),
                network: format!("n{}", bridge_of(port)),
                bridge: format!("br{}", bridge_of(port)),
                port: Some(interface(port, "port")),
                mac: Some(mac(port)),
                addresses: vec![v4(port), v6(port)],
                published: Vec::new(),
                resolvers: RESOLVER.map(parsed).to_vec(),
            }
        })
        .collect();
    let bridges = [BRIDGE_1, BRIDGE_2, BRIDGE_3].map(|bridge| Bridge {
        interface: interface(bridge, "br"),
        network: format!("n{bridge}"),
        subnets: vec![
            format!("172.{}.0.0/16", network(bridge)).parse().unwrap(),
            format!("2001:db8:{:x}::/64", network(bridge)).parse().unwrap(),
        ],
    });
    let gateways = [BRIDGE_1, BRIDGE_2, BRIDGE_3]
        .into_iter()
        .flat_map(|bridge| [gateway(bridge, 0), gateway(bridge, 1)]);
    Snapshot {
        endpoints,
        bridges: bridges.to_vec(),
        ports: PORTS
            .map(|port| Port { interface: interface(port, "port"), bridge: bridge_of(port) })
            .collect(),
        uplinks: vec![Uplink { interface: interface(UPLINK, "eth"), ethernet: true, port: false }],
        host_addresses: gateways.chain(HOST_ADDRESS.map(parsed)).chain([parsed(HOST_LINK)]).collect(),
        unenforceable: Vec::new(),
    }
}
