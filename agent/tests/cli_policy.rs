//! `portcullis policy` from outside: exit codes, streams and forms.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{fs, path::Path};

use assert_cmd::Command;
use tempfile::TempDir;

const GOOD: &str = "version: 1\npolicy: shop\napplies_to: { project: shop }\nservices:\n  web: { exposure: public, ports: [80/tcp] }\n";

fn portcullis(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn lint_is_silent_about_good_policies() {
    let directory = directory(&[("a.yaml", GOOD), ("notes.txt", "not: [a policy")]);
    let ran = run(&mut portcullis(&["policy", "lint", text(directory.path())]));
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
}

#[test]
fn lint_ends_with_1_and_reports_all_files() {
    let directory =
        directory(&[("b.yml", "version: 1\nhost: x\n"), ("a.yaml", &GOOD.replace("80/tcp", "80"))]);
    let ran = run(&mut portcullis(&["policy", "lint", text(directory.path())]));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("error[P014]: port `80` names no protocol"), "{}", ran.stdout);
    assert!(ran.stdout.contains("a.yaml:5:36"), "{}", ran.stdout);
    assert!(ran.stdout.contains("hint: write `80/tcp` or `80/udp`"), "{}", ran.stdout);
    assert!(ran.stdout.contains("error[P017]"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "no colour into a pipe");
}

#[test]
fn lint_ends_with_0_on_warnings_only() {
    let directory = directory(&[("a.yaml", &GOOD.replace(", ports: [80/tcp]", ""))]);
    let ran = run(&mut portcullis(&["policy", "lint", text(directory.path())]));
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("warning[P021]"), "{}", ran.stdout);
}

#[test]
fn a_pipe_gets_colour_only_on_request() {
    let mut command = portcullis(&["policy", "lint", "-"]);
    let ran = run(command.env("CLICOLOR_FORCE", "1").write_stdin("version: 2\n"));
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains('\u{1b}'));
    let ran = run(portcullis(&["policy", "lint", "-"]).env("NO_COLOR", "1").write_stdin("version: 2\n"));
    assert!(!ran.stdout.contains('\u{1b}'));
}

#[test]
fn lint_ends_with_2_on_what_it_cannot_read_and_still_checks_the_rest() {
    let empty = tempfile::tempdir().unwrap();
    let files = directory(&[("bad.yaml", "version: 2\n")]);
    fs::write(files.path().join("latin.yaml"), b"policy: caf\xe9\n").unwrap();
    let missing = files.path().join("missing.yaml");
    let latin = files.path().join("latin.yaml");
    let bad = files.path().join("bad.yaml");
    let ran = run(&mut portcullis(&[
        "policy",
        "lint",
        text(&missing),
        text(empty.path()),
        text(&latin),
        text(&bad),
    ]));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("failed to read `"), "{}", ran.stderr);
    assert!(ran.stderr.contains("holds no policies"), "{}", ran.stderr);
    assert!(ran.stderr.contains("is not UTF-8 text"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("hint: ").count(), 3, "{}", ran.stderr);
    assert!(ran.stdout.contains("unknown version `2`"), "{}", ran.stdout);
    assert_eq!(run(&mut portcullis(&["policy", "lint"])).code, 2);
}

#[test]
fn a_file_named_twice_is_read_once() {
    let directory = directory(&[("a.yaml", GOOD)]);
    let file = directory.path().join("a.yaml");
    assert_eq!(run(&mut portcullis(&["policy", "lint", text(&file), text(directory.path())])).code, 0);
}

#[test]
fn lint_reads_standard_input_and_writes_json() {
    let mut command = portcullis(&["policy", "lint", "-", "-o", "json"]);
    let ran = run(command.write_stdin(GOOD.replace("web", "host")));
    assert_eq!(ran.code, 1);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let finding = &report["diagnostics"][0];
    assert_eq!((finding["code"].as_str(), finding["file"].as_str()), (Some("P009"), Some("stdin")));
    assert_eq!(finding["place"]["line"], 5);
    let mut command = portcullis(&["policy", "lint", "-", "-o", "json"]);
    let clean: serde_json::Value = serde_json::from_str(&run(command.write_stdin(GOOD)).stdout).unwrap();
    assert_eq!(clean["diagnostics"], serde_json::json!([]));
}

#[test]
fn an_unknown_profile_is_a_finding() {
    let mut command = portcullis(&["policy", "lint", "-", "--profile", "nowhere"]);
    let ran = run(command.write_stdin(GOOD));
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("no loaded policy uses a profile `nowhere`"), "{}", ran.stdout);
}

#[test]
fn show_prints_tables_and_json() {
    let ran = run(portcullis(&["policy", "show", "--policy", "-"]).write_stdin(GOOD));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("policy shop (project shop)"), "{}", ran.stdout);
    assert!(ran.stdout.contains("host, world"), "{}", ran.stdout);
    let ran = run(portcullis(&["policy", "show", "--policy", "-", "-o", "json"]).write_stdin(GOOD));
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["schema"], "portcullis.policy/v1");
    assert_eq!(report["policies"][0]["ingress"][0]["port"], "80/tcp");
}

#[test]
fn show_cannot_tell_from_a_policy_with_errors() {
    let ran = run(portcullis(&["policy", "show", "--policy", "-"]).write_stdin("version: 1\n"));
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("error[P005]"), "{}", ran.stderr);
}

#[test]
fn schema_is_json() {
    let ran = run(&mut portcullis(&["policy", "schema"]));
    assert_eq!(ran.code, 0);
    let schema: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}
