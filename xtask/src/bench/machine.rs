//! The machine and the versions that figures were taken with: without them nobody can compare.

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::process::output;
use lab::tools::repository;
use serde::Serialize;

use super::tools::Tools;

/// What ran where, and when.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) hypervisor: bool,
    pub(super) kernel: String,
    pub(super) date: String,
    /// The source that the agent was built from.
    pub(super) commit: String,
    /// Name and version of each program.
    pub(super) tools: Vec<String>,
}

impl Machine {
    /// Looks around.
    pub(super) fn probe(agent: &Path, tools: &Tools) -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let versions = [
            first_line(Command::new(agent).arg("--version")),
            first_line(Command::new(&tools.perf).arg("--version")),
            first_line(Command::new(&tools.iperf3).arg("--version")),
            first_line(Command::new(&tools.ab).arg("-V")),
            first_line(Command::new(&tools.nginx).arg("-v")),
            first_line(Command::new("nft").arg("--version")),
            first_line(Command::new("iptables").arg("--version")),
        ];
        Self {
            processor: field(&processors, "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: processors.lines().filter(|line| line.starts_with("processor")).count(),
            hypervisor: field(&processors, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel,
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%d"])),
            commit: commit(),
            tools: versions.into_iter().filter(|version| !version.is_empty()).collect(),
        }
    }
}

/// The last processor that this process may use: the first ones get most interrupts.
pub(super) fn last_processor() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    last_of(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// The last number of `0-3,8`.
fn last_of(list: &str) -> Option<u32> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

fn commit() -> String {
    let git = |arguments: &[&str]| first_line(Command::new("git").args(arguments).current_dir(repository()));
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    format!("{}{}", git(&["rev-parse", "--short", "HEAD"]), if dirty { " with changes" } else { "" })
}

/// The first line that a command says anywhere; some tell their version on standard error.
fn first_line(command: &mut Command) -> String {
    let said = output(command).map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().next().unwrap_or_default();
    line.trim_start_matches("This is ").replace(" <$Revision$>", "").trim().to_owned()
}

fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_processor_of_a_list_is_found() {
        assert_eq!(last_of("\t0-1\n"), Some(1));
        assert_eq!(last_of("0-3,8"), Some(8));
        assert_eq!(last_of("0"), Some(0));
        assert_eq!(last_of(""), None);
    }

    #[test]
    fn a_processor_is_known_by_its_model() {
        let text = "processor\t: 0\nmodel name\t: Some Processor @ 2 GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(field(text, "model name").unwrap(), "Some Processor @ 2 GHz");
        assert_eq!(field(text, "microcode"), None);
    }
}
