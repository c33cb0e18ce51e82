//! `cargo xtask engines`: the demo and the Docker tests on other versions of Docker. Debian's packages are unpacked below
//! `target/engines`; the machine's own engine is neither used nor changed, but for the `runc` that newer packages share.

mod fetch;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use lab::process::run as output_of;
use lab::{interrupt, tools};

use crate::setup;

/// Which engines.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Versions that Debian has, or folders with the programs of another engine
    #[arg(value_name = "ENGINES", value_delimiter = ',', default_value = "20.10,26.1,28.5")]
    engines: Vec<String>,
}

/// What came of one engine.
#[derive(Debug)]
struct Outcome {
    version: String,
    /// The last line of each run.
    demo: String,
    tests: String,
    passed: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    if !rustix::process::geteuid().is_root() {
        bail!("it needs root: an engine runs in a network namespace of its own");
    }
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    let mut outcomes = Vec::new();
    for engine in &arguments.engines {
        outcomes.push(try_all(&folder(engine)?)?);
    }
    println!("\n{}", table(&outcomes));
    Ok(if outcomes.iter().all(|outcome| outcome.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of an engine: what has a slash is one, anything else is fetched.
fn folder(engine: &str) -> Result<PathBuf> {
    if engine.contains('/') {
        return Path::new(engine).canonicalize().with_context(|| format!("there is no folder `{engine}`"));
    }
    fetch::fetch(&tools::lab_tools().with_file_name("engines").join(engine), engine)
}

fn try_all(folder: &Path) -> Result<Outcome> {
    let dockerd = tools::find_below(folder, "dockerd")
        .with_context(|| format!("`{}` has no `dockerd`", folder.display()))?;
    let version = output_of(Command::new(dockerd).arg("--version"))?.trim().to_owned();
    println!("\n==> {version}");
    let (demo, shown) = last_line(folder, &["demo"])?;
    let (tests, passed) = last_line(folder, &["test", "--only", "docker"])?;
    Ok(Outcome { version, demo, tests, passed: shown && passed })
}

/// Runs one of the other commands on an engine and lets its output through; the last line, and whether it went well.
fn last_line(engine: &Path, arguments: &[&str]) -> Result<(String, bool)> {
    interrupt::check()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .env(tools::ENGINE, engine)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut last = String::new();
    for line in child.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line?;
        println!("{line}");
        if !line.trim().is_empty() {
            last = line;
        }
    }
    Ok((last, child.wait()?.success()))
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["engine", "demo", "Docker tests"]);
    for outcome in outcomes {
        table.add_row([&outcome.version, &outcome.demo, &outcome.tests]);
    }
    table.to_string()
}
