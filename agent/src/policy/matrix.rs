//! The resolved table: which port of which service is open to whom, and what each service may reach.
//!
//! Everything in it comes from `agent_common::decision::decide` on entries that were resolved on an imagined host
//! with one or two instances of every policy. It never reads `from` or `exposure` itself, so it cannot disagree
//! with the kernel.

mod imagined;
mod openings;

use agent_common::{
    decision::{Attempt, Decision, Party, decide},
    packet::{Address, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::Verdict,
};
use serde::Serialize;

use self::imagined::Imagined;
pub use self::openings::{Openings, openings};
use super::{
    effective::{Effective, effective},
    model::{Peer, Policy, PolicySet, Target},
    ports::{Ports, Width, protocol_number},
    resolve::ResolveError,
};
use crate::inventory::snapshot::Protocol;

/// The tables of every policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    pub policies: Vec<PolicyMatrix>,
}

/// The table of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyMatrix {
    pub policy: String,
    /// The pattern, with its kind: `project myapp-*`.
    pub applies_to: String,
    pub mode: &'static str,
    pub profile: Option<String>,
    pub ingress: Vec<IngressRow>,
    pub egress: Vec<EgressRow>,
}

/// Who reaches one port entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressRow {
    pub service: String,
    /// As in the policy; `-` for a service without ports.
    pub port: String,
    pub in_profile: bool,
    pub severity: &'static str,
    pub mode: &'static str,
    pub sources: Vec<IngressCell>,
}

/// Whether one source reaches the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressCell {
    pub source: String,
    pub allowed: bool,
    /// The reason of the denial.
    pub reason: Option<&'static str>,
    /// The line that decides, unless it is the default.
    pub rule: Option<DecidingRule>,
}

/// Where a decision is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecidingRule {
    /// `qerds-api.from[0]`.
    pub rule: String,
    /// `file:line`.
    pub at: String,
}

/// What one service may reach outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EgressRow {
    pub service: String,
    pub in_profile: bool,
    pub destinations: Vec<EgressCell>,
}

/// On which ports one destination may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EgressCell {
    pub destination: String,
    /// `any`, or the entries of the policy that are open; empty for nothing.
    pub ports: Vec<String>,
}

impl IngressRow {
    /// Whether a source reaches the port; false for unknown sources.
    #[must_use]
    pub fn allows(&self, source: &str) -> bool {
        self.sources.iter().any(|cell| cell.source == source && cell.allowed)
    }
}

impl PolicyMatrix {
    /// The row of a port entry.
    #[must_use]
    pub fn row(&self, service: &str, port: &str) -> Option<&IngressRow> {
        self.ingress.iter().find(|row| row.service == service && row.port == port)
    }
}

/// Somebody who may call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    name: String,
    /// All of them count as one: the cell is open if one of them gets through.
    parties: Vec<(Party, Address)>,
}

/// Works out the tables.
pub fn matrix(policies: &PolicySet) -> Result<Matrix, ResolveError> {
    let imagined = Imagined::new(policies)?;
    let tables = policies.policies.iter().map(|policy| table(policy, &imagined)).collect();
    Ok(Matrix { policies: tables })
}

fn table(policy: &Policy, imagined: &Imagined) -> PolicyMatrix {
    let callers = imagined.callers(policy);
    let outside = imagined.destinations(policy);
    let mut ingress = Vec::new();
    let mut egress = Vec::new();
    for (name, service) in &policy.services {
        let Some(party) = imagined.service(policy, name) else {
            continue;
        };
        let effective = effective(policy, service);
        let mut row = |port: String, protocol: u8, number: u16| {
            let sources =
                callers.iter().map(|caller| cell(imagined, caller, party, protocol, number)).collect();
            ingress.push(IngressRow {
                service: name.clone(),
                port,
                in_profile: effective.in_profile,
                severity: effective.severity.name(),
                mode: effective.mode.name(),
                sources,
            });
        };
        for (port, protocol, number) in sampled(&effective) {
            row(port, protocol, number);
        }
        let destinations =
            outside.iter().map(|outside| egress_cell(imagined, party, outside, &effective)).collect();
        egress.push(EgressRow { service: name.clone(), in_profile: effective.in_profile, destinations });
    }
    let applies_to = match &policy.target {
        Target::Project(glob) => format!("project {glob}"),
        Target::Container(glob) => format!("container {glob}"),
    };
    PolicyMatrix {
        policy: policy.name.clone(),
        applies_to,
        mode: policy.mode.name(),
        profile: policy.profile.clone(),
        ingress,
        egress,
    }
}

fn cell(imagined: &Imagined, caller: &Caller, party: Party, protocol: u8, port: u16) -> IngressCell {
    let decisions: Vec<Decision> = caller
        .parties
        .iter()
        .map(|&(source, source_address)| {
            let attempt = Attempt {
                source,
                destination: party,
                source_address,
                destination_address: Address::UNSPECIFIED,
                protocol,
                port,
            };
            decide(&imagined.entries, &attempt)
        })
        .collect();
    let allowed = decisions.iter().find(|decision| decision.verdict() == Verdict::Forwarded);
    let decisive = allowed.or(decisions.first());
    let reason = decisive.and_then(|decision| match decision.verdict() {
        Verdict::Forwarded => None,
        Verdict::Dropped(reason) | Verdict::Observed(reason) => Some(reason.name()),
    });
    let rule = decisive
        .and_then(|decision| usize::try_from(decision.rule).ok()?.checked_sub(1))
        .and_then(|index| imagined.entries.origins.get(index))
        .map(|origin| DecidingRule { rule: origin.rule.clone(), at: origin.at.clone() });
    IngressCell { source: caller.name.clone(), allowed: allowed.is_some(), reason, rule }
}

fn egress_cell(
    imagined: &Imagined,
    source: Party,
    outside: &Caller,
    effective: &Effective<'_>,
) -> EgressCell {
    let open = |protocol: u8, port: u16| {
        outside.parties.iter().any(|&(destination, destination_address)| {
            let attempt = Attempt {
                source,
                destination,
                source_address: Address::UNSPECIFIED,
                destination_address,
                protocol,
                port,
            };
            decide(&imagined.entries, &attempt).verdict() == Verdict::Forwarded
        })
    };
    let mut named: Vec<Ports> = effective
        .egress
        .iter()
        .flat_map(|each| match (&each.entry.to, &each.entry.ports) {
            (Peer::Dns, _) => vec![
                Ports::Range { protocol: Protocol::Udp, first: 53, last: 53 },
                Ports::Range { protocol: Protocol::Tcp, first: 53, last: 53 },
            ],
            (_, Some(ports)) => ports.clone(),
            (_, None) => vec![Ports::Any],
        })
        .collect();
    named.sort();
    named.dedup();
    let other = (1..=u16::MAX)
        .find(|&port| {
            !named.iter().any(|ports| {
                ports.width() != Width::Any
                    && (ports.contains(Protocol::Tcp, port) || ports.contains(Protocol::Udp, port))
            })
        })
        .unwrap_or(u16::MAX);
    let ports = if open(PROTOCOL_TCP, other) && open(PROTOCOL_UDP, other) {
        vec!["any".to_owned()]
    } else {
        named
            .iter()
            .filter(|ports| match ports {
                Ports::Any => false,
                Ports::Range { protocol, first, .. } => open(protocol_number(*protocol), *first),
            })
            .map(ToString::to_string)
            .collect()
    };
    EgressCell { destination: outside.name.clone(), ports }
}

/// Every port entry of a service as it is written, with a protocol and a port that it decides; `-` without any.
fn sampled(effective: &Effective<'_>) -> Vec<(String, u8, u16)> {
    if effective.ports.is_empty() {
        return vec![("-".to_owned(), PROTOCOL_TCP, 1)];
    }
    let entries = effective.ports.iter();
    entries
        .map(|entry| {
            let (protocol, number) = sample(entry.ports, effective);
            (entry.ports.to_string(), protocol, number)
        })
        .collect()
}

/// A port that this entry decides, because no narrower one names it.
fn sample(ports: Ports, effective: &Effective<'_>) -> (u8, u16) {
    let protocol = match ports {
        Ports::Any => Protocol::Tcp,
        Ports::Range { protocol, .. } => protocol,
    };
    let (first, last) = ports.interval(protocol).unwrap_or((1, u16::MAX));
    let free = (first.max(1)..=last).find(|&port| {
        !effective
            .ports
            .iter()
            .any(|other| other.ports.width() > ports.width() && other.ports.contains(protocol, port))
    });
    (protocol_number(protocol), free.unwrap_or(first))
}
