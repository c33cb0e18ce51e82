//! Exit codes, and which files, variables and profiles are taken.

use crate::{CLEAN, check, codes, folder, run};

/// The clean file with another line.
fn with(from: &str, to: &str) -> String {
    assert!(CLEAN.contains(from));
    CLEAN.replace(from, to)
}

#[test]
fn clean_files_end_with_0_and_say_what_is_reachable() {
    let ran = check(&[("compose.yaml", CLEAN)], &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(
        ran.stdout.starts_with("project shop, policy shop, profile production: nothing found\n"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("outside") && ran.stdout.contains("web:80/tcp"), "{ran:?}");
    assert!(!ran.stdout.contains('\u{1b}'), "no colour into a pipe");
}

#[test]
fn findings_end_with_1_and_show_the_line() {
    let files = [("compose.yaml", &*with("{ image: db }", "{ image: db, ports: [\"5432:5432\"] }"))];
    let ran = check(&files, &[]);
    assert_eq!(ran.code, 1, "{ran:?}");
    insta::assert_snapshot!("a_finding", ran.stdout);
}

#[test]
fn the_least_severity_that_fails_can_be_chosen() {
    let warning = with("0.0.0.0:80:80", "80:80");
    for (level, code) in [("error", 0), ("warning", 1), ("info", 1), ("never", 0)] {
        let ran = check(&[("compose.yaml", &warning)], &["--fail-on", level, "-o", "json"]);
        assert_eq!((ran.code, codes(&ran)), (code, vec!["F020".to_owned()]), "{level}");
    }
}

#[test]
fn what_compose_would_take_is_taken() {
    let override_file = "services: { db: { ports: [\"5432:5432\"] } }\n";
    let files = [("compose.yaml", CLEAN), ("compose.override.yaml", override_file)];
    assert_eq!(codes(&check(&files, &["-o", "json"])), ["F001"]);
    let alone = check(&files, &["compose.yaml", "-o", "json"]);
    assert_eq!((alone.code, codes(&alone)), (0, vec![]), "not beside files that are named");
    let both = check(&files, &["compose.yaml", "compose.override.yaml", "-o", "json"]);
    assert_eq!(codes(&both), ["F001"]);
}

#[test]
fn what_docker_compose_prints_is_read_from_standard_input() {
    let json = r#"{"name": "shop", "services": {
      "db": {"image": "db", "command": null, "networks": {"default": null}},
      "web": {"image": "web", "environment": {"A": "x$$y"}, "networks": {"default": null}, "ports": [
        {"mode": "ingress", "target": 80, "published": "80", "protocol": "tcp", "host_ip": "0.0.0.0"},
        {"mode": "ingress", "target": 81, "published": "81", "protocol": "tcp", "host_ip": "0.0.0.0"}]}},
      "networks": {"default": {"name": "shop_default", "ipam": {}}}}"#;
    let ran = run(folder(&[]).path(), &["-", "-o", "json"], json);
    assert_eq!((ran.code, codes(&ran)), (1, vec!["F007".to_owned()]), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&report["findings"][0]["file"], &report["findings"][0]["line"]),
        (&"stdin".into(), &5.into())
    );
}

#[test]
fn variables_and_their_files_decide() {
    let text = with("0.0.0.0:80:80", "${BIND:?say where}:80:80");
    let files = [("compose.yaml", &*text), (".env", "BIND=127.0.0.1\n"), ("public.env", "BIND=0.0.0.0\n")];
    let local = check(&files, &["-o", "json"]);
    assert_eq!(codes(&local), ["F017"], "nothing faces the public: {local:?}");
    assert_eq!(check(&files, &["--env-file", "public.env"]).code, 0);
}

#[test]
fn the_profile_holds_for_both() {
    let text = format!(
        "{CLEAN}  tool: {{ image: tool, profiles: [development], ports: [\"127.0.0.1:8025:8025\"] }}\n"
    );
    let files = [("compose.yaml", &*text)];
    assert_eq!(check(&files, &[]).code, 0, "not started");
    assert_eq!(check(&files, &["--profile", "development"]).code, 0, "allowed");
    let started = check(&files, &["--compose-profile", "development", "-o", "json"]);
    assert_eq!(started.code, 1, "started in production: {started:?}");
    assert_eq!(codes(&started), ["F016", "F004"]);
    let missing = check(&[("compose.yaml", CLEAN)], &["--profile", "development", "-o", "json"]);
    assert_eq!(codes(&missing), ["F006"]);
    assert_eq!(check(&files, &["--profile", "developement"]).code, 2, "no such profile");
}

#[test]
fn the_project_name_decides_whether_the_policy_applies() {
    let files = [("compose.yaml", CLEAN)];
    let other = check(&files, &["-p", "other", "-o", "json"]);
    assert_eq!((other.code, codes(&other)), (1, vec!["F021".to_owned()]));
    let second = "version: 1\npolicy: b\napplies_to: { project: b }\nservices: { web: {} }\n";
    let files = [("compose.yaml", CLEAN), ("b.yaml", second)];
    assert_eq!(check(&files, &["--policy", "b.yaml"]).code, 0);
    let neither = check(&files, &["--policy", "b.yaml", "-p", "c"]);
    assert_eq!(neither.code, 2);
    assert!(neither.stderr.contains("no policy applies to the project `c`"), "{neither:?}");
}

#[test]
fn selected_services_are_known_by_their_labels_and_names() {
    let policy = "version: 1\npolicy: shop\napplies_to: { project: shop }\nservices:\n  \
                  edge: { select: { label: { role: edge } }, exposure: public, ports: [80/tcp] }\n  \
                  store: { select: { container: \"shop-db-*\" }, ports: [5432/tcp], from: [edge] }\n";
    let text = with("{ image: web,", "{ image: web, labels: { role: edge },");
    let ran = check(&[("compose.yaml", &text), ("policy.yaml", policy)], &["-o", "json"]);
    assert_eq!((ran.code, codes(&ran)), (0, vec![]), "{ran:?}");
}

#[test]
fn variables_without_a_value_are_told() {
    let ran = check(&[("compose.yaml", &*with("image: db", "image: \"db:$TAG\""))], &[]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("the variable `TAG` is not set"), "{ran:?}");
}

#[test]
fn what_is_accepted_does_not_fail() {
    let text = with("{ image: db }", "{ image: db, privileged: true }");
    let accept = "version: 1\naccept:\n  - { code: F009, service: db, reason: measured }\n";
    let files = [("compose.yaml", &*text), ("baseline.yaml", accept)];
    let ran = check(&files, &["--baseline", "baseline.yaml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("nothing found, 1 accepted by the baseline"), "{ran:?}");
}
