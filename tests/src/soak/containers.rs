//! Containers of a real engine that send from their first instruction on, with the agent asleep for some of them:
//! nothing that they send to a protected port arrives, and what they may send does soon.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use frame_fuzz::rng::Rng;
use lab::docker_lab::netns_of;

use crate::daemon::Daemon;
use crate::engine_lab::{CLOSED_UDP, DB, EngineLab, OPEN_UDP};
use crate::soak::ear::Ear;
use crate::soak::pinned::Pinned;
use crate::soak::race::Measured;
use crate::soak::{Durations, Extent};

/// So many are started at once.
const TOGETHER: usize = 2;
/// What is allowed has to arrive within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each goes on sending at least.
const STAY: Duration = Duration::from_millis(200);

/// What was counted.
#[derive(Debug, Default)]
pub struct Figures {
    pub starts: usize,
    /// Of those, the ones that started while the agent slept.
    pub asleep: usize,
    /// Datagrams at the protected port.
    pub leaked: u64,
    /// Datagrams at the other one from those who have no rights.
    pub without_rights: u64,
    /// From the first instruction until the first allowed datagram arrived, with the agent awake.
    pub opened: Durations,
    /// The same, where the agent slept.
    pub opened_late: Durations,
    /// Those with rights that were never let.
    pub never: usize,
    pub measured: Measured,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} containers, {} with the agent asleep; {} datagrams arrived at the protected port, {} at the other one \
             from those without rights; the first allowed one arrived {} after the first instruction, where the agent \
             slept {}; {} never; {}",
            self.starts,
            self.asleep,
            self.leaked,
            self.without_rights,
            self.opened,
            self.opened_late,
            self.never,
            self.measured,
        )
    }
}

/// Starts containers, `api` and others in turns, and removes them.
pub fn run(name: &'static str, extent: Extent, flags: &[&str]) -> Result<Figures> {
    let lab = EngineLab::start()?;
    lab.stand_in("db", Some("db"), &format!("--network front --ip {DB}"), "5432")?;
    let place = netns_of(&lab.container("db")?);
    let ears = [
        Ear::open(&place, SocketAddr::from((DB, CLOSED_UDP)))?,
        Ear::open(&place, SocketAddr::from((DB, OPEN_UDP)))?,
    ];
    let mut figures = Figures::default();
    start(&lab, usize::MAX, 0)?;
    let control = ears[0].wait_for(0, PATIENCE);
    ensure!(control.is_some(), "without an agent nothing arrives at the protected port");
    end(&lab, usize::MAX, 0)?;

    let agent = lab.agent(flags)?;
    let mut random = Rng::new(extent.seed);
    for round in (Extent { times: usize::MAX, ..extent }).rounds(name) {
        if figures.starts >= extent.times {
            break;
        }
        let sleeps = random.percent(25);
        let numbers: Vec<usize> = (1..=TOGETHER).map(|index| round * TOGETHER + index).collect();
        begin(&lab, &agent, round, &numbers, sleeps)?;
        for &number in &numbers {
            let sender = number as u64;
            if is_entitled(number) {
                match ears[1].wait_for(sender, PATIENCE).and_then(|_| ears[1].note(sender)?.age) {
                    Some(age) if sleeps => figures.opened_late.push(age),
                    Some(age) => figures.opened.push(age),
                    None => figures.never += 1,
                }
            }
        }
        std::thread::sleep(STAY);
        for &number in &numbers {
            end(&lab, round, number)?;
            figures.leaked += ears[0].count(number as u64);
            if !is_entitled(number) {
                figures.without_rights += ears[1].count(number as u64);
            }
        }
        figures.starts += numbers.len();
        figures.asleep += if sleeps { numbers.len() } else { 0 };
    }
    figures.measured = Measured::from_samples(&agent.metrics()?);
    Ok(figures)
}

/// Starts all of them at once. If the agent is to sleep, it does from before the first until all of them send.
fn begin(lab: &EngineLab, agent: &Daemon, round: usize, numbers: &[usize], sleeps: bool) -> Result<()> {
    let before = Pinned::new(&lab.pins()).known()?.len();
    ensure!(before > 0, "nothing is known to the programs");
    if sleeps {
        agent.pause()?;
    }
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let started: Vec<_> =
            numbers.iter().map(|&number| scope.spawn(move || start(lab, round, number))).collect();
        started.into_iter().map(|one| one.join().ok().context("a thread panicked")?).collect()
    });
    if sleeps {
        let asleep = Instant::now();
        std::thread::sleep(STAY);
        agent.resume()?;
        ensure!(asleep.elapsed() < PATIENCE, "the agent slept too long");
    }
    results.into_iter().collect()
}

fn is_entitled(number: usize) -> bool {
    number % 2 == 1
}

fn start(lab: &EngineLab, round: usize, number: usize) -> Result<()> {
    let service = if is_entitled(number) { "api" } else { "web" };
    let targets = [CLOSED_UDP, OPEN_UDP].map(|port| SocketAddr::from((DB, port)));
    lab.sender(&container(round, number), Some(service), "--network front", number as u64, &targets)
}

fn end(lab: &EngineLab, round: usize, number: usize) -> Result<()> {
    lab.docker(&format!("rm --force {}", container(round, number))).map(drop)
}

fn container(round: usize, number: usize) -> String {
    format!("first-{}-{number}", round % 1_000_000)
}
