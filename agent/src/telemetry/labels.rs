//! From the numbers of a counter to the labels of its series. Labels come from closed sets: services, reasons and a
//! few reserved words; never addresses, never container ids.

use agent_common::{
    counter::DeniedKey,
    identity::{FIRST_ADDRESS_CLASS, HOST, UNKNOWN, UNMANAGED, WORLD},
    packet::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::{DropReason, Severity},
};

use crate::state::AgentState;

/// What has no place in the closed sets.
pub const OTHER: &str = "other";
/// No policy or no project decided.
pub const NONE: &str = "none";
/// A number that has no name.
pub const UNKNOWN_NAME: &str = "unknown";

/// The labels of one series of denials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeniedLabels {
    pub policy: String,
    pub project: String,
    pub source: String,
    pub destination: String,
    pub port: String,
    pub protocol: &'static str,
    pub reason: &'static str,
    pub severity: &'static str,
    pub verdict: &'static str,
}

impl DeniedLabels {
    /// The labels of a counter.
    #[must_use]
    pub fn new(key: &DeniedKey, state: &AgentState) -> Self {
        let project = state.identity_names(key.subject).map_or(NONE, |(instance, _)| instance);
        Self {
            policy: policy(key.policy, state),
            project: project.to_owned(),
            source: party(key.source, project, state),
            destination: party(key.destination, project, state),
            port: port(key.port_first, key.port_last),
            protocol: protocol(key.protocol, key.reason),
            reason: DropReason::from_number(key.reason).map_or(OTHER, DropReason::name),
            severity: Severity::from_number(key.severity).name(),
            verdict: verdict(key.observed != 0),
        }
    }

    /// Where denials are counted that found every place for a series of their own taken.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self {
            project: OTHER.to_owned(),
            source: OTHER.to_owned(),
            destination: OTHER.to_owned(),
            port: OTHER.to_owned(),
            ..self.clone()
        }
    }

    /// Where denials are counted of which nothing is known but their number.
    #[must_use]
    pub fn unlabelled() -> Self {
        Self {
            policy: OTHER.to_owned(),
            project: OTHER.to_owned(),
            source: OTHER.to_owned(),
            destination: OTHER.to_owned(),
            port: OTHER.to_owned(),
            protocol: OTHER,
            reason: OTHER,
            severity: OTHER,
            verdict: OTHER,
        }
    }

    /// The values in the order of [`super::names::DENIED_LABELS`].
    #[must_use]
    pub fn values(&self) -> [&str; 9] {
        [
            &self.policy,
            &self.project,
            &self.source,
            &self.destination,
            &self.port,
            self.protocol,
            self.reason,
            self.severity,
            self.verdict,
        ]
    }
}

/// A policy's name; [`NONE`] where none decided.
#[must_use]
pub fn policy(number: u16, state: &AgentState) -> String {
    if number == 0 {
        return NONE.to_owned();
    }
    state.policy_name(number).unwrap_or(UNKNOWN_NAME).to_owned()
}

/// A service of the same project by its name alone, of another one as `project/service`, anything else by kind.
#[must_use]
pub fn party(identity: u32, project: &str, state: &AgentState) -> String {
    let kind = match identity {
        UNKNOWN => UNKNOWN_NAME,
        HOST => "host",
        WORLD | FIRST_ADDRESS_CLASS.. => "world",
        UNMANAGED => "unmanaged",
        _ => match state.identity_names(identity) {
            Some((instance, service)) if instance == project && !is_reserved(service) => service,
            Some((instance, service)) => return format!("{instance}/{service}"),
            None => UNKNOWN_NAME,
        },
    };
    kind.to_owned()
}

/// Whether a service of this name would be mistaken for a kind. Policies cannot name one `host` or `world`, but a
/// compose file can call a service anything.
fn is_reserved(service: &str) -> bool {
    matches!(service, "host" | "world" | "unmanaged" | UNKNOWN_NAME | OTHER)
}

/// `8000`, `8000-8010`, `any`, or `other` for ports that the policy does not name.
#[must_use]
pub fn port(first: u16, last: u16) -> String {
    match (first, last) {
        (0, 0) => OTHER.to_owned(),
        (0, u16::MAX) => "any".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// `tcp`, `udp`, `icmp` (ICMPv6 too), `arp` or `other`.
///
/// A counter has no ethertype, but its reason tells: frames without an IP header are denied as malformed or
/// unsupported before anything else is asked, unless they are ARP.
#[must_use]
pub fn protocol(number: u8, reason: u8) -> &'static str {
    match number {
        PROTOCOL_TCP => "tcp",
        PROTOCOL_UDP => "udp",
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => "icmp",
        0 if reason > DropReason::UnsupportedProtocol as u8 => "arp",
        _ => OTHER,
    }
}

/// `dropped` or `observed`.
#[must_use]
pub const fn verdict(observed: bool) -> &'static str {
    if observed { "observed" } else { "dropped" }
}
