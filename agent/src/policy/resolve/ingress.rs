//! What a service may be reached by.

use std::collections::BTreeMap;

use agent_common::{
    identity::{HOST, PORT_LABEL, WORLD},
    policy::{Rule, Scope},
    verdict::Direction,
};

use super::{
    super::{
        effective::{Effective, EffectivePort},
        entries::RuleEntryKey,
        model::{Exposure, Peer},
        ports::{Width, prefixes, protocol_number},
        report::Mark,
    },
    Context, ResolveError,
    classes::{Classes, Ranges, networks, with_ipv4_apart},
    table::{PROTOCOLS, PeerRules, Table},
};

/// Writes the ingress entries of a subject.
pub(super) fn entries(
    context: &Context<'_>,
    classes: &mut Classes,
    table: &mut Table<'_>,
) -> Result<(), ResolveError> {
    let subject = context.resident.identity;
    for (peer, names) in peers(context) {
        let rules = rules(context, &names, table)?;
        if !rules.is_empty() {
            table.write(subject, peer, Direction::Ingress, &rules);
        }
    }
    let named = context.effective.ports.iter().flat_map(|entry| entry.from).map(|(peer, _)| peer);
    let ranges = Ranges::new(context.policy, named.clone());
    // Ranges are many, and those of one group are all alike.
    let mut known: BTreeMap<Vec<&Peer>, u32> = BTreeMap::new();
    let wanted = named.flat_map(|peer| networks(context.policy, peer)).copied().collect();
    for network in with_ipv4_apart(wanted) {
        let mut names = ranges.peers_with(network);
        names.push(&Peer::World);
        let class = match known.get(&names) {
            Some(&class) => class,
            None => {
                let rules = rules(context, &names, table)?;
                let class = classes.of(subject, Direction::Ingress, rules, table);
                *known.entry(names).or_insert(class.ok_or_else(|| context.too_many_classes())?)
            }
        };
        classes.put(subject, Scope::FromWorld, network, class, table);
    }
    Ok(())
}

/// The numbers that may have entries, each with the peers of the policy that stand for it.
fn peers<'c>(context: &Context<'c>) -> BTreeMap<u32, Vec<&'c Peer>> {
    let mut found: BTreeMap<u32, Vec<&Peer>> = BTreeMap::new();
    found.insert(HOST, vec![&Peer::Host]);
    found.insert(WORLD, vec![&Peer::World]);
    let population = context.population;
    for (peer, _) in context.effective.ports.iter().flat_map(|entry| entry.from) {
        match peer {
            Peer::Service(name) => {
                if let Some(identity) = population.service(context.resident.instance, name) {
                    found.entry(identity).or_default().push(peer);
                }
            }
            Peer::Labelled { .. } => {
                for identity in population.labelled_residents(peer).chain(population.labelled_outsiders(peer))
                {
                    found.entry(identity).or_default().push(peer);
                }
            }
            Peer::Host | Peer::World | Peer::Dns | Peer::Group(_) | Peer::Network(_) => {}
        }
    }
    found
}

/// The entries of somebody who is known by these names.
fn rules(context: &Context<'_>, names: &[&Peer], table: &mut Table<'_>) -> Result<PeerRules, ResolveError> {
    let mut ordered: Vec<&EffectivePort<'_>> = context.effective.ports.iter().collect();
    ordered.sort_by_key(|entry| entry.ports.width());
    let mut rules = PeerRules::default();
    for (index, entry) in ordered.iter().enumerate() {
        let allowing = allowing(entry, names);
        for protocol in PROTOCOLS {
            let Some((first, _)) = entry.ports.interval(protocol) else {
                continue;
            };
            if let Some((path, mark)) = &allowing {
                let number = table.number(&context.policy.name, context.rule_name(path), *mark)?;
                rules.put(entry.ports, protocol, true, number);
                continue;
            }
            // Of the wider entries the narrowest is the one that would decide here.
            let wider = ordered[..index].iter().rev().find(|wider| wider.ports.contains(protocol, first));
            if wider.is_some_and(|wider| self::allowing(wider, names).is_some()) {
                let name = context.rule_name(&entry.path);
                let number = table.number(&context.policy.name, name, entry.mark)?;
                rules.put(entry.ports, protocol, false, number);
            }
        }
    }
    Ok(rules.with_ping())
}

/// The line that allows somebody with these names to reach the ports of this entry.
fn allowing(entry: &EffectivePort<'_>, names: &[&Peer]) -> Option<(String, Mark)> {
    let listed = entry.from.iter().position(|(peer, _)| names.contains(&peer));
    if let Some(index) = listed {
        return Some((format!("{}[{index}]", entry.from_path), entry.from[index].1));
    }
    let exposed = match entry.exposure {
        Exposure::Internal => false,
        Exposure::Localhost => names.contains(&&Peer::Host),
        Exposure::Public => names.contains(&&Peer::Host) || names.contains(&&Peer::World),
    };
    exposed.then(|| (entry.exposure_path.clone(), entry.exposure_mark))
}

/// Writes which ports the policy names, for labels in metrics: they exist in any profile.
pub(super) fn labels(subject: u32, effective: &Effective<'_>, table: &mut Table<'_>) {
    let mut ordered: Vec<&EffectivePort<'_>> = effective.ports.iter().collect();
    ordered.sort_by_key(|entry| entry.ports.width());
    debug_assert!(ordered.iter().filter(|entry| entry.ports.width() == Width::Any).count() <= 1);
    for entry in ordered {
        for protocol in PROTOCOLS {
            let Some((first, last)) = entry.ports.interval(protocol) else {
                continue;
            };
            for (port, prefix) in prefixes(first, last) {
                let key = RuleEntryKey {
                    subject,
                    peer: PORT_LABEL,
                    direction: Direction::Ingress,
                    protocol: protocol_number(protocol),
                    port,
                    prefix,
                };
                let rule = Rule { rule: 0, port_first: first, port_last: last, allow: 0, _pad: [0; 3] };
                table.entries.rules.insert(key, rule);
            }
        }
    }
}
