//! Elastic Common Schema, version 9.4: <https://www.elastic.co/docs/reference/ecs>. What it has no field for stands
//! under `portcullis`.

use std::io;

use serde_json::{Value, json};

use super::{
    super::record::{PartyRecord, Record},
    community_id::community_id,
    decider, ip_version, is_container, protocol_number, syslog_severity, without_nothing,
};

const VERSION: &str = "9.4.0";

pub(super) fn map(record: &Record, host: &str) -> io::Result<Value> {
    let decider = decider(record);
    let observed = record.verdict == "observed";
    let value = json!({
        "@timestamp": record.time,
        "ecs": { "version": VERSION },
        "message": record.line(),
        "event": {
            "kind": "event",
            "category": ["network"],
            "type": ["connection", if observed { "allowed" } else { "denied" }],
            "action": record.verdict,
            // Of what the event is about: the attempt got through, or the agent did what it is there for.
            "outcome": "success",
            "reason": record.reason,
            "severity": syslog_severity(record),
            "provider": "portcullis",
            "dataset": "portcullis.denied",
            "module": "portcullis",
        },
        "log": { "level": level(&record.severity) },
        "network": {
            "transport": matches!(record.protocol.as_str(), "tcp" | "udp" | "icmp").then_some(&record.protocol),
            "type": ip_version(record).map(|version| format!("ipv{version}")),
            "iana_number": protocol_number(record).map(|number| number.to_string()),
            "direction": direction(record),
            "community_id": community_id(record),
        },
        "observer": {
            "type": "firewall",
            "product": "Portcullis",
            "vendor": "Portcullis",
            "version": env!("CARGO_PKG_VERSION"),
            "hostname": host,
            "ingress": { "interface": { "name": record.interface } },
        },
        "host": { "hostname": host },
        "rule": {
            "name": record.rule,
            "ruleset": record.policy,
            "id": record.rule_at,
        },
        "source": side(&record.source),
        "destination": side(&record.destination),
        "container": { "name": decider.container },
        "service": { "name": decider.service },
        "portcullis": record,
    });
    without_nothing(value).ok_or_else(|| io::Error::other("an event without a field"))
}

fn side(party: &PartyRecord) -> Value {
    let address = party.address.map(|address| address.to_string());
    json!({ "address": address, "ip": address, "port": party.port })
}

/// From the point of view of the perimeter, which is the set of containers.
fn direction(record: &Record) -> &str {
    if is_container(&record.source) && is_container(&record.destination) {
        return "internal";
    }
    &record.direction
}

fn level(name: &str) -> &str {
    match name {
        "critical" => "critical",
        "info" => "info",
        _ => "warning",
    }
}
