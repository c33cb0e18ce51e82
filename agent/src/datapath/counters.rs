//! Reads what the programs have counted. Opens the pins itself, so that a scrape never waits for a policy swap.

use std::collections::BTreeMap;

use agent_common::{
    counter::{DeniedCount, DeniedKey, TOTALS},
    flow::{FlowEntry, FlowKey},
};
use aya::maps::{Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuHashMap};

use super::{maps, pins::Pins};

/// What the kernel has counted at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub denied: BTreeMap<DeniedKey, DeniedCount>,
    /// By `agent_common::counter::Total`.
    pub totals: [u64; TOTALS as usize],
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
    pins: Pins,
}

impl Counters {
    /// Opens the pinned maps of a running or past agent.
    pub fn open(pins: &Pins) -> Result<Self, CounterError> {
        let open = |name: &'static str| {
            MapData::from_pin(pins.map(name)).map_err(|source| CounterError { name, source })
        };
        let denied = Map::PerCpuHashMap(open("DENIED")?);
        let totals = Map::PerCpuArray(open("TOTALS")?);
        Ok(Self {
            denied: denied.try_into().map_err(|source| CounterError { name: "DENIED", source })?,
            totals: totals.try_into().map_err(|source| CounterError { name: "TOTALS", source })?,
            pins: pins.clone(),
        })
    }

    /// Sums over all possible CPUs.
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
        Ok(reading)
    }

    /// (name, entries in use, capacity) of every map whose filling matters.
    pub fn usage(&self) -> Vec<(&'static str, u64, u64)> {
        [
            "INTERFACES",
            "DESTINATIONS",
            "SUBJECTS",
            "RULES",
            "ADDRESSES",
            "FLOWS_OPENING",
            "FLOWS",
            "DENIED",
            "ATTEMPTS",
        ]
        .into_iter()
        .filter(|name| maps::NAMES.contains(name))
        .filter_map(|name| {
            let capacity = MapInfo::from_pin(self.pins.map(name)).ok()?.max_entries();
            Some((name, count_keys(&self.pins, name).unwrap_or(0), u64::from(capacity)))
        })
        .collect()
    }
}

/// Counts the entries of a map by walking its keys, bounded by what it can hold.
fn count_keys(pins: &Pins, name: &'static str) -> Option<u64> {
    let data = MapData::from_pin(pins.map(name)).ok()?;
    match name {
        "FLOWS" => count::<FlowKey, FlowEntry>(Map::HashMap(data)),
        "FLOWS_OPENING" => count::<FlowKey, FlowEntry>(Map::LruHashMap(data)),
        _ => None,
    }
}

fn count<K: aya::Pod, V: aya::Pod>(map: Map) -> Option<u64> {
    let map: aya::maps::HashMap<MapData, K, V> = map.try_into().ok()?;
    Some(map.keys().filter(Result::is_ok).count() as u64)
}
