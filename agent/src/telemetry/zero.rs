//! Which series of denials exist at zero before anything was denied. Without them the first denial makes a series
//! appear at 1, and `increase()` of a series that was not there is nothing: the alert that matters would be missed.

use std::collections::BTreeSet;

use agent_common::{
    identity::{HOST, PORT_LABEL, UNMANAGED, WORLD},
    packet::{PROTOCOL_TCP, PROTOCOL_UDP},
    policy::{OUT_OF_PROFILE, PolicyTable, Subject},
    verdict::{Direction, DropReason, Mode, Severity},
};

use super::labels::{self, DeniedLabels, OTHER};
use crate::state::AgentState;

/// The ports that a service's policy names, and TCP to any other.
type Ports = BTreeSet<(u8, u16, u16)>;

/// The series that exist from the start. First, for every covered service, one per reason with source, port and
/// protocol `other`: a sum by service and reason always has something to start from. Then, as far as the bound
/// allows, the very series of the denials to expect: every service of the same instance, unmanaged containers, the
/// host and the world, to every port the policy names, and each service to the host, the world and unmanaged ones.
pub(super) fn zero_series(state: &AgentState) -> impl Iterator<Item = DeniedLabels> {
    let subjects = move || state.entries.subjects.iter().map(|(&identity, subject)| (identity, subject));
    let reasons = subjects().flat_map(move |(identity, subject)| {
        DropReason::ALL.into_iter().map(move |reason| Series { state, identity, subject }.for_reason(reason))
    });
    let ingress =
        subjects().flat_map(move |(identity, subject)| Series { state, identity, subject }.ingress());
    let egress = subjects().flat_map(move |(identity, subject)| Series { state, identity, subject }.egress());
    reasons.chain(ingress).chain(egress)
}

/// The series of one covered service.
#[derive(Clone, Copy)]
struct Series<'a> {
    state: &'a AgentState,
    identity: u32,
    subject: &'a Subject,
}

impl Series<'_> {
    fn project(&self) -> &str {
        self.state.identity_names(self.identity).map_or(labels::NONE, |(instance, _)| instance)
    }

    fn for_reason(self, reason: DropReason) -> DeniedLabels {
        DeniedLabels {
            policy: labels::policy(self.subject.policy, self.state),
            project: self.project().to_owned(),
            source: OTHER.to_owned(),
            destination: labels::party(self.identity, self.project(), self.state),
            port: OTHER.to_owned(),
            protocol: OTHER,
            reason: reason.name(),
            severity: Severity::from_number(self.subject.severity).name(),
            verdict: labels::verdict(Mode::from_number(self.subject.mode) == Mode::Observe),
        }
    }

    fn ingress(self) -> Vec<DeniedLabels> {
        let entries = &self.state.entries;
        let ports = self.ports();
        let mut series = Vec::new();
        for (source, reason) in self.sources() {
            for &(protocol, first, last) in &ports {
                let rule = entries.rule(self.identity, source, Direction::Ingress, protocol, first);
                if rule.is_some_and(|rule| rule.allow == 1) && (first, last) != (0, 0) {
                    continue;
                }
                series.push(DeniedLabels {
                    source: labels::party(source, self.project(), self.state),
                    port: labels::port(first, last),
                    protocol: labels::protocol(protocol, reason as u8),
                    ..self.for_reason(reason)
                });
            }
        }
        series
    }

    fn egress(self) -> Vec<DeniedLabels> {
        let mut series = Vec::new();
        for destination in [HOST, WORLD, UNMANAGED] {
            for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                series.push(DeniedLabels {
                    source: labels::party(self.identity, self.project(), self.state),
                    destination: labels::party(destination, self.project(), self.state),
                    protocol: labels::protocol(protocol, DropReason::EgressDenied as u8),
                    ..self.for_reason(DropReason::EgressDenied)
                });
            }
        }
        series
    }

    /// Who may try to reach the service, with the reason why it would be denied.
    fn sources(&self) -> Vec<(u32, DropReason)> {
        let outside = self.subject.flags & OUT_OF_PROFILE != 0;
        let reason = |reason| if outside { DropReason::NotInProfile } else { reason };
        let subjects = &self.state.entries.subjects;
        let mut sources: Vec<(u32, DropReason)> = subjects
            .iter()
            .filter(|&(&identity, _)| {
                self.state.identity_names(identity).is_some_and(|(instance, _)| instance == self.project())
            })
            .map(|(&identity, source)| {
                let gone = source.flags & OUT_OF_PROFILE != 0;
                (identity, if gone { DropReason::NotInProfile } else { reason(DropReason::NoRule) })
            })
            .collect();
        sources.push((UNMANAGED, reason(DropReason::NoRule)));
        sources.push((HOST, reason(DropReason::HostDenied)));
        sources.push((WORLD, reason(DropReason::NotExposed)));
        sources
    }

    fn ports(&self) -> Ports {
        let mut ports: Ports = self
            .state
            .entries
            .rules
            .iter()
            .filter(|(key, _)| {
                key.subject == self.identity && key.peer == PORT_LABEL && key.direction == Direction::Ingress
            })
            .map(|(key, rule)| (key.protocol, rule.port_first, rule.port_last))
            .collect();
        ports.insert((PROTOCOL_TCP, 0, 0));
        ports
    }
}
