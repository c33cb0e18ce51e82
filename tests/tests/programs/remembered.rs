//! What a CPU remembers of a flow saves it lookups and changes no verdict. Two packets alike come before each check: the
//! first is looked up, the second is known.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use agent_common::flow::FlowState;
use agent_common::verdict::DropReason::{
    NoRule, NotReady, NotTracked, Revoked, SpoofedSource, UnknownSource,
};
use frame_fuzz::frame::{Expected, Frame, Way};
use frame_fuzz::packet_socket::Sender;
use frame_fuzz::wire::{self, Ends};
use integration_tests::packet::{ACK, FIN, Payload, RST, Udp};
use integration_tests::small_lab::SmallLab;
use integration_tests::soak::newcomers::{OPEN_UDP, POLICY as ONE_WAY};
use lab::netns::within;
use lab::observed::sum;

use crate::bench::{Bench, Row};
use crate::rows::{Talk, between};
use crate::town::{API, BRIDGE_1, HOST, POLICY, STRAY, UPLINK, WEB, address, sent_by};

const TALK: Talk = Talk::new(WEB, API, 9000);

/// The town with a connection that every hook remembers in both directions.
fn talking(family: usize) -> (Bench, Talk) {
    let mut bench = Bench::start();
    let talk = Talk { family, ..TALK };
    bench.check_all(&talk.handshake());
    for _ in 0..2 {
        bench.check_all(&[talk.leaves(ACK), talk.arrives(ACK), talk.answers(ACK), talk.returns(ACK)]);
    }
    (bench, talk)
}

#[test]
fn a_connection_that_is_opened_again_is_followed_from_its_start() {
    for family in 0..2 {
        let (mut bench, talk) = talking(family);
        bench.check_all(&[talk.answers(RST), talk.returns(RST)]);
        bench.check_all(&talk.handshake()[..4]);
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS", port), [], "half open");
        }
        bench.check_all(&talk.handshake()[4..]);
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS", port).len(), 1, "the third packet counts");
            assert_eq!(bench.flows("FLOWS_OPENING", port), []);
        }
    }
}

#[test]
fn the_end_of_a_connection_is_seen() {
    let (mut bench, talk) = talking(0);
    bench.check_all(&[talk.leaves(FIN | ACK), talk.arrives(FIN | ACK), talk.answers(FIN | ACK)]);
    bench.check(&talk.returns(FIN | ACK));
    for port in [WEB, API] {
        let (_, entry) = bench.flows("FLOWS_OPENING", port)[0];
        assert_eq!(entry.state(), FlowState::Closing);
    }
}

/// The place in the table that evicts was left under the revision before.
#[test]
fn the_end_of_a_connection_is_seen_under_another_policy_too() {
    let (mut bench, talk) = talking(0);
    assert!(bench.apply(&POLICY.replace("8000-8010/tcp", "8000-8011/tcp")));
    bench.check_all(&[talk.leaves(ACK), talk.arrives(ACK), talk.answers(ACK), talk.returns(ACK)]);
    bench.check_all(&[talk.leaves(FIN | ACK), talk.arrives(FIN | ACK), talk.answers(FIN | ACK)]);
    bench.check(&talk.returns(FIN | ACK));
    for port in [WEB, API] {
        let [(_, entry)] = bench.flows("FLOWS_OPENING", port)[..] else { panic!("one flow") };
        assert_eq!((entry.state(), entry.revision), (FlowState::Closing, bench.datapath.revision()));
        assert_eq!(bench.flows("FLOWS", port), []);
    }
}

#[test]
fn another_sender_is_not_the_peer() {
    let (mut bench, talk) = talking(0);
    for other in [STRAY, HOST, BRIDGE_1] {
        let reason = if other == BRIDGE_1 { UnknownSource } else { NotTracked };
        bench.check(&talk.arrives(ACK).by(other).dropped(reason).perhaps_told());
    }
    // Marked by a port, it is that port's.
    let stray = bench.mark_of(STRAY);
    bench.check(&talk.arrives(ACK).by(BRIDGE_1).marked(stray).dropped(NotTracked).perhaps_told());
    bench.check(&talk.arrives(ACK));
}

#[test]
fn a_foreign_mac_is_spoofed_within_a_flow_too() {
    let (mut bench, talk) = talking(0);
    let mut row = talk.leaves(ACK);
    row.packet[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x7f]);
    bench.check(&row.dropped(SpoofedSource));
}

#[test]
fn a_tightened_policy_cuts_at_the_next_packet() {
    let (mut bench, talk) = talking(0);
    assert!(bench.apply(&POLICY.replace("    from: [web]\n", "")));
    bench.check(&talk.arrives(ACK).dropped(Revoked));
    bench.check(&talk.answers(ACK).dropped(Revoked));
}

#[test]
fn a_port_that_is_gone_is_not_ready() {
    let (mut bench, talk) = talking(0);
    bench.change(POLICY, |snapshot| {
        snapshot.endpoints.retain(|endpoint| endpoint.addresses[0] != address(API, 0));
    });
    bench.check(&talk.arrives(ACK).dropped(NotReady));
}

#[test]
fn the_first_reply_establishes_a_stream_of_datagrams() {
    for family in 0..2 {
        let mut bench = Bench::start();
        let udp = |from, to, source, destination| {
            let payload = Payload::Udp(Udp::new(source, destination));
            sent_by(from, address(from, family), address(to, family), &payload)
        };
        for _ in 0..3 {
            bench.check(&Row::from(WEB, "asks", udp(WEB, API, 40_000, 53)));
            bench.check(&Row::to(API, "is asked", udp(WEB, API, 40_000, 53)).by(WEB));
        }
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS", port), []);
        }
        bench.check(&Row::from(API, "answers", udp(API, WEB, 53, 40_000)));
        bench.check(&Row::to(WEB, "is answered", udp(API, WEB, 53, 40_000)).by(API));
        for port in [WEB, API] {
            assert_eq!(bench.flows("FLOWS", port).len(), 1);
        }
    }
}

#[test]
fn a_datagram_of_another_sender_is_decided_for_itself() {
    let mut bench = Bench::start();
    let row = between(WEB, API, &Payload::Udp(Udp::new(40_000, 53)));
    for _ in 0..3 {
        bench.check(&row);
    }
    bench.check(&row.by(STRAY).dropped(NoRule));
}

/// Whichever bit differs from the packet before, of the headers, their lengths and how the packet came: it is judged as by
/// a CPU that remembers nothing.
#[test]
fn no_bit_of_a_packet_is_taken_for_granted() {
    stay_on_this_cpu();
    for family in 0..2 {
        let talk = Talk { family, ..TALK };
        let handshake = talk.handshake();
        for plain in [talk.leaves(ACK), talk.arrives(ACK), talk.answers(ACK), talk.returns(ACK)] {
            differs_in_each_bit(&handshake, &plain);
        }
        let udp = |from, to, source, destination| {
            let payload = Payload::Udp(Udp::new(source, destination));
            sent_by(from, address(from, family), address(to, family), &payload)
        };
        let leaves = Row::from(WEB, "asks", udp(WEB, API, 40_000, 53));
        let arrives = Row::to(API, "is asked", udp(WEB, API, 40_000, 53)).by(WEB);
        for plain in [leaves, arrives] {
            differs_in_each_bit(&[], &plain);
        }
    }
}

fn differs_in_each_bit(before: &[Row], plain: &Row) {
    let mut bench = Bench::start();
    let mut judged = |row: &Row, forget: bool| {
        for row in before.iter().chain([plain, plain]) {
            assert_eq!(bench.run(row).returned, -1, "{}", row.name);
        }
        if forget {
            bench.forget_remembered();
        }
        let ran = bench.run(row);
        (ran.returned, ran.mark)
    };
    for row in others(plain) {
        assert_eq!(judged(&row, false), judged(&row, true), "{}", row.name);
    }
}

/// A packet with each of its bits the other way, without its last byte, with one more, and come in other ways.
fn others(plain: &Row) -> Vec<Row> {
    let copy = |name: String| Row { name: format!("{}, {name}", plain.name), ..plain.clone() };
    let mut others: Vec<Row> = (0..plain.packet.len() * 8)
        .map(|bit| {
            let mut row = copy(format!("bit {bit}"));
            row.packet[bit / 8] ^= 0x80 >> (bit % 8);
            row
        })
        .collect();
    let (mut shorter, mut longer) = (copy("shorter".to_owned()), copy("longer".to_owned()));
    shorter.packet.pop();
    longer.packet.push(0);
    others.extend([shorter, longer]);
    for bit in 0..32 {
        others.push(copy(format!("marked {bit}")).marked(plain.mark ^ 1 << bit));
    }
    for from in [WEB, API, STRAY, HOST, BRIDGE_1, UPLINK] {
        others.push(copy(format!("by {from}")).by(from));
    }
    others
}

/// The kernel takes a frame's tag out before any program sees it, and keeps it beside the packet, whose bytes are then those
/// of one without a tag. Receivers take the number 0 for no VLAN.
#[test]
fn a_tag_beside_the_packet_is_seen() {
    const PATIENCE: Duration = Duration::from_millis(500);
    stay_on_this_cpu();
    let lab = SmallLab::start().unwrap();
    lab.write_policy(ONE_WAY).unwrap();
    let address = SocketAddr::new(lab.address("db").unwrap(), OPEN_UDP);
    let ear = within(&lab.place("db").unwrap(), move || UdpSocket::bind(address)).unwrap().unwrap();
    ear.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || std::iter::from_fn(|| ear.recv(&mut [0; 64]).ok()).count();
    let [from, to] = ["api", "db"].map(|name| {
        let bytes: Vec<u8> =
            lab.mac(name).unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        wire::Mac::try_from(bytes).unwrap()
    });
    let ends = Ends { source: lab.address("api").unwrap(), destination: lab.address("db").unwrap() };
    let packet = ends.packet(wire::UDP, &ends.udp(4000, OPEN_UDP, b"the same"));
    let bytes = wire::ethernet(to, from, wire::IPV4, &packet);
    let [plain, tagged] = [bytes.clone(), wire::tagged(&bytes, &[(0x8100, 0)])].map(|bytes| {
        let frame = Frame { bytes, label: "".into(), expected: Expected::DENIED, way: Way::Message };
        [frame.clone(), frame.clone(), frame]
    });
    let mut sender = Sender::open(&lab.place("api").unwrap(), "eth0").unwrap();
    sender.send(&tagged).unwrap();
    assert_eq!(heard(), tagged.len(), "without an agent they arrive");
    let agent = lab.run(&[]).unwrap();
    for round in 1..=5 {
        // The second is looked up and remembered, the third is known.
        sender.send(&plain).unwrap();
        sender.send(&tagged).unwrap();
        assert_eq!(heard(), plain.len(), "only what has no tag");
        let labels = [("reason", "unsupported_protocol"), ("source", "api")];
        let denied = sum(&agent.metrics().unwrap(), "portcullis_denied_packets_total", &labels);
        assert_eq!(denied, f64::from(3 * round));
    }
}

/// What is remembered is one CPU's.
fn stay_on_this_cpu() {
    // SAFETY: the set is large enough, zeroes are an empty one, and 0 is the thread that asks.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap(), &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(done, 0, "the thread cannot be kept on one processor");
}
