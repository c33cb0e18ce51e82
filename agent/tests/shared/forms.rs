//! What SARIF and JUnit have to look like.

use std::process::Command;

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

/// Whether these are documents of SARIF.
pub(crate) fn is_sarif(texts: &[String]) {
    let schema = sarif_schema();
    for text in texts {
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        let _typed: serde_sarif::sarif::Sarif = serde_json::from_str(text).unwrap();
    }
    let not_sarif = serde_json::json!({ "version": "2.1.0", "runs": [{ "tool": {} }] });
    assert!(!schema.is_valid(&not_sarif), "the schema refuses something");
}

/// Which elements JUnit has below which, with their attributes: what its readers (Jenkins, GitLab, GitHub's actions)
/// agree on. The format has no schema of its own.
const JUNIT: [(&str, &str, &[&str]); 7] = [
    ("", "testsuites", &["name", "tests", "failures", "errors"]),
    ("testsuites", "testsuite", &["name", "tests", "failures", "errors", "skipped"]),
    ("testsuite", "testcase", &["classname", "name"]),
    ("testcase", "failure", &["type", "message"]),
    ("testcase", "error", &["type", "message"]),
    ("testcase", "skipped", &["message"]),
    ("testcase", "system-out", &[]),
];

/// Whether this is a document of JUnit whose totals are right: failures, errors and skipped ones.
pub(crate) fn is_junit(text: &str) -> (usize, usize, usize) {
    let document = roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
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
    let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
    for (attribute, number) in [
        ("tests", count("testcase")),
        ("failures", count("failure")),
        ("errors", count("error")),
        ("skipped", count("skipped")),
    ] {
        assert_eq!(suite.attribute(attribute), Some(number.to_string().as_str()), "{attribute}");
    }
    (count("failure"), count("error"), count("skipped"))
}
