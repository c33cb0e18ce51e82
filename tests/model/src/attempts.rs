//! Which denied packets are attempts, and which of those are told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::verdict::{Hook, Reason};

/// What makes two denied packets alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Both `::` where there are none.
    pub addresses: (IpAddr, IpAddr),
    pub ports: (u16, u16),
    pub protocol: u8,
    pub reason: Reason,
    pub hook: Hook,
    pub interface: u32,
    /// A SYN is compared with SYNs only.
    pub syn: bool,
}

/// How a packet stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A SYN with its sequence number: a retransmission has the same.
    Syn(u32),
    /// A datagram or an echo request: the first of its kind in a while.
    Opening,
    /// Anything else, an attempt by itself, told once in a while.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: u64,
    sequence: u32,
    untold: u32,
}

/// The last told packet of each kind.
#[derive(Clone, Debug, Default)]
pub struct Attempts(BTreeMap<Kind, Last>);

impl Attempts {
    /// Whether a packet is an attempt, and with how many untold ones before it it is told.
    ///
    /// A SYN is compared with the last one only: the table does not keep a history.
    pub fn note(&mut self, kind: Kind, shape: Shape, now: u64, window: u64) -> (bool, Option<u32>) {
        let sequence = if let Shape::Syn(sequence) = shape { sequence } else { 0 };
        let new = Last { at: now, sequence, untold: 0 };
        let Some(last) = self.0.get_mut(&kind) else {
            self.0.insert(kind, new);
            return (true, Some(0));
        };
        let again = match shape {
            Shape::Syn(sequence) => last.sequence == sequence,
            Shape::Opening | Shape::Other => now - last.at < window,
        };
        if again {
            last.untold += 1;
            return (shape == Shape::Other, None);
        }
        let untold = last.untold;
        *last = new;
        (true, Some(untold))
    }
}
