//! What each CPU remembers of the policy's answers, so that the next connection between the same two, to the same port,
//! need not ask again. Only what is simply allowed is remembered, under the revision and the epoch that it was asked in.

use agent_common::{
    flow::{FlowKey, PLACES},
    packet::Address,
    verdict::Direction,
};

use crate::{identify::Side, maps, skb::Skb};

/// How many answers each CPU remembers at most, a power of two.
pub(crate) const ANSWERS: u32 = PLACES;

/// An allowed attempt. Zeroes are nobody's: no port has the index 0.
pub(crate) struct Answer {
    question: Question,
    /// The other side.
    other: Side,
}

/// All that an answer depends on.
pub(crate) struct Question {
    local: Address,
    remote: Address,
    port: u32,
    /// Direction, protocol and the port that is called.
    what: u32,
    /// How the packet arrived that opens; nothing if the container has sent it.
    ifindex: u32,
    mark: u32,
    revision: u32,
    epoch: u32,
}

impl Question {
    /// Makes this the question that the packet raises which opens a flow in this direction.
    #[inline(always)]
    pub(crate) fn set(
        &mut self,
        skb: Skb,
        key: &FlowKey,
        direction: Direction,
        mark_mask: u32,
        state: State,
    ) {
        let service = match direction {
            Direction::Ingress => key.local_port,
            Direction::Egress => key.remote_port,
        };
        self.local = key.local;
        self.remote = key.remote;
        self.port = key.port;
        self.what = (direction as u32) << 24 | u32::from(key.protocol) << 16 | u32::from(service);
        self.ifindex = 0;
        self.mark = 0;
        if matches!(direction, Direction::Ingress) {
            self.ifindex = skb.ingress_ifindex();
            self.mark = skb.mark() & mark_mask;
        }
        self.revision = state.revision;
        self.epoch = state.epoch;
    }

    /// Whether it is allowed as far as is remembered, and then who the other side is.
    #[inline(always)]
    pub(crate) fn answer(&self, other: &mut Side) -> bool {
        let Some(answer) = self.place() else {
            return false;
        };
        let known = &answer.question;
        let ([a, b], [c, d]) = (known.local.words(), known.remote.words());
        let ([e, f], [g, h]) = (self.local.words(), self.remote.words());
        if a != e
            || b != f
            || c != g
            || d != h
            || known.port != self.port
            || known.what != self.what
            || known.ifindex != self.ifindex
            || known.mark != self.mark
            || known.revision != self.revision
            || known.epoch != self.epoch
        {
            return false;
        }
        copy(&answer.other, other);
        true
    }

    /// Remembers that it is allowed.
    #[inline(always)]
    pub(crate) fn remember(&self, other: &Side) {
        let Some(answer) = self.place() else {
            return;
        };
        let known = &mut answer.question;
        known.local = self.local;
        known.remote = self.remote;
        known.port = self.port;
        known.what = self.what;
        known.ifindex = self.ifindex;
        known.mark = self.mark;
        known.revision = self.revision;
        known.epoch = self.epoch;
        copy(other, &mut answer.other);
    }

    /// This CPU's own place for it, in which nobody else writes.
    #[inline(always)]
    fn place(&self) -> Option<&'static mut Answer> {
        let ([_, local], [_, remote]) = (self.local.words(), self.remote.words());
        let fold = local ^ remote.rotate_left(16) ^ u64::from(self.what) ^ u64::from(self.port) << 32;
        let place =
            (fold.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - ANSWERS.trailing_zeros())) as u32;
        // SAFETY: see above.
        maps::answer(place).map(|answer| unsafe { &mut *answer })
    }
}

/// Field by field: the compiler would call `memmove`.
#[inline(always)]
const fn copy(from: &Side, to: &mut Side) {
    to.party.kind = from.party.kind;
    to.party.identity = from.party.identity;
    to.party.instance = from.party.instance;
    to.peer = from.peer;
}

/// What of [`agent_common::config::Config`] says how long an answer holds, from before anything was looked up.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(crate) revision: u32,
    pub(crate) epoch: u32,
}
