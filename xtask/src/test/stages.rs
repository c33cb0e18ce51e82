//! The stages of the test command: what each runs and what counts as failing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use lab::tools::{Tools, repository};

use super::kernels;
use super::tally::Tally;

/// One stage.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) privileged: bool,
    /// Nothing after it makes sense once it fails.
    pub(super) stops_the_rest: bool,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// A command that passes or fails as a whole.
    Check(&'static [&'static str]),
    /// The same with unstable language features allowed.
    CheckUnstable(&'static [&'static str]),
    /// `cargo test`, whose results are added up.
    Tests(&'static [&'static str]),
    /// The tests inside guests.
    Kernels,
}

/// The stage that boots other kernels.
pub(super) const KERNELS: &str = "kernels";

/// In order: cheap before dear, unprivileged before privileged.
pub(super) const STAGES: [Stage; 14] = [
    stage("fmt", "formatting", Work::Check(&["fmt", "--all", "--check"])),
    stage(
        "tidy",
        "the rules that no compiler knows",
        Work::Check(&["run", "--quiet", "--package", "xtask", "--", "tidy"]),
    ),
    Stage {
        stops_the_rest: true,
        ..stage(
            "clippy",
            "lints",
            Work::Check(&[
                "clippy",
                "--workspace",
                "--exclude=agent-ebpf",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        )
    },
    stage(
        "clippy-dist",
        "lints of the tests that need packages, which the others leave out",
        Work::Check(&[
            "clippy",
            "--package=integration-tests",
            "--test=packages",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    ),
    Stage {
        stops_the_rest: true,
        ..stage(
            "clippy-bpf",
            "lints of the kernel programs",
            // Checked for this machine's target, which needs no BPF toolchain; their unstable features need the
            // environment variable.
            Work::CheckUnstable(&[
                "clippy",
                "--package=agent-ebpf",
                "--bins",
                "--profile=bpf",
                "--target-dir=target/clippy-bpf",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        )
    },
    stage(
        "alerts",
        "alert rules by Prometheus's own tools",
        Work::Check(&["run", "--quiet", "--package", "xtask", "--", "alerts"]),
    ),
    stage(
        "unit",
        "unit, property and command line tests",
        Work::Tests(&["--workspace", "--exclude", "integration-tests", "--exclude", "agent-ebpf"]),
    ),
    stage(
        "conform",
        "compose files, read as Docker Compose reads them",
        Work::Check(&["run", "--quiet", "--package", "xtask", "--", "conform", "--compose"]),
    ),
    stage(
        "inputs",
        "the agent's parsers, fed by a fuzzer for a minute each",
        Work::Check(&["run", "--quiet", "--package", "xtask", "--", "fuzz", "--input=all", "--minutes=1"]),
    ),
    Stage {
        stops_the_rest: true,
        ..stage(
            "build",
            "the agent with its kernel programs",
            Work::Check(&["build", "--package", "portcullis"]),
        )
    },
    Stage {
        privileged: true,
        ..stage(
            "privileged",
            "kernel programs and plain namespaces",
            Work::Tests(&[
                "--package",
                "integration-tests",
                "--",
                "--test-threads=1",
                "--skip",
                "docker_",
                "--skip",
                "in_guest_",
            ]),
        )
    },
    Stage {
        privileged: true,
        ..stage(
            "docker",
            "scenarios on a Docker Engine of their own",
            Work::Tests(&[
                "--package",
                "integration-tests",
                "--test=docker",
                "--test=docker_audit",
                "--test=docker_life",
                "--test=detours",
                "--test=engine",
                "--test=engine_restart",
                "--",
                "--test-threads=1",
            ]),
        )
    },
    Stage {
        privileged: true,
        ..stage(
            "packages",
            "the Debian package on a systemd of its own",
            Work::Check(&["run", "--quiet", "--package", "xtask", "--", "dist", "--check", "--quick"]),
        )
    },
    Stage { privileged: true, ..stage(KERNELS, "the same on other kernels, emulated", Work::Kernels) },
];

const fn stage(name: &'static str, what: &'static str, work: Work) -> Stage {
    Stage { name, what, privileged: false, stops_the_rest: false, work }
}

impl Stage {
    /// Runs it and lets cargo's own output through.
    pub(super) fn run(&self, kernels: &kernels::Guests) -> Result<Tally> {
        if self.privileged
            && let Some(missing) = missing()
        {
            println!("error: the stage `{}` cannot run: {missing}", self.name);
            return Ok(Tally::of_one(false));
        }
        match self.work {
            Work::Check(arguments) => {
                let status = cargo(arguments).status().context("failed to run cargo")?;
                Ok(Tally::of_one(status.success()))
            }
            Work::CheckUnstable(arguments) => {
                let status =
                    cargo(arguments).env("RUSTC_BOOTSTRAP", "1").status().context("failed to run cargo")?;
                Ok(Tally::of_one(status.success()))
            }
            Work::Tests(arguments) => tests(arguments),
            Work::Kernels => kernels::run(kernels).or_else(|error| {
                println!("error: the stage `{}` cannot run: {error:#}", self.name);
                Ok(Tally::of_one(false))
            }),
        }
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(repository()).stdin(Stdio::null());
    command
}

fn tests(arguments: &[&str]) -> Result<Tally> {
    let mut command = cargo(&["test", "--no-fail-fast"]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().context("failed to run cargo")?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            tally.add_line(&line);
            println!("{line}");
        }
    }
    // Tests that did not even build have no result line, but they have not passed.
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// What a privileged test lacks on this machine.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(
            "it needs root: run `cargo xtask test` as root, or `--fast` without these tests".to_owned(),
        );
    }
    Tools::locate().err().map(|error| error.to_string())
}
