//! Long trials of what must hold at every moment: short in the tests, as long as somebody likes by `cargo xtask soak`.
//! Each comes back with what it counted; whoever called it says what may not have happened.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::interrupt;

pub mod bridges;
pub mod churn;
pub mod containers;
pub mod conversations;
pub mod ear;
pub mod kill;
pub mod newcomers;
pub mod pinned;
pub mod race;
pub mod swap;

/// So often a line says how far a trial is.
const PROGRESS: Duration = Duration::from_secs(10);

/// How long a trial goes on, and with which random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub times: usize,
    /// The end, if that comes first.
    pub limit: Option<Duration>,
    pub seed: u64,
    /// Whether somebody asked for more than the tests' share. Then time limits count that a busy machine may miss.
    pub is_long: bool,
}

impl Extent {
    /// The tests' share, unless the environment asks for another: `PORTCULLIS_SOAK_TIMES`, `PORTCULLIS_SOAK_MINUTES`,
    /// `PORTCULLIS_SOAK_SEED`.
    pub fn or(times: usize) -> Result<Self> {
        let asked = variable("TIMES")?;
        let minutes = variable("MINUTES")?;
        let seed = match variable("SEED")? {
            Some(seed) => seed,
            None => frame_fuzz::run::fresh_seed()?,
        };
        let times = match (asked, minutes) {
            (Some(asked), _) => usize::try_from(asked)?,
            (None, Some(_)) => usize::MAX,
            (None, None) => times,
        };
        let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
        Ok(Self { times, limit, seed, is_long: asked.is_some() || minutes.is_some() })
    }

    /// Goes through the rounds of a trial by name, and says how far it is.
    pub fn rounds(self, name: &'static str) -> Rounds {
        eprintln!("{name}: seed {}", self.seed);
        Rounds { extent: self, name, next: 0, start: Instant::now(), told: Instant::now() }
    }
}

fn variable(name: &str) -> Result<Option<u64>> {
    let name = format!("PORTCULLIS_SOAK_{name}");
    let Some(value) = std::env::var_os(&name) else { return Ok(None) };
    let value = value.to_str().and_then(|value| value.parse().ok());
    Ok(Some(value.with_context(|| format!("`{name}` is not a number"))?))
}

/// The rounds of a trial, by number; they end with its extent, or when somebody interrupts.
#[derive(Debug)]
pub struct Rounds {
    extent: Extent,
    name: &'static str,
    next: usize,
    start: Instant,
    told: Instant,
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let over = self.extent.limit.is_some_and(|limit| self.start.elapsed() > limit);
        if self.next == self.extent.times || over || interrupt::arrived() {
            return None;
        }
        if self.told.elapsed() > PROGRESS {
            self.told = Instant::now();
            let seconds = self.start.elapsed().as_secs();
            match self.extent.times {
                usize::MAX => eprintln!("{}: {} rounds, {seconds} s", self.name, self.next),
                times => eprintln!("{}: {} of {times} rounds, {seconds} s", self.name, self.next),
            }
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// Durations, and what most of them stay below.
#[derive(Clone, Debug, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// Adds one.
    pub fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What so many of a hundred stay below or are; nothing, if there are none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Durations {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, most, all] = [50, 99, 100].map(|percent| self.percentile(percent).as_secs_f64() * 1e3);
        write!(formatter, "median {median:.1} ms, p99 {most:.1} ms, longest {all:.1} ms")
    }
}
