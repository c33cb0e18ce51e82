//! The decision, by walking the policies as they are written.

use std::net::IpAddr;

use crate::host::{Container, Host};
use crate::policy::{Effective, Exposure, Peer, Policy, Ports, matches};
use crate::verdict::{Direction, Mode, Reason, Severity, Who};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// What is known when a packet arrives.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub host: Host,
    pub policies: Vec<Policy>,
}

/// May this one open that port there?
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub source: Who,
    pub destination: Who,
    /// The address of whoever is outside.
    pub outside: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

/// The answer, and under whose policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Why not, if not.
    pub denied: Option<Reason>,
    pub mode: Mode,
    pub authority: Authority,
}

/// Whose policy speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub subject: Option<u32>,
    pub policy: Option<String>,
    pub severity: Severity,
    pub direction: Direction,
}

/// A container that a policy covers.
#[derive(Clone, Debug)]
pub struct Covered<'a> {
    pub port: u32,
    pub policy: &'a Policy,
    pub container: &'a Container,
    /// Nothing if the policy does not name its service.
    pub service: Option<Effective<'a>>,
}

impl Covered<'_> {
    /// The mode of its service, else of its policy.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.service.as_ref().map_or_else(|| self.policy.mode(), |service| service.mode)
    }

    /// It speaks for itself.
    #[must_use]
    pub fn authority(&self, direction: Direction) -> Authority {
        Authority {
            subject: Some(self.port),
            policy: Some(self.policy.name.clone()),
            severity: self.service.as_ref().map_or_else(Severity::default, |service| service.severity),
            direction,
        }
    }

    fn is_out_of_profile(&self) -> bool {
        self.service.as_ref().is_some_and(|service| !service.in_profile)
    }
}

impl Known {
    /// The container behind a port, if a policy covers it.
    #[must_use]
    pub fn covered(&self, port: u32) -> Option<Covered<'_>> {
        self.covering(port, self.host.container(port)?)
    }

    fn covering<'a>(&'a self, port: u32, container: &'a Container) -> Option<Covered<'a>> {
        let policy = self.policies.iter().find(|policy| policy.covers(container))?;
        let service = container.service.as_ref().and_then(|service| policy.service(service));
        Some(Covered { port, policy, container, service })
    }

    /// The same for anybody.
    #[must_use]
    pub fn covered_who(&self, who: Who) -> Option<Covered<'_>> {
        match who {
            Who::Container(port) => self.covered(port),
            _ => None,
        }
    }

    /// Whether any container on a bridge is covered. One that does not fit is covered all the same.
    #[must_use]
    pub fn bridge_has_covered(&self, bridge: u32) -> bool {
        self.host.containers().any(|(port, container)| {
            self.host.bridge_of(port) == Some(bridge)
                && self.policies.iter().any(|policy| policy.covers(container))
        })
    }

    /// Whether a covered container on a bridge enforces.
    #[must_use]
    pub fn bridge_is_guarded(&self, bridge: u32) -> bool {
        self.host.containers().any(|(port, container)| {
            self.host.bridge_of(port) == Some(bridge)
                && self.covering(port, container).is_some_and(|covered| covered.mode() == Mode::Enforce)
        })
    }

    /// Decides.
    #[must_use]
    pub fn decide(&self, question: &Question) -> Ruling {
        if let Some(destination) = self.covered_who(question.destination) {
            return Ruling {
                denied: self.ingress(&destination, question).err(),
                mode: destination.mode(),
                authority: destination.authority(Direction::Ingress),
            };
        }
        if let Some(source) = self.covered_who(question.source) {
            return Ruling {
                denied: self.egress(&source, question).err(),
                mode: source.mode(),
                authority: source.authority(Direction::Egress),
            };
        }
        let authority = Authority {
            subject: None,
            policy: None,
            severity: Severity::default(),
            direction: Direction::Ingress,
        };
        Ruling { denied: None, mode: Mode::Enforce, authority }
    }

    fn ingress(&self, subject: &Covered<'_>, question: &Question) -> Result<(), Reason> {
        if question.source == Who::Unknown {
            return Err(Reason::UnknownSource);
        }
        let Some(service) = &subject.service else { return Err(Reason::NoRule) };
        let source = self.covered_who(question.source);
        let same_instance =
            source.as_ref().is_some_and(|source| source.container.project == subject.container.project);
        // It neither receives nor sends.
        if !service.in_profile || source.as_ref().is_some_and(Covered::is_out_of_profile) {
            return Err(Reason::NotInProfile);
        }
        // Whom his own policy does not name sends nothing.
        let mute = source.as_ref().is_some_and(|source| source.service.is_none());
        let open = |protocol, port| {
            let Some(entry) = service.entry(protocol, port) else { return false };
            let exposure = entry.exposure.unwrap_or(service.exposure);
            let exposed = match question.source {
                Who::Host => exposure >= Exposure::Localhost,
                Who::World => exposure == Exposure::Public,
                _ => false,
            };
            let from = entry.from.as_deref().unwrap_or(service.from);
            exposed || from.iter().any(|peer| self.names(subject, peer, question.source, question.outside))
        };
        let entries = service.ports.iter().map(|entry| entry.ports);
        if !mute && is_open(question, entries, open) {
            return Ok(());
        }
        Err(match question.source {
            Who::Host => Reason::HostDenied,
            Who::World => Reason::NotExposed,
            _ if source.is_some() && !same_instance => Reason::CrossInstance,
            _ => Reason::NoRule,
        })
    }

    fn egress(&self, subject: &Covered<'_>, question: &Question) -> Result<(), Reason> {
        if question.destination == Who::Unknown {
            return Err(Reason::UnknownDestination);
        }
        let Some(service) = &subject.service else { return Err(Reason::NoRule) };
        if !service.in_profile {
            return Err(Reason::NotInProfile);
        }
        let all = [Ports::Any];
        let dns = [UDP, TCP].map(|protocol| Ports::Range { protocol, first: 53, last: 53 });
        let named = service
            .egress
            .iter()
            .filter(|entry| self.names(subject, &entry.to, question.destination, question.outside));
        let ports: Vec<Ports> = named
            .flat_map(|entry| match (&entry.to, &entry.ports) {
                (Peer::Dns, _) => &dns,
                (_, Some(ports)) => ports.as_slice(),
                (_, None) => all.as_slice(),
            })
            .copied()
            .collect();
        let open = |protocol, port| ports.iter().any(|ports| ports.contains(protocol, port));
        if is_open(question, ports.iter().copied(), open) { Ok(()) } else { Err(Reason::EgressDenied) }
    }

    /// Whether a peer, as the subject's policy writes it, stands for somebody.
    fn names(&self, subject: &Covered<'_>, peer: &Peer, who: Who, address: IpAddr) -> bool {
        let container = match who {
            Who::Container(port) => self.host.container(port),
            _ => None,
        };
        match peer {
            Peer::Host => who == Who::Host,
            Peer::World => who == Who::World,
            Peer::Group(_) | Peer::Net(_) => {
                who == Who::World && subject.policy.nets(peer).iter().any(|net| net.contains(address))
            }
            Peer::Dns => self.resolvers(subject).any(|resolver| resolver == address),
            Peer::Service(name) => container.is_some_and(|container| {
                container.project == subject.container.project && container.service.as_ref() == Some(name)
            }),
            Peer::Labelled { project, service } => container.is_some_and(|container| {
                let fits = |pattern: &str, label: &Option<String>| {
                    label.as_ref().is_some_and(|label| matches(pattern, label))
                };
                fits(project, &container.project) && fits(service, &container.service)
            }),
        }
    }

    /// The resolvers of a service: those of all its containers, which share one identity.
    fn resolvers<'a>(&'a self, subject: &'a Covered<'_>) -> impl Iterator<Item = IpAddr> + 'a {
        let own = subject.container;
        self.host
            .containers()
            .filter(|(_, each)| each.project == own.project && each.service == own.service)
            .flat_map(|(_, each)| each.resolvers.iter().copied())
    }

    /// The ports of the policy entry that a port of a container belongs to, under whatever profile.
    #[must_use]
    pub fn label(&self, destination: Who, protocol: u8, port: u16) -> Option<(u16, u16)> {
        if port == 0 || !matches!(protocol, TCP | UDP) {
            return None;
        }
        let service = self.covered_who(destination)?.service?;
        service.entry(protocol, port).map(|entry| entry.ports.ends())
    }
}

/// Whether the port is open; a ping, whether any is.
fn is_open(
    question: &Question,
    entries: impl Iterator<Item = Ports>,
    open: impl Fn(u8, u16) -> bool,
) -> bool {
    if question.protocol != ICMP {
        return open(question.protocol, question.port);
    }
    // Where an entry begins and where it has just ended the answer may change, and nowhere else.
    let mut ports = vec![1];
    for entry in entries {
        let (first, last) = entry.ends();
        ports.extend([first.max(1), last.saturating_add(1)]);
    }
    ports.iter().any(|&port| open(TCP, port) || open(UDP, port))
}
