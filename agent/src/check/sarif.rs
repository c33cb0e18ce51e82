//! A report as SARIF 2.1.0, for code hosts that show findings beside the lines.

use serde_json::{Value, json};

use super::{Code, Finding, Level, report::Report};
use crate::diagnostics::{Diagnostic, Place};

/// Writes a report.
pub fn write(report: &Report) -> Result<String, serde_json::Error> {
    let rules: Vec<Value> = Code::ALL.iter().copied().map(rule).collect();
    let mut results: Vec<Value> = report.findings().iter().map(|finding| result(finding, None)).collect();
    results.extend(report.accepted.iter().map(|accepted| result(&accepted.finding, Some(&accepted.reason))));
    let notifications: Vec<Value> = report.faults.iter().map(notification).collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "portcullis",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": report.faults.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    });
    serde_json::to_string_pretty(&document).map(|text| text + "\n")
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "note",
    }
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.text(),
        "name": pascal(code.name()),
        "shortDescription": { "text": code.name().replace('-', " ") },
        "fullDescription": { "text": code.explanation() },
        "help": { "text": code.fix() },
        "defaultConfiguration": { "level": level(code.level()) },
        "properties": { "tags": ["security", "docker", "compose"] },
    })
}

/// Names of rules are written like types.
fn pascal(name: &str) -> String {
    name.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_uppercase().chain(letters).collect::<String>())
                .unwrap_or_default()
        })
        .collect()
}

fn result(finding: &Finding, accepted: Option<&str>) -> Value {
    let index = Code::ALL.iter().position(|code| *code == finding.code);
    let mut result = json!({
        "ruleId": finding.code.text(),
        "ruleIndex": index,
        "level": level(finding.level),
        "message": { "text": format!("{}. {}", sentence(&finding.message), sentence(&finding.fix)) },
        "locations": [location(&finding.file, finding.place.as_ref())],
        "partialFingerprints": { "portcullis/v1": fingerprint(finding) },
    });
    if let Some((file, line)) = finding.rule.as_deref().and_then(|rule| rule.rsplit_once(':'))
        && let Ok(line) = line.parse::<usize>()
    {
        let mut related = json!({ "physicalLocation": { "artifactLocation": artifact(file), "region": { "startLine": line } } });
        related["id"] = json!(1);
        related["message"] = json!({ "text": "the rule of the policy" });
        result["relatedLocations"] = json!([related]);
    }
    if let Some(reason) = accepted {
        result["suppressions"] =
            json!([{ "kind": "external", "status": "accepted", "justification": reason }]);
    }
    result
}

fn notification(fault: &Diagnostic) -> Value {
    let hint = fault.hint.as_deref().map(|hint| format!(" {}", sentence(hint))).unwrap_or_default();
    let mut notification = json!({
        "level": "error",
        "descriptor": { "id": fault.code },
        "message": { "text": format!("{}.{hint}", sentence(&fault.message)) },
    });
    if !fault.file.is_empty() {
        notification["locations"] = json!([location(&fault.file, fault.place.as_ref())]);
    }
    notification
}

fn location(file: &str, place: Option<&Place>) -> Value {
    let mut physical = json!({ "artifactLocation": artifact(file) });
    if let Some(place) = place {
        physical["region"] = json!({
            "startLine": place.line,
            "startColumn": place.column,
            "endColumn": place.column + place.length,
        });
    }
    json!({ "physicalLocation": physical })
}

/// A file below the working directory is named from there, so that a code host finds it in the repository.
fn artifact(file: &str) -> Value {
    let uri: String = file.bytes().map(escaped).collect();
    if file.starts_with('/') {
        return json!({ "uri": format!("file://{uri}") });
    }
    json!({ "uri": uri, "uriBaseId": "%SRCROOT%" })
}

fn escaped(byte: u8) -> String {
    let plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The same for as long as the finding is the same, wherever its line moves (FNV-1a).
fn fingerprint(finding: &Finding) -> String {
    let text =
        [finding.code.text(), finding.service.as_deref().unwrap_or_default(), &finding.message].join("\n");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
