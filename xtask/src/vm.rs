//! `cargo xtask vm`: Debian's older kernels, each booted by emulation with the tests that ask a kernel what the design
//! leans on. The guest has no network, its disk is what it boots from, and its time is bounded.

mod archive;
mod boot;
mod guest;
mod modules;
pub(crate) mod packages;
mod summary;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lab::{interrupt, process, tools};

use crate::setup;

/// The program that emulates a machine, and the package that has it.
const EMULATOR: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// Which kernels, and what to run on them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kernel lines of Debian, such as 5.10,6.1,6.12
    #[arg(value_name = "KERNELS", value_delimiter = ',', required = true)]
    kernels: Vec<String>,
    /// Run only the tests whose names hold this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Give a guest up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    if !cfg!(target_arch = "x86_64") {
        bail!("the guests are x86-64 machines, and their programs are built here");
    }
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    ensure_emulator()?;
    println!("vm: building the agent and its tests without shared libraries");
    let programs = guest::build()?;
    let mut results = Vec::new();
    for version in &arguments.kernels {
        interrupt::check()?;
        let kernel = packages::fetch(&folder().join(version), version)?;
        println!("\n==> kernel {}", kernel.release);
        let start = Instant::now();
        let image = guest::image(&kernel, &programs, arguments.only.as_deref())?;
        let said = boot::boot(&kernel, &image, Duration::from_secs(arguments.limit))?;
        results.push(summary::Summary::read(&kernel.release, &said, start.elapsed()));
    }
    let passed = results.iter().all(summary::Summary::passed);
    println!("\n{}", summary::table(&results));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything of this command lies here; all of it can be made again.
fn folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| tools::repository().join("target"), PathBuf::from)
        .join("vm")
}

fn ensure_emulator() -> Result<()> {
    let (program, package) = EMULATOR;
    if tools::find(program).is_some() {
        return Ok(());
    }
    if tools::find("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        bail!("`{program}` is missing: install it (Debian's package is `{package}`)");
    }
    println!("vm: installing {package}");
    process::run(Command::new("apt-get").args(["update", "-qq"]))?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", package])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1"),
    )?;
    Ok(())
}
