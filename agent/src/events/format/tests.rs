//! Values that a schema cannot judge; `formats.rs` of the integration tests has real events judged by the schemas.

use super::*;
use crate::{
    events::decode::decode,
    state::fixture::{self, CLOCK_OFFSET},
};

fn record() -> Record {
    Record::new(&decode(&fixture::bytes(&fixture::event())).unwrap(), &fixture::state(), CLOCK_OFFSET)
}

fn mapped(format: EventFormat, record: &Record) -> Value {
    let formatter = Formatter { format, host: "bastion".to_owned() };
    serde_json::from_slice(&formatter.json(record).unwrap()).unwrap()
}

/// The agent's version moves.
fn shown(format: EventFormat) -> String {
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    serde_json::to_string_pretty(&mapped(format, &record())).unwrap().replace(&version, "\"version\": …")
}

#[test]
fn ecs() {
    insta::assert_snapshot!(shown(EventFormat::Ecs));
}

#[test]
fn ocsf() {
    insta::assert_snapshot!(shown(EventFormat::Ocsf));
}

#[test]
fn what_was_only_observed_says_so() {
    let record = Record { verdict: "observed".to_owned(), ..record() };
    let ecs = mapped(EventFormat::Ecs, &record);
    assert_eq!(ecs["event"]["type"], serde_json::json!(["connection", "allowed"]));
    let ocsf = mapped(EventFormat::Ocsf, &record);
    assert_eq!(
        (&ocsf["type_uid"], &ocsf["action_id"], &ocsf["disposition_id"]),
        (&400_101.into(), &3.into(), &17.into())
    );
    assert_eq!(ocsf["is_alert"], false);
}

#[test]
fn what_does_not_apply_is_left_out() {
    let nobody = PartyRecord { kind: "unknown".to_owned(), ..PartyRecord::default() };
    let record = Record {
        protocol: "other".to_owned(),
        policy: None,
        rule: None,
        rule_at: None,
        source: nobody.clone(),
        destination: nobody,
        ..record()
    };
    let ecs = mapped(EventFormat::Ecs, &record);
    for absent in ["rule", "source", "destination", "container", "service"] {
        assert_eq!(ecs.get(absent), None, "{ecs}");
    }
    let ocsf = mapped(EventFormat::Ocsf, &record);
    assert_eq!(ocsf["src_endpoint"], serde_json::json!({ "name": "unknown" }));
    assert_eq!((ocsf.get("policy"), ocsf.get("firewall_rule")), (None, None));
}

/// The project's own examples, with both directions of a flow.
#[test]
fn community_ids() {
    let party = |address: &str, port| PartyRecord {
        address: Some(address.parse().unwrap()),
        port: Some(port),
        ..PartyRecord::default()
    };
    for (protocol, one, other, wanted) in [
        ("tcp", ("128.232.110.120", 34855), ("66.35.250.204", 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ("udp", ("192.168.1.52", 54585), ("8.8.8.8", 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    ] {
        let (one, other) = (party(one.0, one.1), party(other.0, other.1));
        for (source, destination) in [(&one, &other), (&other, &one)] {
            let record = Record {
                protocol: protocol.to_owned(),
                source: source.clone(),
                destination: destination.clone(),
                ..record()
            };
            assert_eq!(community_id::community_id(&record).as_deref(), Some(wanted));
        }
    }
}
