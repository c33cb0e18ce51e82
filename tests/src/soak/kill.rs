//! Agents that are killed at any moment, each followed by one of another build: nothing that is denied arrives, nothing
//! that is allowed breaks, and no counter falls.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_common::counter::DeniedKey;
use agent_common::verdict::DropReason;
use anyhow::{Context, Result, ensure};
use frame_fuzz::rng::Rng;
use lab::netns::within;
use lab::patience::patient;
use portcullis::datapath::counters::Reading;

use crate::daemon::Daemon;
use crate::flood::Flood;
use crate::small_lab::SmallLab;
use crate::soak::conversations::{Conversations, Outcome};
use crate::soak::pinned::Pinned;
use crate::soak::{Durations, Extent};
use crate::{agent_binary, attached, other_build};

/// Connections of each kind.
const CONVERSATIONS: usize = 4;
/// So often an agent lives until it is ready, and says itself what it has counted.
const COMPLETE_EVERY: usize = 9;

/// What was counted.
#[derive(Debug)]
pub struct Figures {
    pub kills: usize,
    /// Agents that were killed before they were ready.
    pub unready: usize,
    /// How long those took that were let to.
    pub starts: Durations,
    /// Datagrams that were sent and may not arrive.
    pub denied: u64,
    /// Those that arrived.
    pub leaked: u64,
    /// Connections that were tried and may not open.
    pub attempts: usize,
    /// Those that opened.
    pub opened: usize,
    pub conversations: Outcome,
    /// TCP packets that the programs refused for another reason than that of the attempts: those would be of what is
    /// allowed.
    pub refused: u64,
    /// Counters that fell.
    pub fallen: Vec<String>,
    /// How many datagrams of the flood the programs have counted as denied.
    pub counted: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { connections, broken, repeated, exchanges } = &self.conversations;
        write!(
            formatter,
            "{} kills, {} before the agent was ready (a start takes {}); {} of {} denied datagrams arrived, {} were \
             counted, {} of {} denied connections opened, {broken} of {connections} allowed connections broke in {} \
             exchanges with {} packets refused and {repeated} sent again ({exchanges}), {} counters fell",
            self.kills,
            self.unready,
            self.starts,
            self.leaked,
            self.denied,
            self.counted,
            self.opened,
            self.attempts,
            exchanges.len(),
            self.refused,
            self.fallen.len(),
        )
    }
}

/// Kills agents of two builds in turns. What is attached by `settings`, in `agent.yaml`'s words.
pub fn run(name: &'static str, extent: Extent, settings: &str) -> Result<Figures> {
    let lab = SmallLab::start()?;
    lab.settings(settings)?;
    let builds = builds(&lab)?;
    let mut random = Rng::new(extent.seed);
    let (first, mut starts) = complete(&lab, &builds[0])?;
    let tags = attached::tags(lab.host(), "p-db")?;
    ensure!(tags.len() == 2, "not two programs on a port: {tags:?}");
    first.kill()?;
    let pinned = Pinned::new(&lab.pins());
    let mut counters = pinned.counters()?;
    let (before, refused) = (count(&counters), refused(&counters));

    let conversations = Conversations::start(&lab, CONVERSATIONS)?;
    let attempts = Attempts::start(&lab)?;
    let arrived = lab.datagrams();
    let flood = Flood::start(&lab)?;
    let (mut kills, mut unready, mut fallen) = (0, 0, Vec::new());
    for round in extent.rounds(name) {
        let build = &builds[(round + 1) % 2];
        let agent = if round % COMPLETE_EVERY == 0 {
            let (agent, took) = complete(&lab, build)?;
            starts.extend(took);
            let now = attached::tags(lab.host(), "p-db")?;
            let is_other = now.iter().all(|tag| !tags.contains(tag));
            let is_first = now == tags;
            let expected = if round % 2 == 0 { is_other } else { is_first };
            ensure!(expected, "the programs were not exchanged: {tags:?}, {now:?}");
            agent
        } else {
            let agent = lab.spawn(&mut lab.command_of(build, &[]))?;
            // Some live a little longer than it takes to be ready.
            let most = starts.percentile(50).as_micros() as usize * 5 / 4;
            std::thread::sleep(Duration::from_micros(random.below(most) as u64));
            agent
        };
        unready += usize::from(agent.logged("\"ready\"") == 0);
        ensure!(!agent.kill()?.success(), "the agent ended by itself");
        kills += 1;
        let now = pinned.counters()?;
        fallen.extend(falls(&counters, &now));
        counters = now;
    }
    let denied = flood.stop();
    let (attempts, opened) = attempts.stop()?;
    let conversations = conversations.stop()?;
    // What has been sent last is on its way.
    std::thread::sleep(patient(Duration::from_millis(100)));
    let after = pinned.counters()?;
    Ok(Figures {
        kills,
        unready,
        starts,
        denied,
        leaked: lab.datagrams() - arrived,
        attempts,
        opened,
        conversations,
        refused: self::refused(&after) - refused,
        fallen,
        counted: count(&after) - before,
    })
}

/// The agent's binary, and another build of it.
fn builds(lab: &SmallLab) -> Result<[PathBuf; 2]> {
    let (agent, other) = (agent_binary()?, lab.path().join("portcullis"));
    let changed = other_build::write(&agent, &other)?;
    ensure!(changed >= 5, "the other build differs in {changed} programs only");
    Ok([agent, other])
}

/// An agent that has become ready, and how long that took.
fn complete(lab: &SmallLab, build: &Path) -> Result<(Daemon, Durations)> {
    let start = Instant::now();
    let mut agent = lab.spawn(&mut lab.command_of(build, &[]))?;
    agent.wait_until_ready()?;
    let mut took = Durations::default();
    took.push(start.elapsed());
    Ok((agent, took))
}

/// What the flood is counted under: datagrams that were refused.
fn count(reading: &Reading) -> u64 {
    reading.denied.iter().filter(|(key, _)| key.protocol == 17).map(|(_, count)| count.packets).sum()
}

/// TCP packets that were refused, but not because nobody may open such a connection.
fn refused(reading: &Reading) -> u64 {
    let is_other = |key: &DeniedKey| key.protocol == 6 && key.reason != DropReason::NoRule as u8;
    reading.denied.iter().filter(|(key, _)| is_other(key)).map(|(_, count)| count.packets).sum()
}

/// What was counted before and is now less.
fn falls(before: &Reading, now: &Reading) -> Vec<String> {
    let mut falls = Vec::new();
    for (key, old) in &before.denied {
        let new = now.denied.get(key);
        if new.is_none_or(|new| new.packets < old.packets || new.attempts < old.attempts) {
            falls.push(format!("{key:?} fell from {old:?} to {new:?}"));
        }
    }
    for (number, (old, new)) in before.totals.iter().zip(now.totals).enumerate() {
        if new < *old {
            falls.push(format!("total {number} fell from {old} to {new}"));
        }
    }
    falls
}

/// Connections from `web` to `db`, one after the other, none of which may open.
#[derive(Debug)]
struct Attempts {
    ended: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Attempts {
    fn start(lab: &SmallLab) -> Result<Self> {
        let target = SocketAddr::new(lab.address("db")?, 5432);
        let (place, ended) = (lab.place("web")?, Arc::<AtomicBool>::default());
        let (tried, opened) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let told = (Arc::clone(&ended), Arc::clone(&tried), Arc::clone(&opened));
        let thread = std::thread::spawn(move || {
            let (ended, tried, opened) = told;
            within(&place, move || {
                while !ended.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect_timeout(&target, Duration::from_millis(30));
                    tried.fetch_add(1, Ordering::Relaxed);
                    opened.fetch_add(usize::from(stream.is_ok()), Ordering::Relaxed);
                }
            })
        });
        Ok(Self { ended, tried, opened, thread: Some(thread) })
    }

    fn stop(mut self) -> Result<(usize, usize)> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("already ended")?;
        thread.join().ok().context("the attempts panicked")??;
        Ok((self.tried.load(Ordering::Relaxed), self.opened.load(Ordering::Relaxed)))
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
