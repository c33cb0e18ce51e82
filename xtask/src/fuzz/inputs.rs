//! `cargo xtask fuzz --input`: whatever a fuzzer thinks of, to everything in the agent that reads bytes of others. A
//! panic, ten seconds over one input or half a gigabyte of memory is a finding.
//!
//! A stable compiler is enough: the workspace's crates are compiled with LLVM's coverage pass, their dependencies are
//! those of every other build.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use lab::interrupt;
use lab::tools::repository;

/// What can be fed, as `portcullis::inputs` names it.
const NAMES: [&str; 7] = ["policy", "settings", "inventory", "engine", "netlink", "record", "control"];

/// Stands in for the compiler of the workspace's own crates. Build scripts run during the build, without the engine that
/// the instrumentation calls.
const COMPILER: &str = r#"#!/bin/sh
case " $* " in *" --crate-name build_script_build "*) exec "$@" ;; esac
exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
"#;

/// Feeds one input, or all of them side by side.
pub(super) fn run(input: &str, minutes: u64, corpus: Option<&Path>) -> Result<ExitCode> {
    let chosen: Vec<&str> = NAMES.into_iter().filter(|name| input == "all" || input == *name).collect();
    if chosen.is_empty() {
        bail!("there is no input `{input}`; there are {}, and `all`", NAMES.join(", "));
    }
    let home = super::target().join("fuzz-inputs");
    fs::create_dir_all(&home)?;
    let binary = build(&home)?;
    let corpus = corpus.map_or_else(|| home.join("corpus"), Path::to_path_buf);
    let mut running = Vec::new();
    for name in chosen {
        running.push(Running::start(name, &binary, &home, &corpus, minutes * 60)?);
    }
    let mut sound = true;
    for each in running {
        sound &= each.end()?;
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(home: &Path) -> Result<PathBuf> {
    let compiler = home.join("rustc");
    // Written anew it would look changed, and everything would be built anew.
    if fs::read_to_string(&compiler).ok().as_deref() != Some(COMPILER) {
        fs::write(&compiler, COMPILER)?;
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755))?;
    }
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "input-fuzz"])
        .env("RUSTC_WORKSPACE_WRAPPER", &compiler)
        .env("PORTCULLIS_BPF_TOOLCHAIN", "none")
        .current_dir(repository())
        .status()
        .context("failed to run cargo")?;
    if !status.success() {
        bail!("the fuzzer does not build");
    }
    // Its name is also that of a build without instrumentation.
    let binary = home.join("input-fuzz");
    fs::copy(super::target().join("debug/input-fuzz"), &binary)?;
    Ok(binary)
}

/// An engine at work.
struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &'static str, binary: &Path, home: &Path, corpus: &Path, seconds: u64) -> Result<Self> {
        let corpus = corpus.join(name);
        fs::create_dir_all(&corpus)?;
        let log = home.join(format!("{name}.log"));
        let output = fs::File::create(&log)?;
        let mut command = Command::new(binary);
        command.env("PORTCULLIS_INPUT", name).arg(&corpus).args(seeds(name));
        command.args(["-max_len=16384", "-timeout=10", "-rss_limit_mb=512", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/{name}-", home.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().context("failed to start the fuzzer")?;
        Ok(Self { name, child, log })
    }

    /// Waits for its end; whether it found nothing.
    fn end(mut self) -> Result<bool> {
        while self.child.try_wait()?.is_none() {
            if interrupt::arrived() {
                self.child.kill()?;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let sound = self.child.wait()?.success();
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        let said = |what: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix(what)).unwrap_or("?");
            line.trim().to_owned()
        };
        println!(
            "{:<10} {} inputs, {} kept for the next time, {} MB at most",
            self.name,
            said("stat::number_of_executed_units:"),
            said("stat::new_units_added:"),
            said("stat::peak_rss_mb:")
        );
        if !sound {
            let lines: Vec<&str> = log.lines().collect();
            println!("error: a finding\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        Ok(sound)
    }
}

/// What is known to be read: the engine goes on from there.
fn seeds(name: &str) -> Vec<PathBuf> {
    let own = repository().join("tests/inputs/seeds").join(name);
    let elsewhere = match name {
        "policy" => vec!["policies", "policies/variants"],
        "engine" => vec!["agent/src/inventory/docker/fixtures"],
        _ => Vec::new(),
    };
    elsewhere
        .into_iter()
        .map(|folder| repository().join(folder))
        .chain([own])
        .filter(|path| path.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_the_agent_is_fed_and_has_seeds() {
        let source = fs::read_to_string(repository().join("agent/src/inputs.rs")).unwrap();
        for name in NAMES {
            assert!(source.contains(&format!("(\"{name}\", {name})")), "{name}");
            assert!(!seeds(name).is_empty(), "{name}");
        }
        assert!(source.contains(&format!("[Input; {}]", NAMES.len())));
    }
}
