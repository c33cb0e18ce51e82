//! What an audit prints, against the schemas of its forms.
#![expect(clippy::unwrap_used, reason = "tests panic")]

#[path = "shared/forms.rs"]
mod shared;

use std::collections::BTreeMap;

use portcullis::{
    audit::{
        Audited, Firewall, Seen,
        host::Host,
        judge, junit,
        line::{Line, Outcome},
        report, sarif,
        sockets::Sockets,
    },
    check::baseline::Baseline,
    inventory::docker::look::Looked,
    policy::{self, Source},
};
use serde_json::Value;

const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop-a }
services:
  web: { exposure: public, ports: [80/tcp], run_as: any }
  db: { ports: [5432/tcp], from: [web], run_as: non_root }
";
/// What real engines have said of a container with a fault.
const ENGINES: [&str; 3] = [
    include_str!("../src/audit/fixtures/engine-20.10.json"),
    include_str!("../src/audit/fixtures/engine-26.1.json"),
    include_str!("../src/audit/fixtures/engine-28.5.json"),
];

/// With failed lines and findings, one of each accepted, and with texts that XML has to escape; and without an engine.
fn audited() -> Vec<Audited> {
    let sources = [Source { name: "a<b>&\"c\".yaml".to_owned(), text: POLICY.to_owned() }];
    let policies = policy::load(&sources, None).policies.unwrap();
    let seen = |host| Seen {
        host,
        unreadable: vec!["an answer with <, & and \u{7}".to_owned()],
        status: Err("nobody answers".to_owned()),
        tries: Some(Vec::new()),
        sockets: Ok(Sockets::default()),
        firewall: Ok(Firewall::default()),
        web: Vec::new(),
    };
    let mut all = vec![judge(&policies, &seen(Err("`unix:///nonexistent`: no <socket>".to_owned())))];
    let accept = "version: 1\naccept:\n  - { code: F009, service: db, reason: \"<measured> & known\" }\n  - { code: A19, reason: the same }\n";
    let source = Source { name: "baseline.yaml".to_owned(), text: accept.to_owned() };
    let lines: Vec<_> = Line::ALL.iter().map(|line| (line.code(), line.name())).collect();
    let baseline = Baseline::parse_with(&source, &lines).unwrap();
    for text in ENGINES {
        let recorded: Value = serde_json::from_str(text).unwrap();
        let looked = Looked {
            containers: ["IPv6", "privileged", "development"]
                .map(|name| recorded["containers"][name].clone())
                .into(),
            networks: serde_json::from_value(recorded["networks"].clone()).unwrap(),
            image_labels: BTreeMap::new(),
            info: recorded["info"].clone(),
        };
        let mut found = judge(&policies, &seen(Ok(Host::new(looked).0)));
        found.accept(&baseline);
        assert_eq!(found.accepted.len(), 1, "{found:#?}");
        all.push(found);
    }
    all
}

#[test]
fn sarif_is_valid() {
    let texts: Vec<String> = audited().iter().map(|audited| sarif::write(audited).unwrap()).collect();
    shared::is_sarif(&texts);
    assert!(texts[0].contains("\"executionSuccessful\": false"), "{}", texts[0]);
    let document: Value = serde_json::from_str(&texts[1]).unwrap();
    let run = &document["runs"][0];
    let rules: Vec<&Value> =
        run["tool"]["driver"]["rules"].as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
    let results = run["results"].as_array().unwrap();
    assert!(results.iter().all(|result| rules.contains(&&result["ruleId"])));
    let suppressed = results.iter().filter(|result| result["suppressions"].is_array()).count();
    assert_eq!(suppressed, 2, "a finding and a line");
}

#[test]
fn junit_is_valid() {
    for audited in audited() {
        let (failures, errors, skipped) = shared::is_junit(&junit::write(&audited));
        let untold = audited.lines.iter().filter(|answer| answer.outcome == Outcome::CouldNotTell).count();
        let accepted = audited.lines.iter().filter(|answer| answer.accepted.is_some()).count();
        assert_eq!(failures, audited.findings().count() + audited.failed().count());
        assert_eq!(errors, usize::from(audited.error.is_some()));
        assert_eq!(skipped, untold + accepted);
    }
}

#[test]
fn json_is_as_its_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../docs/schemas/audit-v1.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for audited in audited() {
        let document = serde_json::to_value(&audited).unwrap();
        let errors: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    assert!(
        !schema.is_valid(&serde_json::json!({ "schema": "portcullis.audit/v1" })),
        "the schema refuses something"
    );
}

#[test]
fn the_text_shows_everything_that_is_open() {
    for audited in audited() {
        let text = report::text(&audited);
        for answer in audited.failed() {
            assert!(text.contains(&format!("{} {}", answer.code.code(), answer.name)), "{text}");
        }
        for (_, finding) in audited.findings() {
            assert!(text.contains(&finding.message), "{text}");
        }
    }
}
