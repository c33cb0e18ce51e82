//! The kernel's view over rtnetlink: dumps, notifications and namespace numbers. The only file that names netlink.
//!
//! Messages are read here, and only the few attributes that matter: a general parser refuses a whole message for
//! one attribute that a newer kernel changed, and a port that is not seen is not enforced.

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_proto::{
    Connection, ConnectionHandle,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{task::JoinSet, time::timeout};

use super::links::{Change, Link, Links};

/// Room for some ten thousand notifications: a burst of container starts must not overrun it.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// A kernel that does not answer for that long has lost the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A dump that changes under the reader is asked for again, but not forever.
const DUMP_ATTEMPTS: usize = 4;

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
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_NSID: u32 = 28;
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
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The rest are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// Talking to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("failed to open a netlink socket")]
    Open(#[source] io::Error),
    #[error("failed to {what} over netlink")]
    Refused {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("netlink gave no answer when asked to {what}")]
    NoAnswer { what: &'static str },
}

/// The socket that is notified. Dropped, it closes.
pub struct Notifications {
    messages: BoxStream<'static, NetlinkMessage<Message>>,
    _connection: JoinSet<()>,
}

/// The socket that asks. Dropped, it closes.
#[derive(Debug)]
pub struct Requests {
    handle: ConnectionHandle<Message>,
    _connection: JoinSet<()>,
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}

/// Opens both sockets in the calling thread's network namespace and subscribes to links, addresses and namespace
/// numbers. Needs a tokio runtime.
///
/// They are two because on a shared one a notification that carries the sequence number of somebody else's
/// request could be taken for the answer to ours.
pub fn open() -> Result<(Notifications, Requests), NetlinkError> {
    let (mut connection, _, messages) = connect()?;
    let socket = connection.socket_mut().socket_mut();
    // Before joining, so that not one notification meets the small default; unprivileged it stays near that.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BUFFER).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), RECEIVE_BUFFER)
            .map_err(|error| NetlinkError::Open(error.into()))?;
    }
    let groups = [GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS, GROUP_NSID];
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    socket
        .bind(&SocketAddr::new(0, mask))
        .map_err(NetlinkError::Open)?;
    let messages = messages.map(|(message, _)| message).boxed();
    let notifications = Notifications {
        messages,
        _connection: drive(connection),
    };

    let (connection, handle, _) = connect()?;
    Ok((
        notifications,
        Requests {
            handle,
            _connection: drive(connection),
        },
    ))
}

fn drive(connection: Connection<Message, TokioSocket>) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(connection);
    task
}

impl Notifications {
    /// The next notification; `None` when the socket is beyond use.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = change(self.messages.next().await?.payload) {
                return Some(change);
            }
        }
    }

    /// The next notification that is there already.
    pub fn try_next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = change(self.messages.next().now_or_never()??.payload) {
                return Some(change);
            }
        }
    }
}

impl Requests {
    /// Lists all links and addresses.
    pub async fn dump(&self) -> Result<Links, NetlinkError> {
        let mut links = Links::default();
        for _ in 0..DUMP_ATTEMPTS {
            links = Links::default();
            let complete = self
                .collect("list interfaces", Message::GetLinks, NLM_F_DUMP, &mut links)
                .await?
                & self
                    .collect("list addresses", Message::GetAddresses, NLM_F_DUMP, &mut links)
                    .await?;
            if complete {
                break;
            }
        }
        // A dump that was interrupted each time is still right in all that did not move meanwhile, and what did
        // move is in the notifications.
        Ok(links)
    }

    /// The number by which this namespace knows the one that `namespace` refers to.
    pub async fn namespace_id(&self, namespace: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
        let what = "number a network namespace";
        let mut id = None;
        self.request(
            what,
            Message::GetNamespace(namespace.as_raw_fd()),
            0,
            |message, _| {
                if let Message::Namespace(found) = message {
                    id = Some(found);
                }
            },
        )
        .await?;
        // The kernel says -1 for a namespace that none of ours has a link into.
        Ok(id.filter(|&id| id >= 0))
    }

    /// The MAC address of an interface of another namespace, which is not entered for it.
    pub async fn mac_in(&self, namespace: i32, ifindex: u32) -> Result<Option<[u8; 6]>, NetlinkError> {
        let mut mac = None;
        let message = Message::GetLinkIn { namespace, ifindex };
        self.request("look at the other end of a veth", message, 0, |message, _| {
            if let Message::Change(Change::Link(link)) = message {
                mac = link.mac;
            }
        })
        .await?;
        Ok(mac)
    }

    /// Adds a dump's messages to `links`; false if the kernel's tables moved under it.
    async fn collect(
        &self,
        what: &'static str,
        message: Message,
        flags: u16,
        links: &mut Links,
    ) -> Result<bool, NetlinkError> {
        let mut complete = true;
        self.request(what, message, flags, |message, header| {
            complete &= header.flags & NLM_F_DUMP_INTR == 0;
            match message {
                Message::Change(Change::Link(link)) => {
                    links.links.insert(link.ifindex, link);
                }
                Message::Change(Change::Address { ifindex, address }) => {
                    links.addresses.entry(ifindex).or_default().insert(address);
                }
                _ => {}
            }
        })
        .await?;
        Ok(complete)
    }

    async fn request(
        &self,
        what: &'static str,
        message: Message,
        flags: u16,
        mut each: impl FnMut(Message, NetlinkHeader),
    ) -> Result<(), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut answers = self
            .handle
            .request(request, SocketAddr::new(0, 0))
            .map_err(|error| NetlinkError::Refused {
                what,
                source: io::Error::other(error.to_string()),
            })?;
        let read = async {
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message, answer.header),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused {
                            what,
                            source: error.to_io(),
                        });
                    }
                    NetlinkPayload::Overrun(_) => return Err(NetlinkError::NoAnswer { what }),
                    _ => {}
                }
            }
            Ok(())
        };
        timeout(REQUEST_TIMEOUT, read)
            .await
            .unwrap_or(Err(NetlinkError::NoAnswer { what }))
    }
}

type Opened<S> = (Connection<Message, TokioSocket>, ConnectionHandle<Message>, S);

fn connect()
-> Result<Opened<impl futures_util::Stream<Item = (NetlinkMessage<Message>, SocketAddr)>>, NetlinkError> {
    netlink_proto::new_connection::<Message>(NETLINK_ROUTE).map_err(NetlinkError::Open)
}

fn change(payload: NetlinkPayload<Message>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(Message::Change(change)) => Some(change),
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}

/// What is sent and received, read just as far as the inventory needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
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

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::GetLinks | Self::GetLinkIn { .. } => RTM_GETLINK,
            Self::GetAddresses => RTM_GETADDR,
            Self::GetNamespace(_) => RTM_GETNSID,
            Self::Change(_) | Self::Namespace(_) => 0,
            Self::Other(kind) => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::GetLinks | Self::GetLinkIn { .. } => 16 + 8,
            Self::GetAddresses => 8,
            Self::GetNamespace(_) => 4 + 8,
            Self::Change(_) | Self::Namespace(_) | Self::Other(_) => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
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

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(read(header.message_type, payload).unwrap_or(Self::Other(header.message_type)))
    }
}

/// Reads a message; `None` if it is of no interest or too short.
fn read(kind: u16, payload: &[u8]) -> Option<Message> {
    let change = match kind {
        RTM_NEWLINK => read_link(payload)?,
        RTM_DELLINK => {
            let ifindex = number(payload.get(4..8)?)?;
            // The bridge only gives the port up; the link itself goes on.
            if *payload.first()? == AF_BRIDGE {
                Change::Released(ifindex)
            } else {
                Change::LinkGone(ifindex)
            }
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
        return link.master.map(|master| Change::Enslaved {
            ifindex: link.ifindex,
            master,
        });
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

/// Type and value of each well-formed attribute.
fn attributes(mut payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = payload.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = payload.get(4..length)?;
        payload = payload.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_TYPE, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
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
        [
            &[family, 0, 1, 0][..],
            &ifindex.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &[0; 4],
        ]
        .concat()
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
            appeared: None,
        };
        assert_eq!(
            read(RTM_NEWLINK, &payload),
            Some(Message::Change(Change::Link(expected)))
        );
    }

    #[test]
    fn the_bridges_own_messages_never_add_or_remove_a_link() {
        let enslaved = [
            link_header(AF_BRIDGE, 12, IFF_UP),
            attribute(IFLA_MASTER, &7_u32.to_ne_bytes()),
        ]
        .concat();
        let expected = Change::Enslaved {
            ifindex: 12,
            master: 7,
        };
        assert_eq!(read(RTM_NEWLINK, &enslaved), Some(Message::Change(expected)));
        assert_eq!(
            read(RTM_DELLINK, &enslaved),
            Some(Message::Change(Change::Released(12)))
        );
        assert_eq!(
            read(RTM_DELLINK, &link_header(0, 12, 0)),
            Some(Message::Change(Change::LinkGone(12)))
        );
    }

    #[test]
    fn addresses() {
        let header = |prefix| [&[2, prefix, 0, 0][..], &5_u32.to_ne_bytes()].concat();
        let local = [
            header(32),
            attribute(IFA_ADDRESS, &[192, 0, 2, 2]),
            attribute(IFA_LOCAL, &[192, 0, 2, 1]),
        ];
        let expected = Change::Address {
            ifindex: 5,
            address: "192.0.2.1/32".parse().unwrap(),
        };
        assert_eq!(
            read(RTM_NEWADDR, &local.concat()),
            Some(Message::Change(expected))
        );

        let v6: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let global = [header(64), attribute(IFA_ADDRESS, &v6.octets())].concat();
        let expected = Change::AddressGone {
            ifindex: 5,
            address: "2001:db8::1/64".parse().unwrap(),
        };
        assert_eq!(read(RTM_DELADDR, &global), Some(Message::Change(expected)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0_u16..100, payload in prop::collection::vec(any::<u8>(), 0..128)) {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            prop_assert!(Message::deserialize(&header, &payload).is_ok());
        }
    }
}
