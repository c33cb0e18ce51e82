//! The kernel's view over rtnetlink: dumps, notifications and namespace numbers. The only file that names netlink.
//!
//! Messages are read here, and only the few attributes that matter: a general parser refuses a whole message for
//! one attribute that a newer kernel changed, and a port that is not seen is not enforced.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_proto::{
    Connection, ConnectionHandle,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{task::JoinSet, time::timeout};

use super::links::{Change, Links};
use wire::Message;

mod wire;

/// Room for some ten thousand notifications: a burst of container starts must not overrun it.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// A kernel that does not answer for that long has lost the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A dump that changes under the reader is asked for again, but not forever.
const DUMP_ATTEMPTS: usize = 4;

// linux/rtnetlink.h, linux/netlink.h
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV6_ADDRESS: u32 = 9;
const GROUP_NSID: u32 = 28;
const NLM_F_DUMP_INTR: u16 = 0x10;

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
    socket.bind(&SocketAddr::new(0, mask)).map_err(NetlinkError::Open)?;
    let messages = messages.map(|(message, _)| message).boxed();
    let notifications = Notifications { messages, _connection: drive(connection) };

    let (connection, handle, _) = connect()?;
    Ok((notifications, Requests { handle, _connection: drive(connection) }))
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
            let complete = self.collect("list interfaces", Message::GetLinks, NLM_F_DUMP, &mut links).await?
                & self.collect("list addresses", Message::GetAddresses, NLM_F_DUMP, &mut links).await?;
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
        self.request(what, Message::GetNamespace(namespace.as_raw_fd()), 0, |message, _| {
            if let Message::Namespace(found) = message {
                id = Some(found);
            }
        })
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
            .map_err(|error| NetlinkError::Refused { what, source: io::Error::other(error.to_string()) })?;
        let read = async {
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message, answer.header),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused { what, source: error.to_io() });
                    }
                    NetlinkPayload::Overrun(_) => return Err(NetlinkError::NoAnswer { what }),
                    _ => {}
                }
            }
            Ok(())
        };
        timeout(REQUEST_TIMEOUT, read).await.unwrap_or(Err(NetlinkError::NoAnswer { what }))
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

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind()
    }

    fn buffer_len(&self) -> usize {
        self.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.write(buffer);
    }
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(wire::read(header.message_type, payload).unwrap_or(Self::Other(header.message_type)))
    }
}

/// The notifications that are in a buffer as the kernel fills it.
#[cfg(fuzzing)]
pub(crate) fn read_anything(mut bytes: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Ok(message) = NetlinkMessage::<Message>::deserialize(bytes) {
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        changes.extend(change(message.payload));
        match bytes.get(length.max(1)..) {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    changes
}

/// What one message says.
#[cfg(fuzzing)]
pub(crate) fn read_one(kind: u16, payload: &[u8]) -> Option<Change> {
    wire::read(kind, payload).and_then(|message| change(message.into()))
}
