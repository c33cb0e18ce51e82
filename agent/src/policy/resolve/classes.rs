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
    /// Puts a range of addresses under the entries; `None` if there is no number left.
    pub(super) fn put(
        &mut self,
        subject: u32,
        scope: Scope,
        network: IpNet,
        rules: PeerRules,
        table: &mut Table<'_>,
    ) -> Option<()> {
        let direction = if scope == Scope::FromWorld { Direction::Ingress } else { Direction::Egress };
        let next = u32::try_from(self.numbers.len()).ok()?.checked_add(FIRST_ADDRESS_CLASS)?;
        let key = (direction, rules);
        let class = match self.numbers.get(&key) {
            Some(&class) => class,
            None => {
                table.write(subject, next, direction, &key.1);
                self.numbers.insert(key, next);
                next
            }
        };
        let (address, prefix) = in_key_form(network);
        table.entries.addresses.insert(AddressEntryKey { subject, scope, address, prefix }, class);
        self.flags |= scope.flag();
        Some(())
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

/// Whether all of `network` belongs to the peer. IPv4 and IPv6 never contain each other.
pub(super) fn contains(policy: &Policy, peer: &Peer, network: IpNet) -> bool {
    networks(policy, peer).iter().any(|each| each.contains(&network))
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
