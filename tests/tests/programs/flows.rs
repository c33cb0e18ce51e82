//! What belongs to an allowed connection passes both ways; nothing else does.

use agent_common::flow::{FlowState, PEER_WORLD};
use agent_common::verdict::DropReason::{NoRule, NotTracked, SpoofedSource, TableFull, UnknownSource};
use agent_common::verdict::Verdict;
use integration_tests::packet::{ACK, CWR, ECE, FIN, PSH, Payload, RST, SYN, Tcp, URG, Udp};

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between, incoming, outgoing};
use crate::town::{
    ADMIN, API, API_2, BRIDGE_1, BRIDGE_2, DB, ELSEWHERE, HOST, NOBODY, ROGUE, STRAY, UPLINK, WATCH, WEB,
    delivered_to, gateway, parsed, sent_by, v4, v6,
};

const TALK: Talk = Talk::new(WEB, API, 9000);

#[test]
fn a_handshake_passes_all_four_hooks_and_moves_to_the_table_that_never_evicts() {
    let mut bench = Bench::start();
    for family in 0..2 {
        let talk = Talk { family, ..TALK };
        let rows = talk.handshake();
        for (count, row) in rows.iter().enumerate() {
            bench.check(row);
            // Each port has an entry of its own, established by the third packet that it sees.
            let (opening, established) = (bench.flows("FLOWS_OPENING", API), bench.flows("FLOWS", API));
            assert_eq!(opening.len() + established.len() - family, usize::from(count > 0), "{}", row.name);
            assert_eq!(established.len(), usize::from(count == 5), "{}", row.name);
        }
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS_OPENING", port).len(), family, "what is over");
            assert_eq!(bench.flows("FLOWS", port).len(), 1);
        }
        for flags in [ACK, ACK | PSH, ACK | URG, FIN | ACK] {
            bench.check_all(&[
                talk.leaves(flags),
                talk.arrives(flags),
                talk.answers(flags),
                talk.returns(flags),
            ]);
        }
        // Closed by both sides it moves back, and its last packets still pass.
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS", port), []);
        }
        bench.check_all(&[talk.leaves(ACK), talk.arrives(ACK)]);
    }
    let (key, entry) = bench.flows("FLOWS_OPENING", API)[0];
    assert_eq!((key.local_port, key.remote_port, entry.peer), (9000, 40_000, WEB));
    assert_eq!(entry.state(), FlowState::Closing);
}

#[test]
fn every_combination_of_flags_without_a_flow() {
    let mut bench = Bench::start();
    let talk = |flags: u8| Talk { client_port: 41_000 + u16::from(flags), ..TALK };
    for flags in 0..=u8::MAX {
        let relevant = flags & (SYN | ACK | FIN | RST);
        let opens = relevant == SYN;
        // Nothing, FIN alone, and what mixes two of SYN, FIN and RST: no stack sends it.
        let invalid = relevant == 0
            || relevant == FIN
            || [SYN, FIN, RST].iter().filter(|&&bit| flags & bit != 0).count() > 1;
        let expected = |reason| if opens { Verdict::Forwarded } else { Verdict::Dropped(reason) };
        let reason = if invalid { agent_common::verdict::DropReason::InvalidPacket } else { NotTracked };
        for row in [talk(flags).arrives(flags), talk(flags).leaves(flags)] {
            bench.check(&Row { expected: expected(reason), ..row });
        }
    }
}

#[test]
fn flags_that_open_on_linux_are_denied_where_a_syn_is() {
    let mut bench = Bench::start();
    for (number, flags) in
        [SYN, SYN | PSH, SYN | URG, SYN | PSH | URG, SYN | ECE | CWR].into_iter().enumerate()
    {
        let tcp = Tcp::new(42_000 + u16::try_from(number).unwrap(), 5432).flags(flags);
        bench.check(&between(WEB, DB, &Payload::Tcp(tcp)).dropped(NoRule));
        let accurate = Tcp::new(43_000 + u16::try_from(number).unwrap(), 5432).flags(flags).reserved(1);
        bench.check(&between(WEB, DB, &Payload::Tcp(accurate)).dropped(NoRule));
    }
}

#[test]
fn without_the_opening_there_is_nothing_to_answer() {
    let mut bench = Bench::start();
    let denied = Talk::new(WEB, DB, 5432);
    bench.check_all(&[
        // Judged at the receiver; here it only says that no reply is expected.
        denied.leaves(SYN),
        denied.arrives(SYN).dropped(NoRule),
        denied.answers(SYN | ACK).dropped(NotTracked),
        denied.returns(SYN | ACK).dropped(NotTracked),
        // Every frame of that kind is an attempt of its own, told once.
        denied.returns(SYN | ACK).dropped(NotTracked).untold(),
        denied.leaves(ACK).dropped(NotTracked),
        denied.arrives(ACK).dropped(NotTracked),
    ]);
    assert_eq!(bench.flows("FLOWS_OPENING", WEB), []);
    assert_eq!(bench.flows("FLOWS_OPENING", DB), []);
}

#[test]
fn a_split_handshake_is_a_connection_of_its_own() {
    let mut bench = Bench::start();
    bench.check_all(&[
        TALK.leaves(SYN),
        TALK.arrives(SYN),
        // Answered by a SYN instead of a SYN-ACK.
        TALK.answers(SYN),
        TALK.returns(SYN).dropped(NoRule),
        TALK.returns(SYN).dropped(NoRule).again(),
    ]);
}

#[test]
fn only_the_openers_ack_after_an_answer_establishes() {
    let mut bench = Bench::start();
    bench.check_all(&[TALK.arrives(SYN), TALK.arrives(ACK)]);
    assert_eq!(bench.flows("FLOWS", API), []);
    bench.check_all(&[TALK.answers(SYN | ACK), TALK.answers(ACK), TALK.answers(SYN | ACK)]);
    assert_eq!(bench.flows("FLOWS", API), []);
    bench.check(&TALK.arrives(ACK));
    assert_eq!(bench.flows("FLOWS", API).len(), 1);
}

#[test]
fn a_late_copy_of_the_syn_does_not_push_a_connection_back() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    bench.check_all(&[TALK.leaves(SYN), TALK.arrives(SYN), TALK.answers(ACK)]);
    for port in [WEB, API] {
        assert_eq!(bench.flows("FLOWS_OPENING", port), []);
        assert_eq!(bench.flows("FLOWS", port).len(), 1);
    }
}

#[test]
fn a_closed_connection_is_opened_again_by_a_syn() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    bench.check_all(&[TALK.arrives(RST), TALK.arrives(SYN)]);
    let opening = bench.flows("FLOWS_OPENING", API);
    assert_eq!(opening.len(), 1);
    assert_eq!(opening[0].1.state(), FlowState::Opening);
    assert_eq!(bench.flows("FLOWS", API), [], "what is left of the old one would be found first");
    bench.check_all(&[TALK.answers(SYN | ACK), TALK.arrives(ACK)]);
    assert_eq!(bench.flows("FLOWS", API)[0].1.state(), FlowState::Established);
}

#[test]
fn a_reused_address_inherits_nothing() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    bench.check_all(&[
        TALK.arrives(ACK).by(STRAY).dropped(NotTracked),
        TALK.arrives(ACK).by(ROGUE).dropped(NotTracked).untold(),
        TALK.arrives(ACK).by(HOST).dropped(NotTracked).untold(),
        TALK.arrives(ACK).by(UPLINK).dropped(NotTracked).untold(),
        TALK.arrives(ACK).by(BRIDGE_1).dropped(UnknownSource),
        TALK.arrives(ACK).by(NOBODY).dropped(UnknownSource).untold(),
        // The address of the server, at the client.
        TALK.returns(ACK).by(DB).dropped(NotTracked),
        TALK.arrives(ACK),
        TALK.returns(ACK),
    ]);
}

#[test]
fn the_same_peer_may_come_another_way() {
    let mut bench = Bench::start();
    let mark = bench.mark_of(WEB);
    bench.check_all(&TALK.handshake());
    bench.check_all(&[
        TALK.arrives(ACK).by(BRIDGE_1).marked(mark),
        TALK.arrives(ACK),
        TALK.arrives(ACK).by(BRIDGE_1).marked(mark | 7),
    ]);
    let world = parsed(ELSEWHERE[0]);
    let tcp = |flags| Payload::Tcp(Tcp::new(50_000, 443).flags(flags));
    bench.check_all(&[incoming(world, WEB, &tcp(SYN)), incoming(world, WEB, &tcp(ACK))]);
    let (_, entry) = bench.flows("FLOWS_OPENING", WEB)[0];
    assert_eq!(entry.peer, PEER_WORLD);
}

#[test]
fn a_connection_behind_masquerade_has_two_entries_that_differ() {
    let mut bench = Bench::start();
    let (caller, called) = (bench.mark_of(API_2), bench.mark_of(ADMIN));
    let gate = gateway(BRIDGE_1, 0);
    let there = |flags| Payload::Tcp(Tcp::new(40_000, 8080).flags(flags));
    let back = |flags| Payload::Tcp(Tcp::new(8080, 40_000).flags(flags));
    let into = |flags| {
        Row::to(
            ADMIN,
            format!("masqueraded, {flags:#x}"),
            delivered_to(ADMIN, gate, v4(ADMIN), &there(flags)),
        )
        .by(BRIDGE_2)
        .marked(caller)
    };
    let answer =
        |flags| Row::from(ADMIN, "answer to the gateway", sent_by(ADMIN, v4(ADMIN), gate, &back(flags)));
    let home = |flags| {
        Row::to(API_2, "answer to the caller", delivered_to(API_2, v4(ADMIN), v4(API_2), &back(flags)))
            .by(BRIDGE_1)
            .marked(called)
    };
    bench.check_all(&[
        outgoing(API_2, v4(ADMIN), &there(SYN)),
        into(SYN),
        answer(SYN | ACK),
        home(SYN | ACK),
        outgoing(API_2, v4(ADMIN), &there(ACK)),
        into(ACK),
        answer(ACK),
        home(ACK),
        // The host's own answer would look the same, but for where it comes from.
        home(ACK).by(HOST).dropped(NotTracked),
        into(ACK).by(HOST).marked(0).dropped(NotTracked),
    ]);
    assert_ne!(bench.flows("FLOWS", ADMIN)[0].0.remote, bench.flows("FLOWS", API_2)[0].0.local);
}

#[test]
fn datagrams_are_answered_by_the_exact_reverse() {
    let mut bench = Bench::start();
    let there = |client| Payload::Udp(Udp::new(client, 53));
    let back = |client| Payload::Udp(Udp::new(53, client));
    let answer = |client| Row::from(API, "an answer", sent_by(API, v4(API), v4(WEB), &back(client)));
    let into = |from, client| {
        Row::to(
            WEB,
            format!("from {from} to port {client}"),
            delivered_to(WEB, v4(API), v4(WEB), &back(client)),
        )
        .by(from)
    };
    bench.check_all(&[
        // From port 53, but nobody asked.
        into(API, 5000).dropped(NoRule),
        into(API, 5000).dropped(NoRule).again(),
        outgoing(WEB, v4(API), &there(5001)),
        between(WEB, API, &there(5001)),
        answer(5001),
        into(API, 5001),
        into(API, 5002).dropped(NoRule),
        into(STRAY, 5001).dropped(NoRule),
    ]);
    assert_eq!(bench.flows("FLOWS", API)[0].1.state(), FlowState::Established);
    assert_eq!(bench.flows("FLOWS", WEB).len(), 1);
    // Both ends can go on from there.
    bench.check_all(&[answer(5001), between(WEB, API, &there(5001)), into(API, 5001)]);
}

#[test]
fn a_flow_does_not_lend_its_addresses_to_another_port() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    let tcp = Payload::Tcp(Tcp::new(40_000, 9000).flags(ACK));
    bench.check_all(&[
        Row::from(DB, "the client's address", sent_by(DB, v4(WEB), v4(API), &tcp)).dropped(SpoofedSource),
        Row::to(DB, "the server's address", delivered_to(DB, v4(WEB), v4(API), &tcp))
            .by(WEB)
            .dropped(agent_common::verdict::DropReason::UnknownDestination),
    ]);
}

#[test]
fn what_the_world_was_asked_comes_back_by_any_uplink() {
    let mut bench = Bench::start();
    for world in ELSEWHERE.map(parsed) {
        let own = if world.is_ipv4() { v4(WEB) } else { v6(WEB) };
        let (there, back) = (Payload::Udp(Udp::new(6000, 123)), Payload::Udp(Udp::new(123, 6000)));
        let answer = Row::to(WEB, format!("from {world}"), delivered_to(WEB, world, own, &back));
        bench.check_all(&[
            answer.clone().by(UPLINK).dropped(agent_common::verdict::DropReason::NotExposed),
            outgoing(WEB, world, &there),
            answer.clone().by(UPLINK),
            answer.clone().by(HOST).dropped(agent_common::verdict::DropReason::HostDenied),
            answer.by(DB).dropped(NoRule),
        ]);
    }
}

#[test]
fn a_full_table_takes_no_more_and_keeps_what_it_has() {
    let mut bench = Bench::start();
    let second = Talk { client_port: 40_001, ..TALK };
    bench.check_all(&TALK.handshake());
    bench.check_all(&[second.arrives(SYN), second.answers(SYN | ACK)]);
    let stranger = bench.flows("FLOWS", API)[0];
    bench.fill_flows(stranger);
    bench.check_all(&[
        second.arrives(ACK).dropped(TableFull),
        TALK.arrives(ACK),
        TALK.answers(ACK),
        // The half-open one can still be given up.
        second.answers(RST | ACK),
    ]);
}

#[test]
fn attempts_are_counted_once_packets_always() {
    let mut bench = Bench::start();
    let tcp =
        |sequence| between(WEB, DB, &Payload::Tcp(Tcp::new(44_000, 5432).sequence(sequence))).dropped(NoRule);
    let udp = between(WEB, DB, &Payload::Udp(Udp::new(44_000, 5432))).dropped(NoRule);
    let echo = between(WEB, DB, &Payload::Echo { request: true, identifier: 9 }).dropped(NoRule);
    bench.check_all(&[tcp(1), tcp(1).again(), tcp(1).again()]);
    let ran = bench.check(&tcp(2));
    assert_eq!(ran.events[0].packets_suppressed, 2);
    bench.check_all(&[tcp(2).again(), udp.clone(), udp.clone().again(), udp.again()]);
    bench.check_all(&[echo.clone(), echo.again()]);
    // At another hook, or to another port, it is another attempt.
    let elsewhere = between(WEB, DB, &Payload::Tcp(Tcp::new(44_000, 5433).sequence(2))).dropped(NoRule);
    bench.check_all(&[elsewhere.clone(), elsewhere.again()]);
    let watched = between(WEB, WATCH, &Payload::Tcp(Tcp::new(44_000, 22))).observed(NoRule);
    bench.check_all(&[watched.clone(), watched.again()]);
    // A SYN with the sequence number of a segment that was no SYN is no copy of it.
    let false_source = |flags| {
        let tcp = Payload::Tcp(Tcp::new(44_001, 9000).flags(flags).sequence(3));
        Row::from(DB, format!("flags {flags:#x}"), sent_by(DB, v4(WEB), v4(API), &tcp)).dropped(SpoofedSource)
    };
    bench.check_all(&[false_source(ACK), false_source(SYN), false_source(SYN).again()]);
}
