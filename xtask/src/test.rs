//! `cargo xtask test`: every test there is, in the order in which failures are cheapest. What cannot run fails and
//! says why; nothing that was skipped counts as passed.

mod kernels;
mod stages;
mod tally;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use lab::{interrupt, sweep};

use crate::setup;
use stages::STAGES;
use tally::Tally;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out what needs root
    #[arg(long)]
    fast: bool,
    /// Run only these stages, by name
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    kernels: kernels::Guests,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(unknown) =
        arguments.only.iter().find(|name| !STAGES.iter().any(|stage| stage.name == name.as_str()))
    {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage `{unknown}`; there are {}", names.join(", "));
    }
    interrupt::install();
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if rustix::process::geteuid().is_root() {
        sweep::dead()?;
    }
    let chosen = |stage: &stages::Stage| {
        if arguments.kernels.alone() {
            stage.name == stages::KERNELS
        } else if arguments.only.is_empty() {
            !(arguments.fast && stage.privileged)
        } else {
            arguments.only.iter().any(|name| name == stage.name)
        }
    };
    let mut lines = Vec::new();
    let mut total = Tally::default();
    for stage in STAGES.iter().filter(|stage| chosen(stage)) {
        interrupt::check()?;
        println!("\n==> {}: {}", stage.name, stage.what);
        let start = Instant::now();
        let tally = stage.run(&arguments.kernels)?;
        let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
        lines.push(format!(
            "{:<12} {verdict:<7} {:>6.1} s  {tally}",
            stage.name,
            start.elapsed().as_secs_f32()
        ));
        total += tally;
        // What does not build cannot be tested: the rest would only repeat it.
        if tally.failed > 0 && stage.stops_the_rest {
            lines.push("the stages after it were not run".to_owned());
            break;
        }
    }
    println!("\n{}\n", lines.join("\n"));
    if total.passed + total.failed == 0 {
        bail!("no test was run");
    }
    println!("{total}");
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
