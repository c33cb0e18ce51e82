//! How many instructions the verifier walks through for each program, also on kernels that do not keep the number.

use std::process::Command;

use agent_common::verdict::Hook;
use anyhow::{Context, Result, bail};
use aya::programs::ProgramError;
use lab::process::run;
use lab::scratch::Scratch;
use portcullis::datapath::loader;
use portcullis::datapath::pins::Pins;
use portcullis::datapath::sizes::Sizes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Loads every program as the agent does and returns the number of each.
pub fn walk() -> Result<Vec<(&'static str, u32)>> {
    let scratch = Scratch::create()?;
    let directory = scratch.path().join("bpf");
    std::fs::create_dir_all(&directory)?;
    run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&directory))?;
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
    fn the_last_number_of_a_log_counts() {
        let log = "processed 1 insns\nprocessed 4711 insns (limit 1000000) max_states_per_insn 4";
        assert_eq!(processed(log), Some(4711));
        assert_eq!(processed("R1 !read_ok"), None);
    }
}
