//! Whoever comes to the bridge and sends before anybody knows it: nothing that it sends to a protected port arrives, and
//! what it is allowed to send does soon. The agent sometimes sleeps while they come. Those with an even number are of
//! `api`, the others are unknown.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use frame_fuzz::rng::Rng;
use lab::interrupt::wait_for;

use crate::daemon::Daemon;
use crate::small_lab::{CLOSED_UDP, SmallLab};
use crate::soak::ear::Ear;
use crate::soak::newcomers::{HEARD, Newcomer, OPEN_UDP, POLICY, Sender, introduce, join, now};
use crate::soak::pinned::Pinned;
use crate::soak::{Durations, Extent};

/// So many come at once, at most.
const TOGETHER: usize = 8;
/// How many come: mostly one, as an engine starts containers.
const CROWDS: [usize; 5] = [1, 1, 1, 2, TOGETHER];
/// The inventory names those of so many rounds beforehand.
const LISTED: usize = 50;
/// What is allowed has to arrive within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long each goes on sending at least.
const STAY: Duration = Duration::from_millis(40);
/// First bytes of what newcomers hear: from each other, and from members that are there already, covered and not.
const FROM_NEWCOMER: u8 = 1;
const FROM_COVERED: u8 = 2;
const FROM_UNMANAGED: u8 = 3;

/// What was counted.
#[derive(Debug, Default)]
pub struct Figures {
    pub starts: usize,
    /// Of those, the ones that came while the agent slept.
    pub asleep: usize,
    pub sent: u64,
    /// Datagrams at the protected port.
    pub leaked: u64,
    /// Datagrams between two that came together.
    pub between: usize,
    /// Datagrams to them from `web`, which was there already.
    pub from_covered: usize,
    /// Datagrams to them from a container that no policy covers, and was there already.
    pub from_unmanaged: usize,
    /// Of all these, those while the agent slept.
    pub while_asleep: usize,
    /// From the command that makes ports of several that come at once until the last datagram that one of them gets from
    /// another: what they are before anybody guards them. With the agent awake.
    pub open: Durations,
    /// From the same command until the programs know it.
    pub alone: Durations,
    /// The same where several come at once.
    pub crowded: Durations,
    /// The same, for all, until the first allowed datagram arrived.
    pub opened: Durations,
    /// Those that were never let.
    pub never: usize,
    /// The agent's own measure: how many, and how many of a hundred within 20 and 200 ms.
    pub measured: Measured,
}

/// What `portcullis_enforce_delay_seconds` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub count: f64,
    pub within_20_ms: f64,
    pub within_200_ms: f64,
}

impl Measured {
    /// Reads it from a scrape.
    #[must_use]
    pub fn from_samples(samples: &[lab::observed::Sample]) -> Self {
        let bucket = |bound: &str| {
            let labels = [("le", bound)];
            lab::observed::sum(samples, "portcullis_enforce_delay_seconds_bucket", &labels)
        };
        let count = lab::observed::sum(samples, "portcullis_enforce_delay_seconds_count", &[]);
        let share = |bound| 100.0 * bucket(bound) / count.max(1.0);
        Self { count, within_20_ms: share("0.02"), within_200_ms: share("0.2") }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, within_20_ms, within_200_ms } = self;
        write!(
            formatter,
            "portcullis_enforce_delay_seconds: {count} measured, {within_20_ms:.1} % within 20 ms, {within_200_ms:.1} \
             % within 200 ms"
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} starts, {} with the agent asleep; {} datagrams sent, {} arrived at the protected port; {} between two \
             newcomers, {} from a covered member, {} from an unmanaged one, {} of these while the agent slept; the last \
             between two of a crowd was sent after {}; the programs knew one that came alone after {}, those of a crowd \
             after {}; the first allowed datagram arrived after {}, {} never; {}",
            self.starts,
            self.asleep,
            self.sent,
            self.leaked,
            self.between,
            self.from_covered,
            self.from_unmanaged,
            self.while_asleep,
            self.open,
            self.alone,
            self.crowded,
            self.opened,
            self.never,
            self.measured,
        )
    }
}

/// Lets newcomers come until there were as many as asked for.
pub fn run(name: &'static str, extent: Extent, flags: &[&str]) -> Result<Figures> {
    let lab = SmallLab::start()?;
    lab.write_policy(POLICY)?;
    let mut race = Race {
        pinned: Pinned::new(&lab.pins()),
        open: Ear::open(&lab.place("db")?, SocketAddr::new(lab.address("db")?, OPEN_UDP))?,
        lab,
        random: Rng::new(extent.seed),
        figures: Figures::default(),
    };
    race.without_an_agent()?;
    let agent = race.lab.run(flags)?;
    for round in (Extent { times: usize::MAX, ..extent }).rounds(name) {
        if race.figures.starts >= extent.times {
            break;
        }
        if round % LISTED == 0 {
            race.list(&agent, round)?;
        }
        race.round(&agent, round)?;
    }
    for line in agent.log().lines().filter(|line| !line.contains("INFO")) {
        eprintln!("{line}");
    }
    race.figures.measured = Measured::from_samples(&agent.metrics()?);
    Ok(race.figures)
}

struct Race {
    open: Ear,
    pinned: Pinned,
    lab: SmallLab,
    random: Rng,
    figures: Figures,
}

impl Race {
    /// Without an agent everything arrives: else none of this would show anything.
    fn without_an_agent(&mut self) -> Result<()> {
        let newcomers = self.prepare(usize::MAX, TOGETHER)?;
        let senders = [self.start(&newcomers)?, self.greet(&newcomers)?];
        join(&self.lab, "lab0", &newcomers)?;
        std::thread::sleep(STAY);
        drop(senders);
        ensure!(self.lab.datagrams() > 0, "without an agent nothing arrives at the protected port");
        let heard: Vec<u8> = newcomers.iter().flat_map(Newcomer::heard).map(|(sender, _)| sender).collect();
        for sender in [FROM_NEWCOMER, FROM_COVERED, FROM_UNMANAGED] {
            ensure!(heard.contains(&sender), "they do not hear those of kind {sender}");
        }
        newcomers.into_iter().try_for_each(|one| one.leave(&self.lab))
    }

    /// Tells the agent of those that are to come, as an engine does that is starting them.
    fn list(&self, agent: &Daemon, first: usize) -> Result<()> {
        const READ: &str = "inventory read";
        let mut text = self.lab.inventory_text();
        for round in first..first + LISTED {
            for index in (0..TOGETHER).step_by(2) {
                let (port, address) = (port(round, index), address(index));
                text.push_str(&format!(
                    "  - {{ port: {port}, project: shop, service: api, container: {port}, addresses: [{address}] }}\n"
                ));
            }
        }
        let before = agent.logged(READ);
        std::fs::write(self.lab.inventory(), text)?;
        wait_for(READ, PATIENCE, || Ok((agent.logged(READ) > before).then_some(())))
    }

    fn round(&mut self, agent: &Daemon, round: usize) -> Result<()> {
        let leaked = self.lab.datagrams();
        let crowd = self.random.pick(&CROWDS);
        let newcomers = self.prepare(round, crowd)?;
        let senders = self.start(&newcomers)?;
        let members = self.greet(&newcomers)?;
        let sleeps = self.random.percent(30);
        if sleeps {
            agent.pause()?;
        }
        let (start, begun) = (Instant::now(), now());
        join(&self.lab, "lab0", &newcomers)?;
        if sleeps {
            std::thread::sleep(Duration::from_millis(self.random.below(300) as u64));
            self.figures.asleep += newcomers.len();
            self.figures.while_asleep += self.listen(&newcomers, None);
            agent.resume()?;
        }
        let known = self.wait_until_known(&newcomers, start)?;
        if !sleeps {
            let figures = &mut self.figures;
            if newcomers.len() == 1 { &mut figures.alone } else { &mut figures.crowded }.extend(known);
        }
        for index in (0..newcomers.len()).step_by(2) {
            match self.open.wait_for(number(round, index), PATIENCE) {
                Some(arrived) if !sleeps => self.figures.opened.push(arrived - start),
                Some(_) => {}
                None => self.figures.never += 1,
            }
        }
        std::thread::sleep(STAY.saturating_sub(start.elapsed()));
        self.figures.sent += senders.into_iter().map(Sender::stop).sum::<u64>();
        drop(members);
        self.listen(&newcomers, (!sleeps).then_some(begun));
        self.figures.starts += newcomers.len();
        self.figures.leaked += self.lab.datagrams() - leaked;
        newcomers.into_iter().try_for_each(|one| one.leave(&self.lab))
    }

    fn wait_until_known(&self, newcomers: &[Newcomer], start: Instant) -> Result<Durations> {
        let mut waiting: Vec<u32> = newcomers.iter().step_by(2).map(|one| one.ifindex).collect();
        let mut known = Durations::default();
        while !waiting.is_empty() && start.elapsed() < PATIENCE {
            let before = waiting.len();
            let now = self.pinned.known()?;
            waiting.retain(|ifindex| !now.contains(ifindex));
            (waiting.len()..before).for_each(|_| known.push(start.elapsed()));
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(known)
    }

    /// Counts what newcomers have heard, in all. `begun`: since when, if the agent was awake all the time.
    fn listen(&mut self, newcomers: &[Newcomer], begun: Option<Duration>) -> usize {
        let figures = &mut self.figures;
        let mut all = 0;
        for newcomer in newcomers {
            let heard = newcomer.heard();
            let from = |sender| heard.iter().filter(move |(first, _)| *first == sender);
            figures.between += from(FROM_NEWCOMER).count();
            figures.from_covered += from(FROM_COVERED).count();
            figures.from_unmanaged += from(FROM_UNMANAGED).count();
            all += heard.len();
            if let Some(begun) = begun
                && newcomers.len() > 1
            {
                let last = from(FROM_NEWCOMER).map(|(_, sent)| *sent).max().unwrap_or_default();
                figures.open.push(last.saturating_sub(begun));
            }
        }
        all
    }

    fn prepare(&self, round: usize, crowd: usize) -> Result<Vec<Newcomer>> {
        let newcomers: Vec<Newcomer> = (0..crowd)
            .map(|index| Newcomer::prepare(&self.lab, &port(round, index), address(index), index as u16))
            .collect::<Result<_>>()?;
        let known: Vec<(IpAddr, &str)> =
            newcomers.iter().map(|one| (one.address.into(), one.mac.as_str())).collect();
        let db = (self.lab.address("db")?, self.lab.mac("db")?);
        for newcomer in &newcomers {
            newcomer.introduce(&[known.as_slice(), &[(db.0, &db.1)]].concat())?;
        }
        for member in ["web", "stray"] {
            introduce(self.lab.netns(member)?, &known)?;
        }
        Ok(newcomers)
    }

    /// Everybody sends to both ports of `db`, and to the next one.
    fn start(&self, newcomers: &[Newcomer]) -> Result<Vec<Sender>> {
        let db = self.lab.address("db")?;
        let round = newcomers.first().context("nobody")?.port.clone();
        let round = round.split('-').nth(1).and_then(|round| round.parse().ok()).context("no round")?;
        newcomers
            .iter()
            .enumerate()
            .map(|(index, newcomer)| {
                let next = newcomers[(index + 1) % newcomers.len()].address;
                let number = number(round, index).to_be_bytes().to_vec();
                let mut datagrams = vec![
                    (SocketAddr::new(db, CLOSED_UDP), number.clone()),
                    (SocketAddr::new(db, OPEN_UDP), number),
                ];
                if next != newcomer.address {
                    datagrams.push((SocketAddr::from((next, HEARD)), vec![FROM_NEWCOMER]));
                }
                Ok(Sender::start(newcomer.socket()?, datagrams))
            })
            .collect()
    }

    /// Members send to the newcomers.
    fn greet(&self, newcomers: &[Newcomer]) -> Result<Vec<Sender>> {
        [("web", FROM_COVERED), ("stray", FROM_UNMANAGED)]
            .into_iter()
            .map(|(member, first)| {
                let datagrams = newcomers
                    .iter()
                    .map(|one| (SocketAddr::from((one.address, HEARD)), vec![first]))
                    .collect();
                Ok(Sender::start(self.lab.datagram_socket(member)?, datagrams))
            })
            .collect()
    }
}

fn port(round: usize, index: usize) -> String {
    format!("n-{}-{index}", round % 100_000)
}

/// The same in every round: addresses change hands all the time.
fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 7, 100 + index as u8)
}

fn number(round: usize, index: usize) -> u64 {
    ((round % 100_000) * TOGETHER + index) as u64
}
