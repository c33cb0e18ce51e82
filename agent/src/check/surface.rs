//! The attack surface in numbers: how many ports can be reached from where, with the policy and without.

use std::collections::{BTreeMap, BTreeSet};

use compose::Node;
use serde::Serialize;

use super::subject::{Service, Subject, Zone};
use crate::{inventory::snapshot::Protocol, policy::ports::Ports};

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
    100usize.saturating_sub((with * 100).checked_div(without).unwrap_or(100))
}

/// A port of a service: which service, protocol, number. Number 0 stands for ports that nobody has named.
type Port = (usize, Protocol, u16);

/// Works the surface out.
pub(super) fn surface(subject: &Subject<'_>) -> Surface {
    let known = known(subject);
    let published: BTreeSet<Port> = published(subject, Zone::Outside).collect();
    let mut zones = vec![
        reach(subject, "outside", &published, |service, port| {
            allows(subject, service, port, Caller::Outside)
        }),
        reach(subject, "host", &known, |service, port| allows(subject, service, port, Caller::Host)),
    ];
    for (index, caller) in subject.services.iter().enumerate() {
        let near: BTreeSet<Port> = known
            .iter()
            .filter(|(service, ..)| {
                *service != index && !subject.services[*service].networks.is_disjoint(&caller.networks)
            })
            // A published port is open to every container, by the host's address.
            .chain(published.iter().filter(|(service, ..)| *service != index))
            .copied()
            .collect();
        let name = subject.rules_of(caller).map(|rules| rules.name);
        zones.push(reach(subject, caller.name, &near, |service, port| {
            let joined = !service.networks.is_disjoint(&caller.networks);
            name.is_some_and(|name| joined && allows(subject, service, port, Caller::Service(name)))
        }));
    }
    Surface { zones }
}

#[derive(Clone, Copy)]
enum Caller<'c> {
    Outside,
    Host,
    Service(&'c str),
}

fn allows(subject: &Subject<'_>, service: &Service<'_>, port: (Protocol, u16), caller: Caller<'_>) -> bool {
    let Some(rules) = subject.rules_of(service).filter(|rules| rules.effective.in_profile) else {
        return false;
    };
    let Some(entry) = rules.port(port.0, port.1) else {
        return false;
    };
    match caller {
        Caller::Outside => subject.allows_outside(rules, entry),
        Caller::Host => subject.allows(rules, entry, "host"),
        Caller::Service(name) => subject.allows(rules, entry, name),
    }
}

fn reach(
    subject: &Subject<'_>,
    zone: &str,
    ports: &BTreeSet<Port>,
    allowed: impl Fn(&Service<'_>, (Protocol, u16)) -> bool,
) -> Reach {
    let with: Vec<&Port> = ports
        .iter()
        .filter(|(service, protocol, number)| allowed(&subject.services[*service], (*protocol, *number)))
        .collect();
    let reachable = with.iter().take(MAX_LISTED).map(|port| describe(subject, port)).collect();
    Reach { zone: zone.to_owned(), without_policy: ports.len(), with_policy: with.len(), reachable }
}

fn describe(subject: &Subject<'_>, (service, protocol, number): &Port) -> String {
    let protocol = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let name = subject.services[*service].name;
    if *number == 0 { format!("{name}:any") } else { format!("{name}:{number}/{protocol}") }
}

fn published<'s>(subject: &'s Subject<'_>, zone: Zone) -> impl Iterator<Item = Port> + 's {
    subject.services.iter().enumerate().flat_map(move |(index, service)| {
        service.published.iter().filter(move |port| port.zone() == zone).flat_map(move |port| {
            (port.first..=port.last).filter_map(move |number| Some((index, port.protocol?, number)))
        })
    })
}

/// Every port that somebody has named: in the policy, by `expose`, or by publishing it.
fn known(subject: &Subject<'_>) -> BTreeSet<Port> {
    let mut known: BTreeMap<usize, BTreeSet<Port>> = BTreeMap::new();
    for (index, service) in subject.services.iter().enumerate() {
        // On the host's network nothing is the service's own.
        if service.node.get("network_mode").is_some() {
            continue;
        }
        let ports = known.entry(index).or_default();
        if let Some(rules) = subject.rules_of(service) {
            for entry in &rules.effective.ports {
                if let Ports::Range { protocol, first, last } = entry.ports {
                    ports.extend((first..=last).map(|number| (index, protocol, number)));
                }
            }
        }
        for item in service.node.get("expose").map(Node::items).unwrap_or_default() {
            ports.extend(
                exposed(&item.printed().unwrap_or_default())
                    .map(|(protocol, number)| (index, protocol, number)),
            );
        }
    }
    for zone in [Zone::Outside, Zone::Host] {
        for port in published(subject, zone) {
            known.entry(port.0).or_default().insert(port);
        }
    }
    for (index, service) in subject.services.iter().enumerate() {
        let any = subject
            .rules_of(service)
            .is_some_and(|rules| rules.effective.ports.iter().any(|entry| entry.ports == Ports::Any));
        if any && let Some(ports) = known.get_mut(&index).filter(|ports| ports.is_empty()) {
            ports.insert((index, Protocol::Tcp, 0));
        }
    }
    known.into_values().flatten().collect()
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
