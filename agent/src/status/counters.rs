//! The counters of a status: straight from the kernel, so they live as long as its maps, not as the agent.

use std::collections::BTreeMap;

use agent_common::{
    counter::Total,
    verdict::{DropReason, Hook},
};
use serde::{Deserialize, Serialize};

use crate::telemetry::{
    labels::{OTHER, verdict},
    source::CounterReading,
};

/// What was forwarded and denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Packets by hook.
    pub forwarded: BTreeMap<String, u64>,
    /// Packets by hook.
    pub dropped: BTreeMap<String, u64>,
    pub denied: Vec<DeniedStatus>,
    pub events_lost: u64,
    pub events_suppressed: u64,
}

/// Denials of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedStatus {
    /// `other` for those that found no room for a counter of their own.
    pub reason: String,
    /// `dropped` or `observed`.
    pub verdict: String,
    pub attempts: u64,
    pub packets: u64,
}

/// How full a kernel map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    pub name: String,
    pub entries: u64,
    pub capacity: u64,
}

impl CounterStatus {
    pub(super) fn new(reading: &CounterReading) -> Self {
        let total = |index: Total| reading.totals[index as usize];
        let by_hook = |index: fn(Hook) -> Total| {
            Hook::ALL.into_iter().map(|hook| (hook.name().to_owned(), total(index(hook)))).collect()
        };
        Self {
            forwarded: by_hook(Total::forwarded),
            dropped: by_hook(Total::dropped),
            denied: denied(reading),
            events_lost: total(Total::EventsLost) + reading.lost_in_agent,
            events_suppressed: total(Total::EventsSuppressed) + reading.suppressed_in_agent,
        }
    }
}

impl MapStatus {
    pub(super) fn all(reading: &CounterReading) -> Vec<Self> {
        let maps = reading.maps.iter().map(|map| Self {
            name: map.name.to_owned(),
            entries: map.entries,
            capacity: map.capacity,
        });
        maps.collect()
    }
}

/// By reason, in order of precedence; only what occurred.
fn denied(reading: &CounterReading) -> Vec<DeniedStatus> {
    let mut sums: BTreeMap<(u8, bool), (u64, u64)> = BTreeMap::new();
    for (key, count) in &reading.denied {
        let (attempts, packets) = sums.entry((key.reason, key.observed != 0)).or_default();
        *attempts += count.attempts;
        *packets += count.packets;
    }
    let mut denied: Vec<DeniedStatus> = sums
        .into_iter()
        .map(|((reason, observed), (attempts, packets))| DeniedStatus {
            reason: DropReason::from_number(reason).map_or(OTHER, DropReason::name).to_owned(),
            verdict: verdict(observed).to_owned(),
            attempts,
            packets,
        })
        .collect();
    let unlabelled = reading.totals[Total::DeniedUnlabelled as usize];
    if unlabelled > 0 {
        denied.push(DeniedStatus {
            reason: OTHER.to_owned(),
            verdict: OTHER.to_owned(),
            attempts: unlabelled,
            packets: unlabelled,
        });
    }
    denied
}
