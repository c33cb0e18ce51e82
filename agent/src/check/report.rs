//! What a check says, for people and as JSON.

use std::fmt::Write as _;

use annotate_snippets::renderer::DEFAULT_HELP_STYLE;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use super::{
    Checked, Finding, Level,
    baseline::Accepted,
    surface::{Surface, reduction},
};
use crate::diagnostics::{Diagnostic, Severity};

/// Everything that is said about one project, in whatever form.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub schema: &'static str,
    /// Why the question could not be answered; nothing else is said then.
    pub faults: Vec<Diagnostic>,
    #[serde(flatten)]
    pub checked: Option<Checked>,
    /// Findings that the baseline accepts.
    pub accepted: Vec<Accepted>,
}

impl Report {
    /// The answer of a check.
    #[must_use]
    pub fn of(checked: Checked, accepted: Vec<Accepted>) -> Self {
        Self { schema: "portcullis.check/v1", faults: Vec::new(), checked: Some(checked), accepted }
    }

    /// No answer.
    #[must_use]
    pub fn failed(faults: Vec<Diagnostic>) -> Self {
        Self { schema: "portcullis.check/v1", faults, checked: None, accepted: Vec::new() }
    }

    /// What was found and not accepted.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        self.checked.as_ref().map(|checked| checked.findings.as_slice()).unwrap_or_default()
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // What only informs comes last, nearest to the table, where nobody has to scroll past it.
        let (infos, others): (Vec<&Finding>, Vec<&Finding>) =
            self.findings().iter().partition(|finding| finding.level == Level::Info);
        for finding in others.into_iter().chain(infos) {
            // Writing to a `String` cannot fail.
            let _infallible = writeln!(text, "{}\n", shown(finding));
        }
        let Some(checked) = &self.checked else {
            return text;
        };
        let profile = checked.profile.as_deref().unwrap_or("(none)");
        let _infallible = writeln!(
            text,
            "project {}, policy {}, profile {profile}: {}\n\nreachable ports\n{}",
            checked.project,
            checked.policy,
            self.tally(),
            table(&checked.surface)
        );
        text
    }

    fn tally(&self) -> String {
        let count = |level: Level| self.findings().iter().filter(|finding| finding.level == level).count();
        let plural =
            |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let mut parts: Vec<String> = [(Level::Error, "error"), (Level::Warning, "warning")]
            .into_iter()
            .map(|(level, word)| (count(level), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| plural(count, word))
            .collect();
        match count(Level::Info) {
            0 => {}
            infos => parts.push(format!("{infos} for information")),
        }
        if parts.is_empty() {
            parts.push("nothing found".to_owned());
        }
        if !self.accepted.is_empty() {
            parts.push(format!("{} accepted by the baseline", self.accepted.len()));
        }
        parts.join(", ")
    }
}

fn shown(finding: &Finding) -> String {
    let diagnostic = Diagnostic {
        severity: match finding.level {
            Level::Error => Severity::Error,
            Level::Warning => Severity::Warning,
            Level::Info => Severity::Info,
        },
        code: finding.code.text(),
        message: finding.message.clone(),
        file: finding.file.clone(),
        place: finding.place.clone(),
        hint: None,
    };
    let (on, off) = (DEFAULT_HELP_STYLE.render(), DEFAULT_HELP_STYLE.render_reset());
    let mut text = diagnostic.render(true);
    text.push('\n');
    if let Some(rule) = &finding.rule {
        let _infallible = write!(text, "\n{on}rule{off}: {rule}");
    }
    let _infallible = write!(text, "\n{on}hint{off}: {}", finding.fix);
    text
}

fn table(surface: &Surface) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["from", "without a policy", "with the policy", "fewer by", "what stays reachable"]);
    let percent = |without: usize, with: usize| match without {
        0 => "-".to_owned(),
        _ => format!("{} %", reduction(without, with)),
    };
    for reach in &surface.zones {
        let more = reach.with_policy.saturating_sub(reach.reachable.len());
        let mut listed = reach.reachable.join(", ");
        if more > 0 {
            let _infallible = write!(listed, " and {more} more");
        }
        table.add_row([
            reach.zone.clone(),
            reach.without_policy.to_string(),
            reach.with_policy.to_string(),
            percent(reach.without_policy, reach.with_policy),
            listed,
        ]);
    }
    let (without, with) = surface.total();
    table.add_row([
        "together".to_owned(),
        without.to_string(),
        with.to_string(),
        percent(without, with),
        String::new(),
    ]);
    table.to_string()
}
