//! Hand-made states and what they merge into.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::inventory::{containers::Attachment, links::Moment};

const FRONT: &str = "br-0123456789ab";
const SECOND: u64 = 1_000_000_000;

fn link(ifindex: u32, name: &str, kind: &str) -> Link {
    Link { ifindex, name: name.to_owned(), kind: kind.to_owned(), up: true, ..Link::default() }
}

fn port(ifindex: u32, master: u32, netns_id: i32) -> Link {
    Link {
        master: Some(master),
        netns_id: Some(netns_id),
        ..link(ifindex, &format!("veth{ifindex}"), "veth")
    }
}

fn host(extra: Vec<Link>) -> Links {
    let mut links = vec![
        Link { loopback: true, ..link(1, "lo", "") },
        link(2, "eth0", ""),
        link(3, "docker0", "bridge"),
        link(4, FRONT, "bridge"),
    ];
    links.extend(extra);
    let addresses = [
        (1, vec!["127.0.0.1/8", "::1/128"]),
        (2, vec!["192.0.2.10/24"]),
        (3, vec!["172.17.0.1/16"]),
        (4, vec!["172.18.0.1/16", "fe80::1/64", "2001:db8:1::1/64"]),
    ];
    Links {
        links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
        addresses: addresses
            .into_iter()
            .map(|(ifindex, list)| (ifindex, list.into_iter().map(|net| net.parse().unwrap()).collect()))
            .collect(),
    }
}

fn network(name: &str, driver: &str, bridge: Option<&str>) -> Network {
    Network {
        name: name.to_owned(),
        driver: driver.to_owned(),
        bridge: bridge.map(str::to_owned),
        subnets: Vec::new(),
    }
}

fn attachment(network: &str, last: u8) -> Attachment {
    Attachment {
        network_name: network.to_owned(),
        network_id: network.to_owned(),
        mac: Some([2, 0, 0, 0, 0, last]),
        addresses: vec![IpAddr::from([172, 18, 0, last])],
    }
}

fn container(name: &str, attachments: Vec<Attachment>) -> Container {
    Container {
        id: format!("id-{name}"),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        network_mode: NetworkMode::Own,
        sandbox: Some(PathBuf::from(format!("/netns/{name}"))),
        attachments,
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}

fn engine(containers: Vec<Container>) -> Containers {
    let networks = [
        network("bridge", "bridge", Some("docker0")),
        network("front", "bridge", Some(FRONT)),
        network("lan", "macvlan", None),
        network("host", "host", None),
    ];
    Containers {
        containers: containers
            .into_iter()
            .map(|container| (container.id.clone(), Arc::new(container)))
            .collect(),
        networks: networks.into_iter().map(|network| (network.name.clone(), network)).collect(),
        networks_listed: Some(Moment(0)),
    }
}

fn merged(containers: &Containers, namespaces: &[(&str, i32)], links: &Links) -> Snapshot {
    let namespaces =
        namespaces.iter().map(|&(name, number)| (PathBuf::from(format!("/netns/{name}")), number)).collect();
    merge(Known::Engine { containers, namespaces: &namespaces, other_ends: &BTreeMap::new() }, links)
}

fn names(uplinks: &[Uplink]) -> Vec<&str> {
    uplinks.iter().map(|uplink| uplink.interface.name.as_str()).collect()
}

fn bridges(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.bridges.iter().map(|bridge| bridge.interface.name.as_str()).collect()
}

#[test]
fn a_multi_homed_container_has_one_port_on_each_bridge() {
    let containers = engine(vec![
        container("web", vec![attachment("bridge", 2), attachment("front", 3)]),
        container("api", vec![attachment("front", 4)]),
    ]);
    let links = host(vec![port(10, 3, 0), port(11, 4, 0), port(12, 4, 1), port(13, 4, 9)]);
    let snapshot = merged(&containers, &[("web", 0), ("api", 1)], &links);
    let endpoints: Vec<_> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| {
            let port = endpoint.port.as_ref().map(|port| port.ifindex);
            (endpoint.container.as_str(), endpoint.bridge.as_str(), port)
        })
        .collect();
    assert_eq!(endpoints, [("api", FRONT, Some(12)), ("web", FRONT, Some(11)), ("web", "docker0", Some(10))]);
    // A port that no container is known for is a port all the same.
    let ports: Vec<_> = snapshot.ports.iter().map(|port| (port.interface.ifindex, port.bridge)).collect();
    assert_eq!(ports, [(10, 3), (11, 4), (12, 4), (13, 4)]);
    assert_eq!(names(&snapshot.uplinks), ["eth0"]);
    // The host's stack also answers to what is sent to all of a subnet.
    let addresses = [
        "127.0.0.1",
        "127.255.255.255",
        "172.17.0.1",
        "172.17.255.255",
        "172.18.0.1",
        "172.18.255.255",
        "192.0.2.10",
        "192.0.2.255",
        "::1",
        "2001:db8:1::1",
        "fe80::1",
    ];
    assert_eq!(snapshot.host_addresses, addresses.map(|address| address.parse::<IpAddr>().unwrap()));
}

#[test]
fn a_port_that_is_not_certain_is_pending() {
    let containers = engine(vec![container("web", vec![attachment("front", 3)])]);
    let port_of = |namespaces: &[(&str, i32)], links: &Links| {
        merged(&containers, namespaces, links).endpoints[0].port.as_ref().map(|port| port.ifindex)
    };
    assert_eq!(port_of(&[("web", 0)], &host(vec![port(10, 4, 0)])), Some(10));
    assert_eq!(port_of(&[], &host(vec![port(10, 4, 0)])), None, "namespace not numbered yet");
    assert_eq!(port_of(&[("web", 0)], &host(vec![port(10, 3, 0)])), None, "on another bridge");
    assert_eq!(port_of(&[("web", 0)], &host(vec![port(10, 4, 1)])), None, "into another namespace");
    assert_eq!(port_of(&[("web", 0)], &host(vec![port(10, 4, 0), port(11, 4, 0)])), None, "two that fit");
}

#[test]
fn a_starting_container_is_known_by_the_address_at_the_other_end() {
    let starting = Container { sandbox: None, ..container("web", vec![attachment("front", 3)]) };
    let containers = engine(vec![starting]);
    let links = host(vec![port(10, 4, 0), port(11, 4, 1), port(12, 3, 1)]);
    let port_of = |other_ends: &[(u32, u8)]| {
        let known = Known::Engine {
            containers: &containers,
            namespaces: &BTreeMap::new(),
            other_ends: &other_ends.iter().map(|&(ifindex, last)| (ifindex, [2, 0, 0, 0, 0, last])).collect(),
        };
        merge(known, &links).endpoints[0].port.as_ref().map(|port| port.ifindex)
    };
    assert_eq!(port_of(&[]), None);
    assert_eq!(port_of(&[(10, 7), (11, 3)]), Some(11));
    assert_eq!(port_of(&[(12, 3)]), None, "on another bridge");
    assert_eq!(port_of(&[(10, 3), (11, 3)]), None, "two that fit");
    assert_eq!(port_of(&[(99, 3)]), None, "gone");
}

#[test]
fn a_fresh_bridge_is_watched_until_a_later_list_lacks_it() {
    let fresh = |appeared| {
        let bridge = Link { appeared, ..link(20, "br-ffffffffffff", "bridge") };
        host(vec![bridge, port(21, 20, 5)])
    };
    let listed = |at| Containers { networks_listed: at, ..engine(Vec::new()) };
    let watched = |containers: &Containers, links: &Links| {
        let snapshot = merged(containers, &[], links);
        let is_watched = bridges(&snapshot).contains(&"br-ffffffffffff");
        assert_eq!(is_watched, snapshot.ports.iter().any(|port| port.interface.ifindex == 21));
        assert_eq!(!is_watched, names(&snapshot.uplinks).contains(&"br-ffffffffffff"));
        is_watched
    };
    let appeared = fresh(Some(Moment(10 * SECOND)));
    assert!(watched(&listed(None), &appeared), "the engine never answered");
    assert!(watched(&listed(Some(Moment(5 * SECOND))), &appeared), "the list is older than the bridge");
    assert!(watched(&listed(Some(Moment(11 * SECOND))), &appeared), "the network may not be registered yet");
    assert!(!watched(&listed(Some(Moment(13 * SECOND))), &appeared));
    assert!(!watched(&listed(Some(Moment(1))), &fresh(None)), "older than the agent");
}

#[test]
fn without_an_engine_only_its_names_count() {
    let links = host(vec![
        link(20, "br-mine", "bridge"),
        link(21, "br-0123456789AB", "bridge"),
        link(22, "br-0123456789ab0", "bridge"),
        link(23, "br-aaaaaaaaaaaa", "dummy"),
        port(24, 20, 1),
    ]);
    let snapshot = merged(&Containers::default(), &[], &links);
    assert_eq!(bridges(&snapshot), [FRONT, "docker0"]);
    let subnets: Vec<String> = snapshot.bridges[0].subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["172.18.0.0/16", "2001:db8:1::/64"]);
}

#[test]
fn a_bridge_with_a_name_of_its_own() {
    let mut containers = engine(Vec::new());
    containers.networks.insert("own".to_owned(), network("own", "bridge", Some("shop0")));
    containers.networks.insert("gone".to_owned(), network("gone", "bridge", Some("br-00000000dead")));
    let links = host(vec![link(20, "shop0", "bridge")]);
    assert_eq!(bridges(&merged(&containers, &[], &links)), [FRONT, "docker0", "shop0"]);
}

fn obstacles(snapshot: &Snapshot) -> Vec<(&str, &str, String)> {
    let all = snapshot.unenforceable.iter();
    all.map(|one| (one.container.as_str(), one.obstacle.name(), one.obstacle.to_string())).collect()
}

#[test]
fn containers_out_of_reach_are_named() {
    let mut on_host = container("agent", vec![Attachment { mac: None, ..attachment("host", 0) }]);
    on_host.network_mode = NetworkMode::Host;
    let lan = container("printer", vec![attachment("lan", 9), attachment("front", 9)]);
    let mut containers = engine(vec![
        on_host,
        lan,
        container("task", vec![attachment("swarm", 8)]),
        container("tagged", vec![attachment("vlan", 8)]),
        container("odd", vec![attachment("plugged", 8)]),
        container("alone", vec![attachment("none", 0)]),
    ]);
    for (name, driver) in
        [("swarm", "overlay"), ("vlan", "ipvlan"), ("plugged", "example/driver"), ("none", "null")]
    {
        containers.networks.insert(name.to_owned(), network(name, driver, None));
    }
    let snapshot = merged(&containers, &[], &host(Vec::new()));
    let found = obstacles(&snapshot);
    let expected = [
        ("agent", "host_network", "uses the host's network"),
        ("odd", "other_driver", "is on network `plugged` of driver example/driver"),
        ("printer", "macvlan", "is on network `lan` of driver macvlan"),
        ("tagged", "ipvlan", "is on network `vlan` of driver ipvlan"),
        ("task", "swarm", "is on the Swarm network `swarm`"),
    ];
    assert_eq!(found, expected.map(|(container, name, text)| (container, name, text.to_owned())));
    assert!(found.iter().all(|(_, name, _)| Obstacle::NAMES.contains(name)));
    let endpoints: Vec<_> = snapshot.endpoints.iter().map(|endpoint| endpoint.container.as_str()).collect();
    assert_eq!(endpoints, ["printer"]);
}

#[test]
fn who_shares_a_network_is_where_its_owner_is() {
    let member = |name: &str, owner: &str| {
        let mut member = container(name, Vec::new());
        member.network_mode = NetworkMode::Container(owner.to_owned());
        member
    };
    let mut on_host = container("agent", Vec::new());
    on_host.network_mode = NetworkMode::Host;
    let snapshot = merged(
        &engine(vec![
            on_host,
            container("printer", vec![attachment("lan", 9)]),
            container("web", vec![attachment("front", 9)]),
            member("a", "id-web"),
            member("b", "web"),
            member("c", "id-agent"),
            member("d", "id-printer"),
            member("e", "id-gone"),
        ]),
        &[],
        &host(Vec::new()),
    );
    let found: Vec<_> = snapshot
        .unenforceable
        .iter()
        .filter(|one| one.container.len() == 1)
        .map(|one| (one.container.as_str(), one.obstacle.clone()))
        .collect();
    let shared =
        |id: &str, owner: &str| Obstacle::SharedNetwork { owner_id: id.to_owned(), owner: owner.to_owned() };
    let driver = Obstacle::Driver { driver: "macvlan".to_owned(), network: "lan".to_owned() };
    assert_eq!(
        found,
        [
            ("a", shared("id-web", "web")),
            ("b", shared("id-web", "web")),
            ("c", Obstacle::HostNetwork),
            ("d", shared("id-printer", "printer")),
            ("d", driver),
            ("e", shared("id-gone", "id-gone")),
        ]
    );
}

#[test]
fn more_addresses_than_a_port_can_have_are_told() {
    let mut many = attachment("front", 1);
    many.addresses = (1..=9).map(|last| IpAddr::from([172, 18, 0, last])).collect();
    let snapshot = merged(&engine(vec![container("web", vec![many])]), &[], &host(Vec::new()));
    assert_eq!(
        obstacles(&snapshot),
        [(
            "web",
            "too_many_addresses",
            "has 9 addresses, more than 8, and gets and sends nothing".to_owned()
        )]
    );
}

#[test]
fn a_restarting_container_has_no_interface() {
    let gone = Attachment { mac: None, addresses: Vec::new(), ..attachment("front", 1) };
    let snapshot = merged(&engine(vec![container("web", vec![gone])]), &[], &host(Vec::new()));
    assert_eq!((snapshot.endpoints, snapshot.unenforceable), (Vec::new(), Vec::new()));
}

#[test]
fn ends_of_container_veths_are_no_uplinks() {
    let fresh =
        |ifindex, peer, up| Link { peer: Some(peer), up, ..link(ifindex, &format!("veth{ifindex}"), "veth") };
    // Both ends are still here, and down.
    let made = host(vec![fresh(10, 11, false), fresh(11, 10, false)]);
    assert_eq!(names(&merged(&engine(Vec::new()), &[], &made).uplinks), ["eth0"]);
    // One is a port now, the other has not moved yet.
    let joined = host(vec![Link { master: Some(4), ..fresh(10, 11, true) }, fresh(11, 10, true)]);
    assert_eq!(names(&merged(&engine(Vec::new()), &[], &joined).uplinks), ["eth0"]);
    // A pair with its other end elsewhere that belongs to no bridge is the way to the world.
    let outside = host(vec![Link { netns_id: Some(3), ..fresh(10, 11, true) }]);
    assert_eq!(names(&merged(&engine(Vec::new()), &[], &outside).uplinks), ["eth0", "veth10"]);
}

#[test]
fn endpoints_of_a_file() {
    let listed = |port: &str| Listed {
        port: port.to_owned(),
        container: format!("c-{port}"),
        project: Some("lab".to_owned()),
        service: None,
        labels: BTreeMap::new(),
        mac: None,
        addresses: Vec::new(),
        published: Vec::new(),
    };
    let links = host(vec![port(10, 4, 0), port(11, 4, 1), port(12, 3, 2)]);
    let list = [listed("veth10"), listed("absent"), listed("eth0")];
    let snapshot = merge(Known::File(&list), &links);
    assert_eq!(bridges(&snapshot), [FRONT]);
    assert_eq!(snapshot.bridges[0].network, FRONT);
    let ports: Vec<_> = snapshot.ports.iter().map(|port| port.interface.ifindex).collect();
    assert_eq!(ports, [10, 11], "only of bridges that a listed port belongs to");
    let endpoints: Vec<_> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.container_id.as_str(), endpoint.port.is_some(), endpoint.bridge.as_str()))
        .collect();
    assert_eq!(endpoints, [("absent", false, ""), ("eth0", false, ""), ("veth10", true, FRONT)]);
}

fn any_link(ifindex: u32) -> impl Strategy<Value = Link> {
    let kind = prop::sample::select(vec!["veth", "bridge", ""]);
    let name = prop::sample::select(vec!["docker0", FRONT, "br-mine", "veth"]);
    (kind, name, prop::option::of(1..8_u32), prop::option::of(0..3), any::<bool>()).prop_map(
        move |(kind, name, master, netns_id, loopback)| Link {
            master,
            netns_id,
            loopback,
            ..link(ifindex, &format!("{name}{}", if name == "veth" { "x" } else { "" }), kind)
        },
    )
}

proptest! {
    #[test]
    fn every_interface_has_one_part_at_most(
        links in (1..8_u32).map(any_link).collect::<Vec<_>>(),
        numbers in prop::collection::vec(0..3, 2),
    ) {
        let links = Links {
            links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
            addresses: BTreeMap::new(),
        };
        let containers = engine(vec![
            container("web", vec![attachment("front", 2), attachment("bridge", 2)]),
            container("api", vec![attachment("front", 3)]),
        ]);
        let snapshot = merged(&containers, &[("web", numbers[0]), ("api", numbers[1])], &links);
        prop_assert_eq!(&snapshot, &merged(&containers, &[("web", numbers[0]), ("api", numbers[1])], &links));

        let watched: BTreeSet<u32> = snapshot.bridges.iter().map(|bridge| bridge.interface.ifindex).collect();
        let ports: BTreeSet<u32> = snapshot.ports.iter().map(|port| port.interface.ifindex).collect();
        for uplink in &snapshot.uplinks {
            prop_assert!(!watched.contains(&uplink.interface.ifindex) && !ports.contains(&uplink.interface.ifindex));
        }
        for port in &snapshot.ports {
            prop_assert!(watched.contains(&port.bridge));
        }
        for endpoint in &snapshot.endpoints {
            if let Some(port) = &endpoint.port {
                prop_assert!(links.links[&port.ifindex].netns_id.is_some());
            }
        }
    }
}
