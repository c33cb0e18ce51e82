//! What the kernel knows of interfaces and of destination addresses.

use crate::packet::{Address, Mac};

/// How many addresses one port may have; an endpoint with more is not made ready.
pub const MAX_ADDRESSES: usize = 8;

/// What an interface index stands for. Map `INTERFACES`, key: ifindex.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// One of [`InterfaceKind`].
    pub kind: u8,
    /// A port's [`COVERED`], [`VALIDATE`] and [`ANY_MAC`], a bridge's [`GUARDED`] and [`ANY_MAC`], an uplink's
    /// [`NO_LINK_HEADER`].
    pub flags: u8,
    pub _pad: [u8; 6],
    /// A port's only allowed source MAC.
    pub mac: Mac,
    /// A port's identity, [`crate::identity`].
    pub identity: u32,
    /// The number of the instance that a covered port's endpoint belongs to; 0 for others.
    pub instance: u32,
    /// The ifindex of a port's bridge.
    pub bridge: u32,
    /// What `skb->mark` carries, within the agent's mask, after the port's `from_endpoint`.
    pub mark: u32,
    /// How many of `addresses` are in use.
    pub address_count: u32,
    pub _pad2: u32,
    /// A port's own addresses; unused places hold `::`.
    pub addresses: [Address; MAX_ADDRESSES],
}

/// The kinds of [`Interface`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A port of a watched bridge, with a container behind it.
    Port = 1,
    /// A watched bridge.
    Bridge = 2,
    /// Any other known interface: the world is behind it.
    Uplink = 3,
}

/// Flag of a port: a policy covers its endpoint.
pub const COVERED: u8 = 1;
/// Flag of a port: source addresses are checked, because its bridge has covered endpoints.
pub const VALIDATE: u8 = 2;
/// Flag of a port: its MAC is not known, so frames and claims only have to agree with each other. Of a bridge: it has such
/// a port, so that link-local addresses are not known either.
pub const ANY_MAC: u8 = 4;
/// Flag of a bridge: it has covered endpoints that enforce, so nothing passes between it and the host for a container
/// that is not known.
pub const GUARDED: u8 = 8;
/// Flag of an uplink: its packets start with the IP header.
pub const NO_LINK_HEADER: u8 = 16;

impl Interface {
    /// Whether a policy covers the endpoint behind this port.
    #[inline(always)]
    #[must_use]
    pub const fn is_covered(&self) -> bool {
        self.flags & COVERED != 0
    }

    /// Whether this port's source addresses are checked.
    #[inline(always)]
    #[must_use]
    pub const fn is_validated(&self) -> bool {
        self.flags & VALIDATE != 0
    }

    /// Whether only known containers get through this bridge to the host or from it.
    #[inline(always)]
    #[must_use]
    pub const fn is_guarded(&self) -> bool {
        self.flags & GUARDED != 0
    }

    /// Whether the link-local addresses behind this bridge's ports follow from what is known.
    #[inline(always)]
    #[must_use]
    pub const fn knows_macs(&self) -> bool {
        self.flags & ANY_MAC == 0
    }

    /// Whether this uplink's packets have an Ethernet header.
    #[inline(always)]
    #[must_use]
    pub const fn has_link_header(&self) -> bool {
        self.flags & NO_LINK_HEADER == 0
    }

    /// The MAC that a frame from this port has to carry.
    #[inline(always)]
    #[must_use]
    pub const fn expected_mac(&self, seen: Mac) -> Mac {
        if self.flags & ANY_MAC != 0 { seen } else { self.mac }
    }

    /// Whether `address` is one of the port's own.
    #[inline(always)]
    #[must_use]
    pub fn owns(&self, address: &Address) -> bool {
        if *address == Address::UNSPECIFIED {
            return false;
        }
        // Out at the first match: flags that are collected over the loop would multiply the paths that the verifier
        // has to follow.
        let mut index = 0;
        while index < MAX_ADDRESSES {
            if self.addresses[index] == *address {
                return true;
            }
            index += 1;
        }
        false
    }
}

/// What a destination address stands for. Map `DESTINATIONS`, longest prefix wins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// One of [`DestinationKind`].
    pub kind: u32,
    /// The endpoint's port, for [`DestinationKind::Endpoint`]. For others the bridge in one of whose subnets the address
    /// lies, 0 for none.
    pub ifindex: u32,
}

/// The kinds of [`Destination`]; an address without an entry is the world.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// An address of a known endpoint; also the link-local one that follows from its MAC.
    Endpoint = 1,
    /// An address of the host.
    Host = 2,
    /// In a Docker subnet, but of no known endpoint: an unmanaged container.
    Containers = 3,
}

/// Key of the longest-prefix map `PUBLISHED`: a port of the host that stands for a covered endpoint's.
///
/// Published on one address it has the full prefix, on all IPv4 addresses 96 bits, on `[::]` none: docker-proxy then
/// listens for both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedKey {
    /// IP protocol: TCP or UDP. With [`Self::NUMBER`] the port number as such.
    pub protocol: u16,
    /// Big endian, like the address.
    pub port_be: u16,
    /// [`crate::policy::prefix_words`] of the host's address.
    pub address: [u32; 4],
}

impl PublishedKey {
    /// Bits of the key in front of the address.
    pub const PREFIX_BASE: u32 = 32;
    /// Added to the protocol: an entry without an address that says that the number is published on some.
    pub const NUMBER: u16 = 0x100;
}

/// Value of the map `PUBLISHED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The ifindex of the endpoint's port.
    pub ifindex: u32,
    /// The port that the container listens on, in host order.
    pub port: u16,
    pub _pad: u16,
}

const _: () = assert!(size_of::<Interface>() == 168);
const _: () = assert!(size_of::<PublishedKey>() == 20);
const _: () = assert!(size_of::<Published>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn port(flags: u8, own: &[Address]) -> Interface {
        let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
        addresses[..own.len()].copy_from_slice(own);
        Interface {
            kind: InterfaceKind::Port as u8,
            flags,
            _pad: [0; 6],
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            identity: 256,
            instance: 1,
            bridge: 9,
            mark: 0,
            address_count: 0,
            _pad2: 0,
            addresses,
        }
    }

    #[test]
    fn a_port_owns_its_addresses_and_nothing_else() {
        let address = |last| Address::from_ipv4([192, 0, 2, last]);
        let own = [1, 2, 3, 4, 5, 6, 7, 8].map(address);
        let full = port(0, &own);
        assert!(own.iter().all(|address| full.owns(address)));
        assert!(!full.owns(&address(9)));
        assert!(!port(0, &own[..7]).owns(&own[7]));
        // The same address in the other family is another address.
        assert!(!full.owns(&Address::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1])));
    }

    #[test]
    fn each_flag_says_one_thing_whatever_the_others_say() {
        for flags in 0..=u8::MAX {
            let interface = port(flags, &[]);
            let said = [
                interface.is_covered(),
                interface.is_validated(),
                !interface.knows_macs(),
                interface.is_guarded(),
                !interface.has_link_header(),
            ];
            for (bit, said) in said.into_iter().enumerate() {
                assert_eq!(said, flags >> bit & 1 == 1, "bit {bit} of {flags:#b}");
            }
        }
    }

    #[test]
    fn unused_places_own_nothing() {
        assert!(!port(0, &[]).owns(&Address::UNSPECIFIED));
    }

    #[test]
    fn a_known_mac_is_expected_and_an_unknown_one_taken_as_it_comes() {
        let seen = Mac::new([2, 9, 9, 9, 9, 9]);
        assert_eq!(port(COVERED, &[]).expected_mac(seen), Mac::new([2, 0, 0, 0, 0, 1]));
        assert_eq!(port(ANY_MAC, &[]).expected_mac(seen), seen);
    }

    #[test]
    fn flags_say_what_holds_of_a_port() {
        assert!(port(COVERED, &[]).is_covered() && !port(COVERED, &[]).is_validated());
        assert!(port(VALIDATE, &[]).is_validated() && !port(VALIDATE, &[]).is_covered());
        assert_eq!((COVERED | VALIDATE | ANY_MAC | GUARDED | NO_LINK_HEADER).count_ones(), 5);
    }
}
