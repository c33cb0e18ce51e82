//! `cargo xtask mutants`: breaks the decision, the flows and the packet rules in every small way that there is, and
//! looks whether their own tests notice. Not part of CI: it takes minutes and finds nothing that was not changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lab::tools::repository;

/// What has to be noticed, of a hundred. Who goes below it adds a test, or says in docs/mutation-testing.md why none
/// can tell.
const CAUGHT: usize = 90;
/// The crate that kernel and host are built from. Its tests need no privilege and take a second.
const PACKAGE: &str = "agent-common";
const TOOL: &str = "cargo-mutants";
const VERSION: &str = "27.1.0";

/// How to look.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many broken copies to build and test at a time
    #[arg(long, short, default_value_t = 1)]
    jobs: usize,
    /// Only what matches this regular expression, by file and function
    #[arg(long)]
    only: Option<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let tool = tool()?;
    let output = repository().join("target").join("mutants");
    fs::create_dir_all(&output).context("failed to make a folder for the results")?;
    let mut command = Command::new(tool);
    command
        .args(["mutants", "--package", PACKAGE, "--no-times", "--output"])
        .arg(&output)
        .arg("--jobs")
        .arg(arguments.jobs.to_string())
        .args(arguments.only.iter().flat_map(|expression| ["--re", expression]))
        .current_dir(repository());
    // The tool's own exit code says whether anything was missed; the score below says whether that is too much.
    let code = command.status().context("failed to run cargo-mutants")?.code();
    if !matches!(code, Some(0 | 2 | 3)) {
        bail!("cargo-mutants ended with {code:?}");
    }
    let score = Score::read(&output.join("mutants.out"))?;
    println!("mutants: {score}");
    Ok(if score.is_enough() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tool, installed into the checkout if it is not there.
fn tool() -> Result<PathBuf> {
    let root = repository().join("target").join("tools");
    let tool = root.join("bin").join(TOOL);
    if !tool.exists() {
        println!("mutants: installing {TOOL} {VERSION} into target/tools");
        let mut install = Command::new("cargo");
        install.args(["install", TOOL, "--locked", "--quiet", "--version", VERSION, "--root"]).arg(&root);
        if !install.status().context("failed to run cargo")?.success() {
            bail!("failed to install {TOOL}");
        }
    }
    Ok(tool)
}

/// What became of the mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Score {
    caught: usize,
    missed: usize,
    /// Tests that did not end: noticed, too.
    timeout: usize,
    /// What does not compile tells nothing.
    unviable: usize,
}

impl Score {
    fn read(results: &Path) -> Result<Self> {
        let lines = |name: &str| {
            let path = results.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
            Ok::<usize, anyhow::Error>(text.lines().count())
        };
        Ok(Self {
            caught: lines("caught.txt")?,
            missed: lines("missed.txt")?,
            timeout: lines("timeout.txt")?,
            unviable: lines("unviable.txt")?,
        })
    }

    const fn noticed(&self) -> usize {
        self.caught + self.timeout
    }

    const fn viable(&self) -> usize {
        self.noticed() + self.missed
    }

    const fn is_enough(&self) -> bool {
        self.viable() > 0 && self.noticed() * 100 >= self.viable() * CAUGHT
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (noticed, viable) = (self.noticed(), self.viable());
        let tenths = noticed * 1000 / viable.max(1);
        write!(
            formatter,
            "{noticed} of {viable} noticed ({}.{} %, at least {CAUGHT} %), {} do not compile",
            tenths / 10,
            tenths % 10,
            self.unviable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORE: Score = Score { caught: 89, missed: 10, timeout: 1, unviable: 7 };

    #[test]
    fn what_does_not_end_is_noticed_and_what_does_not_compile_does_not_count() {
        assert!(SCORE.is_enough());
        assert!(!Score { caught: 88, missed: 11, ..SCORE }.is_enough());
        assert_eq!(SCORE.to_string(), "90 of 100 noticed (90.0 %, at least 90 %), 7 do not compile");
    }

    #[test]
    fn no_mutants_are_no_success() {
        assert!(!Score { caught: 0, missed: 0, timeout: 0, unviable: 3 }.is_enough());
    }
}
