//! What an audit says, for people: somebody who was not there has to understand it.

use std::{collections::BTreeMap, error::Error, fmt::Write as _};

use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::{
    Audited,
    line::{Answer, Outcome},
};

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a `String` cannot fail.
        let _infallible = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// How wide evidence may become in the table of a report that nobody has given a width.
const WIDTH: u16 = 120;

/// The whole report.
#[must_use]
pub fn text(audited: &Audited) -> String {
    let mut text = String::new();
    let engine = audited.engine.as_deref().unwrap_or("no engine");
    // Writing to a `String` cannot fail.
    let _infallible =
        writeln!(text, "Portcullis audit, version {}\n{} at {}\n", audited.version, engine, audited.at);
    if let Some(error) = &audited.error {
        let _infallible = writeln!(text, "The engine could not be asked: {error}\n");
    }
    for instance in &audited.instances {
        let profile = instance.profile.as_deref().unwrap_or("(none)");
        let _infallible = writeln!(
            text,
            "instance {}: policy {}, profile {profile}, {} containers",
            instance.project,
            instance.policy,
            instance.containers.len()
        );
    }
    let _infallible = writeln!(text, "\nSummary: {}\n\n{}\n", summary(audited), table(audited));
    evidence(audited, &mut text);
    findings(audited, &mut text);
    controls(audited, &mut text);
    text
}

/// `19 passed, 1 failed, 4 could not be told; 3 findings`.
#[must_use]
pub fn summary(audited: &Audited) -> String {
    let count = |outcome| audited.lines.iter().filter(|answer| answer.outcome == outcome).count();
    let findings = audited.findings().count();
    let accepted = match audited.accepted.len() {
        0 => String::new(),
        count => format!(", {count} accepted by the baseline"),
    };
    format!(
        "{} lines passed, {} failed, {} could not be told; {findings} findings{accepted}",
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::CouldNotTell)
    )
}

fn table(audited: &Audited) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(["line", "what is to be so", "about", "outcome"]);
    for answer in &audited.lines {
        table.add_row([
            answer.code.code(),
            answer.title,
            answer.subject.as_deref().unwrap_or("host"),
            &answer.outcome(),
        ]);
    }
    table
}

fn evidence(audited: &Audited, text: &mut String) {
    text.push_str("Evidence\n");
    for answer in &audited.lines {
        let _infallible = writeln!(
            text,
            "\n{} {} ({}): {}\n  {}",
            answer.code.code(),
            answer.name,
            answer.subject.as_deref().unwrap_or("host"),
            answer.outcome(),
            answer.title
        );
        for evidence in &answer.evidence {
            let _infallible = writeln!(text, "  - {evidence}");
        }
        if let Some(fix) = answer.fix {
            let _infallible = writeln!(text, "  hint: {fix}");
        }
        let _infallible =
            writeln!(text, "  serves {}; required by {}", answer.controls.join(", "), answer.from);
    }
}

fn findings(audited: &Audited, text: &mut String) {
    let mut all = audited.findings().peekable();
    if all.peek().is_none() && audited.accepted.is_empty() {
        return;
    }
    text.push_str("\nFindings\n");
    for (project, finding) in all {
        let container =
            finding.container.as_deref().map(|name| format!(", container {name}")).unwrap_or_default();
        let _infallible = writeln!(
            text,
            "\n{}[{}]: {}\n  instance {}{container}",
            finding.level.name(),
            finding.code,
            finding.message,
            project
        );
        if let Some(rule) = &finding.rule {
            let _infallible = writeln!(text, "  rule: {rule}");
        }
        let _infallible = writeln!(text, "  hint: {}", finding.fix);
    }
    for accepted in &audited.accepted {
        let _infallible = writeln!(
            text,
            "\naccepted[{}]: {}\n  reason: {}",
            accepted.finding.code, accepted.finding.message, accepted.reason
        );
    }
}

/// Which lines are evidence for which control.
fn controls(audited: &Audited, text: &mut String) {
    let mut by_control: BTreeMap<&str, Vec<&Answer>> = BTreeMap::new();
    for answer in &audited.lines {
        for control in answer.controls {
            by_control.entry(control).or_default().push(answer);
        }
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(["control", "passed", "failed", "could not tell"]);
    for (control, answers) in by_control {
        let lines = |outcome| {
            let mut lines: Vec<&str> = answers
                .iter()
                .filter(|answer| answer.outcome == outcome)
                .map(|answer| answer.code.code())
                .collect();
            lines.dedup();
            lines.join(" ")
        };
        table.add_row([
            control.to_owned(),
            lines(Outcome::Passed),
            lines(Outcome::Failed),
            lines(Outcome::CouldNotTell),
        ]);
    }
    let _infallible = writeln!(
        text,
        "\nControls: the lines that are evidence for each; whether they suffice is for whoever judges the control.\n{table}"
    );
}
