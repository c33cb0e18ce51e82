//! Denials as records: ring buffer bytes become one JSON line each, kept for a while and handed to a sink. Nothing
//! here can block whoever reads the ring buffer; what does not fit is counted.

pub mod decode;
pub mod file;
pub mod format;
mod journal;
pub mod limit;
pub mod queue;
pub mod recent;
pub mod record;
pub mod scans;
pub mod sink;
pub mod syslog;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use self::{
    decode::DecodeError,
    limit::Limiter,
    queue::EventQueue,
    recent::Recent,
    record::Record,
    scans::{Scan, Scans},
};
use crate::state::AgentState;

/// Where the reader of the ring buffer puts its bytes.
#[derive(Clone, Debug)]
pub struct EventPipeline {
    recent: Arc<Recent>,
    queue: Option<EventQueue>,
    limiter: Arc<Mutex<Limiter>>,
    suppressed: Arc<AtomicU64>,
    scans: Arc<Mutex<Scans>>,
}

impl EventPipeline {
    /// A pipeline that keeps records in `recent` and, if there is one, queues them for a sink.
    #[must_use]
    pub fn new(recent: Arc<Recent>, queue: Option<EventQueue>) -> Self {
        Self { recent, queue, limiter: Arc::default(), suppressed: Arc::default(), scans: Arc::default() }
    }

    /// Takes one record of the ring buffer. Never blocks, never panics.
    ///
    /// `clock_offset` is what [`clock_offset`] returns now, as the wall clock moves.
    pub fn handle(&self, bytes: &[u8], state: &AgentState, clock_offset: i64) -> Result<(), DecodeError> {
        let mut denial = decode::decode(bytes)?;
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).add(&denial.event);
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(packets) = limiter.admit(&denial.event) else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        drop(limiter);
        denial.event.packets_suppressed = packets;
        let record = Arc::new(Record::new(&denial, state, clock_offset));
        self.recent.push(Arc::clone(&record));
        if let Some(queue) = &self.queue {
            queue.push(record);
        }
        Ok(())
    }

    /// Events that were not told because their flow had told enough, for `portcullis_events_suppressed_total`.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// What the busiest source of each identity was denied lately, for `portcullis_scan_ports` and
    /// `portcullis_scan_targets`.
    #[must_use]
    pub fn scans(&self) -> BTreeMap<u32, Scan> {
        let now = u64::try_from(since_boot()).unwrap_or_default();
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).read(now)
    }

    /// Records that never reached the sink, for `portcullis_events_lost_total`.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.queue.as_ref().map_or(0, EventQueue::lost)
    }
}

/// Nanoseconds to add to the time since boot, suspend included, to get the time since 1970.
#[must_use]
pub fn clock_offset() -> i64 {
    // A clock set before 1970 is treated as 1970: events then carry the time since boot.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().cast_signed());
    i64::try_from(now - since_boot()).unwrap_or(0)
}

/// Nanoseconds, suspend included: the clock of events.
fn since_boot() -> i128 {
    let boot = clock_gettime(ClockId::Boottime);
    i128::from(boot.tv_sec) * 1_000_000_000 + i128::from(boot.tv_nsec)
}
