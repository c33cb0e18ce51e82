//! What has happened to each flow. Its state follows from that.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::decision::{ICMP, TCP};
use crate::frame::Flags;
use crate::verdict::{Direction, Who};

/// A tuple as one port sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    pub port: u32,
    pub protocol: u8,
    /// The container's side.
    pub local: (IpAddr, u16),
    pub remote: (IpAddr, u16),
}

/// The far end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// Nobody has answered yet, and the address does not tell.
    Anybody,
    /// The same for an address of the host: its own stack, or a container that it redirects to.
    Local,
    Known(Who),
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub opened: Direction,
    pub far_end: FarEnd,
    /// By which interface and with which mark the far end's packets come. What comes the same way is not looked at
    /// again, even if the interface has been forgotten since: its own hook lets nothing pass then.
    pub arrival: Option<(u32, u32)>,
    pub revision: u32,
    pub observed: bool,
    pub revoked: bool,
    /// In seconds.
    last_seen: u64,
    /// The side that did not open it has answered.
    answered: bool,
    /// TCP: the opener has acknowledged the answer.
    confirmed: bool,
    reset: bool,
    /// By direction.
    finished: [bool; 2],
}

/// Seconds without a packet after which a flow ends.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub tcp_opening: u64,
    pub tcp_established: u64,
    pub tcp_closing: u64,
    pub udp_opening: u64,
    pub udp_established: u64,
    pub icmp: u64,
}

impl Flow {
    /// One that has just been opened.
    #[must_use]
    pub const fn new(opened: Direction, far_end: FarEnd, revision: u32, observed: bool, now: u64) -> Self {
        Self {
            opened,
            far_end,
            arrival: None,
            revision,
            observed,
            revoked: false,
            last_seen: now,
            answered: false,
            confirmed: false,
            reset: false,
            finished: [false; 2],
        }
    }

    const fn is_over(&self) -> bool {
        self.reset || (self.finished[0] && self.finished[1])
    }

    /// Whether a TCP connection is open at both ends.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.confirmed && !self.is_over()
    }

    /// Whether it has been silent for too long.
    #[must_use]
    pub const fn is_expired(&self, protocol: u8, now: u64, timeouts: &Timeouts) -> bool {
        let limit = match protocol {
            TCP if self.is_over() => timeouts.tcp_closing,
            TCP if self.confirmed => timeouts.tcp_established,
            TCP => timeouts.tcp_opening,
            ICMP => timeouts.icmp,
            _ if self.answered => timeouts.udp_established,
            _ => timeouts.udp_opening,
        };
        now - self.last_seen > limit
    }

    /// Notes that it is alive.
    pub const fn touch(&mut self, now: u64) {
        self.last_seen = now;
    }

    /// Notes a packet that has passed.
    pub fn note(&mut self, protocol: u8, direction: Direction, flags: Flags, now: u64) {
        self.touch(now);
        let opener = direction == self.opened;
        if protocol != TCP {
            self.answered |= !opener;
            return;
        }
        // What comes after the end does not open it again.
        if self.is_over() {
            return;
        }
        self.reset |= flags.rst;
        if flags.fin && !flags.rst {
            self.finished[direction as usize] = true;
        }
        if self.is_over() {
            return;
        }
        self.confirmed |= self.answered && opener && flags.ack && !flags.syn;
        self.answered |= !opener && flags.ack;
    }
}

/// All flows.
pub type Flows = BTreeMap<Tuple, Flow>;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        tcp_opening: 1,
        tcp_established: 2,
        tcp_closing: 3,
        udp_opening: 4,
        udp_established: 5,
        icmp: 6,
    };
    const SYN: Flags = Flags { syn: true, ack: false, fin: false, rst: false };
    const SYN_ACK: Flags = Flags { syn: true, ack: true, fin: false, rst: false };
    const ACK: Flags = Flags { syn: false, ack: true, fin: false, rst: false };
    const FIN: Flags = Flags { syn: false, ack: true, fin: true, rst: false };
    const RST: Flags = Flags { syn: false, ack: false, fin: false, rst: true };

    fn after(protocol: u8, packets: &[(Direction, Flags)]) -> Flow {
        let mut flow = Flow::new(Direction::Egress, FarEnd::Anybody, 1, false, 0);
        for &(direction, flags) in packets {
            flow.note(protocol, direction, flags, 100);
        }
        flow
    }

    /// How many seconds a flow lives.
    fn life(protocol: u8, flow: &Flow) -> u64 {
        (1..9).take_while(|seconds| !flow.is_expired(protocol, 100 + seconds, &TIMEOUTS)).last().unwrap_or(0)
    }

    #[test]
    fn a_handshake_takes_three_packets_and_an_end_two() {
        use Direction::{Egress, Ingress};
        let course =
            [(Egress, SYN), (Ingress, SYN_ACK), (Egress, ACK), (Egress, FIN), (Ingress, FIN), (Egress, ACK)];
        for (packets, seconds) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)] {
            let flow = after(TCP, &course[..packets]);
            assert_eq!(life(TCP, &flow), seconds, "{packets} packets");
            assert_eq!(flow.is_connected(), seconds == 2);
        }
        for packets in 0..4 {
            let flow = after(TCP, &[&course[..packets], &[(Ingress, RST), (Egress, ACK)]].concat());
            assert_eq!(life(TCP, &flow), 3, "reset after {packets} packets");
        }
        assert_eq!(
            life(TCP, &after(TCP, &[(Egress, SYN), (Egress, ACK), (Egress, ACK)])),
            1,
            "one side alone"
        );
    }

    #[test]
    fn a_datagram_is_answered_by_the_other_side() {
        use Direction::{Egress, Ingress};
        let nothing = Flags::default();
        assert_eq!(life(17, &after(17, &[(Egress, nothing), (Egress, nothing)])), 4);
        assert_eq!(life(17, &after(17, &[(Egress, nothing), (Ingress, nothing)])), 5);
        assert_eq!(life(ICMP, &after(ICMP, &[(Egress, nothing), (Ingress, nothing)])), 6);
    }
}
