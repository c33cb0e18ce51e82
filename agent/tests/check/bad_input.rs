//! Files that are wrong: a message, a place, exit code 2, and no more time or memory than anybody has. Memory and time
//! are bounded by how the command is run.

use crate::{CLEAN, check, folder, run};

/// What is wrong with `compose.yaml`, which line says so, and part of the message.
fn refused(files: &[(&str, &str)], at: &str, part: &str) {
    let ran = check(files, &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
    assert!(ran.stderr.contains(part), "`{part}` in {}", ran.stderr);
    assert!(ran.stderr.contains(at), "`{at}` in {}", ran.stderr);
    // The same, for programs.
    let ran = check(files, &["-o", "json"]);
    assert_eq!(ran.code, 2);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(report["faults"][0]["message"].as_str().unwrap().contains(part), "{report:#}");
    assert!(report.get("findings").is_none(), "{report:#}");
}

fn refused_file(text: &str, at: &str, part: &str) {
    refused(&[("compose.yaml", text)], at, part);
}

#[test]
fn not_yaml() {
    refused_file("services:\n  web: {image: x\n", "compose.yaml:", "not valid YAML");
    refused_file("services:\n\tweb:\n", "compose.yaml:2", "not valid YAML");
    refused_file("services:\n  web: *nope\n", "compose.yaml:2", "not valid YAML");
    refused_file("services: {}\nservices: {}\n", "compose.yaml:2:1", "duplicate key `services`");
}

#[test]
fn empty_and_of_another_kind() {
    refused_file("# nothing\n", "compose.yaml", "the compose file is empty");
    refused_file("- a\n", "compose.yaml:1", "a compose file is a mapping, not a list");
}

#[test]
fn keys_and_values_that_compose_refuses() {
    refused_file(
        "services:\n  web: {image: x, prots: []}\n",
        "compose.yaml:2:19",
        "unknown key `prots` in `services.web`",
    );
    refused_file(
        "services:\n  web: {image: x, ports: {}}\n",
        "compose.yaml:2:26",
        "`services.web.ports` is a list",
    );
    refused_file("services:\n  web: {image: x, ports: [\"80:x\"]}\n", "compose.yaml:2:27", "is no port");
    refused_file(
        "services:\n  web: {image: x, networks: [n]}\n",
        "compose.yaml:2:30",
        "the network `n`, which is not defined",
    );
    refused_file("services:\n  web: {}\n", "compose.yaml:2:3", "neither an image");
    refused_file("services:\n  web: {image: x, mem_limit: much}\n", "compose.yaml:2:30", "`much` is no size");
}

#[test]
fn all_keys_that_are_wrong_are_told_at_once() {
    let ran = check(&[("compose.yaml", "services:\n  web: {image: 1, prts: [], comand: x}\n")], &[]);
    assert_eq!(ran.stderr.matches("error[C004]").count(), 3, "{ran:?}");
    assert!(ran.stderr.contains("did you mean `command`?"), "{ran:?}");
}

#[test]
fn version_1() {
    refused_file(
        "web:\n  image: x\n  ports: [\"80:80\"]\n",
        "compose.yaml:1:1",
        "a compose file of version 1",
    );
}

#[test]
fn circles() {
    refused_file(
        "services:\n  a: {extends: b}\n  b: {extends: a, image: x}\n",
        "compose.yaml:",
        "extend each other in a circle",
    );
    refused(
        &[("compose.yaml", "include: [a.yaml]\nservices: {}\n"), ("a.yaml", "include: [compose.yaml]\n")],
        "a.yaml:1:11",
        "include each other in a circle",
    );
    refused_file(
        "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}\n",
        "compose.yaml:",
        "depend on each other in a circle: a -> b -> a",
    );
}

#[test]
fn files_that_are_not_there() {
    refused(&[], "no compose file in", "or above");
    refused_file(
        "include: [nope.yaml]\nservices: {}\n",
        "compose.yaml:1:11",
        "failed to read `nope.yaml`: there is no such file",
    );
    refused_file(
        "services:\n  a: {image: x, extends: {file: nope.yaml, service: b}}\n",
        "compose.yaml:2:33",
        "failed to read `nope.yaml`",
    );
    refused_file(
        "services:\n  a: {image: x, env_file: nope.env}\n",
        "compose.yaml:2:27",
        "the env file `nope.env` does not exist",
    );
    let ran = check(&[], &["nope.yaml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("failed to read `nope.yaml`: there is no such file"), "{ran:?}");
}

#[test]
fn variables_that_are_required() {
    let text = "services:\n  web: {image: \"x:${TAG:?the release}\"}\n";
    refused_file(text, "compose.yaml:2:16", "required variable `TAG` is not set: the release");
    refused_file(
        "services:\n  web: {image: \"x:${TAG\"}\n",
        "compose.yaml:2:16",
        "holds a `$` that begins no variable",
    );
    refused(&[("compose.yaml", CLEAN), (".env", "A=1\nB!=2\n")], ".env:2:2", "unexpected character `!`");
}

#[test]
fn things_that_are_no_files() {
    let folder = folder(&[("compose.yaml/x", "")]);
    let ran = run(folder.path(), &["compose.yaml"], "");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`compose.yaml` is not a file"), "{ran:?}");
    // Reading it would never end.
    let ran = run(folder.path(), &["/dev/zero"], "");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("is not a file"), "{ran:?}");
    std::fs::write(folder.path().join("bytes.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let ran = run(folder.path(), &["bytes.yaml"], "");
    assert!(ran.code == 2 && ran.stderr.contains("is not UTF-8 text"), "{ran:?}");
    let ran = run(folder.path(), &["-"], "");
    assert!(ran.code == 2 && ran.stderr.contains("the compose file is empty"), "{ran:?}");
}

#[test]
fn bombs() {
    let mut laughs = "x-0: &x0 [a, a, a, a, a, a, a, a, a]\n".to_owned();
    for level in 1..15 {
        laughs += &format!("x-{level}: &x{level} [{}]\n", vec![format!("*x{}", level - 1); 9].join(", "));
    }
    refused_file(
        &format!("{laughs}services: {{}}\n"),
        "compose.yaml:",
        "too large once its aliases are expanded",
    );
    refused_file(&"{a: ".repeat(100_000), "compose.yaml:1", "too deeply nested");
    refused_file(&"[".repeat(1_000_000), "compose.yaml:1", "too deeply nested");
    let towers =
        format!("services: {{web: {{image: \"{}{}\"}}}}\n", "${A:-".repeat(10_000), "}".repeat(10_000));
    refused_file(&towers, "compose.yaml:1", "variables are too deeply nested");
    refused_file(&"# a comment\n".repeat(500_000), "compose.yaml", "larger than 4 MiB");
    let doubling: String = (0..64).map(|n| format!("A{}=${{A{n}}}${{A{n}}}\n", n + 1)).collect();
    refused(
        &[("compose.yaml", CLEAN), (".env", &format!("A0=xxxxxxxxxxxxxxxx\n{doubling}"))],
        ".env:",
        "too deeply nested",
    );
}

#[test]
fn huge_ranges() {
    // Every port once is what Compose takes, and so do we.
    let all = "services:\n  web: {image: x, ports: [\"1-65535:1-65535\"]}\n";
    let ran = check(&[("compose.yaml", all)], &["-p", "shop", "-o", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let twice = "services:\n  web: {image: x, ports: [\"1-65535:1-65535\", \"1-65535:1-65535/udp\"]}\n";
    refused_file(twice, "compose.yaml:2", "more than 70000 ports are published");
}

#[test]
fn chains() {
    let mut chain = "services:\n  s0: {image: x}\n".to_owned();
    for n in 1..200 {
        chain += &format!("  s{n}: {{extends: s{}, depends_on: [s{}]}}\n", n - 1, n - 1);
    }
    // Each is extended before the one that needs it, or the chain is refused: either way it ends.
    let ran = check(&[("compose.yaml", &chain)], &["-p", "shop"]);
    assert!(ran.code > 0, "{ran:?}");
    let mut files = Vec::new();
    for n in 0..100 {
        files.push((format!("f{n}.yaml"), format!("include: [f{}.yaml]\nservices: {{}}\n", n + 1)));
    }
    files.push(("f100.yaml".to_owned(), CLEAN.to_owned()));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let ran = check(&files, &["f0.yaml"]);
    assert!(ran.code == 2 && ran.stderr.contains("nested too deeply"), "{ran:?}");
}

#[test]
fn policies_and_baselines_that_are_wrong() {
    let files = [
        ("compose.yaml", CLEAN),
        ("bad.yaml", "version: 1\npolicy: x\n"),
        ("base.yaml", "version: 1\naccept:\n  - { code: F001 }\n"),
    ];
    let ran = check(&files, &["--policy", "bad.yaml"]);
    assert!(ran.code == 2 && ran.stderr.contains("bad.yaml:1"), "{ran:?}");
    let ran = check(&files, &["--policy", "nope.yaml"]);
    assert!(ran.code == 2 && ran.stderr.contains("failed to read `nope.yaml`"), "{ran:?}");
    let ran = check(&files, &["--baseline", "base.yaml"]);
    assert!(ran.code == 2 && ran.stderr.contains("base.yaml:3"), "{ran:?}");
}
