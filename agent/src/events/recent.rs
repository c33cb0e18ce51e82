//! The last records, kept in memory for `status`, `events` and the demo. A reader that remembers the number of the
//! last one it saw gets only what is new.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::record::Record;

/// How many records the agent keeps.
pub const CAPACITY: usize = 1_000;

/// A ring of records with growing numbers.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Arc<Record>>,
    /// The number of the next record, from 0.
    next: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Recent {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default() }
    }

    /// Adds a record; the oldest one makes room.
    pub fn push(&self, record: Arc<Record>) {
        let mut ring = self.lock();
        if ring.records.len() >= self.capacity {
            ring.records.pop_front();
        }
        ring.records.push_back(record);
        ring.next += 1;
    }

    /// The records from number `from` on, oldest first, and the number to ask for next time.
    #[must_use]
    pub fn since(&self, from: u64) -> (Vec<Arc<Record>>, u64) {
        let ring = self.lock();
        let first = ring.next - ring.records.len() as u64;
        // A number from before a restart of the agent is beyond what there is: start over.
        let from = if from > ring.next { first } else { from };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        (ring.records.iter().skip(skip).cloned().collect(), ring.next)
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Every change leaves the ring whole, so a panic elsewhere does not spoil it.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
