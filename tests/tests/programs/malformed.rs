//! What is not understood is dropped by name, whatever is in it, and nothing is forwarded because of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use agent_common::verdict::DropReason::{
    self, Fragment, InvalidPacket, NoRule, UnknownDestination, UnsupportedProtocol,
};
use integration_tests::packet::{
    BROADCAST, Ethernet, HOP_BY_HOP, Ipv4, Ipv6, Payload, ROUTING, Tcp, Udp, ip, link_layer, neighbour,
};

use crate::bench::{Bench, Row};
use crate::town::{API, BRIDGE_MAC, DB, ELSEWHERE, LONER, POLICY, STRAY, WATCH, WEB, mac, parsed, v4, v6};

fn four(port: u32) -> Ipv4Addr {
    match v4(port) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("not IPv4"),
    }
}

fn six(port: u32) -> Ipv6Addr {
    match v6(port) {
        IpAddr::V4(_) => panic!("not IPv6"),
        IpAddr::V6(address) => address,
    }
}

/// What would be allowed if the rest were right: from `WEB` to `API`.
fn allowed() -> Vec<u8> {
    Tcp::new(40_000, 9000).bytes()
}

fn ipv4() -> Ipv4 {
    Ipv4::new(four(WEB), four(API))
}

fn ipv6() -> Ipv6 {
    Ipv6::new(six(WEB), six(API))
}

/// The same packet at both hooks that it meets: it is dropped at the first, and would be at the second.
fn at_both(name: &str, reason: DropReason, ethertype: u16, packet: &[u8]) -> [Row; 2] {
    let out = Ethernet::new(mac(WEB), BRIDGE_MAC).carrying(ethertype, packet);
    let into = Ethernet::new(mac(WEB), mac(API)).carrying(ethertype, packet);
    [
        Row::from(WEB, format!("{name}, sent"), out).dropped(reason).perhaps_told(),
        Row::to(API, format!("{name}, arriving"), into).by(WEB).dropped(reason).perhaps_told(),
    ]
}

fn check(cases: &[(String, DropReason, Vec<u8>)], ethertype: u16) {
    let rows: Vec<Row> =
        cases.iter().flat_map(|(name, reason, packet)| at_both(name, *reason, ethertype, packet)).collect();
    Bench::start().check_all(&rows);
}

fn case(name: impl Into<String>, reason: DropReason, packet: Vec<u8>) -> (String, DropReason, Vec<u8>) {
    (name.into(), reason, packet)
}

#[test]
fn what_the_cases_are_made_of_is_allowed() {
    let mut bench = Bench::start();
    for packet in [ipv4().carrying(6, &allowed()), ipv6().carrying(6, &allowed())] {
        for (out, padding) in [(true, 0), (false, 0), (true, 6), (false, 300)] {
            let name = format!("{padding} bytes of padding");
            let (source, destination) = if out { (mac(WEB), BRIDGE_MAC) } else { (mac(WEB), mac(API)) };
            let frame = Ethernet::new(source, destination).padded(padding).ip(&packet);
            bench.check(&if out { Row::from(WEB, name, frame) } else { Row::to(API, name, frame).by(WEB) });
        }
    }
}

#[test]
fn ipv4_headers() {
    let tcp = allowed();
    let mut cases = vec![
        case("version 5", InvalidPacket, ipv4().version(5).carrying(6, &tcp)),
        case("version 6", InvalidPacket, ipv4().version(6).carrying(6, &tcp)),
        case("a header of 4 words", InvalidPacket, ipv4().header_words(4).carrying(6, &tcp)),
        case("a header of no words", InvalidPacket, ipv4().header_words(0).carrying(6, &tcp)),
        case("options that are not there", InvalidPacket, ipv4().header_words(15).carrying(6, &tcp)),
        case("no length", InvalidPacket, ipv4().total_length(0).carrying(6, &tcp)),
        case("shorter than its header", InvalidPacket, ipv4().total_length(19).carrying(6, &tcp)),
        case("only a header", InvalidPacket, ipv4().total_length(20).carrying(6, &tcp)),
        case("a TCP header cut by the length", InvalidPacket, ipv4().total_length(39).carrying(6, &tcp)),
        case("longer than the frame", InvalidPacket, ipv4().total_length(41).carrying(6, &tcp)),
        case("as long as can be", InvalidPacket, ipv4().total_length(65_535).carrying(6, &tcp)),
        case("a frame that ends in the TCP header", InvalidPacket, ipv4().carrying(6, &tcp)[..33].to_vec()),
        case("a frame that ends with the header", InvalidPacket, ipv4().carrying(6, &tcp)[..20].to_vec()),
        case("the evil bit", InvalidPacket, ipv4().evil().carrying(6, &tcp)),
        case("the evil bit on a fragment", InvalidPacket, ipv4().fragment(1, false).evil().carrying(6, &tcp)),
        case("a first fragment", Fragment, ipv4().fragment(0, true).carrying(6, &tcp)),
        case("a tiny first fragment", Fragment, ipv4().fragment(0, true).carrying(6, &tcp[..8])),
        case("a second fragment with other flags", Fragment, ipv4().fragment(1, false).carrying(6, &tcp)),
        case("a fragment in the middle", Fragment, ipv4().fragment(100, true).carrying(17, &[0; 64])),
        case(
            "the last fragment there can be",
            Fragment,
            ipv4().fragment(0x1fff, false).carrying(17, &[0; 8]),
        ),
        case("padding as options", UnsupportedProtocol, ipv4().options(&[1; 4]).carrying(6, &tcp)),
        case("options all the way", UnsupportedProtocol, ipv4().options(&[1; 40]).carrying(6, &tcp)),
        case(
            "a source route",
            UnsupportedProtocol,
            ipv4().options(&[131, 7, 4, 172, 18, 0, 12, 0]).carrying(6, &tcp),
        ),
    ];
    for protocol in [0, 2, 4, 33, 41, 46, 47, 50, 51, 58, 88, 89, 97, 103, 112, 115, 132, 136, 253, 255] {
        cases.push(case(
            format!("protocol {protocol}"),
            UnsupportedProtocol,
            ipv4().carrying(protocol, &tcp),
        ));
    }
    check(&cases, ETHERTYPE_IPV4);
}

#[test]
fn ipv4_addresses() {
    let tcp = allowed();
    let mut cases = Vec::new();
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.0.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        let packet = Ipv4::new(source.parse().unwrap(), four(API)).carrying(6, &tcp);
        cases.push(case(format!("from {source}"), InvalidPacket, packet));
    }
    for destination in ["0.0.0.0", "0.0.0.1", "127.0.0.1", "240.0.0.1", "255.255.255.254"] {
        let packet = Ipv4::new(four(WEB), destination.parse().unwrap()).carrying(6, &tcp);
        cases.push(case(format!("to {destination}"), InvalidPacket, packet));
    }
    check(&cases, ETHERTYPE_IPV4);
}

#[test]
fn ipv6_headers() {
    let tcp = allowed();
    let long = |kind| ipv6().extension(kind, &[0, 0, 0, 0, 0, 0, 0]).carrying(6, &tcp);
    let mut cases = vec![
        case("version 4", InvalidPacket, ipv6().version(4).carrying(6, &tcp)),
        case("version 7", InvalidPacket, ipv6().version(7).carrying(6, &tcp)),
        case("no length", InvalidPacket, ipv6().payload_length(0).carrying(6, &tcp)),
        case("longer than the frame", InvalidPacket, ipv6().payload_length(21).carrying(6, &tcp)),
        case("as long as can be", InvalidPacket, ipv6().payload_length(65_535).carrying(6, &tcp)),
        case("a TCP header cut by the length", InvalidPacket, ipv6().payload_length(19).carrying(6, &tcp)),
        case("a frame that ends in the TCP header", InvalidPacket, ipv6().carrying(6, &tcp)[..52].to_vec()),
        case("destination options", UnsupportedProtocol, ipv6().destination_options().carrying(6, &tcp)),
        case(
            "a hop-by-hop header",
            UnsupportedProtocol,
            ipv6().extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]).carrying(6, &tcp),
        ),
        case("a router alert before TCP", UnsupportedProtocol, ipv6().router_alert().carrying(6, &tcp)),
        case(
            "a jumbo option",
            InvalidPacket,
            ipv6().payload_length(0).extension(HOP_BY_HOP, &[0, 0xc2, 4, 0, 1, 0, 0]).carrying(6, &tcp),
        ),
        case("a routing header", UnsupportedProtocol, long(ROUTING)),
        case("ESP", UnsupportedProtocol, long(50)),
        case("AH", UnsupportedProtocol, long(51)),
        case("no next header", UnsupportedProtocol, long(59)),
        case("mobility", UnsupportedProtocol, long(135)),
        case("HIP", UnsupportedProtocol, long(139)),
        case("shim6", UnsupportedProtocol, long(140)),
        case("an atomic fragment", Fragment, ipv6().fragment(0, false).carrying(6, &tcp)),
        case("a first fragment", Fragment, ipv6().fragment(0, true).carrying(6, &tcp)),
        case("a later fragment", Fragment, ipv6().fragment(1, false).carrying(6, &tcp)),
        case(
            "two fragment headers",
            Fragment,
            ipv6().fragment(0, false).fragment(0, false).carrying(6, &tcp),
        ),
        case(
            "a fragment behind options",
            UnsupportedProtocol,
            ipv6().destination_options().fragment(0, false).carrying(6, &tcp),
        ),
    ];
    for count in [2, 4, 8, 16, 40] {
        let chain = (0..count).fold(ipv6(), |packet, _| packet.destination_options());
        cases.push(case(
            format!("{count} destination options"),
            UnsupportedProtocol,
            chain.carrying(6, &tcp),
        ));
    }
    for protocol in [1, 4, 41, 47, 97, 115, 132, 136, 255] {
        cases.push(case(
            format!("protocol {protocol}"),
            UnsupportedProtocol,
            ipv6().carrying(protocol, &tcp),
        ));
    }
    check(&cases, ETHERTYPE_IPV6);
}

#[test]
fn ipv6_addresses() {
    let tcp = allowed();
    let mut cases = Vec::new();
    for source in
        ["::", "::1", "::ffff:172.18.0.10", "::172.18.0.10", "64:ff9b::ac12:a", "ff02::1", "ff0e::5"]
    {
        let packet = Ipv6::new(source.parse().unwrap(), six(API)).carrying(6, &tcp);
        cases.push(case(format!("from {source}"), InvalidPacket, packet));
    }
    for destination in ["::", "::1", "::ffff:172.18.0.11", "::172.18.0.11", "64:ff9b::ac12:b"] {
        let packet = Ipv6::new(six(WEB), destination.parse().unwrap()).carrying(6, &tcp);
        cases.push(case(format!("to {destination}"), InvalidPacket, packet));
    }
    check(&cases, ETHERTYPE_IPV6);
}

#[test]
fn tcp_and_udp_headers() {
    let mut rows = Vec::new();
    let tcp = Tcp::new(40_000, 9000);
    let udp = Udp::new(40_000, 53);
    for (name, payload) in [
        ("a data offset of 4", Payload::Tcp(tcp.data_offset(4))),
        ("a data offset of 0", Payload::Tcp(tcp.data_offset(0))),
        ("options beyond the segment", Payload::Tcp(tcp.data_offset(6))),
        ("options far beyond the segment", Payload::Tcp(tcp.data_offset(15))),
        ("from TCP port 0", Payload::Tcp(Tcp::new(0, 9000))),
        ("to TCP port 0", Payload::Tcp(Tcp::new(40_000, 0))),
        ("a datagram shorter than its header", Payload::Udp(udp.length(7))),
        ("a datagram without a length", Payload::Udp(udp.length(0))),
        ("a datagram longer than its packet", Payload::Udp(udp.length(13))),
        ("to UDP port 0", Payload::Udp(Udp::new(40_000, 0))),
    ] {
        for (source, destination) in [(v4(WEB), v4(API)), (v6(WEB), v6(API))] {
            let packet = ip(source, destination, &payload);
            let ethertype = if source.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            rows.extend(at_both(name, InvalidPacket, ethertype, &packet));
        }
    }
    let mut bench = Bench::start();
    bench.check_all(&rows);
    // Odd, but fine: a datagram that leaves room behind it, and one from port 0, which expects no answer.
    for payload in [Payload::Udp(udp.length(9)), Payload::Udp(Udp::new(0, 53))] {
        let frame = Ethernet::new(mac(WEB), mac(API)).ip(&ip(v4(WEB), v4(API), &payload));
        bench.check(&Row::to(API, format!("{payload:?}"), frame).by(WEB));
    }
}

#[test]
fn other_ethertypes_and_tags() {
    let packet = ipv4().carrying(6, &allowed());
    let mut rows = Vec::new();
    let lengths = [0x0000, 0x0026, 0x05dc, 0x0600];
    let listed = [
        0x0801, 0x0842, 0x22f0, 0x6003, 0x6558, 0x8035, 0x8100, 0x8137, 0x8808, 0x8809, 0x8847, 0x8848,
        0x8863, 0x8864, 0x886d, 0x888e, 0x88a8, 0x88b5, 0x88cc, 0x88e5, 0x88f7, 0x8906, 0x9000, 0x9100,
        0x9200, 0x9300, 0xffff,
    ];
    for ethertype in lengths.into_iter().chain(listed) {
        rows.extend(at_both(&format!("ethertype {ethertype:#06x}"), UnsupportedProtocol, ethertype, &packet));
        rows.extend(at_both(
            &format!("ethertype {ethertype:#06x}, empty"),
            UnsupportedProtocol,
            ethertype,
            &[],
        ));
    }
    let tagged: [&[(u16, u16)]; 8] = [
        &[(0x8100, 0)],
        &[(0x8100, 7)],
        &[(0x8100, 0); 2],
        &[(0x8100, 0); 3],
        &[(0x8100, 0); 6],
        &[(0x88a8, 0), (0x8100, 0)],
        &[(0x9100, 0)],
        &[(0x8100, 0xe000)],
    ];
    for tags in tagged {
        for out in [true, false] {
            let (source, destination) = if out { (mac(WEB), BRIDGE_MAC) } else { (mac(WEB), mac(API)) };
            let frame = tags
                .iter()
                .fold(Ethernet::new(source, destination), |frame, &(kind, control)| frame.tag(kind, control))
                .ip(&packet);
            let name = format!("tags {tags:x?}");
            let row = if out { Row::from(WEB, name, frame) } else { Row::to(API, name, frame).by(WEB) };
            rows.push(row.dropped(UnsupportedProtocol).perhaps_told());
        }
    }
    rows.extend(at_both(
        "half an ARP message",
        InvalidPacket,
        ETHERTYPE_ARP,
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0],
    ));
    Bench::start().check_all(&rows);
}

/// RFC 1122, 3.3.6: nobody sends such packets, and the bridge would copy them to everybody.
#[test]
fn a_frame_for_a_group_is_for_no_single_address() {
    let mut bench = Bench::start();
    bench.change(POLICY, |snapshot| snapshot.host_addresses.push(parsed("172.18.255.255")));
    let udp = |port| Payload::Udp(Udp::new(40_000, port));
    let group_6 = [0x33, 0x33, 0, 0, 0, 1];
    let shout = |port, to: [u8; 6], packet: &[u8]| Ethernet::new(mac(port), to).ip(packet);
    let own = |from| ip(v4(WEB), v4(API), &Payload::Tcp(Tcp::new(from, 9000)));
    let refused =
        |port, name: &str, frame| Row::from(port, name, frame).dropped(InvalidPacket).perhaps_told();
    bench.check_all(&[
        refused(WEB, "to all", shout(WEB, BROADCAST, &own(40_000))),
        refused(WEB, "to a group", shout(WEB, group_6, &own(40_001))),
        refused(WEB, "IPv6", shout(WEB, group_6, &ip(v6(WEB), v6(API), &udp(53)))),
        refused(WEB, "to the world", shout(WEB, BROADCAST, &ip(v4(WEB), parsed(ELSEWHERE[0]), &udp(53)))),
        refused(
            WEB,
            "in a fragment",
            shout(WEB, BROADCAST, &Ipv4::new(four(WEB), four(API)).fragment(0, true).carrying(6, &allowed())),
        ),
        refused(
            WEB,
            "a solicitation for one",
            shout(WEB, group_6, &{
                let message = neighbour(135, six(API), &link_layer(1, mac(WEB)));
                Ipv6::new(six(WEB), six(API)).hop_limit(255).carrying(58, &message)
            }),
        ),
        // Unmanaged ones reach everybody of the bridge with it, too.
        refused(STRAY, "unmanaged", shout(STRAY, BROADCAST, &ip(v4(STRAY), v4(LONER), &udp(53)))),
        Row::from(
            LONER,
            "where nobody is covered",
            shout(LONER, BROADCAST, &ip(v4(LONER), v4(STRAY), &udp(53))),
        ),
        // What groups are for.
        Row::from(WEB, "a group", shout(WEB, BROADCAST, &ip(v4(WEB), parsed("224.0.0.251"), &udp(5353))))
            .dropped(UnknownDestination),
        Row::from(
            WEB,
            "a broadcast",
            shout(WEB, BROADCAST, &ip(v4(WEB), parsed("172.18.255.255"), &udp(137))),
        ),
        Row::from(STRAY, "unmanaged, a broadcast", {
            shout(STRAY, BROADCAST, &ip(v4(STRAY), parsed("172.18.255.255"), &udp(137)))
        }),
        Row::from(STRAY, "unmanaged, a group", {
            shout(STRAY, group_6, &ip(v6(STRAY), parsed("ff02::fb"), &udp(5353)))
        }),
    ]);
}

#[test]
fn the_ip_address_counts_not_the_mac() {
    let tcp = |port| Payload::Tcp(Tcp::new(40_000, port));
    let shouted =
        |payload: &Payload, to: u32| Ethernet::new(mac(WEB), BROADCAST).ip(&ip(v4(WEB), v4(to), payload));
    Bench::start().check_all(&[
        Row::to(API, "its own address", shouted(&tcp(9000), API)).by(WEB),
        Row::to(DB, "another's address", shouted(&tcp(9000), API)).by(WEB).dropped(UnknownDestination),
        Row::to(DB, "its own, denied", shouted(&tcp(5432), DB)).by(WEB).dropped(NoRule),
    ]);
}

#[test]
fn malformed_frames_follow_the_mode_of_their_endpoint() {
    let short = ipv4().total_length(19).carrying(6, &allowed());
    let strays = Ipv4::new(four(STRAY), four(API)).total_length(19).carrying(6, &allowed());
    let fragment = Ipv6::new(six(WATCH), six(API)).fragment(0, true).carrying(6, &allowed());
    let frame = |port, packet: &[u8]| Ethernet::new(mac(port), mac(WATCH)).ip(packet);
    Bench::start().check_all(&[
        Row::to(WATCH, "into an observed one", frame(WEB, &short)).by(WEB).observed(InvalidPacket),
        Row::from(WATCH, "from an observed one", frame(WATCH, &fragment)).observed(Fragment),
        // Refused where it would enter a covered endpoint.
        Row::from(STRAY, "from an unmanaged one", frame(STRAY, &strays)),
        Row::to(LONER, "into an unmanaged one", frame(STRAY, &short)).by(STRAY),
        Row::to(STRAY, "from a covered one into an unmanaged one", frame(WEB, &short))
            .by(WEB)
            .dropped(InvalidPacket),
    ]);
}
