//! What has been silent for too long is forgotten, by the programs themselves.

use std::time::Duration;

use agent_common::config::Timeouts;
use agent_common::verdict::DropReason::{NoRule, NotTracked};
use integration_tests::packet::{ACK, Payload, RST, SYN, Udp};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between, outgoing};
use crate::town::{API, POLICY, WEB, delivered_to, sent_by, v4};

const SHORT: Timeouts = Timeouts {
    tcp_opening: 1,
    tcp_established: 1,
    tcp_closing: 1,
    udp_opening: 1,
    udp_established: 1,
    icmp: 1,
};

fn bench(timeouts: Timeouts) -> Bench {
    Bench::with(POLICY, |options| options.timeouts = timeouts)
}

fn sleep(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

const fn talk(client_port: u16) -> Talk {
    Talk { client_port, ..Talk::new(WEB, API, 9000) }
}

/// A datagram to `API`'s resolver, and its answer at the asker's port.
fn question(client_port: u16) -> [Row; 3] {
    let back = Payload::Udp(Udp::new(53, client_port));
    [
        outgoing(WEB, v4(API), &Payload::Udp(Udp::new(client_port, 53))),
        Row::to(WEB, "the answer", delivered_to(WEB, v4(API), v4(WEB), &back)).by(API),
        Row::from(API, "the answer, sent", sent_by(API, v4(API), v4(WEB), &back)),
    ]
}

fn ping() -> [Row; 2] {
    let echo = |request| Payload::Echo { request, identifier: 3 };
    [
        outgoing(WEB, v4(API), &echo(true)),
        Row::to(WEB, "the reply", delivered_to(WEB, v4(API), v4(WEB), &echo(false))).by(API),
    ]
}

#[test]
fn every_kind_of_flow_ends_in_silence() {
    let mut bench = bench(SHORT);
    let (opening, established, closing) = (talk(1001), talk(1002), talk(1003));
    let [ask, answer, _] = question(1004);
    let [ask_twice, answer_twice, _] = question(1005);
    let [ping, pong] = ping();
    bench.check_all(&[opening.leaves(SYN), opening.arrives(SYN)]);
    bench.check_all(&established.handshake());
    bench.check_all(&closing.handshake());
    bench.check_all(&[closing.arrives(RST), closing.leaves(RST)]);
    bench.check_all(&[ask, ask_twice, answer_twice.clone(), ping, pong.clone()]);
    sleep(1_200);
    bench.check_all(&[
        opening.answers(SYN | ACK).dropped(NotTracked),
        opening.returns(SYN | ACK).dropped(NotTracked),
        established.arrives(ACK).dropped(NotTracked),
        established.answers(ACK).dropped(NotTracked),
        closing.arrives(ACK).dropped(NotTracked),
        // A datagram without a flow is an attempt to open one.
        answer.dropped(NoRule),
        answer_twice.dropped(NoRule),
        pong.dropped(NotTracked),
    ]);
    // And can be opened again.
    bench.check_all(&established.handshake());
}

#[test]
fn each_state_has_its_own_time() {
    let long = Timeouts { tcp_established: 600, udp_established: 600, ..SHORT };
    let mut bench = bench(long);
    let (opening, established, closing) = (talk(1001), talk(1002), talk(1003));
    let [ask, answer, _] = question(1005);
    bench.check(&opening.arrives(SYN));
    bench.check_all(&established.handshake());
    bench.check_all(&closing.handshake());
    bench.check_all(&[closing.arrives(RST), ask.clone(), answer.clone()]);
    sleep(1_200);
    bench.check_all(&[
        established.arrives(ACK),
        established.answers(ACK),
        established.leaves(ACK),
        established.returns(ACK),
        answer,
        ask,
        opening.answers(SYN | ACK).dropped(NotTracked),
        closing.arrives(ACK).dropped(NotTracked),
    ]);
}

#[test]
fn packets_of_a_flow_keep_it_alive_and_denied_ones_do_not() {
    let mut bench = bench(Timeouts { tcp_established: 2, ..SHORT });
    let (kept, cut) = (talk(1001), talk(1002));
    bench.check_all(&kept.handshake());
    bench.check_all(&cut.handshake());
    let stranger = |talk: &Talk| talk.arrives(ACK).by(crate::town::STRAY).dropped(NotTracked).perhaps_told();
    for _ in 0..2 {
        sleep(1_200);
        bench.check_all(&[kept.arrives(ACK), stranger(&kept), stranger(&cut)]);
    }
    bench.check_all(&[kept.answers(ACK), cut.answers(ACK).dropped(NotTracked)]);
}

#[test]
fn the_agent_collects_what_has_expired_and_nothing_else() {
    let mut bench = bench(Timeouts { tcp_established: 600, ..SHORT });
    let (opening, established) = (talk(1001), talk(1002));
    bench.check_all(&[opening.arrives(SYN), between(WEB, API, &Payload::Udp(Udp::new(9, 53)))]);
    bench.check_all(&established.handshake());
    assert_eq!(bench.datapath.collect_flows(now()).unwrap(), 0);
    sleep(1_200);
    assert_eq!(bench.datapath.collect_flows(now()).unwrap(), 2);
    assert_eq!(bench.flows("FLOWS_OPENING", API), []);
    assert_eq!(bench.flows("FLOWS", API).len(), 1);
    bench.check_all(&[established.arrives(ACK), established.answers(ACK)]);
}
