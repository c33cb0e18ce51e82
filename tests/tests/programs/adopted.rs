//! Connections from before the first start: taken over between pairs that the policy allows, for a while.

use std::time::Duration;

use agent_common::flow::FlowState;
use agent_common::verdict::DropReason::NotTracked;
use integration_tests::packet::{ACK, FIN, PSH, Payload, RST, SYN, Tcp, Udp};

use crate::bench::{Bench, Row};
use crate::town::{API, DB, ELSEWHERE, HOST, POLICY, UPLINK, WEB, address, delivered_to, parsed, sent_by};

fn tcp(from: u16, to: u16, flags: u8) -> Payload {
    Payload::Tcp(Tcp::new(from, to).flags(flags))
}

fn started(adopt: Duration) -> Bench {
    Bench::with(POLICY, |options| options.adopt = adopt)
}

#[test]
fn whichever_side_speaks_first() {
    for family in [0, 1] {
        let mut bench = started(Duration::from_secs(3600));
        let (web, api) = (address(WEB, family), address(API, family));
        bench.check_all(&[
            // The client's port sees the server's answer first, then its request; the server's port the other way.
            Row::to(WEB, "an answer", delivered_to(WEB, api, web, &tcp(9000, 4000, ACK | PSH))).by(API),
            Row::from(WEB, "the next request", sent_by(WEB, web, api, &tcp(4000, 9000, ACK))),
            Row::to(API, "arrives", delivered_to(API, web, api, &tcp(4000, 9000, ACK))).by(WEB),
            Row::from(API, "its answer", sent_by(API, api, web, &tcp(9000, 4000, ACK))),
        ]);
        for port in [WEB, API] {
            let kept = bench.flows("FLOWS", port);
            assert_eq!(kept.len(), 1, "port {port}");
            assert_eq!(kept[0].1.state, FlowState::Established as u8);
        }
    }
}

#[test]
fn only_between_pairs_that_the_policy_allows() {
    let mut bench = started(Duration::from_secs(3600));
    let (web, api, db) = (address(WEB, 0), address(API, 0), address(DB, 0));
    let world = parsed(ELSEWHERE[0]);
    bench.check_all(&[
        Row::to(WEB, "the world", delivered_to(WEB, world, web, &tcp(4000, 443, ACK))).by(UPLINK),
        Row::from(WEB, "to the world", sent_by(WEB, web, world, &tcp(4000, 443, ACK))),
        Row::to(API, "the world", delivered_to(API, world, api, &tcp(4000, 9000, ACK)))
            .by(UPLINK)
            .dropped(NotTracked),
        Row::to(DB, "web", delivered_to(DB, web, db, &tcp(4000, 5432, ACK))).by(WEB).dropped(NotTracked),
        Row::from(DB, "db", sent_by(DB, db, world, &tcp(4000, 443, ACK))).dropped(NotTracked),
        Row::to(API, "the host", delivered_to(API, parsed("172.18.0.1"), api, &tcp(4000, 9000, ACK)))
            .by(HOST)
            .dropped(NotTracked),
        Row::to(API, "an end", delivered_to(API, web, api, &tcp(4001, 9000, RST)))
            .by(WEB)
            .dropped(NotTracked),
        Row::to(API, "an end", delivered_to(API, web, api, &tcp(4002, 9000, FIN | ACK)))
            .by(WEB)
            .dropped(NotTracked),
        Row::to(API, "a port that is not web's", delivered_to(API, web, api, &tcp(4000, 9001, ACK)))
            .by(WEB)
            .dropped(NotTracked),
    ]);
    assert!(bench.flows("FLOWS", DB).is_empty());
}

#[test]
fn not_for_ever_and_not_if_it_is_not_wanted() {
    for adopt in [Duration::ZERO, Duration::from_nanos(1)] {
        let mut bench = started(adopt);
        let (web, api) = (address(WEB, 0), address(API, 0));
        let row = Row::to(API, "web", delivered_to(API, web, api, &tcp(4000, 9000, ACK)));
        bench.check(&row.by(WEB).dropped(NotTracked));
    }
}

#[test]
fn a_later_policy_cuts_what_was_taken_over() {
    let mut bench = started(Duration::from_secs(3600));
    let (web, api) = (address(WEB, 0), address(API, 0));
    let segment = || delivered_to(API, web, api, &tcp(4000, 9000, ACK));
    bench.check(&Row::to(API, "taken over", segment()).by(WEB));
    bench.apply(&POLICY.replace("from: [web]", "from: [admin]"));
    let cut = agent_common::verdict::DropReason::Revoked;
    bench.check(&Row::to(API, "cut", segment()).by(WEB).dropped(cut));
    // Datagrams need no taking over: the next one that is allowed opens.
    let datagram = delivered_to(API, web, api, &Payload::Udp(Udp::new(53, 40_000)));
    bench.check(
        &Row::to(API, "no answer", datagram).by(WEB).dropped(agent_common::verdict::DropReason::NoRule),
    );
    let again = delivered_to(API, web, api, &tcp(4000, 9000, SYN));
    bench.check(&Row::to(API, "not again", again).by(WEB).dropped(agent_common::verdict::DropReason::NoRule));
}
