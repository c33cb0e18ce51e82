//! Where counters come from: the kernel maps in the agent, a plain value in tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use agent_common::counter::{DeniedCount, DeniedKey, TOTALS};

use crate::events::scans::Scan;

/// All counters at one moment, per-CPU values summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterReading {
    pub denied: Vec<(DeniedKey, DeniedCount)>,
    /// By `agent_common::counter::Total`.
    pub totals: [u64; TOTALS as usize],
    pub maps: Vec<MapUsage>,
    /// Events that the agent itself lost, see `EventPipeline::lost`.
    pub lost_in_agent: u64,
    /// Events that the agent did not tell because their flow had told enough.
    pub suppressed_in_agent: u64,
    /// Packets that the backstop dropped.
    pub backstop_dropped: u64,
    /// What the busiest source of each identity was denied lately.
    pub scans: BTreeMap<u32, Scan>,
}

/// How full a kernel map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// The counters could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read counters of map `{map}`")]
pub struct CounterError {
    pub map: &'static str,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Reads the counters. Called at every scrape and for every status, from any thread.
pub trait CounterSource: Send + Sync {
    fn read(&self) -> Result<CounterReading, CounterError>;
}

/// Counters that stand still until they are set: for tests, and for an agent without a datapath.
#[derive(Debug, Default)]
pub struct MemoryCounters(Mutex<CounterReading>);

impl MemoryCounters {
    /// Replaces the reading.
    pub fn set(&self, reading: CounterReading) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }
}

impl CounterSource for MemoryCounters {
    fn read(&self) -> Result<CounterReading, CounterError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
