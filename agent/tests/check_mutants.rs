//! Both requirement documents' applications: clean as they are, and for every kind of finding a copy with one fault,
//! in which exactly that is found, at that line.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use portcullis::check::Code;
use serde_json::Value;
use tempfile::TempDir;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A configuration of an application.
#[derive(Clone, Copy)]
struct Variant {
    application: &'static str,
    profile: &'static str,
    second_file: &'static str,
}

const APP_DEVELOPMENT: Variant =
    Variant { application: "app", profile: "development", second_file: "compose.override.yaml" };
const APP_PRODUCTION: Variant =
    Variant { application: "app", profile: "production", second_file: "compose.production.yaml" };
const QERDS_DEVELOPMENT: Variant = Variant { application: "qerds", ..APP_DEVELOPMENT };
const QERDS_PRODUCTION: Variant = Variant { application: "qerds", ..APP_PRODUCTION };

/// One fault: what is replaced in which file. The finding is expected in the line that holds `HERE`.
struct Mutant {
    code: &'static str,
    variant: Variant,
    file: &'static str,
    edits: &'static [(&'static str, &'static str)],
    /// What is replaced in another file.
    other: Option<(&'static str, &'static str, &'static str)>,
    /// What is found besides, somewhere.
    besides: Option<&'static str>,
}

impl Mutant {
    const fn and_in(mut self, file: &'static str, from: &'static str, to: &'static str) -> Self {
        self.other = Some((file, from, to));
        self
    }

    const fn besides(mut self, code: &'static str) -> Self {
        self.besides = Some(code);
        self
    }
}

const HERE: &str = "# here";
const BASE: &str = "compose.yaml";
const OVERRIDE: &str = "compose.override.yaml";
const PRODUCTION: &str = "compose.production.yaml";
const POLICY: &str = "policy.yaml";

const fn mutant(
    code: &'static str,
    variant: Variant,
    file: &'static str,
    edits: &'static [(&'static str, &'static str)],
) -> Mutant {
    Mutant { code, variant, file, edits, other: None, besides: None }
}

const MUTANTS: &[Mutant] = &[
    mutant(
        "F001",
        APP_PRODUCTION,
        PRODUCTION,
        &[("services:\n", "services:\n  db:\n    ports:\n      - 5432:5432 # here\n")],
    ),
    mutant(
        "F001",
        QERDS_PRODUCTION,
        PRODUCTION,
        &[("services:\n", "services:\n  qerds-trust:\n    ports:\n      - 127.0.0.1:8080:8080 # here\n")],
    ),
    mutant("F002", APP_DEVELOPMENT, OVERRIDE, &[("\"127.0.0.1:5432:5432\"", "\"5432:5432\" # here")]),
    mutant(
        "F002",
        QERDS_DEVELOPMENT,
        OVERRIDE,
        &[("\"127.0.0.1:9000:9000\" # API", "{ target: 9000, published: 9000, host_ip: \"::\" } # here")],
    ),
    mutant(
        "F003",
        QERDS_PRODUCTION,
        BASE,
        &[
            ("  mailpit:\n", "  mailpit: # here\n"),
            ("    image: axllent/mailpit\n    profiles: [development]\n", "    image: axllent/mailpit\n"),
        ],
    ),
    mutant(
        "F004",
        QERDS_PRODUCTION,
        BASE,
        &[(
            "    build: ./mocks\n    profiles: [development]",
            "    build: ./mocks\n    profiles: [development, production] # here",
        )],
    ),
    mutant(
        "F005",
        APP_PRODUCTION,
        BASE,
        &[("  redis:\n", "  adminer: # here\n    image: adminer\n    networks: [app-network]\n\n  redis:\n")],
    ),
    mutant(
        "F006",
        QERDS_PRODUCTION,
        BASE,
        &[
            ("services:\n  reverse-proxy:", "services: # here\n  reverse-proxy:"),
            (
                "  qerds-worker:\n    <<: *service\n    build: .\n    command: [python, -m, qerds.worker]\n    depends_on: [postgres, minio]\n",
                "",
            ),
        ],
    ),
    mutant(
        "F007",
        APP_PRODUCTION,
        PRODUCTION,
        &[("      - \"443:443\"\n", "      - \"443:443\"\n      - \"8443-8445:8443-8445\" # here\n")],
    ),
    mutant(
        "F024",
        APP_PRODUCTION,
        PRODUCTION,
        &[
            ("  proxy:\n", "  proxy:\n    deploy: { replicas: 2 }\n"),
            ("      - \"443:443\"\n", "      - \"443:443\" # here\n"),
        ],
    )
    .besides("F024"),
    mutant(
        "F008",
        APP_PRODUCTION,
        BASE,
        &[("    expose: [\"5173\"]\n    networks: [app-network]", "    network_mode: host # here")],
    ),
    mutant(
        "F009",
        QERDS_PRODUCTION,
        BASE,
        &[("    read_only: true\n", "    read_only: true\n    privileged: true # here\n")],
    ),
    mutant(
        "F010",
        APP_PRODUCTION,
        BASE,
        &[(
            "    volumes:\n      - ./nginx",
            "    volumes:\n      - /var/run/docker.sock:/var/run/docker.sock:ro # here\n      - ./nginx",
        )],
    ),
    mutant(
        "F011",
        QERDS_PRODUCTION,
        BASE,
        &[("      - minio_data:/data\n", "      - minio_data:/data\n      - /etc:/host/etc:ro # here\n")],
    ),
    mutant("F012", APP_PRODUCTION, BASE, &[("  redis:\n", "  redis:\n    pid: host # here\n")]),
    mutant(
        "F013",
        QERDS_PRODUCTION,
        BASE,
        &[(
            "    cap_drop: [ALL]\n",
            "    cap_drop: [ALL]\n    cap_add:\n      - CHOWN\n      - CAP_NET_ADMIN # here\n",
        )],
    ),
    mutant(
        "F014",
        QERDS_PRODUCTION,
        BASE,
        &[(
            "    command: [python, -m, qerds.worker]\n",
            "    command: [python, -m, qerds.worker]\n    network_mode: service:qerds-api # here\n",
        )],
    ),
    mutant(
        "F015",
        APP_PRODUCTION,
        BASE,
        &[
            (
                "      - redis_data:/data\n    networks: [app-network]",
                "      - redis_data:/data\n    networks: [cache] # here",
            ),
            ("networks:\n  app-network:", "networks:\n  cache:\n  app-network:"),
        ],
    ),
    mutant(
        "F016",
        APP_PRODUCTION,
        BASE,
        &[
            (
                "      - redis_data:/data\n    networks: [app-network]",
                "      - redis_data:/data\n    networks: [app-network, extra]",
            ),
            (
                "    expose: [\"5173\"]\n    networks: [app-network]",
                "    expose: [\"5173\"]\n    networks: [app-network, extra]",
            ),
            ("networks:\n  app-network:", "networks:\n  extra: # here\n  app-network:"),
        ],
    ),
    mutant("F017", QERDS_PRODUCTION, BASE, &[("  reverse-proxy:\n", "  reverse-proxy: # here\n")]).and_in(
        PRODUCTION,
        "ports: [\"443:443\"]",
        "expose: [\"443\"]",
    ),
    mutant(
        "F018",
        APP_PRODUCTION,
        BASE,
        &[("    name: ${COMPOSE_PROJECT_NAME:-app}-network", "    name: app-network # here")],
    ),
    mutant(
        "F018",
        APP_PRODUCTION,
        BASE,
        &[("  frontend:\n", "  frontend:\n    container_name: frontend # here\n")],
    ),
    mutant(
        "F019",
        QERDS_PRODUCTION,
        BASE,
        &[("    read_only: true\n", "    read_only: true\n    user: root # here\n")],
    )
    .and_in(POLICY, "  qerds-trust:\n", "  qerds-trust:\n    run_as: non_root\n"),
    mutant("F019", QERDS_PRODUCTION, BASE, &[("  qerds-trust:\n", "  qerds-trust: # here\n")]).and_in(
        POLICY,
        "  qerds-trust:\n",
        "  qerds-trust:\n    run_as: non_root\n",
    ),
    mutant(
        "F020",
        APP_DEVELOPMENT,
        BASE,
        &[("    enable_ipv6: true\n", ""), ("\"${PROXY_PORT:-80}:80\"", "\"${PROXY_PORT:-80}:80\" # here")],
    ),
    mutant("F021", APP_PRODUCTION, BASE, &[("name: myapp-dev", "name: shop # here")]),
    mutant(
        "F022",
        APP_PRODUCTION,
        "baseline.yaml",
        &[("accept:\n", "accept:\n  - code: F001 # here\n    reason: a bastion\n")],
    ),
    mutant(
        "F023",
        QERDS_PRODUCTION,
        "baseline.yaml",
        &[(
            "  - code: needless-shared-network\n",
            "  - code: needless-shared-network # here\n    expires: 2020-01-01\n",
        )],
    )
    .besides("F016"),
];

/// A copy of an application with its policy.
fn copy(variant: Variant) -> TempDir {
    let from = repository().join("tests/scenarios/check").join(variant.application);
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let policy = repository().join("policies").join(variant.application).with_extension("yaml");
    fs::copy(policy, folder.path().join("policy.yaml")).unwrap();
    folder
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "`{from}` in {}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
}

/// The report, and whether it says that something was found.
fn check(folder: &Path, variant: Variant) -> (Value, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["check", BASE, variant.second_file, "--policy", "policy.yaml", "--baseline", "baseline.yaml"])
        .args(["--profile", variant.profile, "--output", "json", "--fail-on", "info"])
        .current_dir(folder)
        .env_clear()
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (report, output.status.code().unwrap())
}

#[test]
fn both_applications_are_clean() {
    for variant in [APP_DEVELOPMENT, APP_PRODUCTION, QERDS_DEVELOPMENT, QERDS_PRODUCTION] {
        let (report, code) = check(copy(variant).path(), variant);
        let what = format!("{} in {}: {report:#}", variant.application, variant.profile);
        assert_eq!(report["findings"].as_array().map(Vec::len), Some(0), "{what}");
        assert_eq!(code, 0, "{what}");
        assert_eq!(report["accepted"].as_array().map(Vec::len), Some(1), "{what}");
    }
}

#[test]
fn the_surface_is_that_of_the_documents() {
    let zone = |report: &Value, name: &str| {
        let zones = report["surface"]["zones"].as_array().unwrap();
        let zone = zones.iter().find(|zone| zone["zone"] == name).unwrap();
        (
            zone["without_policy"].as_u64().unwrap(),
            zone["with_policy"].as_u64().unwrap(),
            zone["reachable"].clone(),
        )
    };
    // "5 exposed ports" without the override's bindings to localhost, "1 exposed port: 80/443 (proxy only)" with the policy.
    let folder = copy(APP_PRODUCTION);
    for service in ["db:5432", "redis:6379", "backend:8000", "frontend:5173"] {
        let (name, port) = service.split_once(':').unwrap();
        edit(
            &folder.path().join(PRODUCTION),
            "services:\n",
            &format!("services:\n  {name}: {{ ports: [\"{port}:{port}\"] }}\n"),
        );
    }
    let (report, _) = check(folder.path(), APP_PRODUCTION);
    let (without, with, reachable) = zone(&report, "outside");
    assert_eq!((without, with), (6, 2), "{report:#}");
    assert_eq!(reachable, serde_json::json!(["proxy:80/tcp", "proxy:443/tcp"]));
    assert_eq!(zone(&report, "db").1, 0);
    assert_eq!(zone(&report, "backend").2, serde_json::json!(["db:5432/tcp", "redis:6379/tcp"]));
}

#[test]
fn each_fault_is_found_at_its_line_and_nothing_else() {
    for mutant in MUTANTS {
        let folder = copy(mutant.variant);
        let file = folder.path().join(mutant.file);
        for (from, to) in mutant.edits {
            edit(&file, from, to);
        }
        if let Some((other, from, to)) = mutant.other {
            edit(&folder.path().join(other), from, to);
        }
        let text = fs::read_to_string(&file).unwrap();
        let line = 1 + text.lines().position(|line| line.contains(HERE)).unwrap();
        let (report, code) = check(folder.path(), mutant.variant);
        let what = format!("{} in {}: {report:#}", mutant.code, mutant.variant.application);
        assert_eq!(code, 1, "{what}");
        let mut found: Vec<&Value> = report["findings"].as_array().unwrap().iter().collect();
        if let Some(besides) = mutant.besides {
            let place = found.iter().position(|finding| finding["code"] == besides);
            found.remove(place.unwrap_or_else(|| panic!("{what}")));
        }
        let [finding] = found.as_slice() else { panic!("{what}") };
        assert_eq!(finding["code"], mutant.code, "{what}");
        assert_eq!(finding["file"], mutant.file, "{what}");
        assert_eq!(finding["line"], line, "{what}");
        assert!(finding["column"].as_u64().unwrap() > 0, "{what}");
        assert!(!finding["fix"].as_str().unwrap().is_empty(), "{what}");
        // Everything but the baseline's own comes from a rule.
        let of_policy = finding["rule"].as_str().is_some_and(|rule| rule.starts_with("policy.yaml:"));
        assert_eq!(of_policy, mutant.file != "baseline.yaml", "{what}");
    }
}

#[test]
fn every_kind_of_finding_has_a_fault() {
    let planted: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.code).collect();
    let missing: Vec<&str> =
        Code::ALL.iter().map(|code| code.text()).filter(|code| !planted.contains(code)).collect();
    assert!(missing.is_empty(), "no fault is planted for {missing:?}");
}
