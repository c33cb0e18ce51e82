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
