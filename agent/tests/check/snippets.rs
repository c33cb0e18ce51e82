//! What stands ready to copy in `deploy/check/` does what it says.

use std::{fs, path::Path, process::Command};

use crate::{CLEAN, folder};

fn snippets() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/check")
}

#[test]
fn the_make_targets_check_both_profiles() {
    let published = "services: { db: { ports: [\"5432:5432\"] } }\n";
    let tool = "services: { tool: { image: x, profiles: [development] } }\n";
    let folder = folder(&[
        ("compose.yaml", CLEAN),
        ("compose.override.yaml", tool),
        ("compose.production.yaml", "services: {}\n"),
        ("broken.yaml", published),
    ]);
    let make = |arguments: &[&str]| {
        let output = Command::new("make")
            .arg("--file")
            .arg(snippets().join("check.mk"))
            .arg(concat!("PORTCULLIS=", env!("CARGO_BIN_EXE_portcullis")))
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (clean, text) = make(&["check-network"]);
    assert!(clean && text.contains("profile development"), "{text}");
    let (clean, text) = make(&["check-network-prod"]);
    assert!(clean && text.contains("profile production: nothing found"), "{text}");
    let (clean, text) = make(&["check-network-prod", "COMPOSE_FILES_PRODUCTION=compose.yaml broken.yaml"]);
    assert!(!clean && text.contains("F001"), "{text}");
}

#[test]
fn the_others_are_yaml_and_name_options_that_exist() {
    for (name, form) in [
        ("pre-commit-config.yaml", ""),
        ("github-workflow.yaml", "--output sarif"),
        ("gitlab-ci.yaml", "--output junit"),
    ] {
        let text = fs::read_to_string(snippets().join(name)).unwrap();
        let parsed: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert!(parsed.is_object(), "{name}");
        assert!(
            text.contains("portcullis check --policy policy.yaml --profile production")
                && text.contains(form),
            "{name}"
        );
    }
}
