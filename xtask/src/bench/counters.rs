//! `perf stat` around a piece of traffic: what the kernel executes for client and server, and nothing that anybody
//! else does on the same processor meanwhile. Where no instructions are counted, the time that both are running.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lab::process::output;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meter {
    /// In the kernel only.
    Instructions,
    /// The scheduler's own account of nanoseconds, in the kernel and outside: every machine has it.
    Time,
}

impl Meter {
    /// Events of perf; the first is what is compared.
    fn events(self) -> &'static [&'static str] {
        match self {
            Self::Instructions => &["instructions:k", "cycles:k"],
            Self::Time => &["task-clock"],
        }
    }

    /// The name in JSON.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Time => "nanoseconds",
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// Instructions or nanoseconds.
    pub(super) cost: f64,
    pub(super) cycles: f64,
}

impl Counted {
    /// The part of each of so many units of work.
    pub(super) fn each(self, units: f64) -> Self {
        Self { cost: self.cost / units, cycles: self.cycles / units }
    }

    fn plus(self, other: Self) -> Self {
        Self { cost: self.cost + other.cost, cycles: self.cycles + other.cycles }
    }
}

/// Whether this machine counts instructions at all; many virtual ones do not.
pub(super) fn are_there(perf: &Path) -> Result<bool> {
    let events = Meter::Instructions.events().join(",");
    let output = output(Command::new(perf).args(["stat", "-x,", "-e", &events, "--", "true"]))?;
    Ok(output.status.success()
        && read(&String::from_utf8_lossy(&output.stderr), Meter::Instructions)
            .is_ok_and(|counted| counted.cost > 0.0))
}

/// Wraps words of a command: the command is counted with all it starts, and `others` are counted while it runs.
/// The figures go into two files in `directory`.
pub(super) fn around(
    meter: Meter,
    perf: &Path,
    others: &[u32],
    directory: &Path,
    command: Vec<String>,
) -> Vec<String> {
    let events = meter.events().join(",");
    let stat = |file: &str| -> Vec<String> {
        let file = directory.join(file).display().to_string();
        let perf = perf.display().to_string();
        [perf.as_str(), "stat", "-x,", "-e", &events, "-o", &file].map(str::to_owned).to_vec()
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
pub(super) fn sum(meter: Meter, directory: &Path) -> Result<Counted> {
    ["others.perf", "command.perf"].into_iter().try_fold(Counted::default(), |sum, file| {
        let text = fs::read_to_string(directory.join(file)).context("perf left no figures")?;
        Ok(sum.plus(read(&text, meter).with_context(|| format!("cannot read what perf says:\n{text}"))?))
    })
}

/// The fields of `perf stat -x,` are value, unit, event; a task that never ran is `<not counted>`.
fn read(text: &str, meter: Meter) -> Result<Counted> {
    let value = |event: &str| {
        let fields = text
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&event))
            .with_context(|| format!("no `{event}`"))?;
        let number = match fields[0] {
            "<not counted>" => 0.0,
            number => number.parse::<f64>().with_context(|| format!("`{event}` is `{number}`"))?,
        };
        Ok::<f64, anyhow::Error>(if fields[1] == "msec" { number * 1e6 } else { number })
    };
    let (first, rest) = meter.events().split_first().context("no event")?;
    Ok(Counted { cost: value(first)?, cycles: rest.first().map_or(Ok(0.0), |event| value(event))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_event() {
        let text = "# started on Sun\n\n3152000000,,instructions:k,812,100.00,0.91,insn per cycle\n3460000000,,cycles:k,812,100.00,,\n";
        assert_eq!(read(text, Meter::Instructions).unwrap(), Counted { cost: 3_152e6, cycles: 3_460e6 });
        assert!(read(text, Meter::Time).is_err());
        let text = "0.75,msec,task-clock,749500,100.00,0.64,CPUs utilized\n";
        assert_eq!(read(text, Meter::Time).unwrap(), Counted { cost: 750_000.0, cycles: 0.0 });
    }

    #[test]
    fn a_task_that_never_ran_counts_nothing() {
        let text = "<not counted>,,instructions:k,0,100.00,,\n<not counted>,,cycles:k,0,100.00,,\n";
        assert_eq!(read(text, Meter::Instructions).unwrap(), Counted::default());
    }

    #[test]
    fn a_machine_without_counters_is_no_zero() {
        assert!(read("<not supported>,,instructions:k,0,100.00,,\n", Meter::Instructions).is_err());
        assert!(read("", Meter::Time).is_err());
    }

    #[test]
    fn a_unit_is_a_part_of_the_whole() {
        let all = Counted { cost: 600.0, cycles: 300.0 };
        assert_eq!(all.each(3.0), Counted { cost: 200.0, cycles: 100.0 });
    }
}
