//! The tables of the two requirement documents, written out as data, against what the shipped policies come down
//! to. Who is not named in a row must not reach it: the comparison is exact in both directions.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use portcullis::policy::{
    Source, load,
    matrix::{PolicyMatrix, matrix},
    schema,
};

fn read(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(name);
    Source { name: format!("policies/{name}"), text: std::fs::read_to_string(path).unwrap() }
}

fn shown(name: &str, profile: &str) -> PolicyMatrix {
    let loaded = load(&[read(name)], Some(profile));
    assert_eq!(loaded.diagnostics, [], "{name}");
    matrix(&loaded.policies.unwrap()).unwrap().policies.remove(0)
}

/// (service, port, who reaches it).
type Row<'t> = (&'t str, &'t str, &'t [&'t str]);

fn table(shown: &PolicyMatrix) -> BTreeMap<(String, String), BTreeSet<String>> {
    shown
        .ingress
        .iter()
        .map(|row| {
            let allowed = row.sources.iter().filter(|cell| cell.allowed).map(|cell| cell.source.clone());
            ((row.service.clone(), row.port.clone()), allowed.collect())
        })
        .collect()
}

#[track_caller]
fn assert_table(policy: &str, profile: &str, rows: &[Row<'_>]) {
    let expected: BTreeMap<_, _> = rows
        .iter()
        .map(|(service, port, sources)| {
            let sources: BTreeSet<String> = sources.iter().map(|&source| source.to_owned()).collect();
            (((*service).to_owned(), (*port).to_owned()), sources)
        })
        .collect();
    assert_eq!(table(&shown(policy, profile)), expected, "{policy} in {profile}");
}

/// "Service Exposure Matrix", column "Production Exposure".
#[test]
fn qerds_in_production() {
    assert_table(
        "qerds.yaml",
        "production",
        &[
            ("reverse-proxy", "443/tcp", &["host", "world"]),
            ("qerds-api", "8000/tcp", &["reverse-proxy"]),
            ("qerds-worker", "-", &[]),
            ("qerds-trust", "8080/tcp", &["qerds-api"]),
            ("postgres", "5432/tcp", &["qerds-api", "qerds-worker"]),
            ("minio", "9000/tcp", &["qerds-api", "qerds-worker"]),
            ("minio", "9001/tcp", &[]),
            ("mailpit", "1025/tcp", &[]),
            ("mailpit", "8025/tcp", &[]),
            ("mocks", "5000/tcp", &[]),
        ],
    );
}

/// "Service Exposure Matrix", column "Dev Binding": 127.0.0.1 is the host, 0.0.0.0 the world.
#[test]
fn qerds_in_development() {
    assert_table(
        "qerds.yaml",
        "development",
        &[
            ("reverse-proxy", "443/tcp", &["host"]),
            ("qerds-api", "8000/tcp", &["reverse-proxy", "host"]),
            ("qerds-worker", "-", &[]),
            ("qerds-trust", "8080/tcp", &["qerds-api", "host"]),
            ("postgres", "5432/tcp", &["qerds-api", "qerds-worker", "host"]),
            ("minio", "9000/tcp", &["qerds-api", "qerds-worker", "host"]),
            ("minio", "9001/tcp", &["host"]),
            ("mailpit", "1025/tcp", &["qerds-api", "qerds-worker", "host"]),
            ("mailpit", "8025/tcp", &["host"]),
            ("mocks", "5000/tcp", &["host", "world"]),
        ],
    );
}

/// The variant differs in who calls the API, and in nothing else.
#[test]
fn qerds_behind_a_proxy_on_the_host() {
    for profile in ["production", "development"] {
        let mut expected = table(&shown("qerds.yaml", profile));
        expected.retain(|(service, _), _| service != "reverse-proxy");
        let api = ("qerds-api".to_owned(), "8000/tcp".to_owned());
        expected.insert(api, BTreeSet::from(["host".to_owned()]));
        assert_eq!(table(&shown("variants/qerds-host-proxy.yaml", profile)), expected, "{profile}");
    }
}

/// "Security Boundaries", with port 443 of "Production Configuration (Maximum Security)" and celery of AC3.
#[test]
fn app_in_production() {
    assert_table(
        "app.yaml",
        "production",
        &[
            ("proxy", "80/tcp", &["host", "world"]),
            ("proxy", "443/tcp", &["host", "world"]),
            ("frontend", "5173/tcp", &["proxy"]),
            ("backend", "8000/tcp", &["proxy"]),
            ("db", "5432/tcp", &["backend", "celery"]),
            ("redis", "6379/tcp", &["backend", "celery"]),
            ("celery", "-", &[]),
        ],
    );
}

/// "Development Override (Relaxed Security)".
#[test]
fn app_in_development() {
    assert_table(
        "app.yaml",
        "development",
        &[
            ("proxy", "80/tcp", &["host", "world"]),
            ("frontend", "5173/tcp", &["proxy", "host"]),
            ("backend", "8000/tcp", &["proxy", "host"]),
            ("db", "5432/tcp", &["backend", "celery", "host"]),
            ("redis", "6379/tcp", &["backend", "celery", "host"]),
            ("celery", "-", &[]),
        ],
    );
}

/// "Instance Isolation Matrix": no row of any table names another instance, and the denial says why.
#[test]
fn instances_are_isolated() {
    for profile in ["production", "development"] {
        for row in shown("app.yaml", profile).ingress {
            let other = row.sources.iter().find(|cell| cell.source == "other instance").unwrap();
            assert!(!other.allowed, "{} {}", row.service, row.port);
            assert_eq!(other.reason, Some("cross_instance"));
        }
    }
}

#[test]
fn what_does_not_belong_to_production_says_so() {
    let shown = shown("qerds.yaml", "production");
    for (service, port) in [("mailpit", "1025/tcp"), ("mailpit", "8025/tcp"), ("mocks", "5000/tcp")] {
        let row = shown.row(service, port).unwrap();
        assert!(!row.in_profile);
        assert!(row.sources.iter().all(|cell| cell.reason == Some("not_in_profile")), "{row:#?}");
    }
    let trust = shown.row("qerds-trust", "8080/tcp").unwrap();
    assert_eq!((trust.severity, trust.mode), ("critical", "enforce"));
}

/// "Only the reverse proxy is exposed": nothing else opens connections outside either.
#[test]
fn only_the_reverse_proxy_of_qerds_reaches_the_world() {
    for (policy, open) in [("qerds.yaml", vec!["reverse-proxy"]), ("app.yaml", vec![])] {
        for profile in ["production", "development"] {
            let egress = shown(policy, profile).egress;
            let reaching: Vec<&str> = egress
                .iter()
                .filter(|row| row.destinations.iter().any(|cell| !cell.ports.is_empty()))
                .map(|row| row.service.as_str())
                .collect();
            assert_eq!(reaching, open, "{policy} in {profile}");
        }
    }
}

#[test]
fn the_shipped_directory_loads_as_a_whole_under_both_profiles() {
    for profile in [None, Some("production"), Some("development")] {
        let loaded = load(&[read("app.yaml"), read("qerds.yaml")], profile);
        assert_eq!(loaded.diagnostics, []);
    }
}

#[test]
fn the_shipped_schema_is_current_and_fits_the_shipped_policies() {
    let current = schema::schema().unwrap();
    assert_eq!(read("schema.json").text, current, "run `portcullis policy schema > policies/schema.json`");
    let schema: serde_json::Value = serde_json::from_str(&current).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for name in ["qerds.yaml", "app.yaml", "variants/qerds-host-proxy.yaml"] {
        let policy: serde_json::Value = serde_saphyr::from_str(&read(name).text).unwrap();
        let errors: Vec<String> = validator.iter_errors(&policy).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    for (text, fits) in [
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {}}}", true),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: }}", true),
        (
            "{version: 1, policy: p, applies_to: {project: p}, services: {x: {ports: [{port: any, from: [a]}]}}}",
            true,
        ),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {select: {label: {a: b}}}}}", true),
        (
            "{version: 1, policy: p, applies_to: {project: p}, services: {x: {egress: [dns, {to: world, ports: [any]}]}}}",
            true,
        ),
        ("{version: 2, policy: p, applies_to: {project: p}, services: {}}", false),
        ("{version: 1, policy: p, applies_to: {project: p}}", false),
        ("{version: 1, policy: p, applies_to: {project: p, container: q}, services: {}}", false),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {ports: [80]}}}", false),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {from: }}}", false),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {form: []}}}", false),
        ("{version: 1, policy: p, applies_to: {project: p}, services: {x: {exposure: all}}}", false),
    ] {
        let policy: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(validator.is_valid(&policy), fits, "{text}");
        let loaded = load(&[Source { name: "t".to_owned(), text: text.replace("[a]", "[x]") }], None);
        assert_eq!(loaded.policies.is_some(), fits, "{text}\n{:#?}", loaded.diagnostics);
    }
}

/// Every YAML example of the documentation that is a whole policy must load.
#[test]
fn the_examples_of_the_documentation_are_policies() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let examples: Vec<&str> = blocks.filter(|block| block.starts_with("version:")).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let source = Source { name: "docs/policy.md".to_owned(), text: example.to_owned() };
        let found: Vec<_> = load(&[source], None)
            .diagnostics
            .into_iter()
            .filter(|diagnostic| diagnostic.code != "P019")
            .collect();
        assert_eq!(found, [], "{example}");
    }
}
