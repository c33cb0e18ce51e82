//! `cargo xtask soak`: the tests of the agent's life, for as long as somebody likes. It runs the tests themselves with
//! other numbers, and gathers what they have counted.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use lab::{interrupt, scratch::Scratch, sweep, tools};

use crate::{build, setup};

/// How long, and which.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these: kill, race, containers, bridges, churn, swap
    #[arg(long, value_name = "TRIAL", value_delimiter = ',')]
    only: Vec<String>,
    /// So many kills, starts, containers, bridges, cycles or swaps, instead of what is usual for each
    #[arg(long, value_name = "N")]
    times: Option<usize>,
    /// For so many minutes each instead
    #[arg(long, value_name = "M", conflicts_with = "times")]
    minutes: Option<u64>,
    /// The random numbers of an earlier run, which has printed its seed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

/// What is tried, and by which tests.
struct Trial {
    name: &'static str,
    what: &'static str,
    test: &'static str,
    filter: &'static str,
    times: usize,
    /// So many tests share the number.
    parts: usize,
}

const TRIALS: [Trial; 6] = [
    trial("kill", "agents of two builds, killed at any moment", "life", 1000, 2),
    trial("race", "namespaces that send from before they are on a bridge", "life", 1000, 1),
    trial("bridges", "bridges of the same name, ports that come back", "life", 500, 1),
    trial("churn", "addresses that change hands between services", "life", 2000, 1),
    trial("swap", "policies that take each other's place under traffic", "life", 1000, 1),
    Trial {
        filter: "docker_race",
        ..trial("containers", "containers whose first instruction sends", "docker_life", 100, 1)
    },
];

const fn trial(
    name: &'static str,
    what: &'static str,
    test: &'static str,
    times: usize,
    parts: usize,
) -> Trial {
    Trial { name, what, test, filter: name, times, parts }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(unknown) = arguments.only.iter().find(|name| !TRIALS.iter().any(|one| one.name == *name)) {
        let names = TRIALS.map(|trial| trial.name);
        bail!("there is no trial `{unknown}`; there are {}", names.join(", "));
    }
    interrupt::install();
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("it needs root: agents and containers are started in network namespaces");
    }
    sweep::dead()?;
    build::agent(false)?;
    let scratch = Scratch::create()?;
    let report = scratch.path().join("report");
    let mut table = Table::new();
    table.set_header(["trial", "", "minutes"]);
    let mut sound = true;
    for trial in TRIALS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == trial.name) {
            continue;
        }
        interrupt::check()?;
        println!("\n==> {}: {}", trial.name, trial.what);
        let start = Instant::now();
        let passed = test(&trial, arguments).env("PORTCULLIS_REPORT", &report).status();
        let passed = passed.context("failed to run cargo")?.success();
        sound &= passed;
        let verdict = if passed { "ok" } else { "FAILED" };
        let minutes = format!("{:.1}", start.elapsed().as_secs_f64() / 60.0);
        table.add_row([trial.name, verdict, &minutes]);
    }
    println!("\n{}\n{table}", fs::read_to_string(&report).unwrap_or_default());
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(trial: &Trial, arguments: &Arguments) -> Command {
    let mut test = Command::new("cargo");
    test.args(["test", "--quiet", "--package", "integration-tests", "--test", trial.test, "--"])
        .args([trial.filter, "--nocapture", "--test-threads=1"])
        .current_dir(tools::repository());
    match arguments.minutes {
        Some(minutes) => test.env("PORTCULLIS_SOAK_MINUTES", minutes.to_string()),
        None => {
            let times = arguments.times.unwrap_or(trial.times).div_ceil(trial.parts);
            test.env("PORTCULLIS_SOAK_TIMES", times.to_string())
        }
    };
    if let Some(seed) = arguments.seed {
        test.env("PORTCULLIS_SOAK_SEED", seed.to_string());
    }
    test
}
