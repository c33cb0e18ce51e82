//! Open findings as a file for the textfile collector of Prometheus' node exporter.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Audited,
    line::{Line, Outcome},
};
use crate::check::Code;

/// What the metric is called.
const METRIC: &str = "portcullis_audit_findings";

/// The exposition: every code, those without findings at 0, so that a dashboard sees them come and go.
#[must_use]
pub fn exposition(audited: &Audited) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for code in Code::ALL {
        counts.insert((code.text(), code.level().name()), 0);
    }
    for line in Line::ALL {
        counts.insert((line.code(), line.level().name()), 0);
    }
    for (_, finding) in audited.findings() {
        *counts.entry((finding.code.text(), finding.level.name())).or_default() += 1;
    }
    for answer in audited.failed() {
        *counts.entry((answer.code.code(), answer.level.name())).or_default() += 1;
    }
    let untold = audited.lines.iter().filter(|answer| answer.outcome == Outcome::CouldNotTell).count();
    let mut text =
        format!("# HELP {METRIC} Open findings and failed lines of the last audit.\n# TYPE {METRIC} gauge\n");
    for ((code, severity), count) in counts {
        // Writing to a `String` cannot fail.
        let _infallible = writeln!(text, "{METRIC}{{code=\"{code}\",severity=\"{severity}\"}} {count}");
    }
    let _infallible = writeln!(
        text,
        "# HELP portcullis_audit_untold_lines Lines of the last audit that could not be told.\n# TYPE portcullis_audit_untold_lines gauge\nportcullis_audit_untold_lines {untold}\n# HELP portcullis_audit_engine_reached Whether the last audit could ask the engine.\n# TYPE portcullis_audit_engine_reached gauge\nportcullis_audit_engine_reached {}",
        u8::from(audited.error.is_none())
    );
    text
}

/// Writes the file at once: whoever reads it sees the old one or the new one.
pub fn write(audited: &Audited, path: &Path) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // The collector takes what ends in `.prom`.
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, exposition(audited))?;
    fs::rename(&beside, path).inspect_err(|_| {
        // The first error is the one to tell.
        let _left_over = fs::remove_file(&beside);
    })
}
