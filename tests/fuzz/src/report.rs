//! What came of a pass: by class, and every frame that came out otherwise than expected.

use std::collections::BTreeMap;
use std::fmt;

use crate::corpus::hexadecimal;
use crate::frame::Frame;
use crate::grammar::{Reach, known};
use crate::registry::Registry;
use crate::town::Points;

/// So many findings of one label are written out; all are counted.
const SHOWN: usize = 4;

/// Counts of one class or label.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub sent: u64,
    /// Seen at somebody's interface.
    pub interface: u64,
    /// Given to somebody's socket.
    pub socket: u64,
    pub answered: u64,
    /// Of the sent ones, those that nobody may get.
    pub denied: u64,
    /// Of the sent ones, those that have to arrive.
    pub allowed: u64,
}

/// What is wrong with where a frame turned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Somebody got it who may not.
    Leaked(Points),
    /// It did not arrive.
    Dropped,
    /// It arrived, and nothing came back.
    Unanswered,
}

/// A frame that came out otherwise than expected.
#[derive(Debug, Clone)]
pub struct Finding {
    pub frame: Frame,
    pub wrong: Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = &self.frame;
        match self.wrong {
            Wrong::Leaked(points) => write!(formatter, "leaked to {}", points.names())?,
            Wrong::Dropped => formatter.write_str("dropped")?,
            Wrong::Unanswered => formatter.write_str("not answered")?,
        }
        write!(formatter, " ({}, by {}): {}", frame.label, frame.way.name(), hexadecimal(&frame.bytes))
    }
}

/// All rounds of a pass.
#[derive(Debug, Default)]
pub struct Report {
    labels: BTreeMap<String, Counts>,
    pub findings: Vec<Finding>,
    /// Tags that were seen in a round that had not sent them.
    pub strangers: u64,
    /// Frames that end within their VLAN tag: the kernel drops them before any program.
    pub before_programs: u64,
}

impl Report {
    /// Adds a round, and gives the frames that Linux let through to somebody's socket, or had answered.
    pub fn add(&mut self, round: &Registry) -> Vec<usize> {
        let mut delivered = Vec::new();
        for (index, frame) in round.frames.iter().enumerate() {
            let counts = self.labels.entry(frame.label.to_string()).or_default();
            let (seen, given) = (round.seen(index), round.delivered(index));
            self.before_programs += u64::from(ends_in_tag(&frame.bytes));
            counts.sent += 1;
            counts.interface += u64::from(!seen.is_empty());
            counts.socket += u64::from(!given.is_empty());
            counts.answered += u64::from(round.answered(index));
            counts.denied += u64::from(frame.expected.verdict() == "denied");
            counts.allowed += u64::from(frame.expected.verdict() == "allowed");
            if !given.is_empty() || round.answered(index) {
                delivered.push(index);
            }
        }
        self.strangers += round.strangers();
        delivered
    }

    /// Compares a round with what was expected of it.
    pub fn judge(&mut self, round: &Registry) {
        for (index, frame) in round.frames.iter().enumerate() {
            if let Some(wrong) = wrong(round, index, frame) {
                self.findings.push(Finding { frame: frame.clone(), wrong });
            }
        }
    }

    /// Findings of one kind.
    #[must_use]
    pub fn count(&self, kind: fn(&Wrong) -> bool) -> usize {
        self.findings.iter().filter(|finding| kind(&finding.wrong)).count()
    }

    /// The first findings of each label, one a line.
    #[must_use]
    pub fn shown_findings(&self) -> String {
        let mut shown: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
        for finding in &self.findings {
            shown.entry(&finding.frame.label).or_default().push(finding);
        }
        let mut text = String::new();
        for (label, findings) in shown {
            text.push_str(&format!("{label}: {}\n", findings.len()));
            findings.iter().take(SHOWN).for_each(|finding| text.push_str(&format!("  {finding}\n")));
        }
        text
    }

    /// Counts by class.
    #[must_use]
    pub fn classes(&self) -> BTreeMap<&str, Counts> {
        let mut classes: BTreeMap<&str, Counts> = BTreeMap::new();
        for (label, counts) in &self.labels {
            let class = label.split(':').next().unwrap_or_default();
            add(classes.entry(class).or_default(), counts);
        }
        classes
    }

    /// The counts of everything.
    #[must_use]
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.labels.values().for_each(|counts| add(&mut total, counts));
        total
    }

    /// Labels of which no frame came as far as Linux is known to let them: the generator no longer makes what it says.
    #[must_use]
    pub fn harmless(&self) -> Vec<String> {
        let classes = self.classes();
        known()
            .filter_map(|(label, reach)| {
                let counts =
                    self.labels.get(*label).or_else(|| classes.get(label)).copied().unwrap_or_default();
                let came = match reach {
                    Reach::Interface => counts.interface,
                    Reach::Socket => counts.socket,
                    Reach::Answer => counts.answered,
                };
                (came == 0).then(|| format!("`{label}`: {reach:?} expected, {counts:?}"))
            })
            .collect()
    }
}

/// A tag of a kind that the kernel takes out of the frame, without room for the tag and a type behind it.
fn ends_in_tag(frame: &[u8]) -> bool {
    frame.len() < 20 && matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.sent += counts.sent;
    sum.interface += counts.interface;
    sum.socket += counts.socket;
    sum.answered += counts.answered;
    sum.denied += counts.denied;
    sum.allowed += counts.allowed;
}

fn wrong(round: &Registry, index: usize, frame: &Frame) -> Option<Wrong> {
    let anywhere = round.seen(index).and(round.delivered(index));
    let leaked = anywhere.without(frame.expected.may);
    if !leaked.is_empty() {
        return Some(Wrong::Leaked(leaked));
    }
    if !frame.expected.must.without(round.seen(index)).is_empty() {
        return Some(Wrong::Dropped);
    }
    (frame.expected.answered && !round.answered(index)).then_some(Wrong::Unanswered)
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<28} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}",
            "class", "sent", "denied", "allowed", "interface", "socket", "answered"
        )?;
        let total = self.total();
        for (class, counts) in self.classes().into_iter().chain([("total", total)]) {
            writeln!(
                formatter,
                "{class:<28} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9}",
                counts.sent, counts.denied, counts.allowed, counts.interface, counts.socket, counts.answered
            )?;
        }
        Ok(())
    }
}
