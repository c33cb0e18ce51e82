//! Which test programs run in a guest, and how much of each: one table, with a reason for whatever is left out.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lab::tools::repository;

use super::Choice;
use super::packages::Kernel;

/// A test program below `tests/tests`.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    share: Share,
    /// Environment that makes it shorter.
    pub(super) settings: &'static [(&'static str, &'static str)],
}

/// What of it runs in a guest.
#[derive(Debug)]
enum Share {
    /// All but these tests.
    Without(&'static [Left]),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// Tests that are left out.
#[derive(Debug)]
struct Left {
    /// Part of their names; of all, if it is empty.
    tests: &'static str,
    /// On kernels older than this; on all, if there is none.
    before: Option<(u32, u32)>,
    /// Said where they are left out.
    why: &'static str,
}

const TEST_RUN: [Left; 1] = [Left {
    tests: "",
    before: Some((5, 13)),
    why: "this kernel's BPF_PROG_TEST_RUN takes no `ingress_ifindex`, so that every packet would be the host's",
}];

const SABOTAGE: [Left; 4] = [
    without_tcx("a_program_that_gets_before_ours"),
    without_tcx("whoever_insists"),
    without_tcx("links_taken_off"),
    without_tcx("pins_removed"),
];

/// What older kernels do not have cannot be tested there; the test of clsact beside it runs on all.
const fn without_tcx(tests: &'static str) -> Left {
    Left { tests, before: Some((6, 6)), why: "this kernel has no TCX, and no links" }
}

/// Every test program there is: a unit test fails for one that is missing.
const ALL: [Program; 27] = [
    all("verifier"),
    Program { share: Share::Without(&[without_tcx("a_link_of_a_dead_interface")]), ..all("kernel") },
    Program { share: Share::Without(&TEST_RUN), ..all("programs") },
    Program {
        share: Share::Without(&TEST_RUN),
        settings: &[("PORTCULLIS_MODEL_PACKETS", "5000"), ("PORTCULLIS_MODEL_SESSION", "50")],
        ..all("model")
    },
    Program { settings: &[("PORTCULLIS_ORACLE_SHARE", "5")], ..all("oracle") },
    all("no_docker"),
    all("reload"),
    all("told"),
    Program {
        share: Share::Without(&[without_tcx("a_change_between_tcx_and_clsact")]),
        settings: &[("PORTCULLIS_RESTARTS", "4")],
        ..all("restart")
    },
    Program { share: Share::Without(&SABOTAGE), ..all("sabotage") },
    all("backstop"),
    all("unavailable"),
    all("bad_input"),
    Program { settings: &[("PORTCULLIS_FLOOD", "2000")], ..all("reconcile") },
    nothing("exhaustion", "its floods take many minutes there, and full tables are among the packet tables"),
    nothing("scanners", "nmap and its data are not in the guest, and what it sends the fuzzer sends too"),
    nothing("docker", "there is no Docker Engine in a guest"),
    all("pins"),
    all("world"),
    nothing("fake_engine", "what an engine says is read alike on every kernel"),
    nothing("scale", "it measures processor time, which emulation does not tell"),
    nothing("engine_restart", "there is no Docker Engine in a guest"),
    all("life"),
    nothing("docker_life", "there is no Docker Engine in a guest"),
    nothing("formats", "its judges come from registries, and events are the same on every kernel"),
    nothing("engine", "there is no Docker Engine in a guest"),
    nothing("detours", "there is no Docker Engine in a guest"),
];

const fn all(name: &'static str) -> Program {
    Program { name, share: Share::Without(&[]), settings: &[] }
}

const fn nothing(name: &'static str, why: &'static str) -> Program {
    Program { name, share: Share::Nothing(why), settings: &[] }
}

impl Program {
    /// Whether any of it runs on a kernel.
    pub(super) fn runs_on(&self, kernel: &Kernel) -> bool {
        self.left_out(kernel).all(|(tests, _)| !tests.is_empty())
    }

    /// Parts of the names of the tests that are left out on a kernel, each with the reason.
    pub(super) fn left_out(&self, kernel: &Kernel) -> impl Iterator<Item = (&'static str, &'static str)> {
        let left = match self.share {
            Share::Without(left) => left,
            Share::Nothing(_) => &[],
        };
        let version = kernel.version();
        left.iter()
            .filter(move |left| left.before.is_none_or(|before| version < before))
            .map(|left| (left.tests, left.why))
    }
}

/// A program that was built for the guests.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) program: &'static Program,
    pub(super) file: PathBuf,
}

/// Builds what was chosen, and the agent beside it. The guests get this machine's C library, so these are the programs
/// that run on this machine too, and nothing is built twice.
pub(super) fn build(choice: &Choice) -> Result<Vec<Built>> {
    let mut chosen = Vec::new();
    for program in &ALL {
        let asked = choice.programs.contains(&program.name);
        match program.share {
            Share::Nothing(why) if asked => bail!("`{}` does not run in guests: {why}", program.name),
            Share::Without(_) if asked || choice.programs.is_empty() => chosen.push(program),
            _ => {}
        }
    }
    if let Some(unknown) = choice.programs.iter().find(|name| ALL.iter().all(|known| known.name != **name)) {
        bail!("there is no test program `{unknown}`");
    }
    cargo(&["build", "--package", "portcullis"])?;
    let mut arguments = vec!["test", "--no-run", "--package", "integration-tests", "--message-format=json"];
    for program in &chosen {
        arguments.extend(["--test", program.name]);
    }
    let said = cargo(&arguments)?;
    chosen
        .into_iter()
        .map(|program| {
            let file = executable(&said, program.name)
                .with_context(|| format!("cargo did not say where `{}` is", program.name))?;
            Ok(Built { program, file })
        })
        .collect()
}

fn executable(said: &str, name: &str) -> Option<PathBuf> {
    said.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && message["target"]["kind"][0] == "test")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("cargo");
    command
        .args(arguments)
        .arg("--quiet")
        .current_dir(repository())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("failed to run cargo")?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            said.push_str(&line?);
            said.push('\n');
        }
    }
    if !child.wait()?.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_has_its_place() {
        let mut known: Vec<String> = ALL.iter().map(|program| program.name.to_owned()).collect();
        known.sort();
        let mut there: Vec<String> = std::fs::read_dir(repository().join("tests/tests"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .collect();
        there.sort();
        assert_eq!(known, there, "each file of `tests/tests` has a row in `ALL`");
    }

    #[test]
    fn what_is_left_out_depends_on_the_kernel() {
        const LEFT: [Left; 2] = [
            Left { tests: "always", before: None, why: "" },
            Left { tests: "old", before: Some((6, 6)), why: "" },
        ];
        let program = Program { share: Share::Without(&LEFT), ..all("x") };
        let left = |release: &str| -> Vec<_> {
            let kernel =
                Kernel { release: release.to_owned(), image: PathBuf::new(), modules: PathBuf::new() };
            program.left_out(&kernel).map(|(tests, _)| tests).collect()
        };
        assert_eq!(left("6.1.0-56-cloud-amd64"), ["always", "old"]);
        assert_eq!(left("6.12.117+deb12-cloud-amd64"), ["always"]);
    }
}
