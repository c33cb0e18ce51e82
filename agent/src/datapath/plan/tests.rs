//! What a snapshot and its resolved policy come to in the maps.

use agent_common::{
    config::DEFAULT_MARK_MASK,
    decision::Party,
    identity::{FIRST_ENDPOINT, UNMANAGED},
    verdict::Mode,
};

use super::*;
use crate::{
    inventory::snapshot::{self, Bridge, Endpoint, Port},
    policy::entries::ResolvedEndpoint,
};

const COVERED_PARTY: Party = Party { kind: PartyKind::Covered, identity: FIRST_ENDPOINT, instance: 1 };

fn layout() -> MarkLayout {
    MarkLayout::new(DEFAULT_MARK_MASK).unwrap()
}

fn slots() -> Slots {
    Slots::new(layout(), &BTreeMap::new())
}

fn named(ifindex: u32, name: &str) -> snapshot::Interface {
    snapshot::Interface { ifindex, name: format!("{name}{ifindex}") }
}

/// Bridges 100 (ports 10 to 19) and 101 (ports 20 to 29), without endpoints.
fn host() -> (Snapshot, Entries) {
    let bridge = |ifindex: u32, subnet: &str| Bridge {
        interface: named(ifindex, "br"),
        network: String::new(),
        subnets: vec![subnet.parse().unwrap()],
    };
    let snapshot = Snapshot {
        bridges: vec![bridge(100, "172.18.0.0/16"), bridge(101, "2001:db8:19::/64")],
        ports: (10..30)
            .map(|ifindex| Port { interface: named(ifindex, "port"), bridge: 90 + ifindex / 20 + 10 })
            .collect(),
        uplinks: vec![snapshot::Uplink { interface: named(200, "eth"), ethernet: true, port: false }],
        host_addresses: vec!["172.18.0.1".parse().unwrap()],
        ..Snapshot::default()
    };
    (snapshot, Entries::default())
}

fn add(host: &mut (Snapshot, Entries), port: Option<u32>, party: Party, addresses: &[&str]) {
    host.0.endpoints.push(Endpoint {
        container_id: String::new(),
        container: format!("c{}", host.0.endpoints.len()),
        project: None,
        service: None,
        labels: BTreeMap::new(),
        network: String::new(),
        bridge: String::new(),
        port: port.map(|ifindex| named(ifindex, "port")),
        mac: Some([2, 0, 0, 0, 0, 1]),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        published: Vec::new(),
        resolvers: Vec::new(),
    });
    host.1.endpoints.push(ResolvedEndpoint { party, mode: Mode::Enforce });
}

fn state(host: &(Snapshot, Entries)) -> HostState {
    host_state(&host.0, &host.1, layout(), &mut slots())
}

fn key(text: &str) -> (Address, u8) {
    (address(text.parse().unwrap()), 128)
}

#[test]
fn bridges_and_uplinks_are_known_and_lone_ports_are_not() {
    let state = state(&host());
    let kinds: Vec<(u32, u8)> =
        state.interfaces.iter().map(|(&ifindex, entry)| (ifindex, entry.kind)).collect();
    let (bridge, uplink) = (InterfaceKind::Bridge as u8, InterfaceKind::Uplink as u8);
    assert_eq!(kinds, [(100, bridge), (101, bridge), (200, uplink)]);
    assert!(state.slots.is_empty());
    let containers = |ifindex| Destination { kind: DestinationKind::Containers as u32, ifindex };
    let subnet = |text: &str, length| (address(text.parse().unwrap()), length);
    assert_eq!(state.destinations[&subnet("172.18.0.0", 112)], containers(100));
    assert_eq!(state.destinations[&subnet("2001:db8:19::", 64)], containers(101));
}

#[test]
fn an_endpoint_is_its_port_with_its_addresses() {
    let mut host = host();
    add(&mut host, Some(10), COVERED_PARTY, &["172.18.0.2", "2001:db8::2"]);
    let state = state(&host);
    let entry = state.interfaces[&10];
    assert_eq!(entry.kind, InterfaceKind::Port as u8);
    assert_eq!(entry.flags, COVERED | VALIDATE);
    assert_eq!((entry.identity, entry.instance, entry.bridge), (FIRST_ENDPOINT, 1, 100));
    assert_eq!(entry.mac, Mac::new([2, 0, 0, 0, 0, 1]));
    assert_eq!(entry.address_count, 2);
    assert!(entry.owns(&key("172.18.0.2").0) && entry.owns(&key("2001:db8::2").0));
    assert_eq!(entry.addresses[2..], [Address::UNSPECIFIED; 6]);
    let endpoint = Destination { kind: DestinationKind::Endpoint as u32, ifindex: 10 };
    assert_eq!(state.destinations[&key("172.18.0.2")], endpoint);
    assert_eq!(state.destinations[&key("2001:db8::2")], endpoint);
    assert_eq!(state.destinations[&key("fe80::ff:fe00:1")], endpoint, "what follows from its MAC");
    assert_eq!(state.slots, BTreeMap::from([(0, 10)]));
    assert_eq!(entry.mark, layout().of_slot(0));
}

#[test]
fn sources_are_checked_where_somebody_is_covered() {
    let mut host = host();
    add(&mut host, Some(10), COVERED_PARTY, &["172.18.0.2"]);
    add(&mut host, Some(11), Party::UNMANAGED, &["172.18.0.3"]);
    add(&mut host, Some(20), Party::UNMANAGED, &["2001:db8:19::2"]);
    let state = state(&host);
    assert_eq!(state.interfaces[&10].flags, COVERED | VALIDATE);
    assert_eq!(state.interfaces[&11].flags, VALIDATE);
    assert_eq!(state.interfaces[&20].flags, 0);
    assert_eq!(state.interfaces[&20].identity, UNMANAGED);
}

#[test]
fn a_pending_endpoint_is_not_ready() {
    let mut host = host();
    add(&mut host, None, COVERED_PARTY, &["172.18.0.2"]);
    // A port that has left its bridge, or not joined it yet.
    add(&mut host, Some(77), COVERED_PARTY, &["172.18.0.3"]);
    add(&mut host, Some(11), Party::UNMANAGED, &["172.18.0.4"]);
    let state = state(&host);
    assert!(!state.interfaces.contains_key(&77));
    assert!(!state.destinations.contains_key(&key("172.18.0.2")));
    assert!(!state.destinations.contains_key(&key("172.18.0.3")));
    assert_eq!(state.interfaces[&11].flags, 0, "neither of them is on the bridge");
    assert_eq!(state.left_out, []);
}

#[test]
fn an_unknown_mac_is_said_so() {
    let mut host = host();
    add(&mut host, Some(10), COVERED_PARTY, &[]);
    host.0.endpoints[0].mac = None;
    let state = state(&host);
    assert_eq!(state.interfaces[&10].flags, COVERED | VALIDATE | ANY_MAC);
    assert_eq!(state.interfaces[&100].flags, GUARDED | ANY_MAC);
    assert_eq!(state.interfaces[&101].flags, 0);
    assert!(!state.destinations.keys().any(|(address, _)| address.is_link_local_ipv6()));
}

#[test]
fn too_many_addresses_leave_an_endpoint_out() {
    let mut host = host();
    let all: Vec<String> = (2..11).map(|last| format!("172.18.0.{last}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    add(&mut host, Some(10), COVERED_PARTY, &all);
    add(&mut host, Some(11), COVERED_PARTY, &all[..8]);
    let state = state(&host);
    assert!(!state.interfaces.contains_key(&10) && state.interfaces.contains_key(&11));
    assert_eq!(state.interfaces[&11].address_count, 8);
    assert_eq!(state.left_out.len(), 1);
    assert_eq!(state.left_out[0].container, "c0");
    assert_eq!(state.left_out[0].reason, "9 addresses, at most 8 are supported");
    assert_eq!(state.slots, BTreeMap::from([(0, 11)]), "it takes no slot either");
}

#[test]
fn an_address_of_the_host_never_stands_for_a_container() {
    let mut host = host();
    add(&mut host, Some(10), COVERED_PARTY, &["172.18.0.1", "172.18.0.2"]);
    let state = state(&host);
    assert_eq!(state.destinations[&key("172.18.0.1")].kind, DestinationKind::Host as u32);
    assert_eq!(state.destinations[&key("172.18.0.2")].kind, DestinationKind::Endpoint as u32);
}

#[test]
fn an_address_of_the_host_is_on_the_bridge_of_its_subnet() {
    let mut host = host();
    host.0
        .host_addresses
        .extend(["2001:db8:19::1", "192.0.2.1"].map(|address| address.parse::<IpAddr>().unwrap()));
    let state = state(&host);
    for (address, bridge) in [("172.18.0.1", 100), ("2001:db8:19::1", 101), ("192.0.2.1", 0)] {
        let own = Destination { kind: DestinationKind::Host as u32, ifindex: bridge };
        assert_eq!(state.destinations[&key(address)], own, "{address}");
    }
}

#[test]
fn slots_stay_and_freed_ones_come_back_last() {
    let layout = MarkLayout::new(0xff00).unwrap();
    let mut slots = Slots::new(layout, &BTreeMap::new());
    assert_eq!((slots.slot(10), slots.slot(11), slots.slot(10)), (Some(0), Some(1), Some(0)));
    slots.retain(&BTreeSet::from([11]));
    assert_eq!(slots.slot(11), Some(1));
    let rest: Vec<u32> = (12..75).filter_map(|port| slots.slot(port)).collect();
    assert_eq!(rest[..2], [2, 3]);
    assert_eq!(rest.len(), 63);
    assert_eq!(rest.last(), Some(&0), "the freed slot is handed out when all others are");
    assert_eq!(slots.slot(99), None);
    slots.retain(&(11..74).collect());
    assert_eq!(slots.slot(99), Some(0));
}

#[test]
fn what_an_earlier_agent_gave_out_is_kept() {
    let mut slots = Slots::new(layout(), &BTreeMap::from([(5, 10), (7, 11)]));
    assert_eq!((slots.slot(11), slots.slot(12), slots.slot(10)), (Some(7), Some(8), Some(5)));
    let last = layout().slots() - 1;
    let mut slots = Slots::new(layout(), &BTreeMap::from([(last, 10)]));
    assert_eq!(slots.slot(11), Some(0));
}

#[test]
fn a_slot_that_the_mask_has_no_room_for_is_not_kept() {
    // Pinned under a wider mask: cut to this one, slot 64 would be slot 0, another port's.
    let narrow = MarkLayout::new(0xff).unwrap();
    let mut slots = Slots::new(narrow, &BTreeMap::from([(0, 10), (64, 11)]));
    let (first, second) = (slots.slot(10).unwrap(), slots.slot(11).unwrap());
    assert_eq!(first, 0);
    assert_ne!(narrow.of_slot(first), narrow.of_slot(second));
}

#[test]
fn without_a_slot_an_endpoint_is_left_out() {
    let mut host = host();
    host.0.ports =
        (1000..1100).map(|ifindex| Port { interface: named(ifindex, "port"), bridge: 100 }).collect();
    for port in 1000..1065 {
        add(&mut host, Some(port), COVERED_PARTY, &[]);
    }
    let layout = MarkLayout::new(0xff).unwrap();
    let state = host_state(&host.0, &host.1, layout, &mut Slots::new(layout, &BTreeMap::new()));
    assert_eq!(state.slots.len(), 64);
    assert_eq!(state.left_out.len(), 1);
    assert_eq!(state.left_out[0].reason, "all 64 port numbers of the mark are in use");
    let marks: BTreeSet<u32> =
        state.interfaces.values().map(|entry| entry.mark).filter(|&mark| mark != 0).collect();
    assert_eq!(marks.len(), 64);
    assert!(marks.iter().all(|mark| mark & !0xff == 0));
}

#[test]
fn the_same_host_gives_the_same_state() {
    let mut host = host();
    add(&mut host, Some(10), COVERED_PARTY, &["172.18.0.2"]);
    add(&mut host, Some(11), Party::UNMANAGED, &["172.18.0.3"]);
    let mut slots = slots();
    let first = host_state(&host.0, &host.1, layout(), &mut slots);
    assert_eq!(host_state(&host.0, &host.1, layout(), &mut slots), first);
    // Whatever order they are listed in.
    host.0.endpoints.reverse();
    host.1.endpoints.reverse();
    assert_eq!(host_state(&host.0, &host.1, layout(), &mut slots), first);
}
