//! An audit as SARIF 2.1.0. What runs has no file: findings are placed by the names of containers.

use serde_json::{Value, json};

use super::{
    Audited,
    line::{Answer, Line, Outcome},
};
use crate::check::{
    Code, Finding,
    sarif::{fingerprint, level, pascal, rule, sentence},
};

/// Writes it. Lines that passed or could not be told are no results.
pub fn write(audited: &Audited) -> Result<String, serde_json::Error> {
    let mut rules: Vec<Value> = Code::ALL.iter().copied().map(rule).collect();
    rules.extend(Line::ALL.iter().copied().map(line_rule));
    let failed = audited.lines.iter().filter(|answer| answer.outcome == Outcome::Failed);
    let mut results: Vec<Value> = failed.map(failure).collect();
    results.extend(audited.findings().map(|(project, finding)| result(project, finding)));
    for accepted in &audited.accepted {
        let mut result = result("", &accepted.finding);
        suppress(&mut result, &accepted.reason);
        results.push(result);
    }
    let notifications: Vec<Value> = audited
        .error
        .iter()
        .map(|error| json!({ "level": "error", "message": { "text": sentence(error) } }))
        .collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "portcullis",
                "version": audited.version,
                "semanticVersion": audited.version,
                "rules": rules,
            } },
            "invocations": [{
                "executionSuccessful": audited.error.is_none(),
                "endTimeUtc": audited.at,
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    });
    serde_json::to_string_pretty(&document).map(|text| text + "\n")
}

fn line_rule(line: Line) -> Value {
    json!({
        "id": line.code(),
        "name": pascal(line.name()),
        "shortDescription": { "text": line.title() },
        "fullDescription": { "text": line.looks_at() },
        "help": { "text": line.fix() },
        "defaultConfiguration": { "level": level(line.level()) },
        "properties": { "tags": line.controls() },
    })
}

fn failure(answer: &Answer) -> Value {
    let about = answer.subject.as_deref().unwrap_or("host");
    let evidence = answer.evidence.join("; ");
    let mut result = json!({
        "ruleId": answer.code.code(),
        "level": level(answer.level),
        "message": { "text": format!("Not so: {}. {}.", answer.title, sentence(&evidence)) },
        "locations": [logical(about, "resource")],
        "partialFingerprints": { "portcullis/v1": format!("{} {about}", answer.code.code()) },
    });
    if let Some(reason) = &answer.accepted {
        suppress(&mut result, reason);
    }
    result
}

fn result(project: &str, finding: &Finding) -> Value {
    let about = finding.container.as_deref().or(finding.service.as_deref()).unwrap_or(project);
    json!({
        "ruleId": finding.code.text(),
        "level": level(finding.level),
        "message": { "text": format!("{}. {}.", sentence(&finding.message), sentence(&finding.fix)) },
        "locations": [logical(about, "resource")],
        "partialFingerprints": { "portcullis/v1": fingerprint(finding) },
    })
}

fn suppress(result: &mut Value, reason: &str) {
    result["suppressions"] = json!([{ "kind": "external", "status": "accepted", "justification": reason }]);
}

fn logical(name: &str, kind: &str) -> Value {
    json!({ "logicalLocations": [{ "name": name, "fullyQualifiedName": name, "kind": kind }] })
}
