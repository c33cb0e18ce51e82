//! Transitions of flows as a table, and what no sequence of packets can bring about.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::packet::{Intent, PROTOCOL_UDP};

use Direction::{Egress, Ingress};

const ACK: u8 = TCP_ACK;
const SYN: u8 = TCP_SYN;
const FIN: u8 = TCP_FIN;
const RST: u8 = TCP_RST;
const SECOND: u64 = 1_000_000_000;

fn entry(opened: Direction) -> FlowEntry {
    FlowEntry {
        last_seen: 0,
        revision: 1,
        peer: 7,
        peer_ifindex: 7,
        peer_mark: 0,
        state: FlowState::Opening as u8,
        opened: opened as u8,
        flags: 0,
        _pad: 0,
        refreshed: 0,
    }
}

fn other(direction: Direction) -> Direction {
    match direction {
        Ingress => Egress,
        Egress => Ingress,
    }
}

fn packet() -> Packet {
    Packet {
        source: Address::from_ipv4([192, 0, 2, 1]),
        destination: Address::from_ipv4([192, 0, 2, 2]),
        source_port: 40_000,
        destination_port: 443,
        protocol: PROTOCOL_TCP,
        tcp_flags: SYN,
        intent: Intent::Open,
        _pad: 0,
        sequence: 1,
        _pad2: 0,
    }
}

#[test]
fn both_directions_of_a_connection_have_one_key() {
    let there = packet();
    let back = Packet {
        source: there.destination,
        destination: there.source,
        source_port: there.destination_port,
        destination_port: there.source_port,
        ..there
    };
    for direction in [Ingress, Egress] {
        assert_eq!(FlowKey::new(3, direction, &there), FlowKey::new(3, other(direction), &back));
        assert_ne!(FlowKey::new(3, direction, &there), FlowKey::new(3, direction, &back));
        assert_ne!(FlowKey::new(3, direction, &there), FlowKey::new(4, direction, &there));
    }
    let key = FlowKey::new(3, Ingress, &there);
    assert_eq!((key.local, key.local_port), (there.destination, 443));
    assert_eq!((key.remote, key.remote_port), (there.source, 40_000));
}

#[test]
fn tcp_transitions() {
    use FlowState::{Closing, Established, Opening, Replied};
    // (state before, from the opener, flags, state after, step)
    let table = [
        (Opening, true, SYN, Opening, Step::Stay),
        (Opening, true, ACK, Opening, Step::Stay),
        (Opening, false, SYN | ACK, Replied, Step::Stay),
        (Opening, false, ACK, Replied, Step::Stay),
        (Opening, false, SYN, Opening, Step::Stay),
        (Opening, true, RST, Closing, Step::Stay),
        (Opening, false, RST | ACK, Closing, Step::Stay),
        (Replied, true, SYN, Replied, Step::Stay),
        (Replied, true, SYN | ACK, Replied, Step::Stay),
        (Replied, false, SYN | ACK, Replied, Step::Stay),
        (Replied, false, ACK, Replied, Step::Stay),
        (Replied, true, ACK, Established, Step::Establish),
        (Replied, true, ACK | FIN, Established, Step::Establish),
        (Replied, true, RST, Closing, Step::Stay),
        (Established, true, ACK, Established, Step::Stay),
        (Established, false, ACK, Established, Step::Stay),
        (Established, true, FIN | ACK, Established, Step::Stay),
        (Established, false, RST, Closing, Step::Close),
        (Closing, true, ACK, Closing, Step::Stay),
        (Closing, false, SYN | ACK, Closing, Step::Stay),
    ];
    for opened in [Ingress, Egress] {
        for (before, opener, flags, after, step) in table {
            let mut entry = FlowEntry { state: before as u8, ..entry(opened) };
            let direction = if opener { opened } else { other(opened) };
            let name = (opened, before, opener, flags);
            assert_eq!(entry.advance(PROTOCOL_TCP, direction, flags), step, "{name:?}");
            assert_eq!(entry.state(), after, "{name:?}");
        }
    }
}

#[test]
fn a_connection_closes_when_both_sides_have_said_so() {
    for (first, second) in [(Ingress, Egress), (Egress, Ingress)] {
        let mut entry = FlowEntry { state: FlowState::Established as u8, ..entry(Ingress) };
        entry.advance(PROTOCOL_TCP, first, FIN | ACK);
        entry.advance(PROTOCOL_TCP, first, FIN | ACK);
        assert_eq!(entry.state(), FlowState::Established);
        assert_eq!(entry.advance(PROTOCOL_TCP, second, FIN | ACK), Step::Close);
        assert_eq!(entry.state(), FlowState::Closing);
        assert_eq!(entry.flags, FIN_LOCAL | FIN_REMOTE);
    }
}

#[test]
fn what_is_no_fin_closes_nothing() {
    let mut entry = FlowEntry { state: FlowState::Established as u8, ..entry(Ingress) };
    for flags in (0..=u8::MAX).filter(|flags| flags & (FIN | RST) == 0) {
        for direction in [Ingress, Egress] {
            assert_eq!(entry.advance(PROTOCOL_TCP, direction, flags), Step::Stay, "{flags:#x}");
            assert_eq!((entry.state(), entry.flags), (FlowState::Established, 0), "{flags:#x}");
        }
    }
}

#[test]
fn peers_that_are_no_port_are_told_apart() {
    let peers = [PEER_HOST, PEER_OUTSIDER, PEER_LOCAL, PEER_UNBOUND, PEER_WORLD];
    assert!(peers.is_sorted_by(|one, next| one < next), "{peers:?}");
}

#[test]
fn a_datagram_flow_is_established_by_the_first_answer() {
    let mut entry = entry(Egress);
    assert_eq!(entry.advance(PROTOCOL_UDP, Egress, 0), Step::Stay);
    assert_eq!(entry.state(), FlowState::Opening);
    assert_eq!(entry.advance(PROTOCOL_UDP, Ingress, 0), Step::Establish);
    assert_eq!(entry.advance(PROTOCOL_UDP, Ingress, 0), Step::Stay);
    assert_eq!(entry.state(), FlowState::Established);
}

#[test]
fn a_ping_is_never_established() {
    let mut entry = entry(Ingress);
    for direction in [Egress, Ingress, Egress] {
        assert_eq!(entry.advance(PROTOCOL_ICMP, direction, 0), Step::Stay);
        assert_eq!(entry.state(), FlowState::Opening);
    }
}

#[test]
fn every_state_has_its_timeout() {
    let timeouts = Timeouts {
        tcp_opening: 1,
        tcp_established: 2,
        tcp_closing: 3,
        udp_opening: 4,
        udp_established: 5,
        icmp: 6,
    };
    for (protocol, state, seconds) in [
        (PROTOCOL_TCP, 1, 1),
        (PROTOCOL_TCP, 2, 1),
        (PROTOCOL_TCP, 3, 2),
        (PROTOCOL_TCP, 4, 3),
        // A number that nobody has written.
        (PROTOCOL_TCP, 9, 3),
        (PROTOCOL_UDP, 1, 4),
        (PROTOCOL_UDP, 3, 5),
        (PROTOCOL_ICMP, 1, 6),
    ] {
        let entry = FlowEntry { state, last_seen: 100 * SECOND, ..entry(Ingress) };
        assert!(!entry.is_expired(protocol, (100 + seconds) * SECOND, &timeouts), "{protocol}, {state}");
        assert!(entry.is_expired(protocol, (100 + seconds) * SECOND + 1, &timeouts), "{protocol}, {state}");
    }
}

#[test]
fn a_clock_that_is_slightly_behind_expires_nothing() {
    let none = Timeouts {
        tcp_opening: 0,
        tcp_established: 0,
        tcp_closing: 0,
        udp_opening: 0,
        udp_established: 0,
        icmp: 0,
    };
    let entry = FlowEntry { last_seen: 5 * SECOND, ..entry(Ingress) };
    for now in [0, 1, 5 * SECOND - 1, 5 * SECOND] {
        assert!(!entry.is_expired(PROTOCOL_TCP, now, &none), "{now}");
    }
    assert!(entry.is_expired(PROTOCOL_TCP, 5 * SECOND + 1, &none));
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Ingress), Just(Egress)]
}

fn packets() -> impl Strategy<Value = Vec<(Direction, u8)>> {
    proptest::collection::vec((directions(), any::<u8>()), 0..40)
}

proptest! {
    #[test]
    fn nothing_is_established_without_an_answer_and_the_openers_ack(opened in directions(), packets in packets()) {
        let mut flow = entry(opened);
        let (mut answered, mut acknowledged) = (false, false);
        for (direction, flags) in packets {
            let opener = direction == opened;
            acknowledged |= answered && opener && flags & (ACK | SYN | RST) == ACK;
            let step = flow.advance(PROTOCOL_TCP, direction, flags);
            answered |= !opener && flags & (ACK | RST) == ACK;
            let established = flow.state() == FlowState::Established;
            prop_assert!(!established || (answered && acknowledged));
            prop_assert!(step != Step::Establish || established);
            prop_assert!(step != Step::Close || flow.state() == FlowState::Closing);
        }
    }

    #[test]
    fn one_side_alone_establishes_nothing(opened in directions(), side in directions(), flags in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut flow = entry(opened);
        for flags in flags {
            prop_assert_eq!(flow.advance(PROTOCOL_TCP, side, flags), Step::Stay);
            prop_assert_ne!(flow.state(), FlowState::Established);
        }
    }

    #[test]
    fn a_flow_moves_to_the_other_table_at_most_once(opened in directions(), protocol in prop_oneof![Just(PROTOCOL_TCP), Just(PROTOCOL_UDP), Just(PROTOCOL_ICMP)], packets in packets()) {
        let mut flow = entry(opened);
        let steps: Vec<Step> =
            packets.iter().map(|(direction, flags)| flow.advance(protocol, *direction, *flags)).collect();
        let moves = |wanted| steps.iter().filter(|step| **step == wanted).count();
        prop_assert!(moves(Step::Establish) <= usize::from(protocol != PROTOCOL_ICMP));
        // And at most once back.
        prop_assert!(moves(Step::Close) <= moves(Step::Establish));
    }

    #[test]
    fn what_is_closing_stays_so(opened in directions(), packets in packets()) {
        let mut flow = FlowEntry { state: FlowState::Closing as u8, ..entry(opened) };
        for (direction, flags) in packets {
            prop_assert_eq!(flow.advance(PROTOCOL_TCP, direction, flags), Step::Stay);
            prop_assert_eq!(flow.state(), FlowState::Closing);
        }
    }

    #[test]
    fn following_a_packet_leaves_peer_revision_and_marks_alone(opened in directions(), flags in any::<u8>(), packets in packets()) {
        let before = FlowEntry { flags: flags & (OBSERVED | REVOKED), ..entry(opened) };
        let mut flow = before;
        for (direction, flags) in packets {
            flow.advance(PROTOCOL_TCP, direction, flags);
        }
        flow.state = before.state;
        flow.flags &= OBSERVED | REVOKED;
        prop_assert_eq!(flow, before);
    }

    #[test]
    fn what_has_expired_stays_expired(last_seen in any::<u64>(), now in any::<u64>(), later in any::<u64>(), state in 0_u8..6, protocol in any::<u8>()) {
        let flow = FlowEntry { last_seen, state, ..entry(Ingress) };
        let later = now.saturating_add(later);
        let timeouts = Timeouts::DEFAULT;
        prop_assert!(!flow.is_expired(protocol, now, &timeouts) || flow.is_expired(protocol, later, &timeouts));
    }
}

#[test]
fn the_flags_of_an_entry_do_not_overlap() {
    let flags = [FIN_LOCAL, FIN_REMOTE, OBSERVED, REVOKED];
    assert_eq!(flags.iter().fold(0, |sum, flag| sum | flag).count_ones() as usize, flags.len());
}

#[test]
fn fresh_is_within_a_moment_of_the_refresh_also_when_jiffies_come_round() {
    for refreshed in [0, 1000, u32::MAX - 10] {
        let entry = FlowEntry { refreshed, ..entry(Direction::Ingress) };
        assert!(entry.is_fresh(refreshed));
        assert!(entry.is_fresh(refreshed.wrapping_add(FRESH - 1)));
        assert!(!entry.is_fresh(refreshed.wrapping_add(FRESH)));
        assert!(
            !entry.is_fresh(refreshed.wrapping_sub(1)),
            "a time before the refresh is no time just after it"
        );
    }
}

#[test]
fn a_peer_has_a_port_if_it_is_a_container() {
    let of = |peer| FlowEntry { peer, ..entry(Egress) }.peer_port();
    assert_eq!(of(7), Some(7));
    assert_eq!(of(7 | PEER_OUTSIDER), Some(7));
    for peer in [PEER_HOST, PEER_WORLD, PEER_UNBOUND, PEER_LOCAL] {
        assert_eq!(of(peer), None, "{peer}");
    }
}

#[test]
fn a_moved_flow_is_none_any_more() {
    let moved = FlowEntry { state: FlowState::Moved as u8, ..entry(Egress) };
    assert_eq!(moved.state(), FlowState::Moved);
    assert!(moved.is_expired(PROTOCOL_TCP, 0, &Timeouts::DEFAULT));
}

/// The place by its words: addresses' ends and ports as they lie in memory, folded, spread by a product, the top bits.
fn place(key: &FlowKey) -> u32 {
    let ends = [key.local, key.remote].map(|address| {
        let bytes = address.bytes();
        u64::from_ne_bytes(bytes[8..].try_into().unwrap())
    });
    let mut ports = u128::from(key.remote_port);
    ports = ports * 65_536 + u128::from(key.local_port);
    ports = ports * 4_294_967_296 + u128::from(key.port);
    let fold = ends[0] ^ ends[1].rotate_left(16) ^ u64::try_from(ports).unwrap();
    let spread = u128::from(fold) * 0x9e37_79b9_7f4a_7c15 % (1 << 64);
    u32::try_from(spread / (1 << 54)).unwrap()
}

proptest! {
    #[test]
    fn a_flow_has_its_place_by_all_that_tells_it_from_others(
        local: [u8; 16],
        remote: [u8; 16],
        port: u32,
        local_port: u16,
        remote_port: u16,
    ) {
        let (local, remote) = (Address::new(local), Address::new(remote));
        let key = FlowKey {
            local, remote, port, local_port, remote_port, protocol: PROTOCOL_TCP, _pad: 0, _pad2: 0, _pad3: 0,
        };
        prop_assert!(key.place() < PLACES);
        prop_assert_eq!(key.place(), place(&key));
    }
}
