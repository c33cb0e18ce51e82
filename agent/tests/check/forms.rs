//! SARIF and JUnit, against their schemas.

use std::process::Command;

use crate::{CLEAN, check};

/// A file with several findings, one of them accepted, and a text that XML and URIs have to escape.
fn findings(form: &str) -> String {
    let text = CLEAN.replace(
        "{ image: db }",
        "{ image: db, privileged: true, volumes: [\"/etc/a<b>&\\\"c\\\"é:/x\"], ports: [\"5432:5432\"] }",
    );
    let accept = "version: 1\naccept:\n  - { code: F009, service: db, reason: \"<measured> & known\" }\n";
    let files = [("a b/compose.yaml", &*text), ("baseline.yaml", accept)];
    let ran = check(&files, &["a b/compose.yaml", "--baseline", "baseline.yaml", "-o", form]);
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.stdout
}

fn broken(form: &str) -> String {
    let ran = check(&[("compose.yaml", "services:\n  web: {image: x, prts: []}\n")], &["-o", form]);
    assert_eq!(ran.code, 2, "{ran:?}");
    ran.stdout
}

/// The schema of SARIF 2.1.0 that a crate of the registry carries.
fn sarif_schema() -> jsonschema::Validator {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "serde-sarif").unwrap();
    let manifest = std::path::Path::new(package["manifest_path"].as_str().unwrap());
    let text = std::fs::read_to_string(manifest.with_file_name("src/schema.json")).unwrap();
    // The published schema has one expression with a bracket too many, which a strict reader refuses.
    let text = text.replace("-[a-zA-Z]{2}]?$", "-[a-zA-Z]{2}$");
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(schema["title"].as_str().unwrap().contains("2.1.0"), "{}", schema["title"]);
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn sarif_is_valid() {
    let schema = sarif_schema();
    for text in [findings("sarif"), broken("sarif")] {
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        let _typed: serde_sarif::sarif::Sarif = serde_json::from_str(&text).unwrap();
    }
    let not_sarif = serde_json::json!({ "version": "2.1.0", "runs": [{ "tool": {} }] });
    assert!(!schema.is_valid(&not_sarif), "the schema refuses something");
}

#[test]
fn sarif_says_where_and_by_which_rule() {
    let document: serde_json::Value = serde_json::from_str(&findings("sarif")).unwrap();
    let run = &document["runs"][0];
    let results = run["results"].as_array().unwrap();
    let ids: Vec<&str> = results.iter().map(|result| result["ruleId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["F011", "F001", "F009"]);
    let published = &results[1];
    let physical = &published["locations"][0]["physicalLocation"];
    assert_eq!(physical["artifactLocation"]["uri"], "a%20b/compose.yaml");
    assert_eq!(physical["region"]["startLine"], 4);
    let rule = &published["relatedLocations"][0]["physicalLocation"];
    assert_eq!(
        (&rule["artifactLocation"]["uri"], &rule["region"]["startLine"]),
        (&"policy.yaml".into(), &7.into())
    );
    assert_eq!(results[2]["suppressions"][0]["justification"], "<measured> & known");
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
    }
    let broken: serde_json::Value = serde_json::from_str(&broken("sarif")).unwrap();
    assert_eq!(broken["runs"][0]["invocations"][0]["executionSuccessful"], false);
}

/// Which elements JUnit has below which, with their attributes: what its readers (Jenkins, GitLab, GitHub's actions)
/// agree on. The format has no schema of its own.
const JUNIT: [(&str, &str, &[&str]); 6] = [
    ("", "testsuites", &["name", "tests", "failures", "errors"]),
    ("testsuites", "testsuite", &["name", "tests", "failures", "errors", "skipped"]),
    ("testsuite", "testcase", &["classname", "name"]),
    ("testcase", "failure", &["type", "message"]),
    ("testcase", "error", &["type", "message"]),
    ("testcase", "skipped", &["message"]),
];

#[test]
fn junit_is_valid() {
    for (text, failures, errors, skipped) in [(findings("junit"), 2, 0, 1), (broken("junit"), 0, 1, 0)] {
        let document = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        for element in document.descendants().filter(roxmltree::Node::is_element) {
            let parent = element.parent_element().map(|parent| parent.tag_name().name()).unwrap_or_default();
            let name = element.tag_name().name();
            let (_, _, known) = JUNIT
                .iter()
                .find(|(above, here, _)| (*above, *here) == (parent, name))
                .unwrap_or_else(|| panic!("{parent}/{name}"));
            let attributes: Vec<&str> = element.attributes().map(|attribute| attribute.name()).collect();
            assert_eq!(&attributes, known, "{name}");
        }
        let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!(
            (count("failure"), count("error"), count("skipped")),
            (failures, errors, skipped),
            "{text}"
        );
        let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
        for (attribute, number) in [
            ("tests", count("testcase")),
            ("failures", count("failure")),
            ("errors", count("error")),
            ("skipped", count("skipped")),
        ] {
            assert_eq!(suite.attribute(attribute), Some(number.to_string().as_str()), "{attribute}");
        }
    }
    let skipped = findings("junit");
    assert!(skipped.contains("&lt;measured&gt; &amp; known"), "{skipped}");
}
