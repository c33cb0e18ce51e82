//! One question over netlink and its answers, on a socket of its own that waits for them. For what is asked now and
//! then; what is followed has `inventory::netlink`.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv,
    sendto, socket_with, sockopt,
};

/// A kernel that does not answer for that long has lost the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The kernel fills no more than 32 KiB at a time.
const ROOM: usize = 64 * 1024;
const HEADER: usize = 16;

// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The rest are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// Whether one thing is asked for or all there are, or one that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    One,
    All,
    New,
}

impl Ask {
    const fn flags(self) -> u16 {
        NLM_F_REQUEST
            | match self {
                Self::One => NLM_F_ACK,
                Self::All => NLM_F_DUMP,
                Self::New => NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            }
    }
}

/// Asks, and returns the payload of each answer. No protocol is that of routes.
pub(crate) fn request(
    protocol: Option<Protocol>,
    kind: u16,
    ask: Ask,
    payload: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(ask.flags().to_ne_bytes());
    // A sequence number, and whose it is: nobody else uses this socket.
    message.extend([0; 8]);
    message.extend(payload);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    receive(socket.as_fd())
}

fn receive(socket: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut answers = Vec::new();
    let mut buffer = vec![0; ROOM];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, payload, next)) = message(rest) {
            rest = next;
            match kind {
                NLMSG_DONE => return Ok(answers),
                NLMSG_ERROR => {
                    return match payload.get(..4).and_then(number) {
                        Some(0) => Ok(answers),
                        Some(code) => Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg())),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                _ => answers.push(payload.to_vec()),
            }
        }
    }
}

/// Kind and payload of the first message, and what follows it.
pub(crate) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes.get(..4)?)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Type and value of each well-formed attribute.
pub(crate) fn attributes(mut payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = payload.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = payload.get(4..length)?;
        payload = payload.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_TYPE, value))
    })
}

/// A number in the machine's order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_ends_where_it_says() {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(7_u16.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([1, 2, 3, 4]);
        bytes.extend([9; 3]);
        assert_eq!(message(&bytes), Some((7, &[1, 2, 3, 4][..], &[9; 3][..])));
        assert_eq!(message(&bytes[..19]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let mut rest = &bytes[..];
            while let Some((_, payload, next)) = message(rest) {
                prop_assert!(next.len() < rest.len());
                prop_assert!(attributes(payload).count() <= payload.len());
                rest = next;
            }
        }
    }
}
