//! `portcullis check` from outside: exit codes, streams, forms, and what it makes of files that are wrong.

#![expect(clippy::unwrap_used, reason = "tests panic")]

mod check {
    mod bad_input;
    mod forms;
    mod snippets;
    mod usage;
}

#[path = "shared/forms.rs"]
mod shared;

use std::{fs, path::Path, time::Duration};

use assert_cmd::Command;
use tempfile::TempDir;

/// A policy for a shop: `web` is public, `db` for `web`, `tool` for development.
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
profile: production
services:
  web: { exposure: public, ports: [80/tcp] }
  db: { ports: [5432/tcp], from: [web], severity: critical }
  tool: { only_in: [development], exposure: localhost, ports: [8025/tcp] }
";

/// A compose file that is as the policy wants it.
const CLEAN: &str = "\
name: shop
services:
  web: { image: web, ports: [\"0.0.0.0:80:80\"] }
  db: { image: db }
";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("policy.yaml", POLICY)].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs `check --policy policy.yaml` with no more memory than a small machine has, for a minute at most: other tests run beside it.
fn run(folder: &Path, arguments: &[&str], stdin: &str) -> Ran {
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 1000000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_portcullis")])
        .args(["check", "--policy", "policy.yaml"])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .write_stdin(stdin)
        .timeout(Duration::from_secs(60))
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!((0..=2).contains(&ran.code), "{ran:?}");
    ran
}

/// Runs it in a folder of these files.
fn check(files: &[(&str, &str)], arguments: &[&str]) -> Ran {
    run(folder(files).path(), arguments, "")
}

/// The codes of a report in JSON.
fn codes(ran: &Ran) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}
