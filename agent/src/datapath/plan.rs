//! What the kernel should know of interfaces and addresses, as a plain value. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use agent_common::{
    config::MarkLayout,
    decision::PartyKind,
    endpoint::{
        ANY_MAC, COVERED, Destination, DestinationKind, GUARDED, Interface, InterfaceKind, MAX_ADDRESSES,
        NO_LINK_HEADER, Published, PublishedKey, VALIDATE,
    },
    packet::{Address, Mac, PROTOCOL_TCP, PROTOCOL_UDP},
    policy::prefix_words,
    verdict::{Hook, Mode},
};
use ipnet::IpNet;

use crate::{
    inventory::snapshot::{self, Endpoint, Protocol, Snapshot},
    policy::{
        entries::{Entries, ResolvedEndpoint},
        glob::Glob,
    },
};

/// Contents of the maps that describe the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// By ifindex.
    pub interfaces: BTreeMap<u32, Interface>,
    /// By (address, prefix length in the 16-byte form).
    pub destinations: BTreeMap<(Address, u8), Destination>,
    /// By (key, prefix length).
    pub published: BTreeMap<(PublishedKey, u32), Published>,
    /// Slot → ifindex of the port.
    pub slots: BTreeMap<u32, u32>,
    /// Endpoints that were left out, which keeps them `not_ready`, with the reason for people.
    pub left_out: Vec<LeftOut>,
}

/// An endpoint that cannot be made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub container: String,
    pub reason: String,
}

/// Gives every port a slot of the mark, and keeps it while the port lives.
///
/// Freed slots are handed out again as late as possible, so that a packet on its way through the host does not
/// take on the identity of a newer port.
#[derive(Clone, Debug)]
pub struct Slots {
    by_port: BTreeMap<u32, u32>,
    used: BTreeSet<u32>,
    next: u32,
    capacity: u32,
}

impl Slots {
    /// `adopted` is what an earlier agent left in the kernel: slot → ifindex. What its mask had room for and this one
    /// has not gets a new slot: cut short it would be another port's.
    #[must_use]
    pub fn new(layout: MarkLayout, adopted: &BTreeMap<u32, u32>) -> Self {
        let adopted = || adopted.range(..layout.slots());
        let next = adopted().next_back().map_or(0, |(last, _)| (last + 1) % layout.slots());
        Self {
            by_port: adopted().map(|(&slot, &port)| (port, slot)).collect(),
            used: adopted().map(|(&slot, _)| slot).collect(),
            next,
            capacity: layout.slots(),
        }
    }

    fn retain(&mut self, ports: &BTreeSet<u32>) {
        self.by_port.retain(|port, _| ports.contains(port));
        self.used = self.by_port.values().copied().collect();
    }

    /// The number of a port, a new one if it has none.
    pub(super) fn slot(&mut self, port: u32) -> Option<u32> {
        if let Some(&slot) = self.by_port.get(&port) {
            return Some(slot);
        }
        let free = (0..self.capacity)
            .map(|step| (self.next + step) % self.capacity)
            .find(|slot| !self.used.contains(slot))?;
        self.next = (free + 1) % self.capacity;
        self.used.insert(free);
        self.by_port.insert(port, free);
        Some(free)
    }
}

/// Which program belongs onto which interface.
#[must_use]
pub fn places<'a>(snapshot: &'a Snapshot, uplinks: &[Glob]) -> Vec<(&'a snapshot::Interface, Hook)> {
    let ports = snapshot.ports.iter().map(|port| (&port.interface, &Hook::OF_PORT[..]));
    let bridges = snapshot.bridges.iter().map(|bridge| (&bridge.interface, &Hook::OF_BRIDGE[..]));
    let uplinks = snapshot
        .uplinks
        .iter()
        .filter(|uplink| uplinks.iter().any(|glob| glob.matches(&uplink.interface.name)))
        .map(|uplink| (&uplink.interface, &Hook::OF_UPLINK[..]));
    ports
        .chain(bridges)
        .chain(uplinks)
        .flat_map(|(interface, hooks)| hooks.iter().map(move |&hook| (interface, hook)))
        .collect()
}

/// Turns what is known of the host into map contents.
#[must_use]
pub fn host_state(
    snapshot: &Snapshot,
    entries: &Entries,
    layout: MarkLayout,
    slots: &mut Slots,
) -> HostState {
    let mut state = HostState::default();
    let bridge_of: BTreeMap<u32, u32> =
        snapshot.ports.iter().map(|port| (port.interface.ifindex, port.bridge)).collect();
    for bridge in &snapshot.bridges {
        state.interfaces.insert(bridge.interface.ifindex, interface(InterfaceKind::Bridge));
        for subnet in &bridge.subnets {
            let ifindex = bridge.interface.ifindex;
            let destination = Destination { kind: DestinationKind::Containers as u32, ifindex };
            state.destinations.insert(prefix(subnet), destination);
        }
    }
    for uplink in &snapshot.uplinks {
        let mut entry = interface(InterfaceKind::Uplink);
        if !uplink.ethernet {
            entry.flags |= NO_LINK_HEADER;
        }
        state.interfaces.insert(uplink.interface.ifindex, entry);
    }
    let bridges_with = |wanted: &dyn Fn(&ResolvedEndpoint) -> bool| -> BTreeSet<u32> {
        let endpoints = snapshot.endpoints.iter().zip(&entries.endpoints);
        endpoints
            .filter(|(_, resolved)| resolved.party.kind == PartyKind::Covered && wanted(resolved))
            .filter_map(|(endpoint, _)| bridge_of.get(&endpoint.port.as_ref()?.ifindex).copied())
            .collect()
    };
    let covered_bridges = bridges_with(&|_| true);
    let guarded_bridges = bridges_with(&|resolved| {
        let subject = entries.subjects.get(&resolved.party.identity);
        subject.is_none_or(|subject| Mode::from_number(subject.mode) == Mode::Enforce)
    });
    for bridge in guarded_bridges {
        if let Some(entry) = state.interfaces.get_mut(&bridge) {
            entry.flags |= GUARDED;
        }
    }
    slots.retain(&bridge_of.keys().copied().collect());
    for (endpoint, resolved) in snapshot.endpoints.iter().zip(&entries.endpoints) {
        let Some(port) = &endpoint.port else { continue };
        let Some(&bridge) = bridge_of.get(&port.ifindex) else {
            continue;
        };
        let mut leave_out = |reason: String| {
            state.left_out.push(LeftOut { container: endpoint.container.clone(), reason });
        };
        if endpoint.addresses.len() > MAX_ADDRESSES {
            leave_out(format!(
                "{} addresses, at most {MAX_ADDRESSES} are supported",
                endpoint.addresses.len()
            ));
            continue;
        }
        let Some(slot) = slots.slot(port.ifindex) else {
            leave_out(format!("all {} port numbers of the mark are in use", layout.slots()));
            continue;
        };
        let mut entry = interface(InterfaceKind::Port);
        if resolved.party.kind == PartyKind::Covered {
            entry.flags |= COVERED;
            publish(&mut state.published, endpoint, port.ifindex);
        }
        if covered_bridges.contains(&bridge) {
            entry.flags |= VALIDATE;
        }
        let destination = Destination { kind: DestinationKind::Endpoint as u32, ifindex: port.ifindex };
        match endpoint.mac.map(Mac::new) {
            Some(mac) => {
                entry.mac = mac;
                // Of two ports with one MAC, whatever order they are listed in.
                let known = state.destinations.entry((mac.link_local(), 128)).or_insert(destination);
                known.ifindex = known.ifindex.min(port.ifindex);
            }
            None => {
                entry.flags |= ANY_MAC;
                if let Some(bridge) = state.interfaces.get_mut(&bridge) {
                    bridge.flags |= ANY_MAC;
                }
            }
        }
        entry.identity = resolved.party.identity;
        entry.instance = resolved.party.instance;
        entry.bridge = bridge;
        entry.mark = layout.of_slot(slot);
        for (place, address) in entry.addresses.iter_mut().zip(&endpoint.addresses) {
            *place = self::address(*address);
            entry.address_count += 1;
        }
        for own in &endpoint.addresses {
            state.destinations.insert((self::address(*own), 128), destination);
        }
        state.interfaces.insert(port.ifindex, entry);
        state.slots.insert(slot, port.ifindex);
    }
    // Last: an address that the host has itself never stands for a container.
    for own in &snapshot.host_addresses {
        let in_subnet = |bridge: &&snapshot::Bridge| bridge.subnets.iter().any(|subnet| subnet.contains(own));
        let ifindex = snapshot.bridges.iter().find(in_subnet).map_or(0, |bridge| bridge.interface.ifindex);
        let destination = Destination { kind: DestinationKind::Host as u32, ifindex };
        state.destinations.insert((address(*own), 128), destination);
    }
    state
}

/// The ports of the host that stand for an endpoint's. Of two endpoints of one container the first is kept: they have
/// the same rights.
fn publish(published: &mut BTreeMap<(PublishedKey, u32), Published>, endpoint: &Endpoint, ifindex: u32) {
    for port in &endpoint.published {
        let protocol = match port.protocol {
            Protocol::Tcp => PROTOCOL_TCP,
            Protocol::Udp => PROTOCOL_UDP,
        };
        let prefix = match port.host_address {
            IpAddr::V4(address) if address.is_unspecified() => 96,
            IpAddr::V6(address) if address.is_unspecified() => 0,
            _ => 128,
        };
        let key = PublishedKey {
            protocol: u16::from(protocol),
            port_be: port.host_port.to_be(),
            address: prefix_words(&address(port.host_address)),
        };
        let target = Published { ifindex, port: port.container_port, _pad: 0 };
        published.entry((key, PublishedKey::PREFIX_BASE + prefix)).or_insert(target);
        let number = PublishedKey { protocol: PublishedKey::NUMBER | key.protocol, address: [0; 4], ..key };
        published.entry((number, PublishedKey::PREFIX_BASE)).or_insert(target);
    }
}

/// The kernel's form of an address.
#[must_use]
pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::new(address.octets()),
    }
}

fn prefix(net: &IpNet) -> (Address, u8) {
    match net.trunc() {
        IpNet::V4(net) => (address(IpAddr::V4(net.addr())), net.prefix_len() + 96),
        IpNet::V6(net) => (address(IpAddr::V6(net.addr())), net.prefix_len()),
    }
}

const fn interface(kind: InterfaceKind) -> Interface {
    Interface {
        kind: kind as u8,
        flags: 0,
        _pad: [0; 6],
        mac: Mac::new([0; 6]),
        identity: 0,
        instance: 0,
        bridge: 0,
        mark: 0,
        address_count: 0,
        _pad2: 0,
        addresses: [Address::UNSPECIFIED; MAX_ADDRESSES],
    }
}

#[cfg(test)]
mod tests;
