//! Which test programs run in a guest, and how much of each: one table, with a reason for whatever is left out.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lab::tools::repository;

use super::packages::Kernel;
use super::{Choice, Extent};

/// A test program below `tests/tests`.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    share: Share,
    /// In every run of all tests only those with these parts of names; if there are none, as with `--kernel`.
    often: &'static [&'static str],
    left: &'static [Left],
    /// Environment that makes it shorter.
    pub(super) settings: &'static [(&'static str, &'static str)],
}

/// What of it runs in a guest.
#[derive(Clone, Copy, Debug)]
enum Share {
    /// All of it.
    All,
    /// The tests with these parts of names; the rest by hand.
    Usual(&'static [&'static str]),
    /// By hand only, and why that is enough.
    ByHand(&'static str),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// Tests that are left out.
#[derive(Debug)]
struct Left {
    /// Part of their names; of all, if it is empty.
    tests: &'static str,
    /// On kernels older than this.
    before: (u32, u32),
    /// Said where they are left out.
    why: &'static str,
}

const TEST_RUN: [Left; 1] = [Left {
    tests: "",
    before: (6, 1),
    why: "BPF_PROG_TEST_RUN of 5.10 refuses a context with an `ingress_ifindex` (EINVAL), and what comes from nowhere is \
          the host's",
}];
const DEAD_LINK: [Left; 1] = [without_tcx("a_link_of_a_dead_interface")];
const RESTART: [Left; 2] = [
    without_tcx("a_change_between_tcx_and_clsact"),
    same_by_clsact("many_restarts_leak_nothing_and_cut_nothing"),
];
const SABOTAGE: [Left; 3] = [
    without_tcx("a_program_that_gets_before_ours"),
    without_tcx("whoever_insists"),
    without_tcx("links_taken_off"),
];
const LIFE: [Left; 2] = [same_by_clsact("kill_tcx"), without_tcx("a_new_port_is_left_with_links")];
const PINS: [Left; 5] = [
    without_tcx("programs_exchanged_while_no_agent_ran"),
    without_tcx("a_link_that_is_not_on_its_hook"),
    without_tcx("a_panic_that_unwinds_takes_no_link_off"),
    without_tcx("what_others_attached_stays"),
    same_by_clsact("one_of_two_agents_is_detached_from_another_namespace"),
];

/// What older kernels do not have cannot be tested there; the test of clsact beside it runs on all.
const fn without_tcx(tests: &'static str) -> Left {
    Left { tests, before: (6, 6), why: "this kernel has no TCX, and no links" }
}

const fn same_by_clsact(tests: &'static str) -> Left {
    Left {
        tests,
        before: (6, 6),
        why: "this kernel has no TCX, and the test of clsact beside it is the same",
    }
}

const NO_ENGINE: &str = "there is no Docker Engine in a guest";

/// Every test program there is: a unit test fails for one that is missing, and for a name that no test has.
const ALL: [Program; 33] = [
    Program { share: Share::Usual(&["every_program_passes_the_verifier"]), ..all("verifier") },
    Program { left: &DEAD_LINK, ..all("kernel") },
    Program {
        share: Share::Usual(&[
            "every_attempt_into_a_covered_endpoint",
            "every_attempt_out_of_a_covered_endpoint",
            "ipv4_headers",
            "ipv6_headers",
            "ip_packets_carry_the_ports_own_addresses",
            "a_handshake_passes_all_four_hooks",
            "every_combination_of_flags_without_a_flow",
            "an_error_belongs_to_the_flow",
            "the_world_reaches_what_is_public",
            "a_tightened_policy_cuts_and",
            "a_mark_is_believed_only_behind",
        ]),
        left: &TEST_RUN,
        ..all("programs")
    },
    Program {
        often: &["of_what_a_covered_container_sends"],
        settings: &[("PORTCULLIS_ORACLE_SHARE", "2")],
        ..all("oracle")
    },
    by_hand("no_docker", "its matrix is that of the agent's life among the facts"),
    Program { share: Share::Usual(&["a_tighter_policy_cuts"]), ..all("reload") },
    Program {
        share: Share::Usual(&["totals_agree_with_the_kernels", "the_agent_keeps_three_capabilities"]),
        ..all("told")
    },
    Program {
        share: Share::Usual(&["many_restarts"]),
        left: &RESTART,
        settings: &[("PORTCULLIS_RESTARTS", "2")],
        ..all("restart")
    },
    Program {
        share: Share::Usual(&["clsact_filters_come_back", "links_taken_off"]),
        left: &SABOTAGE,
        ..all("sabotage")
    },
    Program { share: Share::Usual(&["two_new_ports_exchange_nothing"]), ..all("backstop") },
    by_hand("unavailable", "what Docker says or does not say is the same on every kernel"),
    by_hand("bad_input", "what is wrong is refused before the kernel is touched"),
    Program {
        settings: &[("PORTCULLIS_FLOOD", "2000")],
        ..by_hand("reconcile", "its floods take minutes; `told` compares with the kernel's own counters")
    },
    nothing("exhaustion", "its floods take many minutes there, and full tables are among the packet tables"),
    nothing("scanners", "nmap and its data are not in the guest, and what it sends the fuzzer sends too"),
    nothing("docker", NO_ENGINE),
    nothing("docker_audit", NO_ENGINE),
    nothing("packages", "a package is installed on a machine of its own, whichever kernel runs it"),
    nothing("packaging", "its judges come from registries, and read files"),
    nothing("alerting", "there is no Prometheus in a guest"),
    Program {
        share: Share::Usual(&["other_sizes_lose_no_flow_and_no_count_by_clsact", "maps_whose_pins_are_gone"]),
        often: &["maps_whose_pins_are_gone"],
        left: &PINS,
        ..all("pins")
    },
    all("clock"),
    by_hand("world", "what happens around the agent is the same on every kernel"),
    nothing("fake_engine", "what an engine says is read alike on every kernel"),
    nothing("scale", "it measures processor time, which emulation does not tell"),
    nothing("engine_restart", NO_ENGINE),
    Program {
        share: Share::Usual(&["kill_"]),
        left: &LIFE,
        settings: &[("PORTCULLIS_SOAK_TIMES", "3")],
        ..all("life")
    },
    nothing("docker_life", NO_ENGINE),
    nothing("formats", "its judges come from registries, and events are the same on every kernel"),
    by_hand("sinks", "the queue before a sink is the agent's own, the same on every kernel"),
    nothing("engine", NO_ENGINE),
    nothing("detours", NO_ENGINE),
    // Last: it waits until the machine has been up for as long as its clock jumps.
    Program {
        left: &TEST_RUN,
        settings: &[("PORTCULLIS_MODEL_PACKETS", "480"), ("PORTCULLIS_MODEL_SESSION", "12")],
        ..all("model")
    },
];

const fn all(name: &'static str) -> Program {
    Program { name, share: Share::All, often: &[], left: &[], settings: &[] }
}

const fn by_hand(name: &'static str, why: &'static str) -> Program {
    Program { share: Share::ByHand(why), ..all(name) }
}

const fn nothing(name: &'static str, why: &'static str) -> Program {
    Program { share: Share::Nothing(why), ..all(name) }
}

impl Program {
    /// Whether any of it runs on a kernel.
    pub(super) fn runs_on(&self, kernel: &Kernel) -> bool {
        self.left_out(kernel).all(|(tests, _)| !tests.is_empty())
    }

    /// Parts of the names of the tests that are left out on a kernel, each with the reason.
    pub(super) fn left_out(&self, kernel: &Kernel) -> impl Iterator<Item = (&'static str, &'static str)> {
        let version = kernel.version();
        let left = self.left.iter().filter(move |left| version < left.before);
        left.map(|left| (left.tests, left.why))
    }

    /// Parts of the names of the tests that run; of all, if there are none.
    pub(super) const fn names(&self, extent: Extent) -> &'static [&'static str] {
        match (extent, self.share) {
            (Extent::All, _) => &[],
            (Extent::Often, _) if !self.often.is_empty() => self.often,
            (_, Share::Usual(tests)) => tests,
            _ => &[],
        }
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
        let unasked = choice.programs.is_empty();
        match program.share {
            Share::Nothing(why) if asked => bail!("`{}` does not run in guests: {why}", program.name),
            Share::ByHand(why) if unasked && choice.extent != Extent::All => {
                println!("`{}` runs by hand only: {why}", program.name);
            }
            Share::Nothing(_) => {}
            _ if asked || unasked => chosen.push(program),
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
    fn every_name_is_that_of_a_test() {
        for program in &ALL {
            let path = repository().join("tests/tests").join(program.name);
            let files =
                std::fs::read_dir(&path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            let text: String = files
                .chain([path.with_extension("rs")])
                .filter_map(|file| std::fs::read_to_string(file).ok())
                .collect();
            let left = program.left.iter().map(|left| left.tests).filter(|tests| !tests.is_empty());
            let names = [Extent::Often, Extent::Usual].into_iter().flat_map(|extent| program.names(extent));
            for name in left.chain(names.copied()) {
                assert!(text.contains(&format!("fn {name}")), "`{}` has no test `{name}`", program.name);
            }
        }
    }

    #[test]
    fn what_is_left_out_depends_on_the_kernel() {
        const LEFT: [Left; 2] = [
            Left { tests: "older", before: (6, 1), why: "" },
            Left { tests: "old", before: (6, 6), why: "" },
        ];
        let program = Program { left: &LEFT, ..all("x") };
        let left = |release: &str| -> Vec<_> {
            let kernel =
                Kernel { release: release.to_owned(), image: PathBuf::new(), modules: PathBuf::new() };
            program.left_out(&kernel).map(|(tests, _)| tests).collect()
        };
        assert_eq!(left("5.10.0-46-cloud-amd64"), ["older", "old"]);
        assert_eq!(left("6.1.0-56-cloud-amd64"), ["old"]);
        assert!(left("6.12.117+deb12-cloud-amd64").is_empty());
    }
}
