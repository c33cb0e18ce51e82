//! The attack surface in numbers: how many ports can be reached from where, with the policy and without.

use std::collections::{BTreeMap, BTreeSet};

use compose::Node;
use serde::Serialize;

use super::subject::{Service, Subject, Zone};
use crate::{inventory::snapshot::Protocol, policy::ports as policy};

/// Reachable ports for everybody who might call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Surface {
    pub zones: Vec<Reach>,
}

/// What can be reached from one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// `outside`, `host`, or the name of a service.
    pub zone: String,
    /// How many ports without a policy.
    pub without_policy: usize,
    /// How many with it.
    pub with_policy: usize,
    /// Those with the policy: `db:5432/tcp`, at most a dozen.
    pub reachable: Vec<String>,
}

/// How many ports are listed.
const MAX_LISTED: usize = 12;

impl Surface {
    /// All zones together, without a policy and with it.
    #[must_use]
    pub fn total(&self) -> (usize, usize) {
        let sum = |count: fn(&Reach) -> usize| self.zones.iter().map(count).sum();
        (sum(|reach| reach.without_policy), sum(|reach| reach.with_policy))
    }
}

/// By how much a number has become smaller, in percent.
#[must_use]
pub fn reduction(without: usize, with: usize) -> usize {
    // Rounded down: better to promise too little.
    (without.saturating_sub(with) * 100).checked_div(without).unwrap_or_default()
}

/// Ports of one service about which the policy says the same.
#[derive(Debug, Default)]
struct Group {
    /// The entry of the policy that decides, if there is one.
    entry: Option<usize>,
    count: usize,
    /// The first of them.
    named: Vec<String>,
}

/// The ports of one service, known and published.
struct Ports<'s> {
    service: &'s Service<'s>,
    known: Vec<Group>,
    published: Vec<Group>,
}

#[derive(Clone, Copy)]
enum Caller<'c> {
    Outside,
    Host,
    Service(&'c str),
    /// A service that the policy does not know.
    Nobody,
}

/// Works the surface out.
pub(super) fn surface(subject: &Subject<'_>) -> Surface {
    let ports: Vec<Ports<'_>> = subject
        .services
        .iter()
        .map(|service| Ports {
            service,
            known: groups(subject, service, known(subject, service)),
            published: groups(subject, service, published(service, Some(Zone::Outside)).collect()),
        })
        .collect();
    let mut outside = Reach::of("outside");
    let mut host = Reach::of("host");
    for ports in &ports {
        outside.add(subject, ports.service, &ports.published, Some(Caller::Outside));
        host.add(subject, ports.service, &ports.known, Some(Caller::Host));
    }
    let mut zones = vec![outside, host];
    for caller in &subject.services {
        let mut reach = Reach::of(caller.name);
        let name = subject.rules_of(caller).map_or(Caller::Nobody, |rules| Caller::Service(rules.name));
        for ports in ports.iter().filter(|ports| ports.service.name != caller.name) {
            if ports.service.networks.is_disjoint(&caller.networks) {
                // A published port is open to every container, by the host's address.
                reach.add(subject, ports.service, &ports.published, None);
            } else {
                reach.add(subject, ports.service, &ports.known, Some(name));
            }
        }
        zones.push(reach);
    }
    Surface { zones }
}

impl Reach {
    fn of(zone: &str) -> Self {
        Self { zone: zone.to_owned(), without_policy: 0, with_policy: 0, reachable: Vec::new() }
    }

    /// Adds ports of a service. Without a caller no rule can open them.
    fn add(
        &mut self,
        subject: &Subject<'_>,
        service: &Service<'_>,
        groups: &[Group],
        caller: Option<Caller<'_>>,
    ) {
        for group in groups {
            self.without_policy += group.count;
            if caller.is_some_and(|caller| allows(subject, service, group, caller)) {
                self.with_policy += group.count;
                let room = MAX_LISTED.saturating_sub(self.reachable.len());
                self.reachable.extend(group.named.iter().take(room).cloned());
            }
        }
    }
}

fn allows(subject: &Subject<'_>, service: &Service<'_>, group: &Group, caller: Caller<'_>) -> bool {
    let rules = subject.rules_of(service).filter(|rules| rules.effective.in_profile);
    rules.zip(group.entry).is_some_and(|(rules, entry)| match caller {
        Caller::Outside => subject.allows_outside(rules, entry),
        Caller::Host => rules.allows(entry, "host"),
        Caller::Service(name) => rules.allows(entry, name),
        Caller::Nobody => false,
    })
}

/// A protocol and a number; number 0 stands for ports that nobody has named.
type Port = (Protocol, u16);

fn groups(subject: &Subject<'_>, service: &Service<'_>, ports: BTreeSet<Port>) -> Vec<Group> {
    let mut groups: BTreeMap<Option<usize>, Group> = BTreeMap::new();
    let rules = subject.rules_of(service);
    for (protocol, number) in ports {
        let entry = rules.and_then(|rules| rules.entry(protocol, number));
        let group = groups.entry(entry).or_insert_with(|| Group { entry, ..Group::default() });
        group.count += 1;
        if group.named.len() < MAX_LISTED {
            group.named.push(match (protocol, number) {
                (_, 0) => format!("{}:any", service.name),
                (Protocol::Tcp, number) => format!("{}:{number}/tcp", service.name),
                (Protocol::Udp, number) => format!("{}:{number}/udp", service.name),
            });
        }
    }
    groups.into_values().collect()
}

fn published<'s>(service: &'s Service<'_>, zone: Option<Zone>) -> impl Iterator<Item = Port> + 's {
    let ports = service.published.iter().filter(move |port| zone.is_none_or(|zone| port.zone() == zone));
    ports.flat_map(|port| (port.first..=port.last).filter_map(|number| Some((port.protocol?, number))))
}

/// Every port that somebody has named: in the policy, by `expose`, or by publishing it.
fn known(subject: &Subject<'_>, service: &Service<'_>) -> BTreeSet<Port> {
    let mut ports: BTreeSet<Port> = published(service, None).collect();
    // On the host's network nothing is the service's own.
    if service.node.get("network_mode").is_some() {
        return ports;
    }
    let mut any = false;
    for entry in subject.rules_of(service).into_iter().flat_map(|rules| &rules.effective.ports) {
        match entry.ports {
            policy::Ports::Range { protocol, first, last } => {
                ports.extend((first..=last).map(|number| (protocol, number)));
            }
            policy::Ports::Any => any = true,
        }
    }
    for item in service.node.get("expose").map(Node::items).unwrap_or_default() {
        ports.extend(exposed(&item.printed().unwrap_or_default()));
    }
    if any && ports.is_empty() {
        ports.insert((Protocol::Tcp, 0));
    }
    ports
}

fn exposed(text: &str) -> impl Iterator<Item = (Protocol, u16)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
    let protocol = match protocol {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    };
    range
        .zip(protocol)
        .into_iter()
        .flat_map(|((first, last), protocol)| (first..=last).map(move |number| (protocol, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reduction_of_the_requirement_document() {
        assert_eq!(reduction(5, 1), 80, "5 ports to 1 port");
        assert_eq!(reduction(13, 4), 69);
        assert_eq!((reduction(3, 3), reduction(0, 0), reduction(2, 0)), (0, 0, 100));
    }

    #[test]
    fn exposed_ports() {
        let ports = |text| exposed(text).collect::<Vec<_>>();
        assert_eq!(ports("80"), [(Protocol::Tcp, 80)]);
        assert_eq!(ports("53/udp"), [(Protocol::Udp, 53)]);
        assert_eq!(ports("90-91"), [(Protocol::Tcp, 90), (Protocol::Tcp, 91)]);
        assert_eq!(ports("x"), []);
    }
}
