//! Builds frames to send through the programs, right or wrong in any field that they look at.
//!
//! Checksums are left at zero: the programs do not look at them, because between containers they are not filled in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::packet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// TCP flags (RFC 9293).
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// IPv6 extension headers (RFC 8200).
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

/// An Ethernet frame.
#[derive(Clone, Debug)]
pub struct Ethernet {
    source: Mac,
    destination: Mac,
    tags: Vec<(u16, u16)>,
    padding: usize,
}

impl Ethernet {
    #[must_use]
    pub fn new(source: Mac, destination: Mac) -> Self {
        Self { source, destination, tags: Vec::new(), padding: 0 }
    }

    /// Adds a VLAN tag behind those that are there: its ethertype and its control field.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, control: u16) -> Self {
        self.tags.push((ethertype, control));
        self
    }

    /// Bytes behind the payload that no length counts, as a driver adds to short frames.
    #[must_use]
    pub fn padded(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// The frame around any payload.
    #[must_use]
    pub fn carrying(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.destination, self.source].concat();
        for (tag, control) in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// The frame around an IP packet, with the ethertype that its first byte calls for.
    #[must_use]
    pub fn ip(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype =
            if packet.first().is_some_and(|byte| byte >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        self.carrying(ethertype, packet)
    }
}

/// An IPv4 packet.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    version: u8,
    header_words: Option<u8>,
    total_length: Option<u16>,
    fragment: u16,
    options: Vec<u8>,
}

impl Ipv4 {
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            version: 4,
            header_words: None,
            total_length: None,
            fragment: 0x4000,
            options: Vec::new(),
        }
    }

    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// A header length that need not be true.
    #[must_use]
    pub fn header_words(mut self, words: u8) -> Self {
        self.header_words = Some(words);
        self
    }

    /// A total length that need not be true.
    #[must_use]
    pub fn total_length(mut self, bytes: u16) -> Self {
        self.total_length = Some(bytes);
        self
    }

    /// A fragment at an offset in units of 8 bytes.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = offset | if more { 0x2000 } else { 0 };
        self
    }

    /// Sets the bit that must be zero.
    #[must_use]
    pub fn evil(mut self) -> Self {
        self.fragment |= 0x8000;
        self
    }

    /// Options, a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    #[must_use]
    pub fn carrying(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let words = self.header_words.unwrap_or_else(|| small(header / 4));
        let total = self.total_length.unwrap_or_else(|| length(header + payload.len()));
        let mut packet = vec![self.version << 4 | words, 0];
        packet.extend(total.to_be_bytes());
        packet.extend(0x1234_u16.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        packet.extend(payload);
        packet
    }
}

/// An IPv6 packet.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    version: u8,
    hop_limit: u8,
    payload_length: Option<u16>,
    extensions: Vec<(u8, Vec<u8>)>,
}

impl Ipv6 {
    #[must_use]
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { source, destination, version: 6, hop_limit: 64, payload_length: None, extensions: Vec::new() }
    }

    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    #[must_use]
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// A payload length that need not be true.
    #[must_use]
    pub fn payload_length(mut self, bytes: u16) -> Self {
        self.payload_length = Some(bytes);
        self
    }

    /// Adds an extension header. `body` starts behind the next-header byte, so with the length.
    #[must_use]
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        self.extensions.push((kind, body.to_vec()));
        self
    }

    /// Adds an empty destination options header.
    #[must_use]
    pub fn destination_options(self) -> Self {
        self.extension(DESTINATION_OPTIONS, &[0, 1, 4, 0, 0, 0, 0])
    }

    /// Adds a fragment header, offset in units of 8 bytes.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        self.extension(FRAGMENT, &[0, high, low, 0, 0, 0, 7])
    }

    /// Adds the router alert that listener messages carry.
    #[must_use]
    pub fn router_alert(self) -> Self {
        self.extension(HOP_BY_HOP, &[0, 5, 2, 0, 0, 1, 0])
    }

    #[must_use]
    pub fn carrying(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (index, (_, body)) in self.extensions.iter().enumerate() {
            chain.push(self.extensions.get(index + 1).map_or(protocol, |(next, _)| *next));
            chain.extend(body);
        }
        let first = self.extensions.first().map_or(protocol, |(kind, _)| *kind);
        let total = self.payload_length.unwrap_or_else(|| length(chain.len() + payload.len()));
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(total.to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(chain);
        packet.extend(payload);
        packet
    }
}

/// An ordinary IP packet of either family.
///
/// # Panics
///
/// If the addresses are of two families.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, payload: &Payload) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Ipv4::new(source, destination).carrying(payload.protocol(false), &payload.bytes(false))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Ipv6::new(source, destination).carrying(payload.protocol(true), &payload.bytes(true))
        }
        _ => panic!("`{source}` and `{destination}` are of two families"),
    }
}

/// What an IP packet carries; the same for both families.
#[derive(Clone, Debug)]
pub enum Payload {
    Tcp(Tcp),
    Udp(Udp),
    /// An echo request or reply.
    Echo {
        request: bool,
        identifier: u16,
    },
    /// "Port unreachable", with the packet that it complains about.
    Unreachable {
        quoted: Vec<u8>,
    },
}

impl Payload {
    #[must_use]
    pub fn protocol(&self, ipv6: bool) -> u8 {
        match self {
            Self::Tcp(_) => PROTOCOL_TCP,
            Self::Udp(_) => PROTOCOL_UDP,
            _ if ipv6 => PROTOCOL_ICMPV6,
            _ => PROTOCOL_ICMP,
        }
    }

    #[must_use]
    pub fn bytes(&self, ipv6: bool) -> Vec<u8> {
        match self {
            Self::Tcp(tcp) => tcp.bytes(),
            Self::Udp(udp) => udp.bytes(),
            Self::Echo { request, identifier } => {
                let kind = match (ipv6, request) {
                    (false, true) => 8,
                    (false, false) => 0,
                    (true, true) => 128,
                    (true, false) => 129,
                };
                let [high, low] = identifier.to_be_bytes();
                icmp(kind, 0, [high, low, 0, 1], b"portcullis")
            }
            Self::Unreachable { quoted } if ipv6 => icmp(1, 4, [0; 4], quoted),
            Self::Unreachable { quoted } => icmp(3, 3, [0; 4], quoted),
        }
    }
}

/// A TCP segment without data.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    source: u16,
    destination: u16,
    flags: u8,
    sequence: u32,
    data_offset: u8,
    reserved: u8,
}

impl Tcp {
    /// A SYN.
    #[must_use]
    pub const fn new(source: u16, destination: u16) -> Self {
        Self { source, destination, flags: SYN, sequence: 1, data_offset: 5, reserved: 0 }
    }

    #[must_use]
    pub const fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    #[must_use]
    pub const fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    /// A header length in words that need not be true.
    #[must_use]
    pub const fn data_offset(mut self, words: u8) -> Self {
        self.data_offset = words;
        self
    }

    /// The four bits behind the header length, the last of which is accurate ECN.
    #[must_use]
    pub const fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut segment = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend([self.data_offset << 4 | self.reserved, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment
    }
}

/// A UDP datagram of a few bytes.
#[derive(Clone, Copy, Debug)]
pub struct Udp {
    source: u16,
    destination: u16,
    length: Option<u16>,
}

impl Udp {
    #[must_use]
    pub const fn new(source: u16, destination: u16) -> Self {
        Self { source, destination, length: None }
    }

    /// A length that need not be true.
    #[must_use]
    pub const fn length(mut self, bytes: u16) -> Self {
        self.length = Some(bytes);
        self
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let data = b"data";
        let mut datagram = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        datagram.extend(self.length.unwrap_or_else(|| length(8 + data.len())).to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(data);
        datagram
    }
}

/// Any ICMP or ICMPv6 message: type, code, the second word of the header, the rest.
#[must_use]
pub fn icmp(kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &word[..], rest].concat()
}

/// An ARP message.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    pub operation: u16,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

impl Arp {
    #[must_use]
    pub const fn request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { operation: 1, sender_mac, sender, target }
    }

    /// Without its Ethernet header.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![0, 1, 8, 0, 6, 4];
        message.extend(self.operation.to_be_bytes());
        message.extend(self.sender_mac);
        message.extend(self.sender.octets());
        message.extend([0; 6]);
        message.extend(self.target.octets());
        message
    }

    /// As a frame from the MAC that it names.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        Ethernet::new(self.sender_mac, BROADCAST).carrying(ETHERTYPE_ARP, &self.bytes())
    }
}

/// A neighbour solicitation (135) or advertisement (136), with options as they lie in the message.
#[must_use]
pub fn neighbour(kind: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    icmp(kind, 0, [0; 4], &[&target.octets(), options].concat())
}

/// An option that names a link-layer address: 1 for the source's, 2 for the target's.
#[must_use]
pub fn link_layer(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

fn small(words: usize) -> u8 {
    u8::try_from(words).unwrap_or(u8::MAX) & 0x0f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_in_a_packet_in_a_frame() {
        let tcp = Payload::Tcp(Tcp::new(0x1122, 443).flags(SYN | ACK).sequence(7));
        let packet = ip("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), &tcp);
        let frame = Ethernet::new([2; 6], [4; 6]).padded(2).ip(&packet);
        assert_eq!(frame[..14], [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 8, 0]);
        assert_eq!(frame[14..18], [0x45, 0, 0, 40]);
        assert_eq!(frame[23], 6);
        assert_eq!(frame[34..38], [0x11, 0x22, 1, 0xbb]);
        assert_eq!(frame[46..48], [0x50, 0x12]);
        assert_eq!(frame.len(), 14 + 40 + 2);
    }

    #[test]
    fn extension_headers_are_chained() {
        let address = "2001:db8::1".parse().unwrap();
        let packet = Ipv6::new(address, address).router_alert().fragment(1, true).carrying(58, &[9]);
        assert_eq!(packet[4..8], [0, 17, HOP_BY_HOP, 64]);
        assert_eq!(packet[40..48], [FRAGMENT, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(packet[48..52], [58, 0, 0, 9]);
        assert_eq!(packet[56..], [9]);
    }
}
