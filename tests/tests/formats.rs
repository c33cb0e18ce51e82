//! Events in the formats of others, made by real packets and judged by the schemas that those formats have.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::daemon::SOON;
use integration_tests::frames::{self, Template};
use integration_tests::packet::{BROADCAST, Ethernet};
use integration_tests::small_lab::{CLOSED_UDP, HOST, SmallLab};
use integration_tests::validators;
use lab::interrupt::wait_for;
use serde_json::Value;

/// What is tried below, each told by one event.
const EVENTS: usize = 4;

/// The file of events of an agent that writes them in this format: of TCP and UDP, of the host, and of a frame that
/// has no addresses.
fn events(lab: &SmallLab, format: &str) -> PathBuf {
    let agent = lab.run(&["--event-format", format]).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert!(!lab.reaches(HOST, "db", 5432).unwrap());
    let socket = lab.datagram_socket("web").unwrap();
    socket.send_to(b"x", (lab.address("db").unwrap(), CLOSED_UDP)).unwrap();
    // Members' MACs end like their addresses.
    let IpAddr::V4(web) = lab.address("web").unwrap() else { panic!("an IPv4 lab") };
    let ethernet = Ethernet::new([2, 0, 0, 0, 7, web.octets()[3]], BROADCAST);
    let odd = Template::fixed(ethernet.carrying(0x88b5, &[0; 46]));
    frames::send(&lab.place("web").unwrap(), &[odd], 0..1).unwrap();
    let path = lab.path().join("events.jsonl");
    let told = || fs::read_to_string(&path).unwrap_or_default();
    wait_for("the events", SOON, || Ok((told().lines().count() >= EVENTS).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {}", told()));
    agent.stop().unwrap();
    path
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Says what each event breaks, by the schema of the class that it names.
const OCSF_JUDGE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

judged = 0
for line in open(sys.argv[1]):
    event = json.loads(line)
    version, profiles = event["metadata"]["version"], event["metadata"]["profiles"]
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version))
    schema = schemas.get_class_schema("network_activity", profiles=profiles)
    for error in Draft202012Validator(schema).iter_errors(event):
        sys.exit(f"{list(error.path)}: {error.message}")
    judged += 1
print(judged)
"#;

#[test]
fn ocsf_events_hold_to_their_schema() {
    let lab = SmallLab::start().unwrap();
    let path = events(&lab, "ocsf");
    let judge = |path: &Path| {
        let mut python = validators::python(&["ocsf-json-schema==1.2.0", "jsonschema==4.25.1"]).unwrap();
        python.args(["-c", OCSF_JUDGE]).arg(path).output().unwrap()
    };
    let verdict = judge(&path);
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));
    let told = lines(&path);
    assert_eq!(String::from_utf8_lossy(&verdict.stdout).trim(), told.len().to_string());
    let reasons: Vec<_> = told.iter().filter_map(|event| event["status_detail"].as_str()).collect();
    for reason in ["no_rule", "host_denied", "unsupported_protocol"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }

    // The judge can tell: a field that the schema does not know, and one that is missing.
    for spoil in [
        |event: &mut Value| event["src_endpoint"]["colour"] = "red".into(),
        |event: &mut Value| drop(event.as_object_mut().unwrap().remove("severity_id")),
    ] {
        let mut event = told[0].clone();
        spoil(&mut event);
        let spoilt = lab.path().join("spoilt.jsonl");
        fs::write(&spoilt, event.to_string()).unwrap();
        assert!(!judge(&spoilt).status.success(), "{event}");
    }
}

#[test]
fn ecs_events_hold_to_their_schema() {
    let lab = SmallLab::start().unwrap();
    let told = lines(&events(&lab, "ecs"));
    let folder = validators::node_modules(&["@elastic/ecs@9.4.0", "typescript@5.9.3"]).unwrap();
    // The compiler compares object literals with the published types, field by field; `portcullis` is our own.
    let compile = |events: &[Value]| {
        let mut program = String::from(
            "import type * as ecs from '@elastic/ecs';\ntype Event = ecs.Ecs & { portcullis: object };\n",
        );
        for (number, event) in events.iter().enumerate() {
            program.push_str(&format!("export const event{number}: Event = {event};\n"));
        }
        fs::write(folder.join("events.ts"), program).unwrap();
        Command::new(folder.join("node_modules/.bin/tsc"))
            .args(["--strict", "--noEmit", "--skipLibCheck", "--moduleResolution", "node", "events.ts"])
            .current_dir(&folder)
            .output()
            .unwrap()
    };
    let verdict = compile(&told);
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stdout));
    for event in &told {
        assert_eq!(event["ecs"]["version"], "9.4.0");
        assert_eq!(event["event"]["category"], serde_json::json!(["network"]));
    }
    for spoil in [
        |event: &mut Value| event["network"]["colour"] = "red".into(),
        |event: &mut Value| event["observer"]["hostname"] = 7.into(),
    ] {
        let mut event = told[0].clone();
        spoil(&mut event);
        assert!(!compile(&[event.clone()]).status.success(), "{event}");
    }
}
