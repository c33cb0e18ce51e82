//! SARIF and JUnit, against their schemas.

use crate::{CLEAN, check, shared};

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

#[test]
fn sarif_is_valid() {
    shared::is_sarif(&[findings("sarif"), broken("sarif")]);
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

#[test]
fn junit_is_valid() {
    for (text, failures, errors, skipped) in [(findings("junit"), 2, 0, 1), (broken("junit"), 0, 1, 0)] {
        assert_eq!(shared::is_junit(&text), (failures, errors, skipped), "{text}");
    }
    let skipped = findings("junit");
    assert!(skipped.contains("&lt;measured&gt; &amp; known"), "{skipped}");
}
