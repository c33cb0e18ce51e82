//! An audit as JUnit XML: each line is a test, and so is each finding.

use std::fmt::Write as _;

use super::{Audited, line::Outcome};
use crate::check::junit::escape;

/// Writes it.
#[must_use]
pub fn write(audited: &Audited) -> String {
    let mut cases = Vec::new();
    let (mut failures, mut skipped, mut errors) = (0, 0, 0);
    for answer in &audited.lines {
        let about = answer.subject.as_deref().unwrap_or("host");
        let name = format!("classname=\"{}\" name=\"{} {}\"", escape(about), answer.code.code(), answer.name);
        let evidence = escape(&answer.evidence.join("\n"));
        if let Some(reason) = &answer.accepted {
            skipped += 1;
            let reason = escape(reason);
            cases.push(format!("<testcase {name}><skipped message=\"accepted: {reason}\"/></testcase>"));
            continue;
        }
        cases.push(match answer.outcome {
            Outcome::Passed => format!("<testcase {name}><system-out>{evidence}</system-out></testcase>"),
            Outcome::CouldNotTell => {
                skipped += 1;
                format!("<testcase {name}><skipped message=\"could not tell: {evidence}\"/></testcase>")
            }
            Outcome::Failed => {
                failures += 1;
                let (level, title) = (answer.level.name(), escape(answer.title));
                format!("<testcase {name}><failure type=\"{level}\" message=\"not so: {title}\">{evidence}</failure></testcase>")
            }
        });
    }
    for (project, finding) in audited.findings() {
        failures += 1;
        let about = finding.container.as_deref().unwrap_or(project);
        let text = format!("{}\nhint: {}", finding.rule.as_deref().unwrap_or_default(), finding.fix);
        cases.push(format!(
            "<testcase classname=\"{}\" name=\"{} {}\"><failure type=\"{}\" message=\"{}\">{}</failure></testcase>",
            escape(about),
            finding.code,
            finding.name,
            finding.level.name(),
            escape(&finding.message),
            escape(text.trim_start())
        ));
    }
    if let Some(error) = &audited.error {
        errors += 1;
        let error = escape(error);
        cases.push(format!(
            "<testcase classname=\"host\" name=\"engine\"><error type=\"engine\" message=\"{error}\"/></testcase>"
        ));
    }
    let totals = format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\"", cases.len());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"portcullis audit\" {totals}>\n  <testsuite name=\"audit\" {totals} skipped=\"{skipped}\">\n"
    );
    for case in &cases {
        // Writing to a `String` cannot fail.
        let _infallible = writeln!(text, "    {case}");
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}
