//! How often one flow is told: a token bucket for each, so that whoever knocks a thousand times a second at one port
//! fills neither the log nor hides another. What is not told is counted.

use std::collections::HashMap;

use agent_common::{event::DeniedEvent, packet::Address};

/// Events of one flow that are told at once.
pub const BURST: u32 = 20;
/// Nanoseconds until one more may be told.
pub const REFILL: u64 = 1_000_000_000;
/// Flows that are told apart. What comes beyond shares one bucket.
const FLOWS: usize = 16_384;

/// Who calls which port of whom, where, and why that is denied; not from which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    source: Address,
    destination: Address,
    ifindex: u32,
    port: u16,
    protocol: u8,
    reason: u8,
}

impl Flow {
    const fn of(event: &DeniedEvent) -> Self {
        Self {
            source: event.source_address,
            destination: event.destination_address,
            ifindex: event.ifindex,
            port: event.destination_port,
            protocol: event.protocol,
            reason: event.reason,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    /// When the last token came, nanoseconds since boot.
    refilled: u64,
    /// Packets that no event has told of since the last one.
    suppressed: u32,
}

impl Bucket {
    const fn full(now: u64) -> Self {
        Self { tokens: BURST, refilled: now, suppressed: 0 }
    }

    fn refill(&mut self, now: u64) {
        let new = now.saturating_sub(self.refilled) / REFILL;
        if new >= u64::from(BURST - self.tokens) {
            (self.tokens, self.refilled) = (BURST, now);
        } else {
            self.tokens += u32::try_from(new).unwrap_or(0);
            self.refilled += new * REFILL;
        }
    }

    /// The packets that an event stands for beside its own, or `None` if it is not told.
    fn take(&mut self, event: &DeniedEvent) -> Option<u32> {
        self.refill(event.time);
        let silent = self.suppressed.saturating_add(event.packets_suppressed);
        if self.tokens == 0 {
            self.suppressed = silent.saturating_add(1);
            return None;
        }
        self.tokens -= 1;
        self.suppressed = 0;
        Some(silent)
    }

    /// Whether it says nothing that a new one would not.
    fn is_idle(&self, now: u64) -> bool {
        let mut later = *self;
        later.refill(now);
        later.tokens == BURST && self.suppressed == 0
    }
}

/// All buckets.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: HashMap<Flow, Bucket>,
    others: Option<Bucket>,
}

impl Limiter {
    /// Whether an event is told: then with the packets that it stands for beside its own.
    pub fn admit(&mut self, event: &DeniedEvent) -> Option<u32> {
        let flow = Flow::of(event);
        if let Some(bucket) = self.buckets.get_mut(&flow) {
            return bucket.take(event);
        }
        if self.buckets.len() >= FLOWS {
            self.buckets.retain(|_, bucket| !bucket.is_idle(event.time));
        }
        if self.buckets.len() >= FLOWS {
            return self.others.get_or_insert_with(|| Bucket::full(event.time)).take(event);
        }
        self.buckets.entry(flow).or_insert_with(|| Bucket::full(event.time)).take(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixture;

    fn event(port: u16, time: u64) -> DeniedEvent {
        DeniedEvent { destination_port: port, time, packets_suppressed: 0, ..fixture::event() }
    }

    #[test]
    fn a_burst_is_told_then_one_a_second_with_what_was_left_out() {
        let mut limiter = Limiter::default();
        let told = (0..100).filter(|_| limiter.admit(&event(80, 5)).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(limiter.admit(&event(80, 5 + REFILL)), Some(80));
        assert_eq!(limiter.admit(&event(80, 6 + REFILL)), None);
        assert_eq!(limiter.admit(&event(80, 5 + 2 * REFILL)), Some(1));
    }

    #[test]
    fn packets_that_an_untold_event_stands_for_are_not_forgotten() {
        let mut limiter = Limiter::default();
        for _ in 0..BURST {
            assert_eq!(limiter.admit(&event(80, 0)), Some(0));
        }
        assert_eq!(limiter.admit(&DeniedEvent { packets_suppressed: 7, ..event(80, 0) }), None);
        assert_eq!(limiter.admit(&DeniedEvent { packets_suppressed: 2, ..event(80, REFILL) }), Some(10));
    }

    #[test]
    fn one_flow_does_not_silence_another() {
        let mut limiter = Limiter::default();
        for _ in 0..1_000 {
            limiter.admit(&event(80, 0));
        }
        assert_eq!(limiter.admit(&event(81, 0)), Some(0));
        let other = DeniedEvent { source_address: Address::from_ipv4([192, 0, 2, 77]), ..event(80, 0) };
        assert_eq!(limiter.admit(&other), Some(0));
        // Another port of the same caller is the same flow.
        assert_eq!(limiter.admit(&DeniedEvent { source_port: 1, ..event(80, 0) }), None);
    }

    #[test]
    fn buckets_are_bounded_and_idle_ones_make_room() {
        let mut limiter = Limiter::default();
        for number in 0..40_000_u32 {
            let source_address = Address::from_ipv4(number.to_be_bytes());
            limiter.admit(&DeniedEvent { source_address, ..event(80, 0) });
        }
        assert_eq!(limiter.buckets.len(), FLOWS);
        let told = (0..10).filter(|_| limiter.admit(&event(81, 0)).is_some()).count();
        assert_eq!(told, 0, "the others' bucket is empty");
        assert_eq!(limiter.admit(&event(81, 60 * REFILL)), Some(0));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
