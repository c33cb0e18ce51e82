//! A new policy holds for open connections too, in the direction that they were opened in.

use agent_common::flow::FlowState;
use agent_common::verdict::DropReason::{NoRule, NotExposed, NotReady, Revoked, UnknownSource};
use integration_tests::packet::{ACK, FIN, Payload, RST, SYN, Udp};

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between, outgoing};
use crate::town::{API, ELSEWHERE, POLICY, UPLINK, WEB, delivered_to, parsed, sent_by, v4};

const TALK: Talk = Talk::new(WEB, API, 9000);

/// Nobody may call `api` any more.
fn tightened() -> String {
    POLICY.replace("    from: [web]\n", "")
}

#[test]
fn the_same_policy_moves_nothing() {
    let mut bench = Bench::start();
    let revision = bench.datapath.revision();
    assert!(!bench.apply(POLICY));
    assert_eq!(bench.datapath.revision(), revision);
}

#[test]
fn a_tightened_policy_cuts_and_a_loosened_one_revives() {
    let mut bench = Bench::start();
    for family in 0..2 {
        let talk = Talk { family, ..TALK };
        bench.check_all(&talk.handshake());
        assert!(bench.apply(&tightened()));
        bench.check_all(&[
            talk.arrives(ACK).dropped(Revoked),
            talk.answers(ACK).dropped(Revoked),
            talk.leaves(ACK).dropped(Revoked),
            talk.returns(ACK).dropped(Revoked),
            talk.arrives(ACK).dropped(Revoked).untold(),
            // A new one is denied for its own reason.
            talk.arrives(SYN).dropped(NoRule),
        ]);
        assert!(bench.apply(POLICY));
        bench.check_all(&[talk.arrives(ACK), talk.answers(ACK), talk.leaves(ACK), talk.returns(ACK)]);
        assert_eq!(bench.flows("FLOWS", API).len(), family + 1);
    }
}

#[test]
fn a_change_elsewhere_cuts_nothing() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    assert!(bench.apply(&POLICY.replace("8000-8010/tcp", "8000-8011/tcp")));
    bench.check_all(&[TALK.answers(ACK), TALK.returns(ACK), TALK.leaves(ACK), TALK.arrives(ACK)]);
}

#[test]
fn an_answer_does_not_need_a_rule_of_its_own() {
    // `api` may not call `web`; after a swap its answers are judged by what `web` asked.
    let mut bench = Bench::start();
    bench.check_all(&[TALK.leaves(SYN), TALK.arrives(SYN)]);
    assert!(bench.apply(&POLICY.replace("8000-8010/tcp", "8000-8011/tcp")));
    bench.check_all(&[TALK.answers(SYN | ACK), TALK.returns(SYN | ACK), TALK.leaves(ACK), TALK.arrives(ACK)]);
    assert_eq!(
        bench.flows("FLOWS", API).len(),
        1,
        "the answer that renewed the flow counts in the handshake"
    );
    assert_eq!(bench.flows("FLOWS", WEB).len(), 1);
}

#[test]
fn the_packet_that_renews_a_flow_can_end_it() {
    let mut bench = Bench::start();
    let other = Talk { client_port: 40_001, ..TALK };
    bench.check_all(&TALK.handshake());
    bench.check_all(&other.handshake());
    assert!(bench.apply(&POLICY.replace("8000-8010/tcp", "8000-8011/tcp")));
    bench.check_all(&[TALK.arrives(RST), other.arrives(FIN | ACK), other.answers(FIN | ACK)]);
    for (key, entry) in bench.flows("FLOWS", API) {
        assert_eq!(entry.state(), FlowState::Closing, "port {}", key.remote_port);
    }
}

#[test]
fn a_datagram_that_renews_a_flow_can_establish_it() {
    let mut bench = Bench::start();
    let answer =
        Row::from(API, "the answer", sent_by(API, v4(API), v4(WEB), &Payload::Udp(Udp::new(53, 7002))));
    bench.check(&between(WEB, API, &Payload::Udp(Udp::new(7002, 53))));
    assert!(bench.apply(&POLICY.replace("8000-8010/tcp", "8000-8011/tcp")));
    bench.check(&answer);
    assert_eq!(bench.flows("FLOWS", API).len(), 1);
    assert_eq!(bench.flows("FLOWS_OPENING", API), []);
}

#[test]
fn what_left_for_the_world_is_judged_by_egress() {
    let mut bench = Bench::start();
    let world = parsed(ELSEWHERE[0]);
    let ask = outgoing(WEB, world, &Payload::Udp(Udp::new(6000, 123)));
    let answer = delivered_to(WEB, world, v4(WEB), &Payload::Udp(Udp::new(123, 6000)));
    let answer = Row::to(WEB, "the answer", answer).by(UPLINK);
    bench.check_all(&[ask.clone(), answer.clone()]);
    assert!(bench.apply(&POLICY.replace("    egress: [world, host]\n", "")));
    bench.check_all(&[answer.clone().dropped(Revoked), ask.clone().dropped(Revoked)]);
    assert!(bench.apply(POLICY));
    bench.check_all(&[answer, ask]);
}

#[test]
fn datagrams_are_cut_too() {
    let mut bench = Bench::start();
    let ask = between(WEB, API, &Payload::Udp(Udp::new(7000, 53)));
    let answer =
        Row::from(API, "the answer", sent_by(API, v4(API), v4(WEB), &Payload::Udp(Udp::new(53, 7000))));
    bench.check_all(&[ask.clone(), answer.clone()]);
    assert!(bench.apply(&tightened()));
    bench.check_all(&[ask.dropped(Revoked), answer.dropped(Revoked)]);
}

#[test]
fn a_loosened_policy_opens_for_what_was_denied() {
    let mut bench = Bench::under(&tightened());
    let public = POLICY.replace("  api:\n", "  api:\n    exposure: public\n");
    let call = delivered_to(API, parsed(ELSEWHERE[0]), v4(API), &Payload::Udp(Udp::new(7001, 53)));
    let call = Row::to(API, "from the world", call).by(UPLINK);
    bench.check_all(&[TALK.arrives(SYN).dropped(NoRule), call.clone().dropped(NotExposed)]);
    assert!(bench.apply(&public));
    bench.check_all(&[TALK.arrives(SYN), call]);
}

#[test]
fn an_endpoint_that_goes_takes_its_rights_with_it() {
    let mut bench = Bench::start();
    bench.check_all(&TALK.handshake());
    bench.change(POLICY, |snapshot| snapshot.endpoints.retain(|endpoint| endpoint.container_id != "id-10"));
    bench.check_all(&[
        TALK.leaves(ACK).dropped(NotReady),
        TALK.arrives(SYN).dropped(UnknownSource),
        TALK.returns(ACK).dropped(NotReady),
    ]);
}
