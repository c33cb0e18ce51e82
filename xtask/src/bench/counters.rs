//! `perf stat` around a piece of traffic: what the kernel executes for client and server, and nothing that anybody
//! else does on the same processor meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lab::process::output;

/// What is counted, in the kernel only.
const EVENTS: &str = "instructions:k,cycles:k";

/// Kernel instructions and cycles.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) instructions: f64,
    pub(super) cycles: f64,
}

impl Counted {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { instructions: self.instructions + other.instructions, cycles: self.cycles + other.cycles }
    }
}

/// Whether this machine counts instructions at all; many virtual ones do not.
pub(super) fn are_there(perf: &Path) -> Result<bool> {
    let output = output(Command::new(perf).args(["stat", "-x,", "-e", EVENTS, "--", "true"]))?;
    Ok(output.status.success()
        && read(&String::from_utf8_lossy(&output.stderr)).is_ok_and(|counted| counted.instructions > 0.0))
}

/// Wraps words of a command: the command is counted with all it starts, and `others` are counted while it runs.
/// The figures go into two files in `directory`.
pub(super) fn around(perf: &Path, others: &[u32], directory: &Path, command: Vec<String>) -> Vec<String> {
    let stat = |file: &str| -> Vec<String> {
        let file = directory.join(file).display().to_string();
        let perf = perf.display().to_string();
        [perf.as_str(), "stat", "-x,", "-e", EVENTS, "-o", &file].map(str::to_owned).to_vec()
    };
    let others: Vec<String> = others.iter().map(u32::to_string).collect();
    let mut words = stat("others.perf");
    words.extend(["-p".to_owned(), others.join(","), "--".to_owned()]);
    words.extend(stat("command.perf"));
    words.push("--".to_owned());
    words.extend(command);
    words
}

/// What [`around`] counted.
pub(super) fn sum(directory: &Path) -> Result<Counted> {
    ["others.perf", "command.perf"].into_iter().try_fold(Counted::default(), |sum, file| {
        let text = fs::read_to_string(directory.join(file)).context("perf left no figures")?;
        Ok(sum.plus(read(&text).with_context(|| format!("cannot read what perf says:\n{text}"))?))
    })
}

/// The fields of `perf stat -x,` are value, unit, event; a task that never ran is `<not counted>`.
fn read(text: &str) -> Result<Counted> {
    let value = |event: &str| {
        let fields = text
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|fields| fields.get(2).is_some_and(|name| name.starts_with(event)))
            .with_context(|| format!("no `{event}`"))?;
        match fields[0] {
            "<not counted>" => Ok(0.0),
            number => number.parse::<f64>().with_context(|| format!("`{event}` is `{number}`")),
        }
    };
    Ok(Counted { instructions: value("instructions")?, cycles: value("cycles")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_event() {
        let text = "# started on Sun\n\n3152000000,,instructions:k,812,100.00,0.91,insn per cycle\n3460000000,,cycles:k,812,100.00,,\n";
        assert_eq!(read(text).unwrap(), Counted { instructions: 3_152e6, cycles: 3_460e6 });
    }

    #[test]
    fn a_task_that_never_ran_counts_nothing() {
        let text = "<not counted>,,instructions:k,0,100.00,,\n<not counted>,,cycles:k,0,100.00,,\n";
        assert_eq!(read(text).unwrap(), Counted::default());
    }

    #[test]
    fn a_machine_without_counters_is_no_zero() {
        assert!(read("<not supported>,,instructions:k,0,100.00,,\n").is_err());
        assert!(read("").is_err());
    }
}
