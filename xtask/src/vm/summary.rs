//! What a guest's console comes to: which tests passed, and how many instructions the verifier walked through.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{Table, presets};

/// One guest's results.
#[derive(Debug, Default)]
pub(super) struct Summary {
    release: String,
    passed: usize,
    failed: Vec<String>,
    /// The tests came to their end, with this code.
    ended: Option<i32>,
    /// Instructions by program.
    programs: BTreeMap<String, u32>,
    /// How programs got onto an interface.
    attached: String,
    took: Duration,
}

impl Summary {
    /// Reads a console.
    pub(super) fn read(release: &str, said: &[String], took: Duration) -> Self {
        let mut summary = Self { release: release.to_owned(), took, ..Self::default() };
        for line in said {
            if let Some(number) = line.strip_prefix("vm: tests ended with ") {
                summary.ended = number.trim().parse().ok();
            } else if let Some(test) = line.strip_prefix("test ")
                && let Some((name, result)) = test.split_once(" ... ")
            {
                if result.ends_with("ok") {
                    summary.passed += 1;
                } else {
                    summary.failed.push(name.to_owned());
                }
            } else if let Some(attached) = line.strip_prefix("attached ") {
                attached.split(' ').next().unwrap_or_default().clone_into(&mut summary.attached);
            } else if let Some(program) = line.strip_prefix("program ")
                && let Some((name, number)) = program.split_once(' ')
                && let Ok(number) = number.trim().parse()
            {
                summary.programs.insert(name.to_owned(), number);
            }
        }
        summary
    }

    /// Tests were run, all passed, and the guest lived to say so.
    pub(super) fn passed(&self) -> bool {
        self.ended == Some(0) && self.failed.is_empty() && self.passed > 0
    }
}

/// All guests as a table.
pub(super) fn table(summaries: &[Summary]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "tests", "attached by", "instructions verified", "seconds"]);
    for summary in summaries {
        let tests = match (summary.ended, summary.failed.as_slice()) {
            (None, _) => format!("{} ok, then the guest did not end", summary.passed),
            (Some(_), []) => format!("{} ok", summary.passed),
            (Some(_), failed) => format!("{} ok, FAILED: {}", summary.passed, failed.join(", ")),
        };
        let programs: Vec<String> =
            summary.programs.iter().map(|(program, number)| format!("{program} {number}")).collect();
        let took = format!("{:.0}", summary.took.as_secs_f32());
        table.add_row([summary.release.clone(), tests, summary.attached.clone(), programs.join("\n"), took]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: &str) -> Summary {
        let lines: Vec<String> = said.lines().map(str::to_owned).collect();
        Summary::read("5.10", &lines, Duration::ZERO)
    }

    #[test]
    fn a_console_is_read_as_test_output() {
        let said =
            "test one ... ok\ntest two ... FAILED\nvm: tests ended with 101\nprogram to_endpoint 4711\n";
        let summary = read(said);
        assert!(!summary.passed() && summary.passed == 1 && summary.failed == ["two"]);
        assert_eq!(summary.programs["to_endpoint"], 4711);
        assert!(table(&[summary]).contains("FAILED: two"));
    }

    #[test]
    fn a_guest_without_last_words_has_failed() {
        assert!(!read("test one ... ok\n").passed());
        assert!(!read("vm: tests ended with 0\n").passed());
        assert!(read("test one ... ok\nvm: tests ended with 0\n").passed());
    }
}
