//! What a guest's console comes to: which tests passed, and how many instructions the verifier walked through.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{Table, presets};

use crate::test::tally::Tally;

/// The guest's last words.
const DONE: &str = "guest: done";

/// One guest's results.
#[derive(Debug, Default)]
pub(super) struct Summary {
    release: String,
    /// From the result lines of the test programs.
    tally: Tally,
    failed: Vec<String>,
    /// How many programs were to run.
    expected: usize,
    /// How each ended.
    ended: BTreeMap<String, i32>,
    /// Programs of which no test ran.
    idle: usize,
    /// A lockdown that was asked for and is not there.
    unlocked: Option<String>,
    /// It came to its last line.
    done: bool,
    /// Instructions by program.
    pub(super) programs: BTreeMap<String, u32>,
    /// How programs got onto an interface.
    attached: String,
    took: Duration,
}

impl Summary {
    /// Reads a console.
    pub(super) fn read(release: &str, said: &[String], expected: usize, took: Duration) -> Self {
        let mut summary = Self { release: release.to_owned(), expected, took, ..Self::default() };
        for line in said {
            summary.tally.add_line(line);
            summary.idle += usize::from(line.starts_with("test result: ok. 0 passed"));
            summary.done |= line == DONE;
            if let Some((program, code)) =
                line.strip_prefix("guest: ").and_then(|line| line.split_once(" ended with "))
            {
                summary.ended.insert(program.to_owned(), code.trim().parse().unwrap_or(-1));
            } else if let Some((name, result)) =
                line.strip_prefix("test ").and_then(|line| line.split_once(" ... "))
            {
                // Between the dots and the result a test may have said something past the harness.
                if result.ends_with("FAILED") {
                    summary.failed.push(name.to_owned());
                }
            } else if let Some(attached) = line.strip_prefix("attached ") {
                attached.split(' ').next().unwrap_or_default().clone_into(&mut summary.attached);
            }
        }
        summary.programs = programs_in(said.iter().map(String::as_str));
        summary
    }

    /// The same, of a kernel that was to be in lockdown.
    pub(super) fn locked_down(mut self, mode: Option<&str>, said: &[String]) -> Self {
        let is_in = |mode: &str| {
            let mode = format!("[{mode}]");
            said.iter().any(|line| line.starts_with("guest: lockdown: ") && line.contains(&mode))
        };
        self.unlocked = mode.filter(|mode| !is_in(mode)).map(str::to_owned);
        self
    }

    /// Its tests, and one more that failed for everything that should have been said and was not. A program without a
    /// test has failed too, unless the tests were `filtered`.
    pub(super) fn tally(&self, filtered: bool) -> Tally {
        let mut tally = self.tally;
        for _ in 0..self.troubles(filtered).len() {
            tally += Tally::of_one(false);
        }
        tally
    }

    fn troubles(&self, filtered: bool) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(mode) = &self.unlocked {
            troubles.push(format!("it was not in lockdown, `{mode}`"));
        }
        if !self.done {
            troubles.push("it did not come to its last line".to_owned());
        } else if self.ended.len() != self.expected {
            troubles.push(format!("{} of {} test programs ran", self.ended.len(), self.expected));
        }
        let broken = self.ended.iter().filter(|(_, code)| **code != 0).map(|(program, _)| program.as_str());
        let broken: Vec<&str> = broken.collect();
        if !broken.is_empty() && self.tally.failed == 0 {
            troubles.push(format!("{} ended early", broken.join(", ")));
        }
        if self.idle > 0 && !filtered {
            troubles.push(format!("{} programs had no test", self.idle));
        }
        if self.tally.passed + self.tally.failed == 0 {
            troubles.push("no test ran".to_owned());
        }
        troubles
    }
}

/// Instructions by program, of lines like `program to_endpoint 4711`.
pub(super) fn programs_in<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, u32> {
    lines
        .filter_map(|line| line.strip_prefix("program ")?.split_once(' '))
        .filter_map(|(name, number)| Some((name.to_owned(), number.trim().parse().ok()?)))
        .collect()
}

/// All guests as a table.
pub(super) fn table(summaries: &[Summary], filtered: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "tests", "attached by", "instructions verified", "seconds"]);
    for summary in summaries {
        let mut tests = vec![summary.tally.to_string()];
        tests.extend(summary.failed.iter().map(|name| format!("FAILED: {name}")));
        tests.extend(summary.troubles(filtered).iter().map(|trouble| format!("FAILED: {trouble}")));
        let programs: Vec<String> =
            summary.programs.iter().map(|(program, number)| format!("{program} {number}")).collect();
        table.add_row([
            summary.release.clone(),
            tests.join("\n"),
            summary.attached.clone(),
            programs.join("\n"),
            format!("{:.0}", summary.took.as_secs_f32()),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    fn read(said: &str) -> Summary {
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        Summary::read("5.10", &lines, 1, Duration::ZERO)
    }

    fn tally(said: &str) -> (u32, u32) {
        let tally = read(said).tally(false);
        (tally.passed, tally.failed)
    }

    #[test]
    fn a_console_is_read_as_test_output() {
        let said = "test one ... ok\ntest two ... FAILED\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    guest: kernel ended with 101\nprogram to_endpoint 4711\nguest: done\n";
        let summary = read(said);
        assert_eq!(summary.failed, ["two"]);
        assert_eq!(summary.programs["to_endpoint"], 4711);
        assert_eq!(tally(said), (1, 1));
        assert!(table(&[summary], false).contains("FAILED: two"));
    }

    #[test]
    fn a_guest_that_is_not_locked_down_has_failed() {
        let said =
            |modes| format!("guest: lockdown: {modes}\n{PASSED}\nguest: kernel ended with 0\nguest: done\n");
        for (modes, failed) in
            [("none [integrity] confidentiality", 0), ("[none] integrity confidentiality", 1)]
        {
            let lines: Vec<String> = said(modes).lines().map(str::to_owned).collect();
            assert_eq!(read(&said(modes)).locked_down(Some("integrity"), &lines).tally(false).failed, failed);
        }
    }

    #[test]
    fn a_guest_without_last_words_has_failed() {
        let ended = "guest: kernel ended with 0";
        assert_eq!(tally(&format!("{PASSED}\n{ended}\nguest: done\n")), (1, 0));
        assert_eq!(tally(&format!("{PASSED}\n{ended}\n")), (1, 1));
        assert_eq!(tally(&format!("{PASSED}\nguest: done\n")), (1, 1), "a program did not run");
        assert_eq!(tally(&format!("{PASSED}\nguest: kernel ended with 137\nguest: done\n")), (1, 1));
        let none = PASSED.replace("1 passed", "0 passed");
        assert_eq!(tally(&format!("{none}\n{ended}\nguest: done\n")), (0, 2), "nothing ran");
    }
}
