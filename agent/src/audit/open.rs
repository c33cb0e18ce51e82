//! What of an audit is open, counted by code: from the audit itself, or from the JSON that another process printed.

use serde::Deserialize;

use super::{
    Audited,
    line::{Line, Outcome},
};
use crate::{check::Code, telemetry::audit::Open};

/// Counts what is open.
#[must_use]
pub fn open(audited: &Audited) -> Open {
    let untold = audited.lines.iter().filter(|answer| answer.outcome == Outcome::CouldNotTell);
    count(
        audited
            .findings()
            .map(|(_, finding)| finding.code.text())
            .chain(audited.failed().map(|answer| answer.code.code())),
        untold.map(|answer| answer.code.code()),
    )
}

/// An audit as JSON, as far as it is counted.
#[derive(Debug, Deserialize)]
struct Printed {
    error: Option<String>,
    lines: Vec<PrintedLine>,
    instances: Vec<PrintedInstance>,
    baseline: Vec<PrintedFinding>,
}

#[derive(Debug, Deserialize)]
struct PrintedLine {
    code: String,
    outcome: String,
    accepted: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PrintedInstance {
    findings: Vec<PrintedFinding>,
}

#[derive(Debug, Deserialize)]
struct PrintedFinding {
    code: String,
}

/// Counts what is open in what `audit -o json` has printed; why not, if the engine could not be asked.
pub fn open_in(json: &[u8]) -> Result<Open, String> {
    let printed: Printed = serde_json::from_slice(json).map_err(|error| format!("no report: {error}"))?;
    if let Some(error) = printed.error {
        return Err(error);
    }
    let findings = printed.instances.iter().flat_map(|instance| &instance.findings).chain(&printed.baseline);
    let is =
        |wanted: &'static str| move |line: &&PrintedLine| line.outcome == wanted && line.accepted.is_none();
    let failed = printed.lines.iter().filter(is("failed"));
    let untold = printed.lines.iter().filter(is("could_not_tell"));
    Ok(count(
        findings.map(|finding| finding.code.as_str()).chain(failed.map(|line| line.code.as_str())),
        untold.map(|line| line.code.as_str()),
    ))
}

/// Every code, those that were not found at 0. What is no code is not counted: the set is closed.
fn count<'a>(found: impl Iterator<Item = &'a str>, untold: impl Iterator<Item = &'a str>) -> Open {
    let mut open = Open::default();
    for code in Code::ALL {
        open.findings.insert((code.text(), code.level().name()), 0);
    }
    for line in Line::ALL {
        open.findings.insert((line.code(), line.level().name()), 0);
        open.untold.insert(line.code(), 0);
    }
    for code in found {
        let entry = open.findings.iter_mut().find(|((text, _), _)| *text == code);
        entry.into_iter().for_each(|(_, count)| *count += 1);
    }
    for code in untold {
        open.untold.get_mut(code).into_iter().for_each(|count| *count += 1);
    }
    open
}
