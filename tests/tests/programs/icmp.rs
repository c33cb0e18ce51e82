//! Echoes and errors: a reply belongs to its request, an error to the packet that it quotes.

use std::net::IpAddr;

use agent_common::verdict::DropReason::{
    InvalidPacket, NoRule, NotTracked, SpoofedSource, UnsupportedProtocol,
};
use integration_tests::packet::{Ethernet, Ipv4, Ipv6, Payload, SYN, Tcp, Udp, icmp, ip};

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between, outgoing};
use crate::town::{
    API, BRIDGE_MAC, DB, ELSEWHERE, HOST, STRAY, UPLINK, WEB, address, delivered_to, gateway, mac, parsed,
    sent_by, v4, v6,
};

fn request(identifier: u16) -> Payload {
    Payload::Echo { request: true, identifier }
}

fn reply(identifier: u16) -> Payload {
    Payload::Echo { request: false, identifier }
}

#[test]
fn a_reply_belongs_to_its_request() {
    let mut bench = Bench::start();
    for family in 0..2 {
        let (web, api) = (address(WEB, family), address(API, family));
        let answered = |identifier| Row::from(API, "answered", sent_by(API, api, web, &reply(identifier)));
        let heard =
            |identifier, by| Row::to(WEB, "heard", delivered_to(WEB, api, web, &reply(identifier))).by(by);
        let asked =
            |identifier| Row::to(API, "asked", delivered_to(API, web, api, &request(identifier))).by(WEB);
        bench.check_all(&[
            answered(1).dropped(NotTracked),
            heard(1, API).dropped(NotTracked),
            outgoing(WEB, api, &request(1)),
            asked(1),
            answered(1),
            heard(1, API),
            answered(2).dropped(NotTracked),
            heard(2, API).dropped(NotTracked),
            heard(1, STRAY).dropped(NotTracked).untold(),
            // A request is no reply, whatever its identifier.
            Row::to(WEB, "asked back", delivered_to(WEB, api, web, &request(1))).by(API).dropped(NoRule),
            // Once more.
            asked(1),
            answered(1),
        ]);
    }
    assert_eq!(bench.flows("FLOWS", API), [], "a ping never moves to the table that never evicts");
}

#[test]
fn other_messages_are_not_supported() {
    let mut bench = Bench::start();
    let frame = |port, bytes: &[u8]| Ethernet::new(mac(port), BRIDGE_MAC).ip(bytes);
    let four = |kind, code| {
        let (IpAddr::V4(web), IpAddr::V4(api)) = (v4(WEB), v4(API)) else { panic!("no IPv4") };
        frame(WEB, &Ipv4::new(web, api).carrying(1, &icmp(kind, code, [0; 4], &[0; 40])))
    };
    let six = |kind, code| {
        let (IpAddr::V6(web), IpAddr::V6(api)) = (v6(WEB), v6(API)) else { panic!("no IPv6") };
        frame(WEB, &Ipv6::new(web, api).hop_limit(255).carrying(58, &icmp(kind, code, [0; 4], &[0; 40])))
    };
    let mut rows = Vec::new();
    // Source quench, redirect, router discovery, timestamp, address mask, extended echo.
    for kind in [1, 2, 4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43, 255] {
        rows.push(Row::from(WEB, format!("ICMP type {kind}"), four(kind, 0)).dropped(UnsupportedProtocol));
    }
    // Listener messages without a router alert, router discovery, redirect, node information, the reserved ones.
    for kind in [0, 5, 100, 127, 130, 131, 132, 133, 134, 137, 138, 139, 140, 143, 151, 160, 255] {
        rows.push(Row::from(WEB, format!("ICMPv6 type {kind}"), six(kind, 0)).dropped(UnsupportedProtocol));
    }
    let (echo_4, echo_6) = (four(8, 1), six(128, 1));
    rows.push(Row::from(WEB, "an echo with a code", echo_4).dropped(InvalidPacket));
    rows.push(Row::from(WEB, "an IPv6 echo with a code", echo_6).dropped(InvalidPacket));
    // All of them are told once a tuple, which they share.
    for row in &mut rows {
        let ran = bench.run(row);
        assert_eq!(ran.returned, 2, "{}", row.name);
    }
    let reading = bench.read();
    let total: u64 = reading.denied.values().map(|count| count.packets).sum();
    assert_eq!(total, rows.len() as u64);
    assert!(
        reading
            .denied
            .keys()
            .all(|key| [UnsupportedProtocol as u8, InvalidPacket as u8].contains(&key.reason))
    );
}

/// "Port unreachable" from one address to another about a packet.
fn unreachable(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    ip(from, to, &Payload::Unreachable { quoted: quoted.to_vec() })
}

#[test]
fn an_error_belongs_to_the_flow_of_what_it_quotes() {
    let mut bench = Bench::start();
    for (family, elsewhere) in ELSEWHERE.map(parsed).into_iter().enumerate() {
        let talk = Talk { family, ..Talk::new(WEB, API, 9000) };
        let (web, api) = (address(WEB, family), address(API, family));
        bench.check_all(&talk.handshake());
        let quoted = ip(web, api, &Payload::Tcp(Tcp::new(40_000, 9000)));
        let error = unreachable(api, web, &quoted);
        let into = |from: IpAddr| Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&unreachable(from, web, &quoted));
        let router = gateway(100, family);
        let unknown = ip(web, api, &Payload::Tcp(Tcp::new(40_000, 9009)));
        bench.check_all(&[
            Row::from(API, "the server complains", Ethernet::new(mac(API), BRIDGE_MAC).ip(&error)),
            Row::to(WEB, "the server complains", into(api)).by(API),
            Row::to(WEB, "the host could not forward it", into(router)).by(HOST),
            Row::to(WEB, "somebody else complains", into(api)).by(STRAY).dropped(NotTracked),
            Row::to(WEB, "the world complains", into(elsewhere)).by(UPLINK).dropped(NotTracked).untold(),
            Row::to(
                WEB,
                "of an unknown flow",
                Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&unreachable(api, web, &unknown)),
            )
            .by(API)
            .dropped(NotTracked),
            Row::from(
                API,
                "about an unknown flow",
                Ethernet::new(mac(API), BRIDGE_MAC).ip(&unreachable(api, web, &unknown)),
            )
            .dropped(NotTracked),
            // About a packet that its receiver did not send.
            Row::to(WEB, "quoting another sender", {
                let quoted = ip(address(DB, family), api, &Payload::Tcp(Tcp::new(40_000, 9000)));
                Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&unreachable(api, web, &quoted))
            })
            .by(API)
            .dropped(InvalidPacket),
        ]);
    }
}

#[test]
fn an_error_is_sent_from_the_ports_own_address() {
    let mut bench = Bench::start();
    for family in 0..2 {
        let talk = Talk { family, ..Talk::new(WEB, API, 9000) };
        let (web, api) = (address(WEB, family), address(API, family));
        bench.check_all(&talk.handshake());
        let quoted = ip(web, api, &Payload::Tcp(Tcp::new(40_000, 9000)));
        let sent = |port, name: &str, from| {
            let frame = Ethernet::new(mac(port), BRIDGE_MAC).ip(&unreachable(from, web, &quoted));
            Row::from(port, name, frame).perhaps_told()
        };
        bench.check_all(&[
            sent(API, "its own", api),
            sent(API, "the gateway's", gateway(100, family)).dropped(SpoofedSource),
            sent(API, "another's", address(DB, family)).dropped(SpoofedSource),
            sent(STRAY, "an unmanaged one's own", address(STRAY, family)),
            sent(STRAY, "a covered one's", api).dropped(SpoofedSource),
        ]);
    }
}

#[test]
fn errors_about_datagrams_and_echoes_pass_too() {
    let mut bench = Bench::start();
    let world = parsed(ELSEWHERE[0]);
    let (udp, echo) = (Payload::Udp(Udp::new(33_000, 33_434)), request(5));
    let about = |payload: &Payload| {
        let packet = unreachable(parsed("203.0.113.200"), v4(WEB), &ip(v4(WEB), world, payload));
        Row::to(WEB, format!("a router about {payload:?}"), Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&packet))
            .by(UPLINK)
    };
    bench.check_all(&[
        about(&udp).dropped(NotTracked),
        about(&echo).dropped(NotTracked),
        outgoing(WEB, world, &udp),
        outgoing(WEB, world, &echo),
        about(&udp),
        about(&echo),
        about(&reply(5)).dropped(NotTracked),
    ]);
}

#[test]
fn an_error_opens_nothing_and_keeps_nothing_alive() {
    let mut bench = Bench::start();
    let quoted = ip(v4(WEB), v4(API), &Payload::Tcp(Tcp::new(40_000, 9000)));
    let error = Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&unreachable(v4(API), v4(WEB), &quoted));
    bench.check(&Row::to(WEB, "before the flow", error.clone()).by(API).dropped(NotTracked));
    assert_eq!(bench.flows("FLOWS_OPENING", WEB), []);
    bench.check(&Talk::new(WEB, API, 9000).leaves(SYN));
    let before = bench.flows("FLOWS_OPENING", WEB);
    bench.check(&Row::to(WEB, "of the flow", error).by(API));
    let after = bench.flows("FLOWS_OPENING", WEB);
    assert_eq!((before[0].1.state, before[0].1.last_seen), (after[0].1.state, after[0].1.last_seen));
}

#[test]
fn quotations_that_cannot_be_trusted_are_invalid() {
    let mut bench = Bench::start();
    bench.check(&Talk::new(WEB, API, 9000).leaves(SYN));
    let (IpAddr::V4(web), IpAddr::V4(api)) = (v4(WEB), v4(API)) else { panic!("no IPv4") };
    let tcp = Tcp::new(40_000, 9000).bytes();
    let into = |name: &str, quoted: &[u8]| {
        let packet = unreachable(v4(API), v4(WEB), quoted);
        Row::to(WEB, name, Ethernet::new(BRIDGE_MAC, mac(WEB)).ip(&packet)).by(API)
    };
    let plain = Ipv4::new(web, api);
    bench.check(&into("as it should be", &plain.carrying(6, &tcp)));
    let bad = [
        into("cut short", &plain.carrying(6, &tcp)[..27]),
        into("with options", &plain.clone().options(&[1, 1, 1, 0]).carrying(6, &tcp)),
        into("a later fragment", &plain.clone().fragment(1, false).carrying(6, &tcp)),
        into("of another version", &plain.clone().version(6).carrying(6, &tcp)),
    ];
    for row in bad {
        let ran = bench.run(&row);
        assert_eq!(ran.returned, 2, "{}", row.name);
    }
    let reading = bench.read();
    assert!(reading.denied.keys().all(|key| key.reason == InvalidPacket as u8), "{reading:?}");
    bench.check(&into("of another protocol", &plain.carrying(47, &tcp)).dropped(UnsupportedProtocol));
    bench.check(&between(WEB, API, &request(1)));
    let spoofed = sent_by(DB, v4(WEB), v4(API), &request(3));
    bench.check(&Row::from(DB, "an echo from somebody else's address", spoofed).dropped(SpoofedSource));
}
