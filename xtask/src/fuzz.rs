//! `cargo xtask fuzz`: hostile frames for as long as there is time, with a container that a policy covers as the sender
//! and with one that none does, in turns. What Linux delivers without the agent is kept for the next time. With `--input` it is
//! the agent's own parsers that are fed instead.

mod inputs;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use frame_fuzz::attacker::Attacker;
use frame_fuzz::corpus::Corpus;
use frame_fuzz::frame::Frame;
use frame_fuzz::report::Report;
use frame_fuzz::run::{Extent, enforce, fresh_seed, survey};
use lab::{interrupt, sweep, tools};

use crate::{build, setup};

/// How many frames show what Linux does without an agent.
const SURVEYED: u64 = 40_000;
/// So often a line says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// How much to send, and which frames.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Send so many frames for each kind of sender
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    frames: u64,
    /// Send for so many minutes instead, half of them for each kind of sender
    #[arg(long, value_name = "M", conflicts_with = "frames")]
    minutes: Option<u64>,
    /// Make the frames of an earlier run again
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Where frames that are worth sending again are kept, `target/fuzz-corpus` by default
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Compare the programs, packet by packet, with the model that was written from the documents instead
    #[arg(long, conflicts_with_all = ["minutes", "corpus"])]
    model: bool,
    /// Feed the agent's parsers instead, this one or `all`: policy, settings, inventory, engine, netlink, record, control
    #[arg(long, value_name = "NAME", conflicts_with_all = ["frames", "seed", "model"])]
    input: Option<String>,
}

impl Arguments {
    fn extent(&self) -> Extent {
        match self.minutes {
            Some(minutes) => Extent::Time(Duration::from_secs(minutes * 30)),
            None => Extent::Frames(self.frames),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if let Some(input) = &arguments.input {
        return inputs::run(input, arguments.minutes.unwrap_or(1), arguments.corpus.as_deref());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("it needs root: the frames are sent between network namespaces");
    }
    if arguments.model {
        return model(arguments);
    }
    sweep::dead()?;
    let binary = build::agent(false)?;
    let seed = arguments.seed.map_or_else(fresh_seed, Ok)?;
    let directory = arguments.corpus.clone().unwrap_or_else(corpus);
    eprintln!("fuzz: seed {seed}, corpus {}", directory.display());
    let kept = learn(seed, &directory)?;
    let (corpus, _) = Corpus::open(&directory)?;
    let mut sound = true;
    for attacker in [Attacker::Covered, Attacker::Unmanaged] {
        let name = format!("{attacker:?}").to_lowercase();
        let mut progress = progress(&name);
        let enforced = enforce(&binary, attacker, seed, arguments.extent(), &corpus, &kept, &mut progress)?;
        println!("\nwith the agent, sent by a container that is {name}\n{}", enforced.report);
        println!("{}\n{}", enforced.summary(), enforced.reconciled);
        if let Err(error) = enforced.check() {
            println!("error: {error:#}");
            sound = false;
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The test that has a model, with as many packets as are asked for. It says with which seed.
fn model(arguments: &Arguments) -> Result<ExitCode> {
    let mut test = Command::new("cargo");
    test.args([
        "test",
        "--release",
        "--package",
        "integration-tests",
        "--test",
        "model",
        "--",
        "--nocapture",
    ])
    .env("PORTCULLIS_MODEL_PACKETS", arguments.frames.to_string())
    .current_dir(tools::repository());
    if let Some(seed) = arguments.seed {
        test.env("PORTCULLIS_MODEL_SEED", seed.to_string());
    }
    let status = test.status().context("failed to run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What Linux delivers in the absence of an agent, of this seed's frames and of those kept before.
fn learn(seed: u64, directory: &std::path::Path) -> Result<Vec<Frame>> {
    let (mut corpus, kept) = Corpus::open(directory)?;
    let report = survey(seed, Extent::Frames(SURVEYED), &mut corpus, &kept)?;
    println!("without the agent\n{report}");
    let harmless = report.harmless();
    if !harmless.is_empty() {
        bail!("Linux delivers none of these any more:\n{}", harmless.join("\n"));
    }
    Ok(Corpus::open(directory)?.1)
}

fn progress(name: &str) -> impl FnMut(&Report) {
    let (start, mut last) = (Instant::now(), Instant::now());
    move |report| {
        if last.elapsed() >= PROGRESS {
            last = Instant::now();
            let seconds = start.elapsed().as_secs();
            let (sent, findings) = (report.total().sent, report.findings.len());
            eprintln!("fuzz: {name}: {seconds} s, {sent} frames, {findings} findings");
        }
    }
}

fn corpus() -> PathBuf {
    target().join("fuzz-corpus")
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tools::repository().join("target"), PathBuf::from)
}
