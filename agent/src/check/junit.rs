//! A report as JUnit XML, for CI systems that count tests: every service with every kind of finding is one.

use std::fmt::Write as _;

use super::{Checked, Code, Finding, baseline::Accepted, report::Report};
use crate::diagnostics::Diagnostic;

/// Writes a report.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut cases = Vec::new();
    if let Some(checked) = &report.checked {
        let everything = std::iter::once(None).chain(checked.services.iter().map(Some));
        for service in everything {
            let service = service.map(String::as_str);
            cases.extend(Code::ALL.iter().map(|code| case(checked, &report.accepted, service, *code)));
        }
        // Findings about services that the compose file does not start.
        let others = checked.findings.iter().filter(|finding| {
            finding.service.as_ref().is_some_and(|service| !checked.services.contains(service))
        });
        for finding in others {
            let name = attributes(finding.service.as_deref().unwrap_or_default(), finding.code);
            cases.push(Case {
                text: format!("<testcase {name}>{}</testcase>", failure(finding)),
                outcome: Outcome::Failed,
            });
        }
    }
    cases.extend(report.faults.iter().map(fault));
    let count = |outcome: Outcome| cases.iter().filter(|case| case.outcome == outcome).count();
    let project = report.checked.as_ref().map_or("", |checked| checked.project.as_str());
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let totals = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\"",
        cases.len(),
        count(Outcome::Failed),
        count(Outcome::Broken)
    );
    // Writing to a `String` cannot fail.
    let _infallible = writeln!(
        text,
        "<testsuites name=\"portcullis check\" {totals}>\n  <testsuite name=\"{}\" {totals} skipped=\"{}\">",
        escape(project),
        count(Outcome::Skipped)
    );
    for case in &cases {
        let _infallible = writeln!(text, "    {}", case.text);
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
    Broken,
}

struct Case {
    text: String,
    outcome: Outcome,
}

fn attributes(service: &str, code: Code) -> String {
    format!("classname=\"{}\" name=\"{} {}\"", escape(service), code.text(), code.name())
}

/// All findings of one kind about one service, or about none.
fn case(checked: &Checked, accepted: &[Accepted], service: Option<&str>, code: Code) -> Case {
    let is_it = |finding: &&Finding| finding.code == code && finding.service.as_deref() == service;
    let found: String = checked.findings.iter().filter(is_it).map(failure).collect();
    let reason = accepted.iter().find(|accepted| is_it(&&accepted.finding));
    let name = attributes(service.unwrap_or(&checked.project), code);
    let (text, outcome) = match (found.is_empty(), reason) {
        (false, _) => (format!("<testcase {name}>{found}</testcase>"), Outcome::Failed),
        (true, Some(accepted)) => {
            let skipped = format!("<skipped message=\"{}\"/>", escape(&accepted.reason));
            (format!("<testcase {name}>{skipped}</testcase>"), Outcome::Skipped)
        }
        (true, None) => (format!("<testcase {name}/>"), Outcome::Passed),
    };
    Case { text, outcome }
}

fn failure(finding: &Finding) -> String {
    let at =
        finding.place.as_ref().map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
    let rule = finding.rule.as_deref().map(|rule| format!("\nrule: {rule}")).unwrap_or_default();
    format!(
        "<failure type=\"{}\" message=\"{}\">{}</failure>",
        finding.level.name(),
        escape(&finding.message),
        escape(&format!("{}{at}{rule}\nhint: {}", finding.file, finding.fix))
    )
}

fn fault(fault: &Diagnostic) -> Case {
    let at =
        fault.place.as_ref().map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
    let hint = fault.hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    let text = format!(
        "<testcase classname=\"{}\" name=\"{}\"><error type=\"{}\" message=\"{}\">{}</error></testcase>",
        escape(&fault.file),
        fault.code,
        fault.code,
        escape(&fault.message),
        escape(&format!("{}{at}{hint}", fault.file))
    );
    Case { text, outcome: Outcome::Broken }
}

/// Text that XML can hold.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
