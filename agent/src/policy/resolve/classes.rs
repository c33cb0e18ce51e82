//! Address classes: ranges of outside addresses with the same entries share a number.

use std::{collections::BTreeMap, net::IpAddr};

use agent_common::{identity::FIRST_ADDRESS_CLASS, policy::Scope, verdict::Direction};
use ipnet::{IpNet, Ipv4Net};

use super::{
    super::{
        entries::AddressEntryKey,
        model::{Peer, Policy},
        networks::in_key_form,
    },
    table::{PeerRules, Table},
};

/// The classes of one subject.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: BTreeMap<(Direction, PeerRules), u32>,
    flags: u8,
}

impl Classes {
    /// The class of addresses with these entries; `None` if there is no number left.
    pub(super) fn of(
        &mut self,
        subject: u32,
        direction: Direction,
        rules: PeerRules,
        table: &mut Table<'_>,
    ) -> Option<u32> {
        let next = u32::try_from(self.numbers.len()).ok()?.checked_add(FIRST_ADDRESS_CLASS)?;
        let key = (direction, rules);
        if let Some(&class) = self.numbers.get(&key) {
            return Some(class);
        }
        table.write(subject, next, direction, &key.1);
        self.numbers.insert(key, next);
        Some(next)
    }

    /// Puts a range of addresses into a class.
    pub(super) fn put(
        &mut self,
        subject: u32,
        scope: Scope,
        network: IpNet,
        class: u32,
        table: &mut Table<'_>,
    ) {
        let (address, prefix) = in_key_form(network);
        table.entries.addresses.insert(AddressEntryKey { subject, scope, address, prefix }, class);
        self.flags |= scope.flag();
    }

    /// The flags of scopes that have entries.
    pub(super) const fn flags(&self) -> u8 {
        self.flags
    }
}

/// The ranges that a peer names.
pub(super) fn networks<'p>(policy: &'p Policy, peer: &'p Peer) -> &'p [IpNet] {
    match peer {
        Peer::Network(network) => std::slice::from_ref(network),
        Peer::Group(name) => policy.groups.get(name).map_or(&[], |group| group.networks.as_slice()),
        _ => &[],
    }
}

/// Peers that name ranges, and which ranges are theirs.
#[derive(Debug)]
pub(super) struct Ranges<'p> {
    /// Of each peer the widest ranges, in order: none lies inside another.
    peers: BTreeMap<&'p Peer, Vec<IpNet>>,
}

impl<'p> Ranges<'p> {
    pub(super) fn new(policy: &'p Policy, peers: impl Iterator<Item = &'p Peer>) -> Self {
        let mut found: BTreeMap<&Peer, Vec<IpNet>> = BTreeMap::new();
        for peer in peers {
            let named = networks(policy, peer);
            if !named.is_empty() {
                found.entry(peer).or_insert_with(|| widest(named));
            }
        }
        Self { peers: found }
    }

    /// The peers that all of `network` belongs to. IPv4 and IPv6 never contain each other.
    pub(super) fn peers_with(&self, network: IpNet) -> Vec<&'p Peer> {
        self.peers.iter().filter(|(_, ranges)| cover(ranges, network)).map(|(peer, _)| *peer).collect()
    }
}

/// Whether `network` lies in one of the `widest` ranges.
fn cover(widest: &[IpNet], network: IpNet) -> bool {
    let before = widest.partition_point(|range| *range <= network);
    before.checked_sub(1).is_some_and(|last| widest[last].contains(&network))
}

/// The ranges that lie inside no other, in order: a wider one sorts before those that lie inside it.
fn widest(networks: &[IpNet]) -> Vec<IpNet> {
    let mut sorted = networks.to_vec();
    sorted.sort_unstable();
    let mut widest: Vec<IpNet> = Vec::new();
    for network in sorted {
        if widest.last().is_none_or(|last| !last.contains(&network)) {
            widest.push(network);
        }
    }
    widest
}

/// The ranges for which entries are needed.
///
/// In the kernel's keys IPv4 lies inside IPv6 (`::ffff:0:0/96`): an IPv6 range as wide as that would take in all
/// of IPv4, so IPv4 gets an entry of its own below it.
pub(super) fn with_ipv4_apart(mut wanted: Vec<IpNet>) -> Vec<IpNet> {
    let (all_ipv4, _) = in_key_form(IpNet::V4(Ipv4Net::default()));
    let swallows = |network: &IpNet| matches!(network, IpNet::V6(network) if network.contains(&std::net::Ipv6Addr::from(all_ipv4.bytes())));
    if wanted.iter().any(swallows) {
        wanted.push(IpNet::V4(Ipv4Net::default()));
    }
    wanted.sort();
    wanted.dedup();
    wanted
}

/// The range of one address.
pub(super) fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges of a small part of the address space, so that many lie inside others.
    fn range() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), 0_u8..=255, 0_u8..=8).prop_map(|(ipv6, last, length)| {
            let text = if ipv6 {
                format!("2001:db8::{last:x}/{}", 120 + length)
            } else {
                format!("192.0.2.{last}/{}", 24 + length)
            };
            text.parse::<IpNet>().unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn a_range_lies_in_the_widest_if_it_lies_in_any(ranges in prop::collection::vec(range(), 0..40), asked in range()) {
            prop_assert_eq!(
                cover(&widest(&ranges), asked),
                ranges.iter().any(|range| range.contains(&asked))
            );
        }
    }
}
