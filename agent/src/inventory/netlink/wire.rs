//! The bytes of rtnetlink messages: requests written, answers and notifications read. No sockets.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    inventory::links::{Change, Link},
    netlink::{attributes, number},
};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/net_namespace.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWNSID: u16 = 88;
const RTM_DELNSID: u16 = 89;
const RTM_GETNSID: u16 = 90;
/// Of the kernel's if_arp.h.
const ARPHRD_ETHER: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_WIRELESS: u16 = 11;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const AF_BRIDGE: u8 = 7;

/// What is sent and received, read just as far as the inventory needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    GetLinks,
    GetAddresses,
    GetLinkIn {
        namespace: i32,
        ifindex: u32,
    },
    GetNamespace(i32),
    Change(Change),
    /// The answer to [`Message::GetNamespace`].
    Namespace(i32),
    /// Of no interest, or unreadable.
    Other(u16),
}

impl Message {
    /// The number of its kind.
    pub(super) const fn kind(&self) -> u16 {
        match self {
            Self::GetLinks | Self::GetLinkIn { .. } => RTM_GETLINK,
            Self::GetAddresses => RTM_GETADDR,
            Self::GetNamespace(_) => RTM_GETNSID,
            Self::Change(_) | Self::Namespace(_) => 0,
            Self::Other(kind) => *kind,
        }
    }

    /// How many bytes [`Self::write`] fills.
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::GetLinks | Self::GetLinkIn { .. } => 16 + 8,
            Self::GetAddresses => 8,
            Self::GetNamespace(_) => 4 + 8,
            Self::Change(_) | Self::Namespace(_) | Self::Other(_) => 0,
        }
    }

    /// Writes a request's payload into a buffer of [`Self::len`] bytes.
    pub(super) fn write(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        if let Self::GetLinkIn { ifindex, .. } = self {
            buffer[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        }
        let attribute = match self {
            Self::GetLinks => Some((16, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes())),
            Self::GetLinkIn { namespace, .. } => Some((16, IFLA_TARGET_NETNSID, namespace.to_ne_bytes())),
            Self::GetNamespace(descriptor) => Some((4, NETNSA_FD, descriptor.to_ne_bytes())),
            Self::GetAddresses | Self::Change(_) | Self::Namespace(_) | Self::Other(_) => None,
        };
        if let Some((at, kind, value)) = attribute {
            buffer[at..at + 2].copy_from_slice(&8_u16.to_ne_bytes());
            buffer[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
            buffer[at + 4..at + 8].copy_from_slice(&value);
        }
    }
}

/// Reads a message; `None` if it is of no interest or too short.
pub(super) fn read(kind: u16, payload: &[u8]) -> Option<Message> {
    let change = match kind {
        RTM_NEWLINK => read_link(payload)?,
        RTM_DELLINK => {
            let ifindex = number(payload.get(4..8)?)?;
            // The bridge only gives the port up; the link itself goes on.
            if *payload.first()? == AF_BRIDGE { Change::Released(ifindex) } else { Change::LinkGone(ifindex) }
        }
        RTM_NEWADDR | RTM_DELADDR => {
            let (ifindex, address) = read_address(payload)?;
            if kind == RTM_NEWADDR {
                Change::Address { ifindex, address }
            } else {
                Change::AddressGone { ifindex, address }
            }
        }
        RTM_NEWNSID => return Some(Message::Namespace(read_namespace(payload)?)),
        RTM_DELNSID => Change::NamespaceGone(read_namespace(payload)?),
        _ => return None,
    };
    Some(Message::Change(change))
}

fn read_link(payload: &[u8]) -> Option<Change> {
    let flags = number(payload.get(8..12)?)?;
    let mut link = Link {
        ifindex: number(payload.get(4..8)?)?,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ethernet: payload.get(2..4)? == ARPHRD_ETHER.to_ne_bytes(),
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINK => link.peer = number(value),
            IFLA_MASTER => link.master = number(value),
            IFLA_LINK_NETNSID => link.netns_id = number(value).map(u32::cast_signed),
            IFLA_LINKINFO => {
                if let Some((_, value)) = attributes(value).find(|&(kind, _)| kind == IFLA_INFO_KIND) {
                    link.kind = text(value);
                }
            }
            // Wireless drivers report scans this way, with nothing else filled in.
            IFLA_WIRELESS => return None,
            _ => {}
        }
    }
    if payload.first() == Some(&AF_BRIDGE) {
        return link.master.map(|master| Change::Enslaved { ifindex: link.ifindex, master });
    }
    Some(Change::Link(link))
}

fn read_address(payload: &[u8]) -> Option<(u32, IpNet)> {
    let prefix = *payload.get(1)?;
    let ifindex = number(payload.get(4..8)?)?;
    let (mut local, mut remote) = (None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        match kind {
            IFA_LOCAL => local = address(value),
            IFA_ADDRESS => remote = address(value),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end's; IPv6 leaves IFA_LOCAL out elsewhere.
    Some((ifindex, IpNet::new(local.or(remote)?, prefix).ok()?))
}

fn read_namespace(payload: &[u8]) -> Option<i32> {
    let (_, value) = attributes(payload.get(4..)?).find(|&(kind, _)| kind == NETNSA_NSID)?;
    number(value).map(u32::cast_signed)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link_header(family: u8, ifindex: u32, flags: u32) -> Vec<u8> {
        [&[family, 0, 1, 0][..], &ifindex.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat()
    }

    #[test]
    fn a_containers_veth() {
        let payload = [
            link_header(0, 12, IFF_UP),
            attribute(IFLA_IFNAME, b"veth3f1c\0"),
            attribute(IFLA_MASTER, &7_u32.to_ne_bytes()),
            attribute(IFLA_LINK, &2_u32.to_ne_bytes()),
            attribute(IFLA_LINK_NETNSID, &3_i32.to_ne_bytes()),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]),
            attribute(IFLA_LINKINFO | 0x8000, &attribute(IFLA_INFO_KIND, b"veth\0")),
            attribute(0x3fff, b"from a newer kernel"),
        ]
        .concat();
        let expected = Link {
            ifindex: 12,
            name: "veth3f1c".to_owned(),
            kind: "veth".to_owned(),
            master: Some(7),
            mac: Some([2, 0, 0, 0, 0, 9]),
            peer: Some(2),
            netns_id: Some(3),
            up: true,
            loopback: false,
            ethernet: true,
            appeared: None,
        };
        assert_eq!(read(RTM_NEWLINK, &payload), Some(Message::Change(Change::Link(expected))));
    }

    #[test]
    fn the_bridges_own_messages_never_add_or_remove_a_link() {
        let enslaved =
            [link_header(AF_BRIDGE, 12, IFF_UP), attribute(IFLA_MASTER, &7_u32.to_ne_bytes())].concat();
        let expected = Change::Enslaved { ifindex: 12, master: 7 };
        assert_eq!(read(RTM_NEWLINK, &enslaved), Some(Message::Change(expected)));
        assert_eq!(read(RTM_DELLINK, &enslaved), Some(Message::Change(Change::Released(12))));
        assert_eq!(read(RTM_DELLINK, &link_header(0, 12, 0)), Some(Message::Change(Change::LinkGone(12))));
    }

    #[test]
    fn addresses() {
        let header = |prefix| [&[2, prefix, 0, 0][..], &5_u32.to_ne_bytes()].concat();
        let local =
            [header(32), attribute(IFA_ADDRESS, &[192, 0, 2, 2]), attribute(IFA_LOCAL, &[192, 0, 2, 1])];
        let expected = Change::Address { ifindex: 5, address: "192.0.2.1/32".parse().unwrap() };
        assert_eq!(read(RTM_NEWADDR, &local.concat()), Some(Message::Change(expected)));

        let v6: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let global = [header(64), attribute(IFA_ADDRESS, &v6.octets())].concat();
        let expected = Change::AddressGone { ifindex: 5, address: "2001:db8::1/64".parse().unwrap() };
        assert_eq!(read(RTM_DELADDR, &global), Some(Message::Change(expected)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0_u16..100, payload in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Some(message) = read(kind, &payload) {
                prop_assert!(matches!(message, Message::Change(_) | Message::Namespace(_)));
            }
        }
    }
}
