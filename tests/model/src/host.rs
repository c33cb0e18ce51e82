//! What is known of the host: its interfaces, who is behind them, and whose the addresses are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::frame::link_local;
use crate::verdict::Who;

/// At most so many addresses may an endpoint have.
const MAX_ADDRESSES: usize = 8;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Net {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                u64::from(net.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let same = (net.to_bits() ^ address.to_bits()).leading_zeros();
                same >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

/// A container's network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub project: Option<String>,
    pub service: Option<String>,
    /// Not known with some inventories.
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<IpAddr>,
    pub resolvers: Vec<IpAddr>,
}

impl Container {
    /// Whether the inventory's answer for it can be put into the kernel.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.addresses.len() <= MAX_ADDRESSES
    }
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// A port of a watched bridge, and its container once that is known.
    Port { bridge: u32, container: Option<Container> },
    /// A watched bridge, with its subnets.
    Bridge { subnets: Vec<Net> },
    /// The world is behind it.
    Uplink,
}

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub interfaces: BTreeMap<u32, Interface>,
    pub addresses: BTreeSet<IpAddr>,
    /// The bits of `skb->mark` that belong to the agent: the highest says that the agent wrote it, the next is
    /// reserved.
    pub mark_mask: u32,
    /// What the agent writes there for each port: the only thing that the model is told, not tells.
    pub marks: BTreeMap<u32, u32>,
}

impl Host {
    /// The container behind a port that can be judged.
    #[must_use]
    pub fn container(&self, port: u32) -> Option<&Container> {
        match self.interfaces.get(&port) {
            Some(Interface::Port { container: Some(container), .. }) if container.fits() => Some(container),
            _ => None,
        }
    }

    /// The bridge of a port.
    #[must_use]
    pub fn bridge_of(&self, port: u32) -> Option<u32> {
        match self.interfaces.get(&port) {
            Some(Interface::Port { bridge, .. }) => Some(*bridge),
            _ => None,
        }
    }

    /// Every port whose container is known, judged or not.
    pub fn containers(&self) -> impl Iterator<Item = (u32, &Container)> {
        self.interfaces.iter().filter_map(|(&port, interface)| match interface {
            Interface::Port { container: Some(container), .. } => Some((port, container)),
            _ => None,
        })
    }

    /// Who sent a packet that came in by this interface.
    #[must_use]
    pub fn sender(&self, interface: u32, mark: u32) -> Who {
        match self.interfaces.get(&interface) {
            None if interface == 0 => Who::Host,
            None => Who::Unknown,
            Some(Interface::Uplink) => Who::World,
            Some(Interface::Bridge { .. }) => self.marked(mark),
            Some(Interface::Port { .. }) => self.behind(interface),
        }
    }

    fn behind(&self, port: u32) -> Who {
        if self.container(port).is_some() { Who::Container(port) } else { Who::Unknown }
    }

    fn marked(&self, mark: u32) -> Who {
        let reserved = (self.mark_mask >> 1) & !(self.mark_mask >> 2) & self.mark_mask;
        let written = mark & self.mark_mask & !reserved;
        let found = self.marks.iter().find(|&(_, &known)| known == written);
        found.map_or(Who::Unknown, |(&port, _)| self.behind(port))
    }

    /// Whether an address belongs onto a bridge and nobody is known to have it. It may be that of somebody who has just
    /// come. A container has the link-local address that follows from its MAC, if that is known of all on the bridge.
    #[must_use]
    pub fn is_nobodys(&self, address: IpAddr, bridge: u32) -> bool {
        // Whoever compares addresses takes it for the same.
        let address = address.to_canonical();
        if let IpAddr::V6(address) = address
            && address.is_unicast_link_local()
        {
            let known: Vec<_> = self.containers().filter(|(_, container)| container.fits()).collect();
            let has = known.iter().any(|(_, each)| each.mac.map(link_local) == Some(address));
            let on_bridge = |port| self.bridge_of(port) == Some(bridge);
            let uncertain = known.iter().any(|&(port, each)| each.mac.is_none() && on_bridge(port));
            return !has && !uncertain && !self.addresses.contains(&address.into());
        }
        self.receiver(address) == Who::SomeContainer && self.is_in_subnet(address, bridge)
    }

    /// Whether a neighbour on a bridge may be asked for an address. Which addresses the host has on the bridge itself is
    /// only known of those in its subnets.
    #[must_use]
    pub fn may_be_on(&self, address: IpAddr, bridge: u32) -> bool {
        let address = address.to_canonical();
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return true;
        }
        match self.receiver(address) {
            Who::Container(port) => self.bridge_of(port) == Some(bridge),
            Who::Host if !self.interfaces.keys().any(|&each| self.is_in_subnet(address, each)) => true,
            _ => self.is_in_subnet(address, bridge),
        }
    }

    fn is_in_subnet(&self, address: IpAddr, bridge: u32) -> bool {
        match self.interfaces.get(&bridge) {
            Some(Interface::Bridge { subnets }) => subnets.iter().any(|net| net.contains(address)),
            _ => false,
        }
    }

    /// Whom an address stands for.
    #[must_use]
    pub fn receiver(&self, address: IpAddr) -> Who {
        let nobody = match address {
            IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
        };
        if nobody {
            return Who::Unknown;
        }
        if self.addresses.contains(&address) {
            return Who::Host;
        }
        let mut known = self.containers().filter(|(_, container)| container.fits());
        if let Some((port, _)) = known.find(|(_, container)| container.addresses.contains(&address)) {
            return Who::Container(port);
        }
        let in_subnet = self.interfaces.keys().any(|&bridge| self.is_in_subnet(address, bridge));
        if in_subnet { Who::SomeContainer } else { Who::World }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_shares_its_first_bits() {
        let net = |text: &str, prefix| Net { address: text.parse().unwrap(), prefix };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (net, inside, outside) in [
            (net("192.0.2.0", 24), "192.0.2.255", "192.0.3.0"),
            (net("192.0.2.7", 32), "192.0.2.7", "192.0.2.6"),
            (net("2001:db8::", 32), "2001:db8:ffff::1", "2001:db9::"),
            (net("2001:db8::7", 128), "2001:db8::7", "2001:db8::6"),
            (net("0.0.0.0", 0), "255.1.1.1", "::"),
            (net("::", 0), "ff00::", "0.0.0.0"),
        ] {
            assert!(net.contains(address(inside)), "{net:?} {inside}");
            assert!(!net.contains(address(outside)), "{net:?} {outside}");
        }
    }
}
