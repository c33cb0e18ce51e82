//! Other kernels: Debian's, each booted once by emulation with the same test programs as this machine's own kernel.
//! A guest has no network, its disk is what it boots from, and its time is bounded.

mod archive;
mod boot;
mod image;
mod modules;
mod packages;
mod programs;
mod record;
mod script;
mod summary;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lab::{interrupt, process, tools};

use super::tally::Tally;
use packages::Kernel;
use summary::Summary;

/// The program that emulates a machine, and the package that has it.
const EMULATOR: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// What CI boots: the oldest that is supported, and those of Debian's releases since.
const USUAL: [&str; 3] = ["5.10", "6.1", "6.12"];

/// Which kernels, and what to run on them.
#[derive(Debug, clap::Args)]
pub(super) struct Guests {
    /// Run only the tests in guests, with these kernel lines of Debian, such as 5.10,6.1,6.12
    #[arg(long = "kernel", value_name = "KERNELS", value_delimiter = ',', conflicts_with_all = ["fast", "only"])]
    lines: Vec<String>,
    /// In guests, run every test that can run there, and not the share that says most; it takes long
    #[arg(long)]
    all: bool,
    /// In guests, run only these test programs
    #[arg(long = "program", value_name = "PROGRAMS", value_delimiter = ',')]
    programs: Vec<String>,
    /// In guests, run only the tests whose names hold this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Give a guest up after so many seconds
    #[arg(long = "guest-limit", value_name = "SECONDS", default_value_t = 900)]
    limit: u64,
    /// Start the guests' kernels in lockdown
    #[arg(long, value_name = "MODE", value_parser = ["integrity", "confidentiality"])]
    lockdown: Option<String>,
    /// Write down how many instructions the verifier walks through on these kernels and on this machine's
    #[arg(long, conflicts_with_all = ["fast", "only", "filter"])]
    record: bool,
}

impl Guests {
    /// Whether nothing but guests is wanted.
    pub(super) fn alone(&self) -> bool {
        !self.lines.is_empty() || self.record
    }

    fn lines(&self) -> Vec<&str> {
        if self.lines.is_empty() { USUAL.to_vec() } else { self.lines.iter().map(String::as_str).collect() }
    }

    fn choice(&self) -> Choice<'_> {
        if self.record {
            return Choice {
                programs: vec![record::PROGRAM],
                filter: Some(record::TEST),
                extent: Extent::Usual,
                record: true,
            };
        }
        let programs: Vec<&str> = self.programs.iter().map(String::as_str).collect();
        let extent = match self.all {
            true => Extent::All,
            false if self.lines.is_empty() && programs.is_empty() => Extent::Often,
            false => Extent::Usual,
        };
        Choice { programs, filter: self.filter.as_deref(), extent, record: false }
    }
}

/// How much runs in guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What every run of all tests has time for.
    Often,
    /// What says most.
    Usual,
    /// Whatever can run there.
    All,
}

/// What is to run in guests.
#[derive(Debug)]
struct Choice<'a> {
    /// All, if there are none.
    programs: Vec<&'a str>,
    filter: Option<&'a str>,
    extent: Extent,
    /// The tests are to count instructions and not to compare them.
    record: bool,
}

/// Boots every kernel, and counts what the tests inside said.
pub(super) fn run(arguments: &Guests) -> Result<Tally> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests are x86-64 machines, and what runs in them is built here");
    }
    ensure_emulator()?;
    let kernels = fetch(&arguments.lines())?;
    let choice = arguments.choice();
    let built = programs::build(&choice)?;
    let image = image::write(&kernels, &built, &choice)?;
    let limit = Duration::from_secs(arguments.limit);
    let lockdown = arguments.lockdown.as_deref();
    // Side by side, though they may be more than the processors: the tests wait as much as they work.
    let summaries = thread::scope(|scope| {
        let guests: Vec<_> = kernels
            .iter()
            .map(|kernel| {
                let (image, built) = (&image, &built);
                scope.spawn(move || -> Result<Summary> {
                    let start = Instant::now();
                    let said = boot::boot(kernel, image, lockdown, limit)?;
                    let expected = built.iter().filter(|built| built.program.runs_on(kernel)).count();
                    let summary = Summary::read(&kernel.release, &said, expected, start.elapsed());
                    Ok(summary.locked_down(lockdown, &said))
                })
            })
            .collect();
        guests.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    interrupt::check()?;
    println!("\n{}", summary::table(&summaries, choice.filter.is_some()));
    let mut tally = Tally::default();
    for summary in &summaries {
        tally += summary.tally(choice.filter.is_some());
    }
    if arguments.record && tally.failed == 0 {
        record::write(&kernels, &summaries)?;
    }
    Ok(tally)
}

fn joined<T>(guest: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    guest.join().unwrap_or_else(|_panic| bail!("the thread of a guest panicked"))
}

fn fetch(lines: &[&str]) -> Result<Vec<Kernel>> {
    lines
        .iter()
        .map(|line| {
            interrupt::check()?;
            packages::fetch(&folder().join(line), line)
        })
        .collect()
}

/// Everything of this stage lies here; all of it can be made again.
fn folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| tools::repository().join("target"), PathBuf::from)
        .join("kernels")
}

fn ensure_emulator() -> Result<()> {
    let (program, package) = EMULATOR;
    if tools::find(program).is_some() {
        return Ok(());
    }
    if tools::find("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        bail!("`{program}` is missing: install it (Debian's package is `{package}`)");
    }
    println!("installing {package}");
    process::run(Command::new("apt-get").args(["update", "-qq"]))?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", package])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1"),
    )?;
    Ok(())
}
