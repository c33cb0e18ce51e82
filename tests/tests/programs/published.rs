//! Calls of ports that are published on the host: by the world at an uplink, by containers at their own ports and at
//! the bridge, and what of it shows at the endpoint that is called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::config::{DEFAULT_MARK_MASK, outsider_bit, stamp_bit};
use agent_common::verdict::DropReason::{
    EgressDenied, Fragment, InvalidPacket, NoRule, NotExposed, NotInProfile, NotReady, NotTracked, Revoked,
    SpoofedSource, UnknownSource, UnsupportedProtocol,
};
use agent_common::verdict::Hook;
use integration_tests::packet::{
    ACK, BROADCAST, DESTINATION_OPTIONS, Ethernet, Ipv4, Ipv6, Payload, RST, SYN, Tcp, Udp, ip,
};
use portcullis::inventory::snapshot::{Protocol, Published, Snapshot};

use crate::bench::{Bench, Row};
use crate::town::{
    API, BRIDGE_1, BRIDGE_3, BRIDGE_MAC, ELSEWHERE, HOST, HOST_ADDRESS, HOST_LINK, LONER, MAIL, OFFICE,
    POLICY, STRAY, UPLINK, WATCH, WEB, address, delivered_to, gateway, mac, parsed, sent_by,
};

/// Published for `web`, which is public.
const WEB_PORT: u16 = 8443;
/// Published for port 9000 of `api`, which only `web` may call.
const API_PORT: u16 = 9900;
/// Published for port 9001 of `api`, which the office may call.
const OFFICE_PORT: u16 = 9901;
/// Published for port 9000 of `api`, on the host's loopback.
const LOCAL_PORT: u16 = 9902;
/// Published for `watch`, whose policy only observes.
const WATCH_PORT: u16 = 9100;
/// Published for port 53/udp of `api`.
const DNS_PORT: u16 = 5300;
const OUTSIDER: u32 = outsider_bit(DEFAULT_MARK_MASK);

fn publish(snapshot: &mut Snapshot) {
    let mut add = |port: u32, addresses: &[&str], host_port, container_port, protocol| {
        let found = |endpoint: &&mut portcullis::inventory::snapshot::Endpoint| {
            endpoint.port.as_ref().is_some_and(|known| known.ifindex == port)
        };
        let endpoint = snapshot.endpoints.iter_mut().find(found).unwrap();
        endpoint.published.extend(addresses.iter().map(|address| Published {
            host_address: parsed(address),
            host_port,
            container_port,
            protocol,
        }));
    };
    let everywhere = ["0.0.0.0", "::"];
    add(WEB, &everywhere, WEB_PORT, 443, Protocol::Tcp);
    add(API, &everywhere, API_PORT, 9000, Protocol::Tcp);
    add(API, &everywhere, OFFICE_PORT, 9001, Protocol::Tcp);
    add(API, &["127.0.0.1"], LOCAL_PORT, 9000, Protocol::Tcp);
    add(API, &everywhere, DNS_PORT, 53, Protocol::Udp);
    add(WATCH, &everywhere, WATCH_PORT, 9100, Protocol::Tcp);
}

/// The town with published ports.
fn start() -> Bench {
    let mut bench = Bench::start();
    bench.change(POLICY, publish);
    bench
}

fn tcp(from: u16, to: u16, flags: u8) -> Payload {
    Payload::Tcp(Tcp::new(from, to).flags(flags))
}

fn udp(from: u16, to: u16) -> Payload {
    Payload::Udp(Udp::new(from, to))
}

/// What the world sends to the host.
fn from_world(name: impl Into<String>, source: IpAddr, destination: IpAddr, payload: &Payload) -> Row {
    frame_from_world(name, &ip(source, destination, payload))
}

fn frame_from_world(name: impl Into<String>, packet: &[u8]) -> Row {
    let frame = Ethernet::new(BRIDGE_MAC, BRIDGE_MAC).ip(packet);
    Row { hook: Hook::FromUplink, at: UPLINK, ..Row::to(WEB, name, frame) }.by(UPLINK)
}

fn at_bridge(hook: Hook, bridge: u32, name: &str, frame: Vec<u8>) -> Row {
    Row { hook, at: bridge, ..Row::to(WEB, name, frame) }.by(if hook == Hook::ToBridge {
        UPLINK
    } else {
        bridge
    })
}

fn four(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    address
}

fn six(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("{address} is not IPv6") };
    address
}

#[test]
fn the_world_reaches_what_is_public_and_nothing_else() {
    let mut bench = start();
    for family in [0, 1] {
        let (world, office) = (parsed(ELSEWHERE[family]), parsed(OFFICE[family]));
        let host = parsed(HOST_ADDRESS[family]);
        bench.check_all(&[
            from_world("a public port", world, host, &tcp(4000, WEB_PORT, SYN)),
            from_world("its connection", world, host, &tcp(4000, WEB_PORT, ACK)),
            from_world("an internal port", world, host, &tcp(4000, API_PORT, SYN)).dropped(NotExposed),
            from_world("the same SYN", world, host, &tcp(4000, API_PORT, SYN)).dropped(NotExposed).again(),
            from_world("no connection", world, host, &tcp(4001, WEB_PORT, ACK)).dropped(NotTracked),
            from_world("no connection either", world, host, &tcp(4002, API_PORT, RST)).dropped(NotTracked),
            from_world("a group's port", office, host, &tcp(4000, OFFICE_PORT, SYN)),
            from_world("not of the group", world, host, &tcp(4000, OFFICE_PORT, SYN)).dropped(NotExposed),
            from_world("a datagram", world, host, &udp(4000, DNS_PORT)).dropped(NotExposed),
            from_world("TCP where UDP is published", world, host, &tcp(4000, DNS_PORT, SYN)),
            from_world("the host's own service", world, host, &tcp(4000, 22, SYN)),
            from_world("the gateway's address", world, gateway(BRIDGE_1, family), &tcp(4000, API_PORT, SYN))
                .dropped(NotExposed),
            from_world("on its way to somebody else", office, world, &tcp(4000, API_PORT, SYN)),
            from_world("straight to the container", world, address(API, family), &tcp(4000, API_PORT, SYN)),
            from_world("only published on loopback", world, host, &tcp(4000, LOCAL_PORT, SYN)),
            from_world("a ping", world, host, &Payload::Echo { request: true, identifier: 7 }),
        ]);
    }
    let world = parsed(ELSEWHERE[0]);
    bench.check_all(&[
        from_world("the host's loopback", world, parsed("127.0.0.1"), &tcp(4000, LOCAL_PORT, SYN))
            .dropped(NotExposed),
        from_world("everybody", world, parsed("255.255.255.255"), &udp(4000, DNS_PORT)).dropped(NotExposed),
        from_world("a group", world, parsed("224.0.0.251"), &udp(4000, DNS_PORT)).dropped(NotExposed),
        from_world("a group", parsed(ELSEWHERE[1]), parsed("ff02::fb"), &udp(4000, DNS_PORT))
            .dropped(NotExposed),
        from_world("link-local", parsed("fe80::9"), parsed("fe80::1"), &tcp(4000, API_PORT, SYN))
            .dropped(NotExposed),
    ]);
}

#[test]
fn what_is_counted_names_the_service_and_its_own_port() {
    let mut bench = start();
    let before = bench.read();
    let call = from_world("", parsed(ELSEWHERE[1]), parsed(HOST_ADDRESS[1]), &tcp(4000, API_PORT, SYN));
    let ran = bench.check(&call.dropped(NotExposed));
    let counted = crate::bench::increases(&before, &bench.read());
    let [(key, _)] = &counted[..] else { panic!("{counted:?}") };
    let api = bench.party(API).identity;
    assert_eq!((key.subject, key.destination), (api, api));
    assert_eq!((key.port_first, key.port_last), (9000, 9000), "the policy's port, not the host's");
    assert_eq!(ran.events[0].destination_port, API_PORT);
    assert_eq!(ran.events[0].destination_port_ifindex, API);
}

#[test]
fn no_header_hides_a_port_from_the_uplink() {
    let mut bench = start();
    let (world, host) = (ELSEWHERE.map(parsed), HOST_ADDRESS.map(parsed));
    let v4 = || Ipv4::new(four(world[0]), four(host[0]));
    let v6 = || Ipv6::new(six(world[1]), six(host[1]));
    let syn = |port| Tcp::new(4000, port).bytes();
    let with_options = |count: usize, port| {
        let packet = (0..count).fold(v6(), |packet, _| packet.destination_options());
        packet.carrying(6, &syn(port))
    };
    let mapped = Ipv6::new("::ffff:203.0.113.9".parse().unwrap(), six(host[1]));
    bench.check_all(&[
        frame_from_world("options", &v4().options(&[1; 8]).carrying(6, &syn(API_PORT))).dropped(NotExposed),
        frame_from_world("options to the host", &v4().options(&[1; 8]).carrying(6, &syn(22))),
        frame_from_world("a first fragment", &v4().fragment(0, true).carrying(6, &syn(API_PORT)))
            .dropped(NotExposed)
            .perhaps_told()
            .again(),
        frame_from_world("a tiny first fragment", &v4().fragment(0, true).carrying(6, &syn(API_PORT)[..8]))
            .dropped(Fragment),
        // Nothing comes of it without the first.
        frame_from_world("a later fragment", &v4().fragment(1, true).carrying(6, &syn(API_PORT))),
        frame_from_world("a fragment to the host", &v4().fragment(0, true).carrying(17, &[0; 64])),
        frame_from_world("three headers", &with_options(3, API_PORT)).dropped(NotExposed),
        frame_from_world("three headers to the host", &with_options(3, 22)),
        frame_from_world("forty headers", &with_options(40, API_PORT)).dropped(UnsupportedProtocol),
        frame_from_world("an atomic fragment", &v6().fragment(0, false).carrying(6, &syn(API_PORT)))
            .dropped(NotExposed)
            .again(),
        frame_from_world("a later fragment", &v6().fragment(8, true).carrying(6, &syn(API_PORT))),
        frame_from_world(
            "a long header",
            &v6().extension(DESTINATION_OPTIONS, &[&[3][..], &[0; 30]].concat()).carrying(6, &syn(API_PORT)),
        )
        .dropped(NotExposed)
        .again(),
        frame_from_world("an IPv4 address in IPv6", &mapped.carrying(6, &syn(WEB_PORT)))
            .dropped(InvalidPacket),
        Row {
            packet: Ethernet::new(BRIDGE_MAC, BRIDGE_MAC)
                .tag(0x8100, 0)
                .ip(&v4().carrying(6, &syn(API_PORT))),
            ..frame_from_world("one more priority tag", &[0x45; 20])
        }
        .dropped(UnsupportedProtocol),
        frame_from_world("another protocol", &v4().carrying(132, &syn(API_PORT))),
        frame_from_world("not an IP header", &[0x10; 40]),
    ]);
}

#[test]
fn a_policy_that_closes_a_port_cuts_its_connections() {
    let mut bench = start();
    let (world, host) = (parsed(ELSEWHERE[1]), parsed(HOST_ADDRESS[1]));
    bench.check(&from_world("opens", world, host, &tcp(4000, WEB_PORT, SYN)));
    let closed = POLICY.replace("exposure: public", "exposure: localhost");
    bench.apply(&closed);
    bench.check(&from_world("its connection", world, host, &tcp(4000, WEB_PORT, ACK)).dropped(Revoked));
    bench.apply(POLICY);
    bench.check(&from_world("its connection, again", world, host, &tcp(4000, WEB_PORT, ACK)));
    bench.change(POLICY, |snapshot| {
        for endpoint in &mut snapshot.endpoints {
            endpoint.published.clear();
        }
    });
    bench.check(&from_world("not published any more", world, host, &tcp(4000, API_PORT, SYN)));
}

#[test]
fn a_container_that_calls_a_published_port_is_an_outsider() {
    let mut bench = start();
    for family in [0, 1] {
        let host = parsed(HOST_ADDRESS[family]);
        let call =
            |port: u32, to: u16, flags| sent_by(port, address(port, family), host, &tcp(4000, to, flags));
        let own = bench.check(&Row::from(WEB, "its own", call(WEB, WEB_PORT, SYN)));
        assert_ne!(own.mark & OUTSIDER, 0);
        let later = bench.check(&Row::from(WEB, "its connection", call(WEB, WEB_PORT, ACK)));
        assert_eq!(own.mark, later.mark);
        let answer = delivered_to(WEB, host, address(WEB, family), &tcp(WEB_PORT, 4000, SYN | ACK));
        bench.check(&Row::to(WEB, "docker-proxy answers", answer).by(HOST));
        let plain = bench.check(&Row::from(WEB, "the host's own service", call(WEB, 22, SYN)));
        assert_eq!(plain.mark & OUTSIDER, 0);
        bench.check_all(&[
            // Its `from` would let it in at the container's own address.
            Row::from(WEB, "an internal port", call(WEB, API_PORT, SYN)).dropped(NotExposed),
            Row::from(WEB, "no connection", call(WEB, API_PORT, ACK)).dropped(NotTracked),
            Row::from(API, "without the world", call(API, WEB_PORT, SYN)).dropped(EgressDenied),
            Row::from(MAIL, "out of the profile", call(MAIL, WEB_PORT, SYN)).dropped(NotInProfile),
            Row::from(WEB, "published on loopback", call(WEB, LOCAL_PORT, SYN)),
        ]);
        for port in [STRAY, LONER] {
            let open = bench.check(&Row::from(port, "unmanaged", call(port, WEB_PORT, SYN)));
            assert_ne!(open.mark & OUTSIDER, 0);
            let plain = bench.check(&Row::from(port, "unmanaged to the host", call(port, 22, SYN)));
            assert_eq!(plain.mark & OUTSIDER, 0);
            bench.check_all(&[
                Row::from(port, "its connection", call(port, WEB_PORT, ACK)),
                Row::from(port, "unmanaged, internal", call(port, API_PORT, SYN)).dropped(NotExposed),
                Row::from(port, "unmanaged, again", call(port, API_PORT, SYN)).dropped(NotExposed).again(),
                Row::from(port, "unmanaged, no connection", call(port, API_PORT, ACK)).dropped(NotExposed),
            ]);
        }
    }
    let (own, gateway) = (parsed("fe80::ff:fe00:f"), parsed(HOST_LINK));
    let neighbour = |source, to: u16| sent_by(STRAY, source, gateway, &tcp(4000, to, SYN));
    bench.check_all(&[
        Row::from(STRAY, "by link-local addresses", neighbour(own, WEB_PORT)),
        Row::from(STRAY, "by link-local addresses, internal", neighbour(own, API_PORT)).dropped(NotExposed),
        Row::from(STRAY, "by another's", neighbour(parsed("fe80::ff:fe00:a"), WEB_PORT))
            .dropped(SpoofedSource),
    ]);
    let options = Ipv4::new(four(address(LONER, 0)), four(parsed(HOST_ADDRESS[0]))).options(&[1; 8]);
    let options =
        Ethernet::new(mac(LONER), BRIDGE_MAC).ip(&options.carrying(6, &Tcp::new(1, API_PORT).bytes()));
    bench.check(&Row::from(LONER, "behind options", options).dropped(NotExposed));
}

#[test]
fn what_is_redirected_to_a_container_is_judged_as_the_worlds() {
    let mut bench = start();
    let mark = bench.mark_of(WEB) | OUTSIDER;
    let call = |to: u32, port| delivered_to(to, address(WEB, 0), address(to, 0), &tcp(4000, port, SYN));
    let bridged = |to: u32, port| delivered_to(to, address(WEB, 0), address(to, 0), &tcp(4001, port, SYN));
    bench.check_all(&[
        Row::to(API, "web itself", call(API, 9000)).marked(mark & !OUTSIDER),
        Row::to(API, "web as an outsider", call(API, 9000)).marked(mark).dropped(NotExposed),
        Row::to(WEB, "the public port", call(WEB, 443)).marked(mark),
        // Translated inside the bridge, from port to port.
        Row::to(API, "web itself", bridged(API, 9000)).by(WEB).marked(mark & !OUTSIDER),
        Row::to(API, "web as an outsider", bridged(API, 9000)).by(WEB).marked(mark).dropped(NotExposed),
        Row::to(API, "under another's mark", bridged(API, 9000)).by(STRAY).marked(mark).dropped(NoRule),
        Row::to(WEB, "its own port", bridged(WEB, 443)).by(WEB).marked(mark),
        Row::to(WEB, "its own port, not published", bridged(WEB, 443)).by(WEB).dropped(NoRule),
    ]);
}

/// Without docker-proxy the host redirects the call to the container itself, which then answers in the host's name.
#[test]
fn whoever_answers_in_the_hosts_name_first_is_the_only_one() {
    let mut bench = start();
    let mark = bench.mark_of(LONER);
    for family in [0, 1] {
        let (host, web) = (parsed(HOST_ADDRESS[family]), address(WEB, family));
        let call = sent_by(WEB, web, host, &tcp(4000, 7000, SYN));
        let answer = |flags| delivered_to(WEB, host, web, &tcp(7000, 4000, flags));
        bench.check_all(&[
            Row::to(WEB, "before the call", answer(SYN | ACK)).by(BRIDGE_3).marked(mark).dropped(NotTracked),
            Row::from(WEB, "the call", call),
            Row::to(WEB, "a container answers", answer(SYN | ACK)).by(BRIDGE_3).marked(mark),
            Row::to(WEB, "it goes on", answer(ACK)).by(BRIDGE_3).marked(mark),
            Row::to(WEB, "another container", answer(ACK)).by(STRAY).dropped(NotTracked).untold(),
            Row::to(WEB, "the host", answer(ACK)).by(HOST).dropped(NotTracked).untold(),
            Row::to(WEB, "nobody", answer(ACK)).by(BRIDGE_3).dropped(UnknownSource),
        ]);
    }
}

#[test]
fn what_is_only_observed_is_counted_where_it_is_called() {
    let mut bench = start();
    let (world, host) = (parsed(ELSEWHERE[0]), parsed(HOST_ADDRESS[0]));
    let seen =
        bench.check(&from_world("the world", world, host, &tcp(4000, WATCH_PORT, SYN)).observed(NotExposed));
    assert_eq!(seen.mark, stamp_bit(DEFAULT_MARK_MASK) | OUTSIDER);
    let redirected = delivered_to(WATCH, world, address(WATCH, 0), &tcp(4000, 9100, SYN));
    bench.check(&Row::to(WATCH, "redirected", redirected).by(UPLINK).marked(seen.mark));
    let direct = delivered_to(WATCH, world, address(WATCH, 0), &tcp(4001, 9100, SYN));
    bench.check(&Row::to(WATCH, "straight", direct).by(UPLINK).observed(NotExposed));
    let call = sent_by(STRAY, address(STRAY, 0), host, &tcp(4000, WATCH_PORT, SYN));
    bench.check(&Row::from(STRAY, "a container", call).observed(NotExposed));
}

#[test]
fn a_published_number_is_lent_to_containers_that_call_the_world() {
    let mut bench = start();
    for family in [0, 1] {
        let (world, host) = (parsed(ELSEWHERE[family]), parsed(HOST_ADDRESS[family]));
        for port in [WEB, LONER] {
            let lent = 7000 + u16::try_from(port).unwrap();
            let call = sent_by(port, address(port, family), world, &tcp(API_PORT, lent, SYN));
            bench.check_all(&[
                Row::from(port, "calls", call),
                from_world("the answer", world, host, &tcp(lent, API_PORT, SYN | ACK)),
                from_world("another port's", world, host, &tcp(lent + 100, API_PORT, ACK))
                    .dropped(NotTracked),
                from_world("a call", world, host, &tcp(lent, API_PORT, SYN)).dropped(NotExposed),
            ]);
        }
        let denied = sent_by(API, address(API, family), world, &tcp(API_PORT, 7100, SYN));
        bench.check_all(&[
            Row::from(API, "may not call", denied).dropped(EgressDenied),
            from_world("is lent nothing", world, host, &tcp(7100, API_PORT, ACK)).dropped(NotTracked),
        ]);
        let ask = sent_by(WEB, address(WEB, family), world, &udp(DNS_PORT, 53));
        let answer = from_world("the answer", world, host, &udp(53, DNS_PORT));
        bench.check(&Row::from(WEB, "asks", ask));
        // docker-proxy might take it, and nobody would judge it once more.
        bench.check(&if family == 0 { answer } else { answer.dropped(NotExposed) });
    }
}

#[test]
fn an_endpoint_that_is_not_ready_is_not_called() {
    let mut bench = start();
    let (world, host) = (parsed(ELSEWHERE[0]), parsed(HOST_ADDRESS[0]));
    // What an agent that was stopped in the middle of a change leaves behind.
    bench.forget_interface(WEB);
    bench.check(&from_world("the world", world, host, &tcp(4000, WEB_PORT, SYN)).dropped(NotReady));
}

#[test]
fn nothing_crosses_a_guarded_bridge_for_a_container_that_is_not_known() {
    let mut bench = start();
    let mark = bench.mark_of(WEB);
    let world = parsed(ELSEWHERE[0]);
    let out = |source: IpAddr, to: IpAddr, port| {
        Ethernet::new([2, 9, 9, 9, 9, 9], BRIDGE_MAC).ip(&ip(source, to, &tcp(4000, port, SYN)))
    };
    let unknown = parsed("172.18.0.200");
    let host = parsed(HOST_ADDRESS[0]);
    let into =
        |to: IpAddr| Ethernet::new(BRIDGE_MAC, [2, 9, 9, 9, 9, 9]).ip(&ip(world, to, &tcp(4000, 80, SYN)));
    let arp = integration_tests::packet::Arp::request(BRIDGE_MAC, four(gateway(BRIDGE_1, 0)), four(unknown));
    let near = ip(parsed("fe80::1"), parsed("fe80::2"), &tcp(80, 4000, SYN | ACK));
    let near = Ethernet::new(BRIDGE_MAC, [2, 9, 9, 9, 9, 9]).ip(&near);
    let from = |bridge, name, frame| at_bridge(Hook::FromBridge, bridge, name, frame);
    let to = |bridge, name, frame| at_bridge(Hook::ToBridge, bridge, name, frame);
    bench.check_all(&[
        from(BRIDGE_1, "a port's program has seen it", out(address(WEB, 0), world, 80)).marked(mark),
        from(BRIDGE_1, "nobody has seen it", out(unknown, world, 80)).dropped(UnknownSource),
        from(BRIDGE_1, "another's mark", out(unknown, world, 81)).marked(0xffff).dropped(UnknownSource),
        from(BRIDGE_1, "its address claim", arp.frame()).dropped(UnknownSource),
        from(BRIDGE_3, "without covered endpoints", out(unknown, world, 80)),
        from(BRIDGE_3, "a published port", out(unknown, host, API_PORT)).dropped(UnknownSource),
        from(BRIDGE_3, "a public one", out(unknown, host, WEB_PORT)).dropped(UnknownSource),
        from(BRIDGE_3, "the host's own", out(unknown, host, 22)),
        to(BRIDGE_1, "a known container", into(address(API, 0))),
        to(BRIDGE_1, "an unmanaged one", into(address(STRAY, 0))),
        to(BRIDGE_1, "an unknown one", into(unknown))
            .dropped(agent_common::verdict::DropReason::UnknownDestination),
        to(BRIDGE_1, "one of another bridge", into(address(LONER, 0)))
            .dropped(agent_common::verdict::DropReason::UnknownDestination),
        to(BRIDGE_1, "all of them", into(parsed("224.0.0.251")))
            .dropped(agent_common::verdict::DropReason::UnknownDestination),
        to(BRIDGE_1, "a question for an address", arp.frame()),
        to(BRIDGE_1, "the host's answer to a neighbour", near),
        to(BRIDGE_1, "another protocol", Ethernet::new(BRIDGE_MAC, BROADCAST).carrying(0x88cc, &[0; 46]))
            .dropped(UnsupportedProtocol),
        to(BRIDGE_3, "without covered endpoints", into(unknown)),
    ]);
}

#[test]
fn a_bridge_whose_endpoints_only_observe_is_not_guarded() {
    let observing = POLICY.replace("policy: shop\n", "policy: shop\nmode: observe\n");
    let mut bench = Bench::under(&observing);
    let unknown = parsed("172.18.0.200");
    let out = Ethernet::new([2, 9, 9, 9, 9, 9], BRIDGE_MAC).ip(&ip(
        unknown,
        parsed(ELSEWHERE[0]),
        &tcp(1, 80, SYN),
    ));
    bench.check(&at_bridge(Hook::FromBridge, BRIDGE_1, "unknown", out));
}
