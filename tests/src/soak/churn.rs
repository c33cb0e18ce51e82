//! Addresses that change hands between services with different rights, while everybody probes: each datagram is judged
//! by the rights of whoever sends it, and nothing of those who have left stays behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use frame_fuzz::rng::Rng;
use lab::interrupt::wait_for;
use lab::netns::within;

use crate::daemon::Daemon;
use crate::small_lab::{SmallLab, answers_within};
use crate::soak::Extent;
use crate::soak::ear::Ear;
use crate::soak::newcomers::{Newcomer, OPEN_UDP, POLICY, Sender, ifindex};
use crate::soak::pinned::Pinned;

/// So many live at the same time, each with an address that somebody else had before.
const ALIVE: usize = 3;
/// The inventory names those of so many rounds beforehand.
const LISTED: usize = 100;
/// What is allowed has to arrive within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one who has no rights tries at least, once the programs know it.
const TRIES: Duration = Duration::from_millis(15);
/// Flows that have ended, and those of ports that are gone, are removed every ten seconds.
const SETTLES: Duration = Duration::from_secs(30);

/// What was counted.
#[derive(Debug, Default)]
pub struct Figures {
    pub cycles: usize,
    /// Of those, the ones that may reach `db`.
    pub entitled: usize,
    pub sent: u64,
    /// Datagrams from those who have no rights that arrived.
    pub leaked: u64,
    /// Those who have rights, and were never let.
    pub refused: usize,
    /// Entries about what is no more, after it had time to settle.
    pub leftovers: Vec<String>,
    /// Memory of the agent in KiB, and its open files, after the first tenth and at the end.
    pub memory: [u64; 2],
    pub files: [usize; 2],
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} cycles, {} with rights; {} datagrams sent, {} of those without rights arrived, {} with rights were \
             refused; {} entries left behind; memory {} KiB after a tenth, {} KiB at the end; files {} and {}",
            self.cycles,
            self.entitled,
            self.sent,
            self.leaked,
            self.refused,
            self.leftovers.len(),
            self.memory[0],
            self.memory[1],
            self.files[0],
            self.files[1],
        )
    }
}

/// One who came.
struct Holder {
    newcomer: Newcomer,
    number: u64,
    entitled: bool,
    sender: Sender,
    /// A connection that nobody ends.
    _stream: Option<TcpStream>,
}

/// Lets holders of the same few addresses come and go.
pub fn run(extent: Extent) -> Result<Figures> {
    let lab = SmallLab::start()?;
    lab.write_policy(POLICY)?;
    let ear = Ear::open(&lab.place("db")?, SocketAddr::new(lab.address("db")?, OPEN_UDP))?;
    let agent = lab.run(&[])?;
    let mut churn = Churn {
        pinned: Pinned::new(&lab.pins()),
        random: Rng::new(extent.seed),
        figures: Figures::default(),
        alive: Vec::new(),
        entitled: BTreeSet::new(),
        lab,
        ear,
    };
    let tenth = if extent.times == usize::MAX { 200 } else { extent.times / 10 };
    for round in extent.rounds("churn") {
        if round % LISTED == 0 {
            churn.list(&agent, round)?;
        }
        churn.cycle(round)?;
        if round == tenth {
            (churn.figures.memory[0], churn.figures.files[0]) = used(&agent)?;
        }
    }
    while !churn.alive.is_empty() {
        churn.leave()?;
    }
    (churn.figures.memory[1], churn.figures.files[1]) = used(&agent)?;
    churn.settle()?;
    Ok(churn.figures)
}

struct Churn {
    ear: Ear,
    pinned: Pinned,
    lab: SmallLab,
    random: Rng,
    figures: Figures,
    alive: Vec<Holder>,
    /// The rounds of the list whose holder has rights.
    entitled: BTreeSet<usize>,
}

impl Churn {
    /// Tells the agent of those that are to come: a third is of `api`, a third of `web`, a third of nobody's.
    fn list(&mut self, agent: &Daemon, first: usize) -> Result<()> {
        const READ: &str = "inventory read";
        let mut text = self.lab.inventory_text();
        for round in first..first + LISTED {
            let labels =
                self.random.pick(&["project: shop, service: api, ", "project: shop, service: web, ", ""]);
            if labels.contains("api") {
                self.entitled.insert(round);
            }
            let (port, address, mac) = (port(round), address(round), Newcomer::mac(slot(round)));
            text.push_str(&format!(
                "  - {{ port: {port}, {labels}container: {port}, mac: \"{mac}\", addresses: [{address}] }}\n"
            ));
        }
        // Those that are still there keep their names.
        for holder in &self.alive {
            let Newcomer { port, address, mac, .. } = &holder.newcomer;
            let labels = if holder.entitled { "project: shop, service: api, " } else { "" };
            text.push_str(&format!(
                "  - {{ port: {port}, {labels}container: {port}, mac: \"{mac}\", addresses: [{address}] }}\n"
            ));
        }
        let before = agent.logged(READ);
        fs::write(self.lab.inventory(), text)?;
        wait_for(READ, PATIENCE, || Ok((agent.logged(READ) > before).then_some(())))
    }

    fn cycle(&mut self, round: usize) -> Result<()> {
        if self.alive.len() == ALIVE {
            self.leave()?;
        }
        let newcomer = Newcomer::prepare(&self.lab, &port(round), address(round), slot(round))?;
        let db = self.lab.address("db")?;
        newcomer.introduce(&[(db, &self.lab.mac("db")?)])?;
        let number = round as u64;
        let datagrams = vec![(SocketAddr::new(db, OPEN_UDP), number.to_be_bytes().to_vec())];
        let sender = Sender::start(newcomer.socket()?, datagrams);
        newcomer.join(&self.lab, "lab0")?;
        let entitled = self.entitled.contains(&round);
        let mut stream = None;
        if entitled {
            self.figures.refused += usize::from(self.ear.wait_for(number, PATIENCE).is_none());
            stream = self.connect(&newcomer)?;
        } else {
            let start = Instant::now();
            while !self.pinned.known()?.contains(&newcomer.ifindex) {
                ensure!(start.elapsed() < PATIENCE, "the programs do not get to know `{}`", newcomer.port);
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(TRIES);
        }
        self.figures.cycles += 1;
        self.figures.entitled += usize::from(entitled);
        self.alive.push(Holder { newcomer, number, entitled, sender, _stream: stream });
        Ok(())
    }

    /// Opens a connection that will be left open when its end is gone.
    fn connect(&self, newcomer: &Newcomer) -> Result<Option<TcpStream>> {
        let target = SocketAddr::new(self.lab.address("db")?, 5432);
        let stream =
            within(&newcomer.netns().path(), move || TcpStream::connect_timeout(&target, PATIENCE))??;
        let mut stream = stream;
        ensure!(answers_within(&mut stream, PATIENCE), "`{}` gets no answer", newcomer.port);
        Ok(Some(stream))
    }

    /// The one that has been there longest leaves, without a word: its port goes first.
    fn leave(&mut self) -> Result<()> {
        let Holder { newcomer, number, entitled, sender, _stream } = self.alive.remove(0);
        self.lab.host().ip(&format!("link delete {}", newcomer.port))?;
        self.figures.sent += sender.stop();
        if !entitled {
            self.figures.leaked += self.ear.count(number);
        }
        Ok(())
    }

    /// Waits until nothing is left of those that have gone, and everything of those that have not is there.
    fn settle(&mut self) -> Result<()> {
        let mut living = BTreeSet::new();
        for name in ["lab0", "p-web", "p-api", "p-db", "p-stray"] {
            living.insert(ifindex(self.lab.host(), name)?);
        }
        let mut expected: BTreeSet<(IpAddr, u32)> = BTreeSet::new();
        for name in ["web", "api", "db", "stray"] {
            let port = ifindex(self.lab.host(), self.lab.port(name)?)?;
            // Neighbours find it by the address that follows from its MAC too.
            let mac = self.lab.mac(name)?;
            let [.., network, number] = mac.split(':').collect::<Vec<_>>()[..] else {
                bail!("`{mac}` is no MAC address");
            };
            let link_local = format!("fe80::ff:fe00:{network}{number}").parse()?;
            expected.extend([(self.lab.address(name)?, port), (link_local, port)]);
        }
        let start = Instant::now();
        loop {
            self.figures.leftovers = self.pinned.leftovers(&living)?;
            if self.figures.leftovers.is_empty() || start.elapsed() > SETTLES {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        ensure!(
            self.pinned.known()? == living,
            "the programs know {:?}, not {living:?}",
            self.pinned.known()?
        );
        let found = self.pinned.endpoints()?;
        ensure!(found == expected, "the programs believe in {found:?}, not in {expected:?}");
        Ok(())
    }
}

/// Resident memory in KiB, and open files.
fn used(agent: &Daemon) -> Result<(u64, usize)> {
    let process = Path::new("/proc").join(agent.pid().to_string());
    let status = fs::read_to_string(process.join("status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = memory.and_then(|memory| memory.split_whitespace().next()?.parse().ok());
    Ok((memory.context("no VmRSS")?, fs::read_dir(process.join("fd"))?.count()))
}

fn port(round: usize) -> String {
    format!("c-{}", round % 10_000_000)
}

/// Of the few that there are; those alive have different ones.
fn slot(round: usize) -> u16 {
    (round % (ALIVE + 1)) as u16
}

fn address(round: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 7, 100 + slot(round) as u8)
}
