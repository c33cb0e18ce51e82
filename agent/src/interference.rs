//! What somebody did to what enforces, and what was done about it, as plain values. Pure: time is an argument.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// For how many seconds a fault stays visible after it was repaired: longer than it takes to be scraped.
pub const VISIBLE: u64 = 60;
/// How many incidents are remembered.
const REMEMBERED: usize = 16;

/// The ways in which enforcement can be interfered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A program is not on its hook any more.
    Gone,
    /// Another program runs before it, and may let packets through that it would drop.
    Shadowed,
    /// Another program is in its place.
    Exchanged,
    /// What would outlive the agent is not pinned any more.
    PinMissing,
    /// The nftables table of `--backstop nft` was changed or removed.
    Backstop,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 5] =
        [Self::Gone, Self::Shadowed, Self::Exchanged, Self::PinMissing, Self::Backstop];

    /// The word used in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Shadowed => "shadowed",
            Self::Exchanged => "exchanged",
            Self::PinMissing => "pin_missing",
            Self::Backstop => "backstop",
        }
    }
}

/// A fault, where it is and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Empty for what belongs to no interface.
    pub interface: String,
    /// The program's name, the map's, or `backstop`.
    pub hook: String,
    pub fault: Fault,
    /// What was found, for people.
    pub found: String,
    /// What was done, for people.
    pub done: String,
    pub repaired: bool,
}

/// A finding and when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Seconds since 1970.
    pub time: u64,
    #[serde(flatten)]
    pub finding: Finding,
}

/// What there is to say of one kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultState {
    /// It is there, or was there less than [`VISIBLE`] seconds ago.
    pub active: bool,
    pub repairs: u64,
}

/// Whether what enforces is as the agent made it, for everybody who reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interference {
    faults: [FaultState; Fault::ALL.len()],
    /// The last ones, oldest first.
    pub incidents: Vec<Incident>,
}

impl Interference {
    /// Whether nobody interferes, or has just done so.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.faults.iter().all(|fault| !fault.active)
    }

    #[must_use]
    pub fn fault(&self, fault: Fault) -> FaultState {
        self.faults[fault as usize]
    }
}

/// Remembers findings for as long as they matter.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// When each kind was last there, in seconds.
    seen: [Option<u64>; Fault::ALL.len()],
    repairs: [u64; Fault::ALL.len()],
    /// What could not be repaired when it was last looked for.
    lasting: Vec<Finding>,
    incidents: VecDeque<Incident>,
}

impl Ledger {
    /// Takes in what one look came to, `now` in seconds of any steady clock, `time` in seconds since 1970. Returns
    /// what is new: what lasts is told once.
    pub fn take(&mut self, findings: Vec<Finding>, now: u64, time: u64) -> Vec<Incident> {
        for finding in &findings {
            self.seen[finding.fault as usize] = Some(now);
            self.repairs[finding.fault as usize] += u64::from(finding.repaired);
        }
        let (repaired, lasting): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| finding.repaired);
        let begun = lasting.iter().filter(|finding| !self.lasting.contains(finding)).cloned();
        let new: Vec<Incident> =
            repaired.into_iter().chain(begun).map(|finding| Incident { time, finding }).collect();
        self.lasting = lasting;
        self.incidents.extend(new.iter().cloned());
        self.incidents.drain(..self.incidents.len().saturating_sub(REMEMBERED));
        new
    }

    /// What there is to say now.
    #[must_use]
    pub fn report(&self, now: u64) -> Interference {
        Interference {
            faults: std::array::from_fn(|index| FaultState {
                active: self.seen[index].is_some_and(|seen| now.saturating_sub(seen) < VISIBLE),
                repairs: self.repairs[index],
            }),
            incidents: self.incidents.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(fault: Fault, repaired: bool) -> Finding {
        Finding {
            interface: "veth1".to_owned(),
            hook: "to_endpoint".to_owned(),
            fault,
            found: "nothing".to_owned(),
            done: "something".to_owned(),
            repaired,
        }
    }

    #[test]
    fn a_repaired_fault_stays_visible_for_a_while() {
        let mut ledger = Ledger::default();
        assert!(ledger.report(1_000).is_intact());
        assert_eq!(ledger.take(vec![finding(Fault::Gone, true)], 1_000, 5).len(), 1);
        assert_eq!(
            ledger.report(1_000 + VISIBLE - 1).fault(Fault::Gone),
            FaultState { active: true, repairs: 1 }
        );
        let later = ledger.report(1_000 + VISIBLE);
        assert_eq!(later.fault(Fault::Gone), FaultState { active: false, repairs: 1 });
        assert!(later.is_intact());
        assert_eq!(later.incidents.len(), 1);
    }

    #[test]
    fn what_lasts_is_told_once_and_stays_visible() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take(vec![finding(Fault::Shadowed, false)], 0, 0).len(), 1);
        for second in 1..200 {
            assert_eq!(ledger.take(vec![finding(Fault::Shadowed, false)], second, second), []);
            assert!(!ledger.report(second).is_intact());
        }
        assert_eq!(ledger.take(Vec::new(), 200, 200), []);
        assert!(ledger.report(199 + VISIBLE).is_intact());
        // When it comes back it is another one.
        assert_eq!(ledger.take(vec![finding(Fault::Shadowed, false)], 300, 300).len(), 1);
        assert_eq!(ledger.report(300).fault(Fault::Shadowed).repairs, 0);
    }

    #[test]
    fn incidents_are_bounded() {
        let mut ledger = Ledger::default();
        for second in 0..100 {
            ledger.take(vec![finding(Fault::PinMissing, true)], second, second);
        }
        let report = ledger.report(100);
        assert_eq!(report.incidents.len(), REMEMBERED);
        assert_eq!(report.incidents.last().map(|incident| incident.time), Some(99));
        assert_eq!(report.fault(Fault::PinMissing).repairs, 100);
    }

    #[test]
    fn faults_are_indexed_by_their_place() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
    }
}
