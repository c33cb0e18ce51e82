//! Open Cybersecurity Schema Framework, version 1.5, class Network Activity (4001) with the profiles for security
//! controls, hosts and containers: <https://schema.ocsf.io/1.5.0/classes/network_activity>.

use std::io;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::record::{PartyRecord, Record},
    community_id::community_id,
    ip_version, is_container, protocol_number, without_nothing,
};

const VERSION: &str = "1.5.0";
const CATEGORY: u32 = 4;
const CLASS: u32 = 4001;

pub(super) fn map(record: &Record, host: &str) -> io::Result<Value> {
    let observed = record.verdict == "observed";
    // What was attempted: opened it was where the agent only observes, refused else.
    let (activity, activity_name) = if observed { (1, "Open") } else { (5, "Refuse") };
    let (action, action_name) = if observed { (3, "Observed") } else { (2, "Denied") };
    let (disposition, disposition_name) = if observed { (17, "Logged") } else { (6, "Dropped") };
    let (severity, severity_name) = severity(&record.severity);
    let time: Timestamp = record.time.parse().map_err(io::Error::other)?;
    let value = json!({
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": CATEGORY,
        "category_name": "Network Activity",
        "class_uid": CLASS,
        "class_name": "Network Activity",
        "type_uid": CLASS * 100 + activity,
        "type_name": format!("Network Activity: {activity_name}"),
        "severity_id": severity,
        "severity": severity_name,
        "time": time.as_millisecond(),
        "message": record.line(),
        "status_detail": record.reason,
        "action_id": action,
        "action": action_name,
        "disposition_id": disposition,
        "disposition": disposition_name,
        "is_alert": record.severity == "critical" && !observed,
        "metadata": {
            "version": VERSION,
            "product": {
                "name": "Portcullis",
                "vendor_name": "Portcullis",
                "version": env!("CARGO_PKG_VERSION"),
            },
            "profiles": ["security_control", "host", "container"],
            "log_name": "portcullis.denied",
            "event_code": record.reason,
        },
        // 1 is a server.
        "device": { "hostname": host, "type_id": 1, "type": "Server" },
        "src_endpoint": endpoint(&record.source),
        "dst_endpoint": endpoint(&record.destination),
        "connection_info": {
            "direction_id": direction(record).0,
            "direction": direction(record).1,
            "protocol_name": record.protocol,
            "protocol_num": protocol_number(record),
            "protocol_ver_id": ip_version(record),
            "community_uid": community_id(record),
        },
        "policy": record.policy.as_ref().map(|name| json!({ "name": name, "version": record.revision.to_string() })),
        "firewall_rule": record.rule.as_ref().map(|name| json!({ "name": name, "uid": record.rule_at })),
        "unmapped": record,
    });
    without_nothing(value).ok_or_else(|| io::Error::other("an event without a field"))
}

/// An endpoint has one name at least: what it is, where nothing else is known.
fn endpoint(party: &PartyRecord) -> Value {
    json!({
        "name": party.container.as_ref().or(party.service.as_ref()).unwrap_or(&party.kind),
        "svc_name": party.service,
        "ip": party.address.map(|address| address.to_string()),
        "port": party.port,
        "container": party.container.as_ref().map(|name| json!({ "name": name, "runtime": "docker" })),
    })
}

fn direction(record: &Record) -> (u8, &'static str) {
    if is_container(&record.source) && is_container(&record.destination) {
        return (3, "Lateral");
    }
    if record.direction == "egress" { (2, "Outbound") } else { (1, "Inbound") }
}

fn severity(name: &str) -> (u8, &'static str) {
    match name {
        "critical" => (5, "Critical"),
        "info" => (1, "Informational"),
        _ => (3, "Medium"),
    }
}
