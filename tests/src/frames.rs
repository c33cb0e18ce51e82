//! Sends very many hand-made frames from a namespace, every one of which the kernel has taken, and counts what crosses
//! interfaces, as the kernel itself counts it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use agent_common::packet::{PROTOCOL_TCP, PROTOCOL_UDP};
use anyhow::{Context, Result, bail};
use lab::interrupt;
use lab::netns::within;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::packet::{self, Ethernet, Payload};

/// Frames that are handed to the kernel by one call.
const BATCH: usize = 64;
/// Source ports of numbered frames: all but the lowest.
const SOURCE_PORTS: Range<u16> = 1024..65_024;

/// A frame to send many times over.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    numbered: Option<Numbered>,
}

/// Where a number goes in a TCP or UDP packet.
#[derive(Clone, Debug)]
struct Numbered {
    transport: usize,
    tcp: bool,
    /// What the destination ports begin with.
    port: u16,
    /// The sum over what the checksum covers, without ports and sequence number.
    sum: u64,
}

impl Template {
    /// The same frame every time.
    #[must_use]
    pub const fn fixed(bytes: Vec<u8>) -> Self {
        Self { bytes, numbered: None }
    }

    /// A TCP or UDP packet with another tuple for each number, and correct checksums. The payload's destination port
    /// is the first that is used; there is one more for every 64,000 numbers.
    #[must_use]
    pub fn numbered(ethernet: &Ethernet, source: IpAddr, destination: IpAddr, payload: &Payload) -> Self {
        let mut bytes = ethernet.ip(&packet::ip(source, destination, payload));
        let (transport, pseudo) = if source.is_ipv4() {
            let checksum = !fold(sum(&bytes[14..34]));
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
            (34, sum(&bytes[26..34]))
        } else {
            (54, sum(&bytes[22..54]))
        };
        let protocol = payload.protocol(source.is_ipv6());
        let port = u16::from_be_bytes([bytes[transport + 2], bytes[transport + 3]]);
        let tcp = protocol == PROTOCOL_TCP;
        bytes[transport..transport + 4].fill(0);
        if tcp {
            bytes[transport + 4..transport + 8].fill(0);
        }
        let length = bytes.len() - transport;
        let sum = pseudo + u64::from(protocol) + length as u64 + sum(&bytes[transport..]);
        debug_assert!(tcp || protocol == PROTOCOL_UDP, "only these two have ports");
        Self { bytes, numbered: Some(Numbered { transport, tcp, port, sum }) }
    }

    /// Writes the frame with this number into `frame`.
    fn write(&self, number: u64, frame: &mut Vec<u8>) {
        frame.clear();
        frame.extend_from_slice(&self.bytes);
        let Some(Numbered { transport, tcp, port, sum }) = self.numbered else { return };
        let (source, destination) = tuple(number, port);
        let sequence = if tcp { number as u32 } else { 0 };
        let sequence_sum = u64::from(sequence >> 16) + u64::from(sequence & 0xffff);
        let checksum = match !fold(sum + u64::from(source) + u64::from(destination) + sequence_sum) {
            // UDP has another use for 0.
            0 => 0xffff,
            checksum => checksum,
        };
        frame[transport..transport + 2].copy_from_slice(&source.to_be_bytes());
        frame[transport + 2..transport + 4].copy_from_slice(&destination.to_be_bytes());
        let at = if tcp {
            frame[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            transport + 16
        } else {
            transport + 6
        };
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Source and destination port of a numbered frame.
fn tuple(number: u64, first: u16) -> (u16, u16) {
    let sources = u64::from(SOURCE_PORTS.end - SOURCE_PORTS.start);
    let source = SOURCE_PORTS.start + (number % sources) as u16;
    (source, first.wrapping_add((number / sources) as u16))
}

/// The one's complement sum that IP checksums are made of.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u16::from_be_bytes([high, low]),
        [last] => u16::from_be_bytes([last, 0]),
        _ => 0,
    });
    words.map(u64::from).sum()
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Puts every template with every number onto `eth0` of a namespace, the templates in turn; returns how many frames
/// that were. A frame that finds no room is sent again, so that all of them get to the other end of the link.
pub fn send(netns: &Path, templates: &[Template], numbers: Range<u64>) -> Result<u64> {
    let templates = templates.to_vec();
    within(netns, move || {
        let socket = packet_socket("eth0")?;
        let mut frames = vec![Vec::new(); BATCH];
        let mut sent = 0;
        let mut waiting = 0;
        for number in numbers {
            interrupt::check()?;
            for template in &templates {
                template.write(number, &mut frames[waiting]);
                waiting += 1;
                if waiting == BATCH {
                    hand_over(&socket, &frames)?;
                    waiting = 0;
                }
                sent += 1;
            }
        }
        hand_over(&socket, &frames[..waiting])?;
        Ok(sent)
    })?
}

/// A socket that puts frames onto this interface of the caller's namespace.
pub(crate) fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let index = rustix::net::netdevice::name_to_index(socket.as_fd(), interface)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let size = u32::try_from(size_of_val(&address))?;
    // SAFETY: the address lives until the call returns, and its size is told.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } != 0 {
        return Err(std::io::Error::last_os_error()).context("failed to bind a packet socket");
    }
    Ok(socket)
}

fn hand_over(socket: &OwnedFd, frames: &[Vec<u8>]) -> Result<()> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: a message of zeroes is an empty one.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut left = &mut messages[..];
    while !left.is_empty() {
        let count = u32::try_from(left.len())?;
        // SAFETY: messages, parts and frames live until the call returns, and the kernel only reads what they point to.
        let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), count, 0) };
        if taken > 0 {
            left = &mut left[usize::try_from(taken)?..];
            continue;
        }
        let error = std::io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) {
            bail!("failed to send frames: {error}");
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    pub received: u64,
    pub sent: u64,
    /// What was to be sent and found no room on the other side.
    pub not_sent: u64,
}

/// What every interface of a namespace has counted, by name.
pub fn crossed(netns: &Path) -> Result<BTreeMap<String, Crossed>> {
    let table = within(netns, || std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let lines = table.lines().filter_map(|line| line.rsplit_once(':'));
    lines
        .map(|(name, numbers)| {
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .context("not a number")?;
            let [received, sent, not_sent] = [1, 9, 11].map(|column| numbers.get(column).copied());
            let crossed = received.zip(sent).zip(not_sent).map(|((received, sent), not_sent)| Crossed {
                received,
                sent,
                not_sent,
            });
            Ok((name.trim().to_owned(), crossed.context("too few columns")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Tcp, Udp};

    #[test]
    fn numbered_frames_differ_and_have_true_checksums() {
        let ethernet = Ethernet::new([2; 6], [4; 6]);
        for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let payloads = [Payload::Tcp(Tcp::new(1, 7000)), Payload::Udp(Udp::new(1, 7000))];
            for (protocol, payload) in [6, 17].into_iter().zip(payloads) {
                let template = Template::numbered(&ethernet, source, destination, &payload);
                let (start, pseudo) = if source.is_ipv4() { (34, 26..34) } else { (54, 22..54) };
                for number in [0, 1, 63_999, 64_000, 0x12_3456] {
                    let mut frame = Vec::new();
                    template.write(number, &mut frame);
                    let covered = sum(&frame[pseudo.clone()])
                        + protocol
                        + (frame.len() - start) as u64
                        + sum(&frame[start..]);
                    assert_eq!(fold(covered), 0xffff, "{source} {protocol} {number}");
                    if source.is_ipv4() {
                        assert_eq!(fold(sum(&frame[14..34])), 0xffff);
                    }
                }
            }
        }
        assert_eq!(tuple(0, 80), (1024, 80));
        assert_eq!(tuple(64_001, 80), (1025, 81));
    }
}
