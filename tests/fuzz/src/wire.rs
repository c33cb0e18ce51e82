//! Bytes of frames as they go over the wire, right by default and wrong wherever a field says so. Written from the
//! RFCs for this purpose only: nothing here is shared with the agent's parser, so that one cannot excuse the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const UDP_LITE: u8 = 136;
pub const ETHERNET: usize = 14;

/// Puts an Ethernet header in front.
#[must_use]
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Inserts tags behind the addresses; the first is the outermost.
#[must_use]
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let mut bytes = addresses.to_vec();
    for (kind, control) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(rest);
    bytes
}

/// An IPv4 header.
#[derive(Debug, Clone)]
pub struct Ipv4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub version: u8,
    pub tos: u8,
    pub id: u16,
    /// Flags and offset as one field.
    pub fragment: u16,
    pub ttl: u8,
    pub options: Vec<u8>,
    /// The header length in words, where it lies.
    pub words: Option<u8>,
    /// The total length, where it lies.
    pub total: Option<u16>,
    /// Added to the right checksum.
    pub wrong_checksum: u16,
}

impl Ipv4 {
    #[must_use]
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            version: 4,
            tos: 0,
            id: 0,
            fragment: 0,
            ttl: 64,
            options: Vec::new(),
            words: None,
            total: None,
            wrong_checksum: 0,
        }
    }

    /// The header and what it carries.
    #[must_use]
    pub fn carrying(&self, payload: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let words = self.words.unwrap_or((length / 4) as u8);
        let total = self.total.unwrap_or((length + payload.len()) as u16);
        let mut header = vec![(self.version << 4) | (words & 0x0f), self.tos];
        for short in [total, self.id, self.fragment] {
            header.extend(short.to_be_bytes());
        }
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let covered = header.len().min(usize::from(words) * 4);
        let sum = checksum(&[&header[..covered]]).wrapping_add(self.wrong_checksum);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(payload);
        header
    }
}

/// An IPv6 header.
#[derive(Debug, Clone)]
pub struct Ipv6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub next: u8,
    pub version: u8,
    pub class: u8,
    pub label: u32,
    pub hops: u8,
    /// The payload length, where it lies.
    pub length: Option<u16>,
}

impl Ipv6 {
    #[must_use]
    pub const fn new(source: Ipv6Addr, destination: Ipv6Addr, next: u8) -> Self {
        Self { source, destination, next, version: 6, class: 0, label: 0, hops: 64, length: None }
    }

    /// The header and what it carries.
    #[must_use]
    pub fn carrying(&self, payload: &[u8]) -> Vec<u8> {
        let first = u32::from(self.version) << 28 | u32::from(self.class) << 20 | (self.label & 0xf_ffff);
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(self.length.unwrap_or(payload.len() as u16).to_be_bytes());
        bytes.extend([self.next, self.hops]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(payload);
        bytes
    }
}

/// A TCP header.
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Nine bits: NS (or AE) above the usual eight.
    pub flags: u16,
    /// The three bits that nobody uses.
    pub reserved: u8,
    pub options: Vec<u8>,
    /// The header length in words, where it lies.
    pub words: Option<u8>,
    pub urgent: u16,
}

pub const FIN: u16 = 1;
pub const SYN: u16 = 2;
pub const RST: u16 = 4;
pub const PSH: u16 = 8;
pub const ACK: u16 = 16;
pub const URG: u16 = 32;
pub const ECE: u16 = 64;
pub const CWR: u16 = 128;
pub const NS: u16 = 256;

impl Tcp {
    fn bytes(&self, data: &[u8]) -> Vec<u8> {
        let words = self.words.unwrap_or(((20 + self.options.len()) / 4) as u8);
        let mut bytes = Vec::with_capacity(20 + self.options.len() + data.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.push((words << 4) | (self.reserved & 7) << 1 | (self.flags >> 8) as u8 & 1);
        bytes.push(self.flags as u8);
        bytes.extend(0x7210_u16.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.options);
        bytes.extend(data);
        bytes
    }
}

/// Two addresses of one family, in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
}

impl Ends {
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    #[must_use]
    pub const fn ethertype(&self) -> u16 {
        if self.is_v6() { IPV6 } else { IPV4 }
    }

    /// The other way round.
    #[must_use]
    pub const fn back(&self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// Fills in the checksum that lies at `at` of a message of `protocol`.
    #[must_use]
    pub fn summed(&self, protocol: u8, mut message: Vec<u8>, at: usize) -> Vec<u8> {
        let length = (message.len() as u32).to_be_bytes();
        let sum = checksum(&[
            &Self::octets(self.source),
            &Self::octets(self.destination),
            &length,
            &[0, 0, 0, protocol],
            &message,
        ]);
        // 0 would say that there is none.
        let sum = if sum == 0 && protocol == UDP { u16::MAX } else { sum };
        message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        message
    }

    /// A TCP segment.
    #[must_use]
    pub fn tcp(&self, header: &Tcp, data: &[u8]) -> Vec<u8> {
        self.summed(TCP, header.bytes(data), 16)
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        self.udp_of_length(source, destination, (8 + data.len()) as u16, data)
    }

    /// A UDP datagram whose length may lie.
    #[must_use]
    pub fn udp_of_length(&self, source: u16, destination: u16, length: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + data.len());
        for short in [source, destination, length, 0] {
            bytes.extend(short.to_be_bytes());
        }
        bytes.extend(data);
        self.summed(UDP, bytes, 6)
    }

    /// The protocol number of ICMP in this family.
    #[must_use]
    pub const fn icmp_protocol(&self) -> u8 {
        if self.is_v6() { ICMPV6 } else { ICMP }
    }

    /// An ICMP message: what stands behind type, code and checksum.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(rest);
        if self.is_v6() {
            return self.summed(ICMPV6, bytes, 2);
        }
        let sum = checksum(&[&bytes]);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// An echo request, or the reply to one.
    #[must_use]
    pub fn echo(&self, request: bool, id: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
        let kind = match (self.is_v6(), request) {
            (false, true) => 8,
            (false, false) => 0,
            (true, true) => 128,
            (true, false) => 129,
        };
        self.icmp(kind, 0, &[&id.to_be_bytes()[..], &sequence.to_be_bytes(), data].concat())
    }

    /// The plainest packet that carries a message.
    #[must_use]
    pub fn packet(&self, protocol: u8, message: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Ipv4::new(source, destination, protocol).carrying(message)
            }
            (source, destination) => Ipv6::new(as_v6(source), as_v6(destination), protocol).carrying(message),
        }
    }

    /// The IPv4 header, if these are IPv4 addresses.
    #[must_use]
    pub const fn ipv4(&self, protocol: u8) -> Option<Ipv4> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Ipv4::new(source, destination, protocol)),
            _ => None,
        }
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The sum of RFC 1071; each part but the last has an even length.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An ARP message.
#[derive(Debug, Clone)]
pub struct Arp {
    /// Hardware type, protocol, and their lengths.
    pub kinds: [u8; 6],
    pub operation: u16,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

impl Arp {
    #[must_use]
    pub const fn new(operation: u16, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { kinds: [0, 1, 8, 0, 6, 4], operation, sender_mac, sender, target_mac: [0; 6], target }
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.kinds.to_vec();
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender_mac);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac);
        bytes.extend(self.target.octets());
        bytes
    }
}
