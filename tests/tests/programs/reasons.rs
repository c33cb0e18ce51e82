//! Verdicts and their reasons by hand, so that the decision and its oracle cannot agree on nonsense.

use agent_common::verdict::{Direction, DropReason, Severity};
use integration_tests::packet::{Payload, Tcp};

use crate::bench::{Bench, Row};
use crate::rows::{between, echo, incoming, outgoing, tcp, udp};
use crate::town::{
    ADMIN, API, API_2, BACKUP, BRIDGE_1, BRIDGE_2, DB, DB_2, ELSEWHERE, HOST, HOST_ADDRESS, LONER, MAIL, NEW,
    NOBODY, OFFICE, POLICY, RESOLVER, ROGUE, STRAY, UPLINK, WATCH, WEB, delivered_to, gateway, parsed,
    sent_by, v4, v6,
};

#[test]
fn between_endpoints_the_receiver_decides() {
    use DropReason::{CrossInstance, NoRule, NotInProfile};
    Bench::start().check_all(&[
        between(WEB, API, &tcp(9000)),
        between(WEB, API, &udp(53)),
        between(WEB, API, &echo()),
        between(API, DB, &tcp(5432)),
        between(ADMIN, DB, &tcp(6379)),
        between(BACKUP, ADMIN, &tcp(8080)),
        between(API_2, ADMIN, &tcp(8080)),
        between(WEB, API, &tcp(9001)).dropped(NoRule),
        between(WEB, API, &udp(9000)).dropped(NoRule),
        between(WEB, DB, &tcp(5432)).dropped(NoRule),
        between(WEB, DB, &echo()).dropped(NoRule),
        between(ADMIN, DB, &tcp(5432)).dropped(NoRule),
        between(API, DB, &tcp(5433)).dropped(NoRule),
        between(STRAY, WEB, &tcp(443)).dropped(NoRule),
        between(LONER, API, &tcp(9000)).dropped(NoRule),
        between(BACKUP, DB, &tcp(5432)).dropped(NoRule),
        between(API, ROGUE, &tcp(80)).dropped(NoRule),
        between(ROGUE, API, &tcp(9000)).dropped(NoRule),
        between(API_2, DB, &tcp(5432)).dropped(CrossInstance),
        between(API_2, DB_2, &tcp(5432)),
        between(WEB, DB_2, &tcp(5432)).dropped(CrossInstance),
        between(DB_2, ADMIN, &tcp(8080)).dropped(CrossInstance),
        between(API, MAIL, &tcp(1025)).dropped(NotInProfile),
        between(MAIL, API, &tcp(9000)).dropped(NotInProfile),
        between(WEB, WATCH, &tcp(9100)).observed(NoRule),
        between(WEB, WATCH, &udp(9100)).observed(NoRule),
        between(API_2, WATCH, &tcp(9100)).observed(CrossInstance),
        between(API, WATCH, &tcp(9100)),
    ]);
}

#[test]
fn the_host_and_the_world_reach_what_is_exposed_to_them() {
    use DropReason::{HostDenied, NoRule, NotExposed, NotInProfile};
    let [office, office_6] = OFFICE.map(parsed);
    let [elsewhere, elsewhere_6] = ELSEWHERE.map(parsed);
    let host = |to, payload| incoming(gateway(BRIDGE_1, 0), to, payload).by(HOST);
    Bench::start().check_all(&[
        incoming(elsewhere, WEB, &tcp(443)),
        incoming(elsewhere_6, WEB, &tcp(8005)),
        incoming(elsewhere, WEB, &tcp(8011)).dropped(NotExposed),
        incoming(office, API, &tcp(9001)),
        incoming(office_6, API, &tcp(9001)),
        incoming(office, API, &tcp(9000)).dropped(NotExposed),
        incoming(elsewhere, API, &tcp(9001)).dropped(NotExposed),
        incoming(elsewhere_6, API, &tcp(9001)).dropped(NotExposed),
        incoming(elsewhere, ADMIN, &tcp(8080)).dropped(NotExposed),
        incoming(elsewhere, ROGUE, &tcp(80)).dropped(NoRule),
        host(WEB, &tcp(443)),
        host(ADMIN, &tcp(8080)),
        host(API, &tcp(9000)).dropped(HostDenied),
        host(DB, &tcp(5432)).dropped(HostDenied),
        host(MAIL, &tcp(1025)).dropped(NotInProfile),
        host(WATCH, &tcp(9100)).observed(HostDenied),
    ]);
}

#[test]
fn what_leaves_is_named_by_egress() {
    use DropReason::{EgressDenied, NoRule, NotInProfile};
    let [elsewhere, elsewhere_6] = ELSEWHERE.map(parsed);
    let [office, office_6] = OFFICE.map(parsed);
    let [resolver, resolver_6] = RESOLVER.map(parsed);
    let [host, host_6] = HOST_ADDRESS.map(parsed);
    Bench::start().check_all(&[
        outgoing(WEB, elsewhere, &tcp(443)),
        outgoing(WEB, elsewhere_6, &udp(123)),
        outgoing(WEB, elsewhere, &echo()),
        outgoing(WEB, host, &tcp(22)),
        outgoing(API, resolver, &udp(53)),
        outgoing(API, resolver_6, &tcp(53)),
        outgoing(API, resolver, &tcp(443)).dropped(EgressDenied),
        outgoing(API, elsewhere, &udp(53)).dropped(EgressDenied),
        outgoing(API, office, &tcp(1)),
        outgoing(API, office_6, &udp(1)),
        outgoing(API, host, &tcp(5000)),
        outgoing(API, host_6, &tcp(5000)),
        outgoing(API, gateway(BRIDGE_1, 0), &tcp(5000)),
        outgoing(API, host, &tcp(5001)).dropped(EgressDenied),
        outgoing(API, host, &udp(5000)).dropped(EgressDenied),
        outgoing(API, v4(BACKUP), &tcp(873)),
        outgoing(API, v4(STRAY), &tcp(873)).dropped(EgressDenied),
        outgoing(API, parsed("172.18.200.1"), &tcp(873)).dropped(EgressDenied),
        outgoing(DB, elsewhere, &tcp(443)).dropped(EgressDenied),
        outgoing(DB, elsewhere_6, &echo()).dropped(EgressDenied),
        outgoing(MAIL, elsewhere, &tcp(25)).dropped(NotInProfile),
        outgoing(ROGUE, elsewhere, &tcp(25)).dropped(NoRule),
        outgoing(WATCH, elsewhere, &tcp(25)).observed(EgressDenied),
        // Judged where it would arrive.
        outgoing(DB, v4(API), &tcp(22)),
        outgoing(API, v4(DB_2), &tcp(22)),
        outgoing(MAIL, v4(API), &tcp(22)),
    ]);
}

#[test]
fn who_and_whereto_have_to_be_known() {
    use DropReason::{NotReady, SpoofedSource, UnknownDestination, UnknownSource};
    let elsewhere = parsed(ELSEWHERE[0]);
    let group = [("224.0.0.251", 5353), ("239.1.2.3", 1900), ("255.255.255.255", 67)];
    let group_6 = [("ff02::fb", 5353), ("ff0e::1", 9)];
    let mut rows = vec![
        incoming(elsewhere, WEB, &tcp(443)).by(NOBODY).dropped(UnknownSource),
        between(WEB, API, &tcp(9000)).by(NEW).dropped(UnknownSource),
        incoming(elsewhere, NEW, &tcp(443)).dropped(NotReady),
        between(WEB, NEW, &tcp(443)).dropped(NotReady),
        outgoing(NEW, elsewhere, &tcp(443)).dropped(NotReady),
        // Another container's address, behind this one's MAC.
        Row::to(API, "not its address", delivered_to(API, v4(WEB), v4(DB), &tcp(9000)))
            .by(WEB)
            .dropped(UnknownDestination),
        Row::to(
            API,
            "broadcast into a container",
            delivered_to(API, v4(WEB), parsed("172.18.255.255"), &udp(53)),
        )
        .by(WEB)
        .dropped(UnknownDestination),
        outgoing(WEB, v4(NEW), &tcp(80)).dropped(DropReason::EgressDenied),
        Row::from(WEB, "link-local", sent_by(WEB, v6(WEB), parsed("fe80::42"), &tcp(443)))
            .dropped(UnknownDestination),
        Row::from(WEB, "from link-local", sent_by(WEB, parsed("fe80::ff:fe00:a"), v6(API), &tcp(9000)))
            .dropped(SpoofedSource),
    ];
    for (address, port) in group.into_iter().chain(group_6) {
        rows.push(outgoing(WEB, parsed(address), &udp(port)).dropped(UnknownDestination));
        let from = if address.contains(':') { v6(WEB) } else { v4(WEB) };
        let packet = delivered_to(API, from, parsed(address), &udp(port));
        rows.push(
            Row::to(API, format!("{address} into a container"), packet).by(WEB).dropped(UnknownDestination),
        );
    }
    Bench::start().check_all(&rows);
}

#[test]
fn unmanaged_containers_are_left_alone_except_by_covered_ones() {
    use DropReason::UnknownDestination;
    let elsewhere = parsed(ELSEWHERE[0]);
    let mut bench = Bench::start();
    let mark = bench.mark_of(API_2);
    bench.check_all(&[
        between(LONER, STRAY, &tcp(80)),
        incoming(elsewhere, STRAY, &tcp(80)),
        incoming(gateway(BRIDGE_1, 0), STRAY, &tcp(80)).by(HOST),
        outgoing(STRAY, elsewhere, &tcp(80)),
        outgoing(STRAY, v4(LONER), &tcp(80)),
        outgoing(LONER, parsed("255.255.255.255"), &udp(67)),
        // Judged where the covered one sent it.
        between(API, BACKUP, &tcp(873)),
        between(WEB, STRAY, &tcp(80)),
        Row::to(STRAY, "group", delivered_to(STRAY, v4(WEB), parsed("224.0.0.251"), &udp(5353)))
            .by(WEB)
            .dropped(UnknownDestination),
        Row::to(
            STRAY,
            "group by way of the host",
            delivered_to(STRAY, v4(API_2), parsed("239.0.0.1"), &udp(5353)),
        )
        .by(BRIDGE_2)
        .marked(mark)
        .dropped(UnknownDestination),
    ]);
}

#[test]
fn a_mark_is_believed_only_behind_a_watched_bridge() {
    use DropReason::{CrossInstance, NotExposed, UnknownSource};
    let mut bench = Bench::start();
    let (api_2, web, backup) = (bench.mark_of(API_2), bench.mark_of(WEB), bench.mark_of(BACKUP));
    assert!(api_2 != web && web != backup && api_2 != backup);
    let masked = |payload: &Payload| {
        Row::to(
            ADMIN,
            format!("masqueraded: {payload:?}"),
            delivered_to(ADMIN, gateway(BRIDGE_1, 0), v4(ADMIN), payload),
        )
        .by(BRIDGE_2)
    };
    bench.check_all(&[
        masked(&tcp(8080)).marked(api_2),
        masked(&tcp(8080)).marked(backup),
        masked(&Payload::Tcp(Tcp::new(40_001, 8081))).marked(api_2).dropped(CrossInstance),
        masked(&Payload::Tcp(Tcp::new(40_002, 8080))).dropped(UnknownSource),
        // The slot of nobody, and a slot without the stamp.
        masked(&Payload::Tcp(Tcp::new(40_003, 8080))).marked(0xbfff_0000).dropped(UnknownSource),
        masked(&Payload::Tcp(Tcp::new(40_004, 8080))).marked(api_2 & 0x7fff_ffff).dropped(UnknownSource),
        // From elsewhere a mark says nothing.
        masked(&Payload::Tcp(Tcp::new(40_005, 8080))).by(UPLINK).marked(api_2).dropped(NotExposed),
        masked(&Payload::Tcp(Tcp::new(40_006, 8080))).by(HOST).marked(api_2),
        masked(&Payload::Tcp(Tcp::new(40_007, 8080))).by(WEB).marked(api_2).dropped(DropReason::NoRule),
        // Other users' bits are neither here nor there.
        masked(&Payload::Tcp(Tcp::new(40_008, 8080))).marked(api_2 | 0x1234),
    ]);
}

#[test]
fn from_endpoint_writes_its_mark_and_keeps_other_users_bits() {
    let mut bench = Bench::start();
    let elsewhere = parsed(ELSEWHERE[0]);
    let own = bench.mark_of(WEB);
    assert_eq!(own & 0xffff, 0);
    for (port, before, after) in
        [(WEB, 0, own), (WEB, 0xabcd, own | 0xabcd), (WEB, 0xffff_0001, own | 1), (WEB, own, own)]
    {
        let ran = bench.run(&outgoing(port, elsewhere, &echo()).marked(before));
        assert_eq!((ran.returned, ran.mark), (-1, after), "{before:#x}");
    }
    // What only enters is not marked.
    let ran = bench.run(&between(WEB, API, &tcp(9000)).marked(0x77));
    assert_eq!((ran.returned, ran.mark), (-1, 0x77));
}

#[test]
fn an_event_names_rule_parties_and_severity() {
    let mut bench = Bench::start();
    let row = between(WEB, DB, &Payload::Tcp(Tcp::new(40_112, 5432))).dropped(DropReason::NoRule);
    let ran = bench.check(&row);
    let event = ran.events[0];
    assert_eq!(event.severity, Severity::Critical as u8);
    assert_eq!(event.direction, Direction::Ingress as u8);
    assert_eq!((event.source_port, event.destination_port), (40_112, 5432));
    assert_eq!((event.source_port_ifindex, event.destination_port_ifindex), (WEB, DB));
    assert_eq!((event.source, event.destination), (bench.party(WEB).identity, bench.party(DB).identity));
    assert_eq!((event.rule, event.tcp_flags, event.packets_suppressed), (0, 2, 0));
    assert_eq!(event.source_address.bytes()[12..], [172, 18, 0, 10]);
    assert_eq!(event.destination_address.bytes()[12..], [172, 18, 0, 12]);
    // `any` would let it in, the entry for this port does not.
    let ran = bench.check(&between(ADMIN, DB, &tcp(5432)).dropped(DropReason::NoRule));
    let rule = &bench.entries.origins[ran.events[0].rule as usize - 1];
    assert_eq!((rule.rule.as_str(), rule.at.as_str()), ("db.ports[1]", "town.yaml:19"));
    let ran = bench.check(&outgoing(DB, parsed(ELSEWHERE[1]), &tcp(443)).dropped(DropReason::EgressDenied));
    let event = ran.events[0];
    assert_eq!(event.direction, Direction::Egress as u8);
    assert_eq!((event.source_port_ifindex, event.destination_port_ifindex), (DB, 0));
    assert_eq!(event.subject, bench.party(DB).identity);
}

#[test]
fn where_every_policy_observes_nothing_is_dropped() {
    use DropReason::{InvalidPacket, NoRule, NotReady, SpoofedSource, UnknownSource};
    let policy = POLICY
        .replace("profile: production", "profile: production\nmode: observe")
        .replace("    mode: observe\n", "");
    let mut bench = Bench::under(&policy);
    bench.check_all(&[
        between(WEB, DB, &tcp(5432)).observed(NoRule),
        between(WEB, API, &Payload::Tcp(Tcp::new(1, 9000).flags(0))).observed(InvalidPacket),
        between(WEB, API, &tcp(9000)).by(NOBODY).observed(UnknownSource),
        outgoing(NEW, parsed(ELSEWHERE[0]), &tcp(443)).observed(NotReady),
        incoming(parsed(ELSEWHERE[0]), NEW, &tcp(443)).observed(NotReady),
        Row::from(WEB, "not its address", sent_by(WEB, v4(API), v4(DB), &tcp(1))).observed(SpoofedSource),
    ]);
}
