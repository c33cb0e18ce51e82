//! Interfaces and addresses of this network namespace as a plain value, and how kernel notifications change it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Nanoseconds since the inventory was started: orders what netlink saw against what the engine was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// Every interface and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// By ifindex.
    pub links: BTreeMap<u32, Link>,
    /// By ifindex, with prefix length.
    pub addresses: BTreeMap<u32, BTreeSet<IpNet>>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// `veth`, `bridge`, …; empty for hardware.
    pub kind: String,
    /// The ifindex of the bridge (or bond, VRF) that this is a port of.
    pub master: Option<u32>,
    pub mac: Option<[u8; 6]>,
    /// A veth's other end, an ifindex of the namespace that `netns_id` names.
    pub peer: Option<u32>,
    /// The namespace of the other end as this namespace numbers it; none if that is this one.
    pub netns_id: Option<i32>,
    pub up: bool,
    pub loopback: bool,
    /// Whether packets have an Ethernet header here.
    pub ethernet: bool,
    /// When it was first seen; none if it was there from the start.
    pub appeared: Option<Moment>,
}

/// One kernel notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link is new or differs.
    Link(Link),
    LinkGone(u32),
    /// The bridge says that the link is its port.
    Enslaved {
        ifindex: u32,
        master: u32,
    },
    /// The bridge says that the link is no longer its port.
    Released(u32),
    Address {
        ifindex: u32,
        address: IpNet,
    },
    AddressGone {
        ifindex: u32,
        address: IpNet,
    },
    /// A namespace number is free and may soon stand for another namespace.
    NamespaceGone(i32),
    /// Notifications were lost.
    Overrun,
}

impl Links {
    /// Applies one notification. [`Change::NamespaceGone`] and [`Change::Overrun`] concern the caller only.
    pub fn apply(&mut self, change: Change, now: Moment) {
        match change {
            Change::Link(mut link) => {
                link.appeared = match self.links.get(&link.ifindex) {
                    Some(known) => known.appeared,
                    None => Some(now),
                };
                self.links.insert(link.ifindex, link);
            }
            Change::LinkGone(ifindex) => {
                self.links.remove(&ifindex);
                self.addresses.remove(&ifindex);
            }
            Change::Enslaved { ifindex, master } => {
                if let Some(link) = self.links.get_mut(&ifindex) {
                    link.master = Some(master);
                }
            }
            Change::Released(ifindex) => {
                if let Some(link) = self.links.get_mut(&ifindex) {
                    link.master = None;
                }
            }
            Change::Address { ifindex, address } => {
                self.addresses.entry(ifindex).or_default().insert(address);
            }
            Change::AddressGone { ifindex, address } => {
                if let Some(addresses) = self.addresses.get_mut(&ifindex) {
                    addresses.remove(&address);
                    if addresses.is_empty() {
                        self.addresses.remove(&ifindex);
                    }
                }
            }
            Change::NamespaceGone(_) | Change::Overrun => {}
        }
    }

    /// Replaces everything by a full dump; what was known before keeps the time at which it appeared.
    pub fn replace(&mut self, mut dump: Self, now: Moment) {
        for link in dump.links.values_mut() {
            link.appeared = match self.links.get(&link.ifindex) {
                Some(known) => known.appeared,
                None => Some(now),
            };
        }
        *self = dump;
    }

    /// The interface of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The addresses of an interface.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = IpNet> + '_ {
        self.addresses.get(&ifindex).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32) -> Link {
        Link { ifindex, name: format!("veth{ifindex}"), kind: "veth".to_owned(), ..Link::default() }
    }

    #[test]
    fn a_link_keeps_the_time_it_appeared() {
        let mut links = Links::default();
        links.apply(Change::Link(link(7)), Moment(5));
        links.apply(Change::Link(Link { master: Some(3), ..link(7) }), Moment(9));
        assert_eq!(links.links[&7].appeared, Some(Moment(5)));
        assert_eq!(links.links[&7].master, Some(3));

        let dump = Links { links: [(7, link(7)), (8, link(8))].into(), ..Links::default() };
        links.replace(dump, Moment(20));
        assert_eq!(links.links[&7].appeared, Some(Moment(5)));
        assert_eq!(links.links[&8].appeared, Some(Moment(20)));
    }

    #[test]
    fn a_bridge_notification_moves_only_the_master() {
        let mut links = Links::default();
        links.apply(Change::Link(Link { netns_id: Some(4), ..link(7) }), Moment(0));
        links.apply(Change::Enslaved { ifindex: 7, master: 3 }, Moment(1));
        assert_eq!((links.links[&7].master, links.links[&7].netns_id), (Some(3), Some(4)));
        links.apply(Change::Released(7), Moment(2));
        assert_eq!((links.links[&7].master, links.links[&7].netns_id), (None, Some(4)));
    }

    #[test]
    fn addresses_go_with_their_link() {
        let mut links = Links::default();
        let address: IpNet = "192.0.2.1/24".parse().unwrap();
        links.apply(Change::Link(link(7)), Moment(0));
        links.apply(Change::Address { ifindex: 7, address }, Moment(0));
        assert_eq!(links.addresses_of(7).collect::<Vec<_>>(), [address]);
        links.apply(Change::LinkGone(7), Moment(1));
        assert_eq!(links, Links::default());
    }
}
