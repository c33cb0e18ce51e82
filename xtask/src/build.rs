//! `cargo xtask build`: the agent with its kernel programs inside. The kernel programs themselves are built by the
//! agent's own build script.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lab::tools;

use crate::setup;

/// What to build.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Optimised, into target/release
    #[arg(long)]
    release: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    println!("build: kernel programs with {}", setup::toolchain());
    let binary = agent(arguments.release)?;
    println!("build: {}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent and says where it is.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--package", "portcullis"])
        .args(release.then_some("--release"))
        .current_dir(tools::repository());
    let status = command.status().context("failed to run cargo")?;
    if !status.success() {
        bail!("the agent does not build");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| tools::repository().join("target"), PathBuf::from);
    Ok(target.join(if release { "release" } else { "debug" }).join("portcullis"))
}
