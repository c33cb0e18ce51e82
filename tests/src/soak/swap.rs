//! Two policies that take each other's place again and again under traffic for both: what both forbid never arrives,
//! and what only the old one allows does not arrive once the new one is in force.
//!
//! In force is the revision that stands in `CONFIG`. A datagram carries the revision that was in force when it was sent.
//! If the same one is still in force when it arrives, it was judged under that one, since revisions only grow.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use frame_fuzz::rng::Rng;
use lab::netns::within;

use crate::small_lab::{SmallLab, answers_within};
use crate::soak::pinned::{Pinned, Revision};
use crate::soak::{Durations, Extent};

/// The services that may reach `db` on one of two ports, by the parity of the swaps so far.
const ALLOWED: [(&str, u16); 2] = [("web", 7001), ("api", 7002)];
/// Everybody who tries both ports, all the time.
const SENDERS: [&str; 3] = ["web", "api", "stray"];
/// Between two datagrams of one sender.
const PACE: Duration = Duration::from_micros(400);
/// How long a policy stays at most.
const LONGEST_STAY: usize = 30_000;
/// A swap that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long as an answer takes to arrive, many times over.
const SILENCE: Duration = Duration::from_millis(8);

/// What was counted.
#[derive(Debug, Default)]
pub struct Figures {
    pub swaps: usize,
    /// From the signal until the other revision was in force.
    pub took: Durations,
    pub sent: u64,
    /// Datagrams and answers that arrived.
    pub arrived: u64,
    /// Datagrams that both policies forbid, and arrived.
    pub leaked: u64,
    /// Datagrams and answers that were sent and arrived under a policy that forbids them.
    pub late: u64,
    /// Stays of a policy in which none of what it allows arrived.
    pub barren: usize,
    /// Connections that were open when a policy came that forbids them.
    pub connections: usize,
    /// Those that carried something after that.
    pub uncut: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} swaps ({}); {} datagrams sent, {} and their answers arrived, {} that both policies forbid, {} after \
             the swap that forbids them, none in {} stays; {} of {} connections carried anything after the swap",
            self.swaps,
            self.took,
            self.sent,
            self.arrived,
            self.leaked,
            self.late,
            self.barren,
            self.uncut,
            self.connections,
        )
    }
}

/// Swaps the two policies.
pub fn run(extent: Extent) -> Result<Figures> {
    let lab = SmallLab::start()?;
    // Behind a link that leads out of the watched directory, only a signal makes the agent read it.
    let hidden = lab.path().join("hidden.yaml");
    fs::write(&hidden, policy(0))?;
    fs::remove_file(lab.policy())?;
    symlink(&hidden, lab.policy())?;
    let agent = lab.run(&[])?;
    let pinned = Pinned::new(&lab.pins());
    let revision = pinned.revision()?;
    let first = revision.get()?;
    let traffic = Traffic::start(&lab, &pinned, first)?;
    let mut figures = Figures::default();
    let mut random = Rng::new(extent.seed);
    for round in extent.rounds("swap") {
        let before = traffic.shared.allowed.load(Ordering::Relaxed);
        let (from, _) = ALLOWED[round % 2];
        let open = lab.connect_within(PATIENCE, from, "db", 5432)?;
        let mut open = open.with_context(|| format!("{from} does not reach db, round {round}"))?;
        ensure!(answers_within(&mut open, PATIENCE), "{from} gets no answer, round {round}");
        std::thread::sleep(Duration::from_micros(random.below(LONGEST_STAY) as u64));
        figures.barren += usize::from(traffic.shared.allowed.load(Ordering::Relaxed) == before);

        replace(&hidden, &policy(round + 1))?;
        let old = revision.get()?;
        let start = Instant::now();
        agent.hang_up()?;
        wait_for_another(&revision, old)?;
        figures.took.push(start.elapsed());
        figures.swaps += 1;
        figures.connections += 1;
        figures.uncut += usize::from(answers_within(&mut open, SILENCE));
    }
    let swapped = u32::try_from(figures.swaps)?;
    ensure!(revision.get()? == first + swapped, "the revision moved for another reason");
    traffic.stop(&mut figures)?;
    Ok(figures)
}

/// The policy after so many swaps.
fn policy(swaps: usize) -> String {
    let (from, port) = ALLOWED[swaps % 2];
    format!(
        "version: 1\npolicy: shop\napplies_to: {{ project: shop }}\nmode: enforce\nservices:\n  web: {{}}\n  \
         api: {{}}\n  db:\n    ports: [5432/tcp, {port}/udp]\n    from: [{from}]\n"
    )
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path).context("failed to replace the policy")
}

fn wait_for_another(revision: &Revision, than: u32) -> Result<()> {
    let start = Instant::now();
    while revision.get()? == than {
        if start.elapsed() > PATIENCE {
            bail!("the policy was not swapped");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// What the threads count together.
#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    sent: AtomicU64,
    arrived: AtomicU64,
    /// Of those that arrived, those that the policy in force allows.
    allowed: AtomicU64,
    leaked: AtomicU64,
    late: AtomicU64,
}

/// Datagrams from everybody to both ports, and the answers to those that arrive.
#[derive(Debug)]
struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    fn start(lab: &SmallLab, pinned: &Pinned, first: u32) -> Result<Self> {
        let mut traffic = Self { shared: Arc::default(), threads: Vec::new() };
        for (_, port) in ALLOWED {
            let address = SocketAddr::new(lab.address("db")?, port);
            let socket = within(&lab.place("db")?, move || UdpSocket::bind(address))??;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let judge = Judge { revision: pinned.revision()?, first, shared: Arc::clone(&traffic.shared) };
            traffic.threads.push(std::thread::spawn(move || judge.receive(&socket, port)));
        }
        for (number, name) in SENDERS.into_iter().enumerate() {
            for (_, port) in ALLOWED {
                let target = SocketAddr::new(lab.address("db")?, port);
                let socket = lab.datagram_socket(name)?;
                socket.set_nonblocking(true)?;
                let judge =
                    Judge { revision: pinned.revision()?, first, shared: Arc::clone(&traffic.shared) };
                traffic.threads.push(std::thread::spawn(move || judge.send(&socket, target, number)));
            }
        }
        Ok(traffic)
    }

    fn stop(mut self, figures: &mut Figures) -> Result<()> {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok().context("the traffic panicked")??;
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        figures.sent = of(&shared.sent);
        (figures.arrived, figures.leaked, figures.late) =
            (of(&shared.arrived), of(&shared.leaked), of(&shared.late));
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

/// Judges what arrives.
struct Judge {
    revision: Revision,
    first: u32,
    shared: Arc<Shared>,
}

impl Judge {
    /// Counts what comes to `db`, and answers it.
    fn receive(&self, socket: &UdpSocket, port: u16) -> Result<()> {
        let mut datagram = [0; 5];
        while !self.shared.ended.load(Ordering::Relaxed) {
            let Ok((5, from)) = socket.recv_from(&mut datagram) else { continue };
            self.judge(&datagram, port)?;
            drop(socket.send_to(&datagram, from));
        }
        Ok(())
    }

    /// Sends, and counts the answers.
    fn send(&self, socket: &UdpSocket, target: SocketAddr, sender: usize) -> Result<()> {
        let mut datagram = [0; 5];
        while !self.shared.ended.load(Ordering::Relaxed) {
            datagram[0] = u8::try_from(sender)?;
            datagram[1..].copy_from_slice(&self.revision.get()?.to_be_bytes());
            if socket.send_to(&datagram, target).is_ok() {
                self.shared.sent.fetch_add(1, Ordering::Relaxed);
            }
            loop {
                match socket.recv(&mut datagram) {
                    Ok(5) => self.judge(&datagram, target.port())?,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // A refusal says that the other end is being closed.
                    Err(_) => {}
                }
            }
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    fn judge(&self, datagram: &[u8; 5], port: u16) -> Result<()> {
        let [sender, tag @ ..] = *datagram;
        let sender = SENDERS.get(usize::from(sender)).context("not one of ours")?;
        let tag = u32::from_be_bytes(tag);
        self.shared.arrived.fetch_add(1, Ordering::Relaxed);
        let Some(allows) = ALLOWED.iter().position(|allowed| *allowed == (*sender, port)) else {
            self.shared.leaked.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let in_force = self.revision.get()?;
        let is_allowed = |revision: u32| (revision - self.first) as usize % 2 == allows;
        if is_allowed(in_force) {
            self.shared.allowed.fetch_add(1, Ordering::Relaxed);
        } else if tag == in_force {
            self.shared.late.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
