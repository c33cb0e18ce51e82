//! The two passes: what Linux does with the frames when nothing stands in their way, and what is left of that with
//! the agent.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::agent::{Agent, Inventory};
use lab::observed::sum;

use crate::attacker::Attacker;
use crate::corpus::Corpus;
use crate::frame::Frame;
use crate::grammar::{Grammar, productions};
use crate::lab::{Counters, Lab};
use crate::maker::Maker;
use crate::report::{Report, Wrong};
use crate::traffic::{Exchanged, Traffic};

/// How many frames a round has.
const ROUND: usize = 8192;
/// The profile of a policy that has none.
const PROFILE: &str = "production";

/// How much to send.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    Frames(u64),
    Time(Duration),
}

impl Extent {
    fn reached(self, sent: u64, start: Instant) -> bool {
        match self {
            Self::Frames(frames) => sent >= frames,
            Self::Time(time) => start.elapsed() >= time,
        }
    }
}

/// The frames of a seed, a round at a time; the corpus comes first.
#[derive(Debug)]
struct Source {
    attacker: Attacker,
    maker: Maker,
    grammar: Grammar,
    waiting: Vec<Frame>,
}

impl Source {
    fn new(attacker: Attacker, seed: u64, corpus: &[Frame]) -> Self {
        Self { attacker, maker: Maker::new(seed), grammar: Grammar::all(), waiting: corpus.to_vec() }
    }

    /// The last of them has to arrive, whoever sends it, see [`Lab::round`].
    fn round(&mut self) -> Vec<Frame> {
        let mut frames = std::mem::take(&mut self.waiting);
        while frames.len() + 1 < ROUND {
            let production = self.grammar.choose(&mut self.maker.rng);
            frames.extend(self.maker.run(production));
        }
        if let Some(production) = productions().find(|production| production.name == "allowed arp") {
            frames.extend(self.maker.run(production));
        }
        for frame in &mut frames {
            frame.expected = self.attacker.expected(frame);
        }
        frames
    }
}

/// Without an agent: what of the grammar Linux delivers. New kinds of that go into the corpus.
pub fn survey(seed: u64, extent: Extent, corpus: &mut Corpus, kept: &[Frame]) -> Result<Report> {
    let mut lab = Lab::start(Attacker::Covered)?;
    // Other frames than those of the pass with the agent, so that what is kept of them is new there.
    let mut source = Source::new(Attacker::Covered, !seed, kept);
    let mut report = Report::default();
    let start = Instant::now();
    while !extent.reached(report.total().sent, start) {
        let round = lab.round(source.round())?;
        for index in report.add(&round) {
            corpus.keep(&round.frames[index])?;
        }
    }
    Ok(report)
}

/// What came of a pass with the agent.
#[derive(Debug)]
pub struct Enforced {
    pub report: Report,
    pub exchanged: Exchanged,
    /// Neighbour entries that came to hold the wrong MAC.
    pub deceived: Vec<String>,
    pub reconciled: Reconciled,
    /// Frames that were sent again because a queue of the lab had been full.
    pub repeated: u64,
}

/// What went into the hooks, by the kernel's counters of the ports and by the agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconciled {
    pub sent_by_containers: u64,
    /// Of those, what no program got to see.
    pub before_programs: u64,
    pub forwarded_from: u64,
    pub dropped_from: u64,
    pub handed_to_containers: u64,
    pub forwarded_to: u64,
    pub dropped_to: u64,
}

impl Reconciled {
    /// Whether both have counted the same. What was dropped on the way to a container, no other counter knows.
    #[must_use]
    pub const fn agrees(&self) -> bool {
        self.sent_by_containers == self.before_programs + self.forwarded_from + self.dropped_from
            && self.handed_to_containers == self.forwarded_to
    }
}

impl fmt::Display for Reconciled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} sent by containers = {} cut off before any program + {} forwarded + {} dropped; {} handed to \
             containers = {} forwarded (and {} dropped)",
            self.sent_by_containers,
            self.before_programs,
            self.forwarded_from,
            self.dropped_from,
            self.handed_to_containers,
            self.forwarded_to,
            self.dropped_to
        )
    }
}

/// With the agent: nothing denied gets anywhere, everything allowed does.
pub fn enforce(
    binary: &Path,
    attacker: Attacker,
    seed: u64,
    extent: Extent,
    corpus: &Corpus,
    kept: &[Frame],
    progress: &mut dyn FnMut(&Report),
) -> Result<Enforced> {
    let mut lab = Lab::start(attacker)?;
    let inventory = Inventory::File(lab.inventory());
    // Not one segment without a connection passes, also not shortly after the first start.
    let settings = lab.scratch().path().join("settings.yaml");
    std::fs::write(&settings, "adopt: 0\n")?;
    let settings = settings.display().to_string();
    let more = ["--config", settings.as_str()];
    let agent =
        Agent::start_with(binary, lab.host(), lab.scratch(), &lab.policy(), &inventory, PROFILE, &more)?;
    let before = quiet(&lab, &agent)?;
    let traffic = Traffic::start(&lab, attacker)?;
    let mut source = Source::new(attacker, seed, kept);
    let mut report = Report::default();
    let (mut repeated, mut deceived) = (0, Vec::new());
    let start = Instant::now();
    while !extent.reached(report.total().sent, start) {
        let lost = lab.counters()?.lost;
        let round = lab.round(source.round())?;
        report.add(&round);
        let already = report.findings.len();
        report.judge(&round);
        // A full queue of the lab drops without asking anybody: those frames get another chance, alone.
        if lab.counters()?.lost > lost {
            let missing = take_missing(&mut report, already);
            repeated += missing.len() as u64;
            for frame in missing {
                let again = lab.round(vec![frame])?;
                report.judge(&again);
            }
        }
        for finding in &report.findings[already..] {
            corpus.keep_finding(&finding.frame)?;
        }
        deceived.extend(lab.deceived()?);
        progress(&report);
    }
    let exchanged = traffic.stop()?;
    let reconciled = difference(before, quiet(&lab, &agent)?, report.before_programs);
    Ok(Enforced { report, exchanged, deceived, reconciled, repeated })
}

/// Takes back what was said of frames that did not arrive.
fn take_missing(report: &mut Report, from: usize) -> Vec<Frame> {
    let (missing, rest): (Vec<_>, Vec<_>) =
        report.findings.drain(from..).partition(|finding| !matches!(finding.wrong, Wrong::Leaked(_)));
    report.findings.extend(rest);
    missing.into_iter().map(|finding| finding.frame).collect()
}

type Reading = (Counters, [u64; 4]);

/// Both kinds of counters, read while nothing moved.
fn quiet(lab: &Lab, agent: &Agent) -> Result<Reading> {
    for _ in 0..50 {
        let before = lab.counters()?;
        let samples = agent.metrics()?;
        let said = |name: &str, hook: &str| sum(&samples, name, &[("hook", hook)]) as u64;
        let numbers = [
            said("portcullis_forwarded_packets_total", "from_endpoint"),
            said("portcullis_dropped_packets_total", "from_endpoint"),
            said("portcullis_forwarded_packets_total", "to_endpoint"),
            said("portcullis_dropped_packets_total", "to_endpoint"),
        ];
        if lab.counters()? == before {
            return Ok((before, numbers));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the lab never comes to rest")
}

fn difference(before: Reading, after: Reading, before_programs: u64) -> Reconciled {
    let [forwarded_from, dropped_from, forwarded_to, dropped_to] =
        [0, 1, 2, 3].map(|at| after.1[at] - before.1[at]);
    Reconciled {
        sent_by_containers: after.0.from_endpoints - before.0.from_endpoints,
        before_programs,
        forwarded_from,
        dropped_from,
        handed_to_containers: after.0.to_endpoints - before.0.to_endpoints,
        forwarded_to,
        dropped_to,
    }
}

impl Enforced {
    /// Fails with all that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if !self.report.findings.is_empty() {
            wrong.push(format!(
                "{} frames came out otherwise than expected:\n{}",
                self.report.findings.len(),
                self.report.shown_findings()
            ));
        }
        if self.report.strangers > 0 {
            wrong.push(format!("{} frames came too late to be told apart", self.report.strangers));
        }
        if !self.exchanged.failures.is_empty() {
            wrong.push(format!(
                "{} allowed exchanges failed:\n{}",
                self.exchanged.failures.len(),
                self.exchanged.failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
            ));
        }
        if !self.deceived.is_empty() {
            wrong.push(format!(
                "{} neighbours are taken for others:\n{}",
                self.deceived.len(),
                self.deceived.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
            ));
        }
        if !self.reconciled.agrees() {
            wrong.push(format!("the counters do not agree: {}", self.reconciled));
        }
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
    }

    /// One line for a log.
    #[must_use]
    pub fn summary(&self) -> String {
        let total = self.report.total();
        let leaks = self.report.count(|wrong| matches!(wrong, Wrong::Leaked(_)));
        format!(
            "{} frames, {} of them denied: {leaks} leaked; {} allowed: {} dropped or unanswered; {} connections, {} \
             datagrams and {} exchanges of an open connection: {} failed; {} sent again",
            total.sent,
            total.denied,
            total.allowed,
            self.report.findings.len() - leaks,
            self.exchanged.connections,
            self.exchanged.datagrams,
            self.exchanged.kept_open,
            self.exchanged.failures.len(),
            self.repeated
        )
    }
}

/// A seed that nobody has chosen.
pub fn fresh_seed() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("before 1970")?;
    Ok(now.as_nanos() as u64)
}
