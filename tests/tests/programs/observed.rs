//! Where a policy only observes, what would be dropped goes on, is counted, and counts once.

use std::time::Duration;

use agent_common::config::Timeouts;
use agent_common::event::DeniedEvent;
use agent_common::flow::FlowState;
use agent_common::verdict::DropReason::{EgressDenied, NoRule, NotTracked, Revoked, SpoofedSource};
use integration_tests::packet::{ACK, FIN, Payload, RST, SYN, Udp};

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between, echo, outgoing};
use crate::town::{ELSEWHERE, POLICY, UPLINK, WATCH, WEB, delivered_to, parsed, sent_by, v4};

const TALK: Talk = Talk::new(WEB, WATCH, 22);

#[test]
fn a_connection_that_would_be_denied_passes_and_is_one_attempt() {
    let mut bench = Bench::start();
    bench.check_all(&[
        TALK.leaves(SYN),
        TALK.arrives(SYN).observed(NoRule),
        TALK.answers(SYN | ACK).observed(NoRule).again(),
        TALK.returns(SYN | ACK),
        TALK.leaves(ACK),
        TALK.arrives(ACK).observed(NoRule).again(),
        TALK.answers(ACK).observed(NoRule).again(),
        TALK.returns(ACK),
        TALK.arrives(FIN | ACK).observed(NoRule).again(),
    ]);
    let attempts: u64 = bench.read().denied.values().map(|count| count.attempts).sum();
    assert_eq!(attempts, 1);
}

#[test]
fn an_observed_connection_lives_as_long_as_an_allowed_one() {
    let timeouts = Timeouts { tcp_opening: 1, ..Timeouts::DEFAULT };
    let mut bench = Bench::with(POLICY, |options| options.timeouts = timeouts);
    bench.check_all(&[
        TALK.arrives(SYN).observed(NoRule),
        TALK.answers(SYN | ACK).observed(NoRule).again(),
        TALK.arrives(ACK).observed(NoRule).again(),
    ]);
    assert_eq!(bench.flows("FLOWS", WATCH).len(), 1);
    assert_eq!(bench.flows("FLOWS_OPENING", WATCH), []);
    std::thread::sleep(Duration::from_millis(1_200));
    bench
        .check_all(&[TALK.arrives(ACK).observed(NoRule).again(), TALK.answers(RST).observed(NoRule).again()]);
    assert_eq!(bench.flows("FLOWS", WATCH)[0].1.state(), FlowState::Closing);
}

#[test]
fn what_it_sends_is_observed_as_well() {
    let mut bench = Bench::start();
    let world = parsed(ELSEWHERE[0]);
    let datagram = Payload::Udp(Udp::new(4000, 514));
    let answer = delivered_to(WATCH, world, v4(WATCH), &Payload::Udp(Udp::new(514, 4000)));
    bench.check_all(&[
        outgoing(WATCH, world, &datagram).observed(EgressDenied),
        outgoing(WATCH, world, &datagram).observed(EgressDenied).again(),
        Row::to(WATCH, "the answer", answer).by(UPLINK).observed(EgressDenied).again(),
        outgoing(WATCH, world, &echo()).observed(EgressDenied),
        outgoing(WATCH, world, &echo()).observed(EgressDenied).again(),
    ]);
}

#[test]
fn without_a_flow_and_from_false_addresses_it_is_observed_too() {
    Bench::start().check_all(&[
        TALK.arrives(ACK).observed(NotTracked),
        TALK.arrives(ACK).observed(NotTracked).untold(),
        Row::from(WATCH, "a false address", sent_by(WATCH, v4(WEB), parsed(ELSEWHERE[0]), &echo()))
            .observed(SpoofedSource),
        between(WEB, WATCH, &echo()).observed(NoRule),
    ]);
}

#[test]
fn enforcing_cuts_what_was_only_observed() {
    let mut bench = Bench::start();
    bench.check_all(&[TALK.arrives(SYN).observed(NoRule), TALK.answers(SYN | ACK).observed(NoRule).again()]);
    assert!(bench.apply(&POLICY.replace("mode: observe", "mode: enforce")));
    bench.check_all(&[TALK.arrives(ACK).dropped(Revoked), TALK.answers(ACK).dropped(Revoked)]);
    assert!(bench.apply(POLICY));
    bench
        .check_all(&[TALK.arrives(ACK).observed(NoRule).again(), TALK.answers(ACK).observed(NoRule).again()]);
}

#[test]
fn an_answer_is_told_as_what_it_answers() {
    let mut bench = Bench::start();
    bench.check_all(&[TALK.arrives(SYN).observed(NoRule), TALK.answers(SYN | ACK).observed(NoRule).again()]);
    assert!(bench.apply(&POLICY.replace("mode: observe", "mode: enforce")));
    let ends = |event: &DeniedEvent| {
        let packet =
            (event.source_address, event.source_port, event.destination_address, event.destination_port);
        (event.source, event.destination, packet)
    };
    let there = bench.check(&TALK.arrives(ACK).dropped(Revoked));
    let back = bench.check(&TALK.answers(ACK).dropped(Revoked));
    assert_eq!(ends(&there.events[0]), ends(&back.events[0]));
    assert_eq!(back.events[0].destination_port, 22);
}

#[test]
fn allowing_ends_the_counting() {
    let mut bench = Bench::start();
    bench.check_all(&[TALK.arrives(SYN).observed(NoRule)]);
    assert!(
        bench.apply(&POLICY.replace(
            "ports: [9100/tcp]\n    from: [api]",
            "ports: [9100/tcp, 22/tcp]\n    from: [api, web]"
        ))
    );
    bench.check_all(&[TALK.answers(SYN | ACK), TALK.arrives(ACK), TALK.answers(ACK)]);
    assert_eq!(bench.flows("FLOWS", WATCH).len(), 1);
}
