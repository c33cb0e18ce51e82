//! One denied attempt as people and other programs read it. Field names are a promise (contract, docs/metrics.md):
//! later fields may be added, none is renamed. A field that does not apply is left out, never null.

mod party;

use agent_common::{
    event::DeniedEvent,
    packet::{
        ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP,
        PROTOCOL_UDP,
    },
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::party::PartyRecord;
use super::decode::Denial;
use crate::state::AgentState;

/// One JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// RFC 3339, UTC, milliseconds.
    pub time: String,
    /// `dropped` or `observed`.
    pub verdict: String,
    pub reason: String,
    pub severity: String,
    /// Seen from the endpoint whose policy decided.
    pub direction: String,
    /// Left out where no policy decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that decided, `default` if none matched. Left out where no policy decided, and where the policy
    /// changed between the packet and its event, so that the rule's number means something else now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `file:line` of the rule; for a default, of the service that has no rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_at: Option<String>,
    /// The instance whose policy decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `tcp`, `udp`, `icmp` (ICMPv6 too), `arp` or `other`.
    pub protocol: String,
    /// `SYN`, `SYN|ACK`, …; left out where there is no TCP header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    pub hook: String,
    /// The interface of the hook; `if7` where interface 7 is gone.
    pub interface: String,
    /// The revision of the entries that decided.
    pub revision: u32,
    /// Packets of the same flow that were denied without an event of their own since its last event.
    pub packets_suppressed: u32,
    pub source: PartyRecord,
    pub destination: PartyRecord,
}

impl Record {
    /// Puts names to the numbers of a denial. `clock_offset` turns time since boot into time since 1970.
    #[must_use]
    pub fn new(denial: &Denial, state: &AgentState, clock_offset: i64) -> Self {
        let event = &denial.event;
        let (rule, rule_at) = rule(event, state);
        Self {
            time: time(event.time, clock_offset),
            verdict: if denial.observed { "observed" } else { "dropped" }.to_owned(),
            reason: denial.reason.name().to_owned(),
            severity: denial.severity.name().to_owned(),
            direction: denial.direction.name().to_owned(),
            policy: state.policy_name(event.policy).map(str::to_owned),
            rule,
            rule_at,
            project: state.identity_names(event.subject).map(|(instance, _)| instance.to_owned()),
            protocol: protocol(event).to_owned(),
            tcp_flags: (event.protocol == PROTOCOL_TCP && event.tcp_flags != 0)
                .then(|| tcp_flags(event.tcp_flags)),
            hook: denial.hook.name().to_owned(),
            interface: state
                .interface_name(event.ifindex)
                .map_or_else(|| format!("if{}", event.ifindex), str::to_owned),
            revision: event.revision,
            packets_suppressed: event.packets_suppressed,
            source: PartyRecord::source(event, state),
            destination: PartyRecord::destination(event, state),
        }
    }

    /// One line for people: `10:15:04 dropped no_rule tcp mailpit (qerds) 172.18.0.7:40112 → qerds-trust:8080 …`.
    #[must_use]
    pub fn line(&self) -> String {
        let time = self.time.get(11..19).unwrap_or(&self.time);
        let mut line = format!(
            "{time} {} {} {} {} → {}",
            self.verdict,
            self.reason,
            self.protocol,
            self.source.from(),
            self.destination.to(self.source.project.as_deref()),
        );
        if let Some(rule) = &self.rule {
            line.push_str(" rule ");
            line.push_str(rule);
        }
        if let Some(at) = &self.rule_at {
            line.push_str(" at ");
            line.push_str(at);
        }
        if self.packets_suppressed > 0 {
            line.push_str(&format!(" (+{} packets)", self.packets_suppressed));
        }
        // Labels may hold anything, escape sequences for the reader's terminal included.
        line.replace(char::is_control, "\u{fffd}")
    }
}

/// The rule's name and place.
fn rule(event: &DeniedEvent, state: &AgentState) -> (Option<String>, Option<String>) {
    if event.rule == 0 {
        // Defaults are found by identity, which never changes its meaning.
        let origin = state.entries.defaults.get(&event.subject);
        let decided = event.policy != 0;
        return (
            decided.then(|| "default".to_owned()),
            origin.filter(|_| decided).map(|origin| origin.at.clone()),
        );
    }
    let index = usize::try_from(event.rule - 1).unwrap_or(usize::MAX);
    let origin = state.entries.origins.get(index).filter(|_| event.revision == state.revision);
    (origin.map(|origin| origin.rule.clone()), origin.map(|origin| origin.at.clone()))
}

fn time(since_boot: u64, clock_offset: i64) -> String {
    let nanoseconds = i128::from(since_boot) + i128::from(clock_offset);
    // Only a broken clock leads beyond what a timestamp can hold; the event still matters.
    let time = Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

fn protocol(event: &DeniedEvent) -> &'static str {
    match (event.ethertype, event.protocol) {
        (ETHERTYPE_ARP, _) => "arp",
        (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, PROTOCOL_TCP) => "tcp",
        (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, PROTOCOL_UDP) => "udp",
        (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, PROTOCOL_ICMP | PROTOCOL_ICMPV6) => "icmp",
        _ => "other",
    }
}

fn tcp_flags(flags: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x10, "ACK"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    let set: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|&(_, name)| name).collect();
    set.join("|")
}

#[cfg(test)]
mod tests;
