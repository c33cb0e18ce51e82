//! Every source against every service and port: what is tried, what should come of it and what did.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

use crate::beyond::BEYOND;
use crate::expectation::{Expectation, Party};
use crate::interrupt;
use crate::probe::{Outcome, attempts};

/// So many sources try at once: two cores cannot answer more in time.
const SOURCES_AT_ONCE: usize = 4;

/// A place that attempts are made from.
#[derive(Debug, Clone)]
pub struct Source {
    pub party: Party,
    pub netns: PathBuf,
}

/// How a service's port is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// At the container's own address.
    Direct,
    /// At an address of the host, where the engine published it.
    Published,
    /// At the host's loopback, where the engine published it for the host alone.
    Loopback,
}

/// A service's port at one address.
#[derive(Debug, Clone)]
pub struct Target {
    pub instance: String,
    pub service: String,
    /// The port that the container listens on.
    pub port: u16,
    pub address: SocketAddr,
    pub way: Way,
}

/// What should come of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Open,
    Denied,
}

/// One attempt of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    pub source: usize,
    pub target: usize,
    pub expected: Expected,
    pub outcome: Option<Outcome>,
    /// How many connections were tried for it.
    pub tries: u32,
}

impl Cell {
    /// Whether what came is what should have.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        let open = self.outcome.as_ref().is_some_and(Outcome::is_open);
        open == (self.expected == Expected::Open)
    }
}

/// Sources, targets and a cell for each pair that the topology lets meet.
#[derive(Debug)]
pub struct Matrix {
    pub sources: Vec<Source>,
    pub targets: Vec<Target>,
    pub cells: Vec<Cell>,
}

impl Matrix {
    /// Pairs every source with every target, but for those that cannot tell anything: a container that calls its own
    /// address never leaves it, and a port published on loopback exists for the host alone.
    #[must_use]
    pub fn new(sources: Vec<Source>, targets: Vec<Target>, expectation: &Expectation) -> Self {
        let mut cells = Vec::new();
        for (source, from) in sources.iter().enumerate() {
            for (target, to) in targets.iter().enumerate() {
                let own = is_own(&from.party, to);
                let meets = match to.way {
                    Way::Direct => !own,
                    Way::Published => true,
                    Way::Loopback => from.party == Party::Host,
                };
                if meets {
                    let expected = expected(from, to, expectation);
                    cells.push(Cell { source, target, expected, outcome: None, tries: 0 });
                }
            }
        }
        Self { sources, targets, cells }
    }

    /// Tries every cell once, several sources at a time, and what should have opened but did not once more: a busy
    /// machine loses a SYN now and then. A connection that should be denied is never tried twice.
    pub fn run(&mut self, progress: &(dyn Fn(usize) + Sync)) -> Result<()> {
        self.run_cells(&|_| true, progress)?;
        self.retry(progress)
    }

    fn retry(&mut self, progress: &(dyn Fn(usize) + Sync)) -> Result<()> {
        for _ in 0..2 {
            self.run_cells(&|cell| !cell.is_as_expected() && cell.expected == Expected::Open, progress)?;
        }
        Ok(())
    }

    /// Tries every cell and takes each for one that should be open: without an agent all of them are.
    pub fn run_all_open(&mut self, progress: &(dyn Fn(usize) + Sync)) -> Result<()> {
        for cell in &mut self.cells {
            cell.expected = Expected::Open;
        }
        self.run(progress)
    }

    fn run_cells(
        &mut self,
        wanted: &(dyn Fn(&Cell) -> bool + Sync),
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Outcome)>> = Mutex::new(Vec::new());
        let this = &*self;
        std::thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = (0..SOURCES_AT_ONCE)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        loop {
                            interrupt::check()?;
                            let source = next.fetch_add(1, Ordering::Relaxed);
                            let Some(from) = this.sources.get(source) else {
                                return Ok(());
                            };
                            let mut chosen: Vec<usize> = (0..this.cells.len())
                                .filter(|at| this.cells[*at].source == source && wanted(&this.cells[*at]))
                                .collect();
                            // Every source starts at another target, so that they do not all knock at one door.
                            let turn = (source * 7) % chosen.len().max(1);
                            chosen.rotate_left(turn);
                            let addresses = chosen
                                .iter()
                                .map(|at| this.targets[this.cells[*at].target].address)
                                .collect();
                            let found = attempts(&from.netns, addresses)?;
                            progress(found.len());
                            let mut results =
                                results.lock().map_err(|_poisoned| anyhow!("a probe panicked"))?;
                            results.extend(
                                chosen.into_iter().zip(found.into_iter().map(|attempt| attempt.outcome)),
                            );
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().map_err(|_panic| anyhow!("a probe panicked"))??;
            }
            Ok(())
        })?;
        for (at, outcome) in results.into_inner().map_err(|_poisoned| anyhow!("a probe panicked"))? {
            self.cells[at].outcome = Some(outcome);
            self.cells[at].tries += 1;
        }
        Ok(())
    }

    /// Leaves out the cells that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(&Party, &Target) -> bool) {
        let (sources, targets) = (&self.sources, &self.targets);
        self.cells.retain(|cell| wanted(&sources[cell.source].party, &targets[cell.target]));
    }

    /// How many connections were tried that should be denied.
    #[must_use]
    pub fn denied_tries(&self) -> u32 {
        self.cells.iter().filter(|cell| cell.expected == Expected::Denied).map(|cell| cell.tries).sum()
    }

    /// Cells that came out otherwise than they should, as a person would say it.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        self.cells.iter().filter(|cell| !cell.is_as_expected()).map(|cell| self.describe(cell)).collect()
    }

    /// Cells in which somebody else answered than the service that was called.
    #[must_use]
    pub fn wrong_answers(&self) -> Vec<String> {
        self.cells
            .iter()
            .filter(|cell| matches!(&cell.outcome, Some(Outcome::Open(name)) if *name != self.targets[cell.target].service))
            .map(|cell| self.describe(cell))
            .collect()
    }

    /// One cell as a sentence.
    #[must_use]
    pub fn describe(&self, cell: &Cell) -> String {
        let (source, target) = (&self.sources[cell.source], &self.targets[cell.target]);
        let outcome = cell
            .outcome
            .as_ref()
            .map_or_else(|| "not tried".to_owned(), |outcome| format!("{outcome:?}").to_lowercase());
        format!(
            "{} -> {}/{} at {}: expected {:?}, got {outcome}",
            source.party, target.instance, target.service, target.address, cell.expected
        )
    }

    /// The instances in the order of the targets.
    #[must_use]
    pub fn instances(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.targets
            .iter()
            .map(|target| target.instance.clone())
            .filter(|name| seen.insert(name.clone()))
            .collect()
    }
}

/// Whether a source would call itself: such a packet never leaves it.
fn is_own(from: &Party, to: &Target) -> bool {
    match from {
        Party::Service { instance, service } => *instance == to.instance && *service == to.service,
        Party::Host => to.instance == BEYOND && to.service == "host",
        Party::Outside => to.instance == BEYOND && to.service == "outside",
    }
}

/// A container that calls a published port is an outsider there: the world has to be open to it, and the service to the
/// world, whoever may open the service otherwise.
fn expected(from: &Source, to: &Target, expectation: &Expectation) -> Expected {
    let allows = |party| expectation.allows(party, &to.instance, &to.service, to.port);
    let allowed = match from.party {
        Party::Service { .. } if to.way == Way::Published => {
            allows(&Party::Outside) && expectation.may_leave(&from.party)
        }
        _ => allows(&from.party),
    };
    if allowed { Expected::Open } else { Expected::Denied }
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service { instance, service } => write!(f, "{instance}/{service}"),
            Self::Host => f.write_str("host"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// The targets that one address of a service gives for its ports.
#[must_use]
pub fn direct(instance: &str, service: &str, ports: &[u16], addresses: &[IpAddr]) -> Vec<Target> {
    let mut targets = Vec::new();
    for port in ports {
        for address in addresses {
            targets.push(Target {
                instance: instance.to_owned(),
                service: service.to_owned(),
                port: *port,
                address: SocketAddr::new(*address, *port),
                way: Way::Direct,
            });
        }
    }
    targets
}

#[cfg(test)]
mod tests;
