//! What a service may reach outside: the host, the world and containers that no policy covers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use agent_common::{
    identity::{HOST, WORLD},
    policy::Scope,
    verdict::Direction,
};

use super::{
    super::{model::Peer, ports::Ports},
    Context, ResolveError,
    classes::{Classes, Ranges, networks, single, with_ipv4_apart},
    table::{PeerRules, Table},
};
use crate::inventory::snapshot::Protocol;

/// What `dns` stands for.
const DNS: [Ports; 2] = [
    Ports::Range { protocol: Protocol::Udp, first: 53, last: 53 },
    Ports::Range { protocol: Protocol::Tcp, first: 53, last: 53 },
];

/// Writes the egress entries of a subject.
pub(super) fn entries<'c>(
    context: &Context<'c>,
    classes: &mut Classes,
    table: &mut Table<'_>,
) -> Result<(), ResolveError> {
    let subject = context.resident.identity;
    for (peer, names) in peers(context) {
        let rules = rules(context, &names, table)?;
        if !rules.is_empty() {
            table.write(subject, peer, Direction::Egress, &rules);
        }
    }
    let resolvers = Resolvers::new(context);
    // Ranges are many, and those of one group are all alike.
    let mut known: BTreeMap<Vec<&Peer>, u32> = BTreeMap::new();
    let mut put = |scope, network, names: Vec<&'c Peer>, table: &mut Table<'_>| {
        let class = match known.get(&names) {
            Some(&class) => class,
            None => {
                let rules = rules(context, &names, table)?;
                let class = classes.of(subject, Direction::Egress, rules, table);
                *known.entry(names).or_insert(class.ok_or_else(|| context.too_many_classes())?)
            }
        };
        classes.put(subject, scope, network, class, table);
        Ok::<(), ResolveError>(())
    };
    for &address in &resolvers.on_host {
        put(Scope::ToHost, single(address), vec![&Peer::Host, &Peer::Dns], table)?;
    }
    for &address in &resolvers.in_containers {
        let mut names = names_of_container(context, address);
        names.push(&Peer::Dns);
        put(Scope::ToUnmanaged, single(address), names, table)?;
    }
    let named = context.effective.egress.iter().map(|each| &each.entry.to);
    let ranges = Ranges::new(context.policy, named.clone());
    let named = named.flat_map(|peer| networks(context.policy, peer));
    let wanted = named.copied().chain(resolvers.in_world.iter().map(|&address| single(address))).collect();
    for network in with_ipv4_apart(wanted) {
        let mut names = ranges.peers_with(network);
        names.push(&Peer::World);
        if resolvers.in_world.iter().any(|&address| single(address) == network) {
            names.push(&Peer::Dns);
        }
        put(Scope::ToWorld, network, names, table)?;
    }
    Ok(())
}

/// The numbers that may have entries, each with the peers of the policy that stand for it.
fn peers<'c>(context: &Context<'c>) -> BTreeMap<u32, Vec<&'c Peer>> {
    let mut found: BTreeMap<u32, Vec<&Peer>> = BTreeMap::new();
    found.insert(HOST, vec![&Peer::Host]);
    found.insert(WORLD, vec![&Peer::World]);
    for each in &context.effective.egress {
        // Of covered containers it is their own `from` that decides.
        for identity in context.population.labelled_outsiders(&each.entry.to) {
            found.entry(identity).or_default().push(&each.entry.to);
        }
    }
    found
}

/// The peers of the policy that stand for the uncovered container with this address.
fn names_of_container<'c>(context: &Context<'c>, address: IpAddr) -> Vec<&'c Peer> {
    let mut endpoints = context.snapshot.endpoints.iter().enumerate();
    let found = endpoints.find(|(_, endpoint)| endpoint.addresses.contains(&address));
    let Some(identity) = found.and_then(|(index, _)| context.population.identity_of(index)) else {
        return Vec::new();
    };
    let all = context.effective.egress.iter().map(|each| &each.entry.to);
    all.filter(|peer| context.population.labelled_outsiders(peer).any(|each| each == identity)).collect()
}

/// The entries towards somebody who is known by these names.
fn rules(context: &Context<'_>, names: &[&Peer], table: &mut Table<'_>) -> Result<PeerRules, ResolveError> {
    let mut rules = PeerRules::default();
    for each in &context.effective.egress {
        if !names.contains(&&each.entry.to) {
            continue;
        }
        let name = context.rule_name(&each.path);
        let number = table.number(&context.policy.name, name, each.entry.mark)?;
        let ports: &[Ports] = match (&each.entry.to, &each.entry.ports) {
            (Peer::Dns, _) => &DNS,
            (_, Some(ports)) => ports,
            (_, None) => &[Ports::Any],
        };
        for &ports in ports {
            rules.allow_more(ports, number);
        }
    }
    Ok(rules.with_ping())
}

/// The resolvers that Docker gave the containers of a subject, by where they are.
#[derive(Debug, Default)]
struct Resolvers {
    on_host: BTreeSet<IpAddr>,
    in_containers: BTreeSet<IpAddr>,
    in_world: BTreeSet<IpAddr>,
}

impl Resolvers {
    fn new(context: &Context<'_>) -> Self {
        let mut found = Self::default();
        if !context.effective.egress.iter().any(|each| each.entry.to == Peer::Dns) {
            return found;
        }
        let snapshot = context.snapshot;
        for (index, endpoint) in snapshot.endpoints.iter().enumerate() {
            if context.population.identity_of(index) != Some(context.resident.identity) {
                continue;
            }
            // Docker's own resolver at 127.0.0.11 is asked without a packet on any wire.
            for &address in endpoint.resolvers.iter().filter(|address| !address.is_loopback()) {
                let in_subnet = |subnet: &ipnet::IpNet| subnet.contains(&address);
                if snapshot.host_addresses.contains(&address) {
                    found.on_host.insert(address);
                } else if snapshot.bridges.iter().any(|bridge| bridge.subnets.iter().any(in_subnet)) {
                    found.in_containers.insert(address);
                } else {
                    found.in_world.insert(address);
                }
            }
        }
        found
    }
}
