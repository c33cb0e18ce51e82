//! The shapes in which a record is written: its own JSON, or what a SIEM expects. The names of fields are theirs.

mod community_id;
mod ecs;
mod ocsf;

use std::io;

use clap::ValueEnum;
use rustix::system::uname;
use serde::Deserialize;
use serde_json::Value;

use super::record::{PartyRecord, Record};

/// What `--event-format` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// The agent's own fields
    #[default]
    Json,
    /// Elastic Common Schema 9.4
    Ecs,
    /// Open Cybersecurity Schema Framework 1.5, Network Activity
    Ocsf,
}

/// Turns records into lines of one format.
#[derive(Clone, Debug)]
pub struct Formatter {
    format: EventFormat,
    /// The machine's name, as other machines' collectors want it.
    host: String,
}

impl Formatter {
    /// Lines of this format, from this machine.
    #[must_use]
    pub fn new(format: EventFormat) -> Self {
        Self { format, host: uname().nodename().to_string_lossy().into_owned() }
    }

    /// The machine's name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether lines have the agent's own fields.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.format == EventFormat::Json
    }

    /// One JSON object, without a line break.
    pub fn json(&self, record: &Record) -> io::Result<Vec<u8>> {
        Ok(match self.format {
            EventFormat::Json => serde_json::to_vec(record)?,
            EventFormat::Ecs => serde_json::to_vec(&ecs::map(record, &self.host)?)?,
            EventFormat::Ocsf => serde_json::to_vec(&ocsf::map(record, &self.host)?)?,
        })
    }
}

/// Leaves out what is null, and objects and lists in which nothing is left: a field that does not apply does not exist.
fn without_nothing(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: serde_json::Map<_, _> = fields
                .into_iter()
                .filter_map(|(name, value)| Some((name, without_nothing(value)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<_> = items.into_iter().filter_map(without_nothing).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        other => Some(other),
    }
}

/// As syslog counts (RFC 5424, section 6.2.1), which Elastic's own modules use too.
pub(super) fn syslog_severity(record: &Record) -> u8 {
    match record.severity.as_str() {
        "critical" => 2,
        "info" => 6,
        _ => 4,
    }
}

/// The number of the protocol (IANA), where the record's word stands for one.
fn protocol_number(record: &Record) -> Option<u8> {
    let version_6 = ip_version(record) == Some(6);
    match record.protocol.as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" if version_6 => Some(58),
        "icmp" => Some(1),
        _ => None,
    }
}

/// 4 or 6, where the frame has an IP header.
fn ip_version(record: &Record) -> Option<u8> {
    let address = record.source.address.or(record.destination.address)?;
    Some(if address.is_ipv4() { 4 } else { 6 })
}

fn is_container(party: &PartyRecord) -> bool {
    matches!(party.kind.as_str(), "service" | "unmanaged")
}

/// The endpoint whose policy decided.
fn decider(record: &Record) -> &PartyRecord {
    if record.direction == "egress" { &record.source } else { &record.destination }
}

#[cfg(test)]
mod tests;
