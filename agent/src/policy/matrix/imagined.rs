//! An imagined host on which every policy has one or two instances, and those who may call there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use agent_common::{
    decision::{Party, PartyKind},
    identity,
    packet::Address,
};
use ipnet::IpNet;

use super::{
    super::{
        entries::Entries,
        glob::Glob,
        model::{Peer, Policy, PolicySet, Select, Target},
        networks::address_in_key_form,
        resolve::{ResolveError, resolve},
    },
    Caller,
};
use crate::inventory::{
    identity::IdentityRegistry,
    snapshot::{Endpoint, Snapshot},
};

/// The resolved entries of the imagined host.
#[derive(Debug)]
pub(super) struct Imagined {
    pub(super) entries: Entries,
    /// By instance and service.
    covered: BTreeMap<(String, String), Party>,
    /// Names of the instances of each policy.
    instances: BTreeMap<String, Vec<String>>,
    /// Containers with the labels that peers ask for.
    labelled: BTreeMap<Peer, Party>,
}

/// What the same services of another instance are called together.
pub(super) const OTHER_INSTANCE: &str = "other instance";

/// Where imagined containers look names up (RFC 2544 range: no policy has a reason to name it).
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 53));

impl Imagined {
    pub(super) fn new(policies: &PolicySet) -> Result<Self, ResolveError> {
        let mut snapshot = Snapshot::default();
        let mut instances: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for policy in &policies.policies {
            match &policy.target {
                Target::Project(glob) => {
                    let names = glob.samples();
                    for name in &names {
                        populate(policy, Some(name), &mut snapshot);
                    }
                    instances.insert(policy.name.clone(), names);
                }
                Target::Container(_) => {
                    populate(policy, None, &mut snapshot);
                    instances.insert(policy.name.clone(), vec![policy.name.clone()]);
                }
            }
        }
        let mut wanted: BTreeMap<Peer, usize> = BTreeMap::new();
        for peer in policies.policies.iter().flat_map(Policy::peers) {
            if let Peer::Labelled { project, service } = peer
                && !wanted.contains_key(peer)
                && let (Some(project), Some(service)) = (first(project), first(service))
            {
                wanted.insert(peer.clone(), snapshot.endpoints.len());
                snapshot.endpoints.push(endpoint("labelled", Some(&project), Some(&service)));
            }
        }
        let entries = resolve(policies, &snapshot, &mut IdentityRegistry::default())?;
        let labelled = wanted
            .into_iter()
            .filter_map(|(peer, index)| Some((peer, entries.endpoints.get(index)?.party)))
            .collect();
        let covered = entries
            .identities
            .iter()
            .filter(|(_, info)| info.covered)
            .map(|(&identity, info)| {
                let party = Party { kind: PartyKind::Covered, identity, instance: info.instance_number };
                ((info.instance.clone(), info.service.clone()), party)
            })
            .collect();
        Ok(Self { entries, covered, instances, labelled })
    }

    /// A service of the first instance of a policy.
    pub(super) fn service(&self, policy: &Policy, name: &str) -> Option<Party> {
        self.party(self.instances.get(&policy.name)?.first()?, name)
    }

    fn party(&self, instance: &str, service: &str) -> Option<Party> {
        self.covered.get(&(instance.to_owned(), service.to_owned())).copied()
    }

    /// Everybody who may call a service of the policy: rows and columns of the requirement documents.
    pub(super) fn callers(&self, policy: &Policy) -> Vec<Caller> {
        let nowhere = Address::UNSPECIFIED;
        let one = |name: &str, party: Party, address| Caller {
            name: name.to_owned(),
            parties: vec![(party, address)],
        };
        let mut callers: Vec<Caller> = policy
            .services
            .keys()
            .filter_map(|name| Some(one(name, self.service(policy, name)?, nowhere)))
            .collect();
        callers.push(Caller { name: OTHER_INSTANCE.to_owned(), parties: self.other_instances(policy) });
        callers.extend(self.strangers(policy));
        callers
    }

    /// Those of them that are no services of the policy, in whatever instance.
    pub(super) fn strangers(&self, policy: &Policy) -> Vec<Caller> {
        let one = |name: &str, party: Party, address| Caller {
            name: name.to_owned(),
            parties: vec![(party, address)],
        };
        let mut callers = vec![
            one("unmanaged", Party::UNMANAGED, Address::UNSPECIFIED),
            one("host", Party::HOST, Address::UNSPECIFIED),
            one("world", Party::WORLD, stranger(policy)),
        ];
        callers.extend(named_networks(policy));
        callers.extend(self.labelled(policy, |_| true));
        callers
    }

    /// Everybody outside whom a service of the policy may call.
    pub(super) fn destinations(&self, policy: &Policy) -> Vec<Caller> {
        let one = |name: &str, party: Party, address| Caller {
            name: name.to_owned(),
            parties: vec![(party, address)],
        };
        let mut found = vec![
            one("host", Party::HOST, Address::UNSPECIFIED),
            one("world", Party::WORLD, stranger(policy)),
            one("dns", Party::WORLD, address_in_key_form(RESOLVER)),
            one("unmanaged", Party::UNMANAGED, Address::UNSPECIFIED),
        ];
        found.extend(named_networks(policy));
        found.extend(self.labelled(policy, |party| party.kind == PartyKind::Unmanaged));
        found
    }

    /// The same services in a second instance, and somebody under another policy.
    pub(super) fn other_instances(&self, policy: &Policy) -> Vec<(Party, Address)> {
        let number = identity::FIRST_ADDRESS_CLASS - 1;
        let foreign = Party { kind: PartyKind::Covered, identity: number, instance: number };
        let second = self.instances.get(&policy.name).and_then(|names| names.get(1));
        let twins = second
            .into_iter()
            .flat_map(|instance| policy.services.keys().filter_map(|name| self.party(instance, name)));
        std::iter::once(foreign).chain(twins).map(|party| (party, Address::UNSPECIFIED)).collect()
    }

    fn labelled(&self, policy: &Policy, keep: impl Fn(&Party) -> bool) -> Vec<Caller> {
        let peers: BTreeSet<&Peer> = policy.peers().collect();
        peers
            .into_iter()
            .filter_map(|peer| {
                let Peer::Labelled { project, service } = peer else {
                    return None;
                };
                let party = *self.labelled.get(peer).filter(|party| keep(party))?;
                Some(Caller {
                    name: format!("{project}/{service}"),
                    parties: vec![(party, Address::UNSPECIFIED)],
                })
            })
            .collect()
    }
}

/// Adds one container per service of an instance.
fn populate(policy: &Policy, project: Option<&str>, snapshot: &mut Snapshot) {
    for (name, service) in &policy.services {
        let mut container = match (&policy.target, &service.select) {
            (_, Some(Select::Container(glob))) | (Target::Container(glob), _) => {
                first(glob).unwrap_or_default()
            }
            (Target::Project(_), _) => name.clone(),
        };
        if let Target::Container(glob) = &policy.target
            && !glob.matches(&container)
        {
            container = first(glob).unwrap_or_default();
        }
        let mut endpoint = endpoint(&container, project, Some(name));
        if let Some(Select::Label { key, value }) = &service.select {
            endpoint.labels.insert(key.clone(), value.clone());
        }
        snapshot.endpoints.push(endpoint);
    }
}

fn endpoint(container: &str, project: Option<&str>, service: Option<&str>) -> Endpoint {
    Endpoint {
        container_id: container.to_owned(),
        container: container.to_owned(),
        project: project.map(str::to_owned),
        service: service.map(str::to_owned),
        labels: BTreeMap::new(),
        network: String::new(),
        bridge: String::new(),
        port: None,
        mac: None,
        addresses: Vec::new(),
        published: Vec::new(),
        resolvers: vec![RESOLVER],
    }
}

fn first(glob: &Glob) -> Option<String> {
    glob.samples().into_iter().next()
}

/// Groups by name and ranges as written, each with an address of every range.
fn named_networks(policy: &Policy) -> Vec<Caller> {
    let world = |network: &IpNet| (Party::WORLD, address_in_key_form(network.network()));
    let mut found: BTreeMap<String, Vec<(Party, Address)>> = policy
        .groups
        .iter()
        .map(|(name, group)| (name.clone(), group.networks.iter().map(world).collect()))
        .collect();
    for peer in policy.peers() {
        if let Peer::Network(network) = peer {
            found.insert(network.to_string(), vec![world(network)]);
        }
    }
    found.into_iter().map(|(name, parties)| Caller { name, parties }).collect()
}

/// An address of the world that the policy does not name, if there is one.
fn stranger(policy: &Policy) -> Address {
    let mut named: Vec<IpNet> = policy.groups.values().flat_map(|group| group.networks.clone()).collect();
    named.extend(policy.peers().filter_map(|peer| match peer {
        Peer::Network(network) => Some(*network),
        _ => None,
    }));
    let candidates = (1..=223u8).rev().map(|first| IpAddr::V4(Ipv4Addr::new(first, 77, 77, 77)));
    let free = candidates
        .filter(|address| !address.is_loopback())
        .find(|address| !named.iter().any(|network| network.contains(address)));
    address_in_key_form(free.unwrap_or(RESOLVER))
}
