//! The files themselves, judged by the programs of those who will get them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use integration_tests::machine::target;
use integration_tests::{tell, validators};
use lab::process::{output, run};

use crate::package;

#[test]
fn lintian_finds_no_error() {
    let mut command = Command::new("lintian");
    let judged =
        output(command.args(["--fail-on=error", "--allow-root", "--no-cfg"]).arg(package("deb"))).unwrap();
    let said = String::from_utf8_lossy(&judged.stdout).into_owned();
    tell(&said).unwrap();
    assert!(
        judged.status.success() && !said.contains("E: "),
        "{said}{}",
        String::from_utf8_lossy(&judged.stderr)
    );
}

/// Where the distributions differ, the file is the same.
fn common(path: &str) -> String {
    path.trim_start_matches('.')
        .replace("/usr/lib/systemd", "/lib/systemd")
        .replace("/site-functions/", "/vendor-completions/")
        .trim_end_matches(".gz")
        .to_owned()
}

#[test]
fn both_packages_hold_the_same_files() {
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(package("deb"))).unwrap();
    let files = listed.lines().filter(|line| line.starts_with('-'));
    // Debian wants these two, and others have a place of their own for them.
    let deb: BTreeSet<String> = files
        .map(|line| common(line.split_whitespace().nth(5).unwrap()))
        .filter(|path| {
            !["copyright", "changelog", "changelog.Debian"].iter().any(|name| path.ends_with(name))
        })
        .collect();
    let listed =
        run(Command::new("rpm").args(["--query", "--package", "--list"]).arg(package("rpm"))).unwrap();
    let rpm: BTreeSet<String> = listed.lines().map(common).collect();
    assert_eq!(deb, rpm);
    for path in [
        "/usr/bin/portcullis",
        "/lib/systemd/system/portcullis.service",
        "/usr/share/man/man1/portcullis.1",
        "/usr/share/portcullis/prometheus/portcullis.rules.yml",
        "/usr/share/portcullis/grafana/portcullis-security.json",
        "/usr/share/doc/portcullis/runbooks/README.md",
    ] {
        assert!(deb.contains(path), "{deb:?}");
    }
    let settings =
        run(Command::new("rpm").args(["--query", "--package", "--configfiles"]).arg(package("rpm"))).unwrap();
    assert!(settings.contains("/etc/portcullis/agent.yaml"), "{settings}");
}

#[test]
fn the_bill_of_materials_is_valid_and_names_what_is_inside() {
    let judge = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
import json
text = open(sys.argv[1]).read()
version = SchemaVersion.from_version(json.loads(text)['specVersion'])
error = JsonStrictValidator(version).validate_str(text)
sys.exit(str(error) if error else 0)
";
    let bill = package("json");
    let mut command = validators::python(&["cyclonedx-python-lib[json-validation]==11.12.0"]).unwrap();
    run(command.args(["-c", judge]).arg(&bill)).unwrap();
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(bill).unwrap()).unwrap();
    let names: BTreeSet<&str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect();
    assert_eq!(bill["metadata"]["component"]["name"], "portcullis");
    for name in ["aya", "tokio", "rustls", "bollard"] {
        assert!(names.contains(name), "{names:?}");
    }
    assert!(!names.contains("proptest"), "what only tests need is not inside");
}

#[test]
fn the_checksums_are_right() {
    let mut command = Command::new("sha256sum");
    let said = run(command.args(["--check", "SHA256SUMS"]).current_dir(target().join("dist"))).unwrap();
    assert_eq!(said.matches(": OK").count(), 5, "{said}");
}
