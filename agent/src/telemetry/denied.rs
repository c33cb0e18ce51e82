//! The series of denials: grow with the kernel's counters, never shrink, never vanish, and are bounded in number.

use std::collections::{BTreeMap, HashMap};

use agent_common::counter::{DeniedCount, DeniedKey};

use super::labels::DeniedLabels;
use crate::state::AgentState;

/// How many series of denials there may be (times two: attempts and packets). Beyond it, what is new is counted
/// under the label `other`.
pub(super) const MAX_SERIES: usize = 10_000;
/// Of these, how many may be there at zero before anything was denied.
pub(super) const MAX_ZERO_SERIES: usize = MAX_SERIES / 2;
/// Of these, how many are left to series that fold others.
const FOLDED_SERIES: usize = 500;

/// Every series of denials since the agent started.
#[derive(Debug, Default)]
pub(super) struct DeniedSeries {
    series: BTreeMap<DeniedLabels, DeniedCount>,
    /// What each counter stood at when it was last read.
    last: HashMap<DeniedKey, DeniedCount>,
    unlabelled: Total,
}

/// A counter of the kernel that may start over, when its map is made anew, as one that does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    last: u64,
    sum: u64,
}

impl Total {
    /// Takes a reading and returns the sum.
    pub(super) fn update(&mut self, reading: u64) -> u64 {
        self.sum += increase(self.last, reading);
        self.last = reading;
        self.sum
    }
}

/// How much a counter grew; one that shrank has started over.
fn increase(last: u64, now: u64) -> u64 {
    now.checked_sub(last).unwrap_or(now)
}

impl DeniedSeries {
    /// Makes series exist at zero, as long as there is room for them.
    pub(super) fn prepare(&mut self, labels: impl IntoIterator<Item = DeniedLabels>) {
        for labels in labels {
            if self.series.len() >= MAX_ZERO_SERIES {
                break;
            }
            self.series.entry(labels).or_default();
        }
    }

    /// Adds what was counted since the last reading, under the names that hold now. Counts never move from one
    /// series to another, so a name that changes or becomes known later makes no series shrink.
    pub(super) fn update(
        &mut self,
        denied: &[(DeniedKey, DeniedCount)],
        unlabelled: u64,
        state: &AgentState,
    ) {
        for (key, count) in denied {
            let last = self.last.insert(*key, *count).unwrap_or_default();
            let packets = increase(last.packets, count.packets);
            let attempts = increase(last.attempts, count.attempts);
            let total = self.place(DeniedLabels::new(key, state));
            total.packets += packets;
            total.attempts += attempts;
        }
        // Whether such a packet was an attempt is not known; attempts may be too high, never too low.
        let lost = self.unlabelled.update(unlabelled);
        self.series.insert(DeniedLabels::unlabelled(), DeniedCount { packets: lost, attempts: lost });
        // A counter that is missing from one reading may be back in the next, so it is not forgotten at once; those
        // of services that are long gone are, before they fill the memory.
        if self.last.len() > 4 * MAX_SERIES {
            self.last = denied.iter().copied().collect();
        }
    }

    fn place(&mut self, labels: DeniedLabels) -> &mut DeniedCount {
        let labels = if self.series.contains_key(&labels) || self.series.len() < MAX_SERIES - FOLDED_SERIES {
            labels
        } else {
            let folded = labels.folded();
            if self.series.contains_key(&folded) || self.series.len() < MAX_SERIES - 1 {
                folded
            } else {
                // The last resort, apart from what the kernel could not label: that one is set, not added to.
                DeniedLabels { reason: labels.reason, ..DeniedLabels::unlabelled() }
            }
        };
        self.series.entry(labels).or_default()
    }

    /// Every series.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeniedLabels, &DeniedCount)> {
        self.series.iter()
    }
}
