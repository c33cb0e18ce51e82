//! Reads what the programs have counted. Opens the pins itself, so that a scrape never waits for a policy swap.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agent_common::counter::{DeniedCount, DeniedKey, TOTALS};
use aya::maps::{Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuHashMap};

use super::{migrate::Carried, pins::Pins};

/// What the kernel has counted at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub denied: BTreeMap<DeniedKey, DeniedCount>,
    /// By `agent_common::counter::Total`.
    pub totals: [u64; TOTALS as usize],
}

impl Reading {
    /// Adds what other maps have counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (key, count) in &other.denied {
            let sum = self.denied.entry(*key).or_default();
            sum.packets += count.packets;
            sum.attempts += count.attempts;
        }
        for (sum, total) in self.totals.iter_mut().zip(other.totals) {
            *sum += total;
        }
    }
}

/// The counters cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read map `{name}`")]
pub struct CounterError {
    pub name: &'static str,
    pub source: MapError,
}

/// Handles of the counting maps.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Counters {
    denied: PerCpuHashMap<MapData, DeniedKey, DeniedCount>,
    totals: PerCpuArray<MapData, u64>,
    /// How many keys `DENIED` had when it was last read.
    labels: AtomicU64,
    carried: Arc<Carried>,
    pins: Pins,
    filling: Arc<Filling>,
}

impl Counters {
    /// Opens the pinned maps; `carried` is what others have counted before them.
    pub(super) fn open(
        pins: &Pins,
        carried: Arc<Carried>,
        filling: Arc<Filling>,
    ) -> Result<Self, CounterError> {
        let open = |name: &'static str| {
            MapData::from_pin(pins.map(name)).map_err(|source| CounterError { name, source })
        };
        let denied = Map::PerCpuHashMap(open("DENIED")?);
        let totals = Map::PerCpuArray(open("TOTALS")?);
        Ok(Self {
            denied: denied.try_into().map_err(|source| CounterError { name: "DENIED", source })?,
            totals: totals.try_into().map_err(|source| CounterError { name: "TOTALS", source })?,
            labels: AtomicU64::default(),
            carried,
            pins: pins.clone(),
            filling,
        })
    }

    /// Those of an agent that need not run. What it is just taking over from maps of another layout is left out.
    pub fn pinned(pins: &Pins) -> Result<Self, CounterError> {
        Self::open(pins, Arc::new(Carried::open(pins)), Arc::default())
    }

    /// Sums over all possible CPUs, and over maps that were replaced.
    pub fn read(&self) -> Result<Reading, CounterError> {
        let mut reading = Reading::default();
        for entry in self.denied.iter() {
            let (key, values) = entry.map_err(|source| CounterError { name: "DENIED", source })?;
            let sum = reading.denied.entry(key).or_default();
            // A walk that meets an insertion may see a key twice: the later values are the newer ones.
            *sum = DeniedCount::default();
            for value in values.iter() {
                sum.packets += value.packets;
                sum.attempts += value.attempts;
            }
        }
        for (index, total) in (0..TOTALS).zip(&mut reading.totals) {
            let values =
                self.totals.get(&index, 0).map_err(|source| CounterError { name: "TOTALS", source })?;
            *total = values.iter().sum();
        }
        self.labels.store(reading.denied.len() as u64, Ordering::Relaxed);
        reading.add(&self.carried.read()?);
        Ok(reading)
    }

    /// (name, entries in use, capacity) of every map that can fill up.
    #[must_use]
    pub fn usage(&self) -> Vec<(&'static str, u64, u64)> {
        let kept = Filled::ALL.into_iter().map(|map| (map.name(), self.filling.get(map)));
        kept.chain([("DENIED", self.labels.load(Ordering::Relaxed))])
            .filter_map(|(name, entries)| {
                let capacity = MapInfo::from_pin(self.pins.map(name)).ok()?.max_entries();
                Some((name, entries, u64::from(capacity)))
            })
            .collect()
    }
}

/// The maps whose entries the agent writes or cleans, and so can count without walking them at every scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Interfaces = 0,
    Destinations = 1,
    Subjects = 2,
    Rules = 3,
    Addresses = 4,
    FlowsOpening = 5,
    Flows = 6,
    Published = 7,
}

impl Filled {
    const ALL: [Self; 8] = [
        Self::Interfaces,
        Self::Destinations,
        Self::Subjects,
        Self::Rules,
        Self::Addresses,
        Self::FlowsOpening,
        Self::Flows,
        Self::Published,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Interfaces => "INTERFACES",
            Self::Destinations => "DESTINATIONS",
            Self::Subjects => "SUBJECTS",
            Self::Rules => "RULES",
            Self::Addresses => "ADDRESSES",
            Self::FlowsOpening => "FLOWS_OPENING",
            Self::Flows => "FLOWS",
            Self::Published => "PUBLISHED",
        }
    }
}

/// How many entries those maps have: after the last change, and for flows at the last clean-up.
#[derive(Debug, Default)]
pub struct Filling([AtomicU64; Filled::ALL.len()]);

impl Filling {
    pub(super) fn set(&self, map: Filled, entries: usize) {
        self.0[map as usize].store(entries as u64, Ordering::Relaxed);
    }

    fn get(&self, map: Filled) -> u64 {
        self.0[map as usize].load(Ordering::Relaxed)
    }
}
