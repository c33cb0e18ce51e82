//! `cargo xtask demo`: the agent at work on containers of its own, every connection tried, what came compared with
//! what the requirement documents say. Cleans up after itself, also when interrupted.

mod stage;
mod story;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use lab::agent::Agent;
use lab::{interrupt, sweep};

use crate::{build, setup};
use stage::Stage;

/// The profile that the demo enforces.
const PROFILE: &str = "production";

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use plain namespaces and bridges and an inventory file instead of a Docker Engine
    #[arg(long)]
    no_docker: bool,
    /// Leave the lab up and say how to play with it
    #[arg(long)]
    keep: bool,
    /// Remove a lab that `--keep` left up, and do nothing else
    #[arg(long, conflicts_with_all = ["no_docker", "keep"])]
    clean: bool,
    /// Use this agent instead of building one
    #[arg(long, value_name = "BINARY")]
    agent: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    if arguments.clean {
        let removed = sweep::kept()?;
        println!(
            "demo: {}",
            if removed.is_empty() {
                "no lab was left up".to_owned()
            } else {
                format!("removed {}", removed.join(" "))
            }
        );
        return Ok(ExitCode::SUCCESS);
    }
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the demo makes network namespaces and loads kernel programs, which needs root");
        eprintln!("hint: run `cargo xtask demo` as root");
        return Ok(ExitCode::from(2));
    }
    sweep::dead()?;
    let binary = match &arguments.agent {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            println!("demo: building the agent; kernel programs with {}", setup::toolchain());
            build::agent(false)?
        }
    };
    let result = play(arguments, binary);
    if interrupt::arrived() {
        println!("demo: interrupted; everything was removed");
        return Ok(ExitCode::from(130));
    }
    result
}

fn play(arguments: &Arguments, binary: PathBuf) -> Result<ExitCode> {
    let start = Instant::now();
    let steps = spinner();
    // Printed past the spinner, which shows nothing where there is no terminal.
    let say = |step: &str| steps.suspend(|| println!("demo: {step}"));
    let mut stage = Stage::start(arguments.no_docker, &say)?;
    say("starting the agent with policies/");
    let mut agent = Agent::start(
        &binary,
        stage.host(),
        stage.scratch(),
        Path::new("policies"),
        &stage.inventory(),
        PROFILE,
    )?;
    steps.finish_and_clear();

    let mut matrix = stage.matrix(PROFILE)?;
    println!(
        "demo: ready after {:.1} s; trying every source against every service and port",
        start.elapsed().as_secs_f32()
    );
    let bar = ProgressBar::new(matrix.cells.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("demo: [{bar:40}] {pos}/{len} connection attempts")
            .context("bad progress template")?
            .progress_chars("=> "),
    );
    matrix.run(&|tried| bar.inc(tried as u64))?;
    bar.finish_and_clear();

    println!("\nExpected against actual, profile `{PROFILE}`:\n{}", table::LEGEND);
    for instance in matrix.instances() {
        println!("\n{instance}\n{}", table::grid(&matrix, &instance));
    }

    // The last events are on their way from the kernel to the file.
    std::thread::sleep(Duration::from_millis(500));
    story::tell(&agent)?;

    let differences = [matrix.differences(), matrix.wrong_answers()].concat();
    let counted = matrix.cells.len();
    if arguments.keep {
        stage.keep()?;
        agent.keep();
        println!("\n{}", stage.how_to_play(&agent));
    }
    if !differences.is_empty() {
        println!("\n{} of {counted} connection attempts not as the policy says:", differences.len());
        for difference in differences.iter().take(40) {
            println!("  {difference}");
        }
        if differences.len() > 40 {
            println!("  and {} more", differences.len() - 40);
        }
        return Ok(ExitCode::FAILURE);
    }
    println!("\n{counted} of {counted} connection attempts as the policy says");
    Ok(ExitCode::SUCCESS)
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
