//! How many instructions the verifier walks through for each program, also on kernels that do not keep the number; and
//! what is recorded of it, by kernel line.

use std::collections::BTreeMap;

use agent_common::verdict::Hook;
use anyhow::{Context, Result, bail};
use aya::programs::ProgramError;
use lab::scratch::{Scratch, mount_bpffs};
use lab::tools::repository;
use portcullis::datapath::loader;
use portcullis::datapath::pins::Pins;
use portcullis::datapath::sizes::Sizes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Loads every program as the agent does and returns the number of each.
pub fn walk() -> Result<Vec<(&'static str, u32)>> {
    let scratch = Scratch::create()?;
    let directory = scratch.path().join("bpf");
    mount_bpffs(&directory)?;
    let pins = Pins::new(&directory.join("portcullis"));
    pins.create()?;
    let mut ebpf = loader::load(&pins, &Sizes::DEFAULT, false)?;
    let kept = loader::verified_instructions(&mut ebpf)?;
    let mut programs = Vec::new();
    for (hook, (name, kept)) in Hook::ALL.into_iter().zip(kept) {
        let program = loader::program(&mut ebpf, hook)?;
        program.unload()?;
        let walked = without_descriptors(|| program.load())?;
        let log = match walked {
            Err(ProgramError::LoadError { verifier_log, .. }) => verifier_log.to_string(),
            Err(error) => return Err(error).context("the program did not get to the verifier"),
            Ok(()) => bail!("a program was loaded without a descriptor for it"),
        };
        let walked = processed(&log).with_context(|| format!("no number in the verifier's log:\n{log}"))?;
        // Kernels before 5.16 do not keep it.
        if kept != 0 && kept != walked {
            bail!("`{name}`: the kernel says {kept} instructions, its log {walked}");
        }
        programs.push((name, walked));
    }
    Ok(programs)
}

/// How much more than recorded is too much, in percent; so much less, and the record says nothing any more.
const MARGIN: u32 = 20;
/// Written by `cargo xtask test --record`.
const RECORD: &str = "tests/verified-instructions.json";

/// What is recorded of the kernel that this runs on, by program; none, if it never was.
pub fn recorded() -> Result<Option<BTreeMap<String, u32>>> {
    let text = std::fs::read_to_string(repository().join(RECORD))
        .with_context(|| format!("failed to read `{RECORD}`"))?;
    let mut record: BTreeMap<String, BTreeMap<String, u32>> =
        serde_json::from_str(&text).with_context(|| format!("`{RECORD}` is not a record"))?;
    Ok(record.remove(&line(&rustix::system::uname().release().to_string_lossy())))
}

/// `5.10` of `5.10.0-46-cloud-amd64`.
fn line(release: &str) -> String {
    release.split(|c: char| !c.is_ascii_digit()).take(2).collect::<Vec<_>>().join(".")
}

/// How a count stands to the record.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Within the margin.
    None,
    Grown,
    Shrunk,
}

/// Compares a count with what is recorded.
#[must_use]
pub fn change(recorded: u32, counted: u32) -> Change {
    let percent = u64::from(counted) * 100;
    if percent > u64::from(recorded) * u64::from(100 + MARGIN) {
        Change::Grown
    } else if percent < u64::from(recorded) * u64::from(100 - MARGIN) {
        Change::Shrunk
    } else {
        Change::None
    }
}

/// Runs something while the process may open nothing: a program then passes the verifier and fails afterwards, for
/// want of a descriptor, which makes the loader ask for the verifier's log.
fn without_descriptors<T>(action: impl FnOnce() -> T) -> Result<T> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: limit.maximum })?;
    let result = action();
    setrlimit(Resource::Nofile, limit)?;
    Ok(result)
}

/// The number in `processed 12345 insns (limit 1000000) …`.
fn processed(log: &str) -> Option<u32> {
    let (_, rest) = log.rsplit_once("processed ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_is_growth() {
        assert_eq!(change(1000, 1200), Change::None);
        assert_eq!(change(1000, 1201), Change::Grown);
        assert_eq!(change(1000, 800), Change::None);
        assert_eq!(change(1000, 799), Change::Shrunk);
    }

    #[test]
    fn a_line_is_two_numbers() {
        assert_eq!(line("6.12.117+deb12-cloud-amd64"), "6.12");
        assert_eq!(line("6.18.44"), "6.18");
    }

    #[test]
    fn the_last_number_of_a_log_counts() {
        let log = "processed 1 insns\nprocessed 4711 insns (limit 1000000) max_states_per_insn 4";
        assert_eq!(processed(log), Some(4711));
        assert_eq!(processed("R1 !read_ok"), None);
    }
}
