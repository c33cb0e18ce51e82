//! One parsed packet, the same for IPv4 and IPv6: what comes out of the parser and goes into the decision.

/// IP protocol numbers (IANA).
pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Ethertypes (IEEE 802), in host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// TCP flags (RFC 9293).
pub const TCP_FIN: u8 = 0x01;
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// Two words in network byte order, because the BPF target copies and compares bytes one by one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u64; 2]);

impl Address {
    /// `::`, which belongs to nobody.
    pub const UNSPECIFIED: Self = Self([0; 2]);

    /// From the 16 bytes as they go over the wire.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let value = u128::from_be_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self([((value >> 64) as u64).to_be(), (value as u64).to_be()])
    }

    /// From two words as they lie in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// From an IPv4 address as it lies in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_ipv4_be(address: u32) -> Self {
        let shifted = if cfg!(target_endian = "little") { (address as u64) << 32 } else { address as u64 };
        Self([0, 0xffff_0000_0000_u64.to_be() | shifted])
    }

    /// An IPv4 address in 16-byte form.
    #[must_use]
    pub const fn from_ipv4(bytes: [u8; 4]) -> Self {
        Self::from_ipv4_be(u32::from_ne_bytes(bytes))
    }

    /// The words as they lie in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The 16 bytes as they go over the wire.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        (((u64::from_be(self.0[0]) as u128) << 64) | u64::from_be(self.0[1]) as u128).to_be_bytes()
    }

    /// The two halves in host order.
    #[inline(always)]
    const fn halves(&self) -> (u64, u64) {
        (u64::from_be(self.0[0]), u64::from_be(self.0[1]))
    }

    /// The IPv4 address in host order, if this is one.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4(&self) -> Option<u32> {
        let (high, low) = self.halves();
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the address")]
        if high == 0 && low >> 32 == 0xffff { Some(low as u32) } else { None }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.ipv4().is_some()
    }

    /// Whether the address names a group: multicast, or IPv4 limited broadcast.
    #[inline(always)]
    #[must_use]
    pub const fn is_group(&self) -> bool {
        match self.ipv4() {
            Some(address) => address >> 28 >= 0xe,
            None => self.halves().0 >> 56 == 0xff,
        }
    }

    /// Whether the address is IPv6 link-local (fe80::/10).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local_ipv6(&self) -> bool {
        self.halves().0 >> 54 == 0xfe80 >> 6
    }

    /// Whether no packet may carry this source address on a wire, whoever sends it.
    ///
    /// Loopback, multicast, unspecified, broadcast, class E, and the IPv6 ranges that stand for IPv4 addresses
    /// (RFC 4291, RFC 6052): they would confuse whatever compares addresses.
    #[inline(always)]
    #[must_use]
    pub const fn is_impossible_source(&self) -> bool {
        match self.ipv4() {
            Some(address) => matches!(address >> 24, 0 | 127 | 224..),
            None => self.halves().0 >> 56 == 0xff || self.is_impossible_ipv6(),
        }
    }

    /// Whether no packet may carry this destination address on a wire.
    #[inline(always)]
    #[must_use]
    pub const fn is_impossible_destination(&self) -> bool {
        match self.ipv4() {
            Some(u32::MAX) => false,
            Some(address) => matches!(address >> 24, 0 | 127 | 240..),
            None => self.is_impossible_ipv6(),
        }
    }

    /// ::/96 holds `::`, `::1` and the IPv4-compatible addresses; 64:ff9b::/96 is NAT64.
    #[inline(always)]
    const fn is_impossible_ipv6(&self) -> bool {
        let (high, low) = self.halves();
        low >> 32 == 0 && (high == 0 || high == 0x0064_ff9b_0000_0000)
    }
}

/// An Ethernet address, its six bytes as one number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(u64);

impl Mac {
    /// From the six bytes as they go over the wire.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self::from_shorts([
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            u16::from_ne_bytes([e, f]),
        ])
    }

    /// From three half-words as they lie in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_shorts(shorts: [u16; 3]) -> Self {
        let [a, b, c] = shorts;
        Self(((u16::from_be(a) as u64) << 32) | ((u16::from_be(b) as u64) << 16) | u16::from_be(c) as u64)
    }

    /// From the number that the six bytes are, the first being the highest.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number & 0xffff_ffff_ffff)
    }

    /// The number that the six bytes are, the first being the highest.
    #[inline(always)]
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.0
    }

    /// The six bytes as they go over the wire.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// The link-local address that an interface with this MAC gives itself (RFC 4291, appendix A).
    #[inline(always)]
    #[must_use]
    pub const fn link_local(&self) -> Address {
        let interface = ((self.0 & 0xffff_ff00_0000) << 16) | 0xff_fe00_0000 | (self.0 & 0xff_ffff);
        Address([0xfe80_0000_0000_0000_u64.to_be(), (interface ^ 0x0200_0000_0000_0000).to_be()])
    }
}

/// What the packet wants, as far as flows are concerned.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Opens a flow: a TCP SYN, an ICMP echo request.
    Open = 0,
    /// Opens a flow if there is none: a UDP datagram.
    Datagram = 1,
    /// Only ever part of a flow: any other TCP segment, an ICMP echo reply.
    Continue = 2,
    /// An ICMP error: the addresses and ports are those of the packet that it complains about,
    /// turned round, so that it looks like a packet of that flow.
    Error = 3,
}

impl Intent {
    /// Whether a packet without a flow may open one.
    #[inline(always)]
    #[must_use]
    pub const fn opens(self) -> bool {
        matches!(self, Self::Open | Self::Datagram)
    }
}

/// A TCP, UDP or ICMP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    /// In host order. An echo's identifier stands on the side of whoever asks, 0 on the other.
    pub source_port: u16,
    pub destination_port: u16,
    /// [`PROTOCOL_TCP`], [`PROTOCOL_UDP`] or [`PROTOCOL_ICMP`], the last for ICMPv6 too.
    pub protocol: u8,
    /// The flags byte of the TCP header, else 0.
    pub tcp_flags: u8,
    pub intent: Intent,
    pub _pad: u8,
    /// The TCP sequence number, else 0.
    pub sequence: u32,
    pub _pad2: u32,
}

/// What a TCP flags byte means for flows; `None` for combinations that no stack sends.
///
/// Only SYN, ACK, FIN and RST decide: Linux opens a connection for a SYN with any of PSH, URG, ECE, CWR.
#[inline(always)]
#[must_use]
pub const fn tcp_intent(flags: u8) -> Option<Intent> {
    match flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) {
        TCP_SYN => Some(Intent::Open),
        flags if flags & TCP_SYN != 0 && flags & (TCP_FIN | TCP_RST) != 0 => None,
        flags if flags & (TCP_FIN | TCP_RST) == (TCP_FIN | TCP_RST) => None,
        flags if flags & (TCP_ACK | TCP_RST) != 0 => Some(Intent::Continue),
        _ => None,
    }
}

const _: () = assert!(size_of::<Packet>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_combinations_that_open_on_linux_are_openings() {
        // Reproduced on Linux 6.18: these were answered with a SYN-ACK.
        for extra in [0, 0x08, 0x20, 0x28, 0xc0] {
            assert_eq!(tcp_intent(TCP_SYN | extra), Some(Intent::Open));
        }
    }

    #[test]
    fn combinations_that_no_stack_sends_are_invalid() {
        for flags in [0, TCP_FIN, 0x29, TCP_SYN | TCP_FIN, TCP_SYN | TCP_RST, TCP_FIN | TCP_RST, 0x08] {
            assert_eq!(tcp_intent(flags), None, "{flags:#x}");
        }
    }

    #[test]
    fn impossible_addresses_are_known() {
        let v6 = |text: &str| Address::new(text.parse::<core::net::Ipv6Addr>().unwrap().octets());
        for source in ["::", "::1", "::192.0.2.1", "64:ff9b::c000:201", "ff02::1"] {
            assert!(v6(source).is_impossible_source(), "{source}");
        }
        for source in ["2001:db8::1", "fe80::1", "64:ff9b:1::1", "fd00::ffff:1"] {
            assert!(!v6(source).is_impossible_source(), "{source}");
            assert!(!v6(source).is_impossible_destination(), "{source}");
        }
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(Address::from_ipv4(source).is_impossible_source(), "{source:?}");
        }
        assert!(!Address::from_ipv4([172, 17, 0, 2]).is_impossible_source());
        assert!(!Address::from_ipv4([255, 255, 255, 255]).is_impossible_destination());
        assert!(Address::from_ipv4([255, 255, 255, 255]).is_group());
        assert!(v6("::ffff:192.0.2.1").is_ipv4());
        assert!(!v6("::fffe:192.0.2.1").is_ipv4());
    }

    #[test]
    fn a_syn_an_echo_request_and_a_datagram_may_open_a_flow() {
        let intents = [Intent::Open, Intent::Datagram, Intent::Continue, Intent::Error];
        assert_eq!(intents.map(Intent::opens), [true, true, false, false]);
    }

    #[test]
    fn a_macs_number_begins_with_its_first_byte() {
        assert_eq!(Mac::new([0x02, 0x42, 0xac, 0x11, 0x00, 0x03]).number(), 0x0242_ac11_0003);
    }

    #[test]
    fn a_mac_gives_its_link_local_address() {
        let mac = Mac::new([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        let expected: core::net::Ipv6Addr = "fe80::42:acff:fe11:2".parse().unwrap();
        assert_eq!(mac.link_local(), Address::new(expected.octets()));
        assert_eq!(mac.link_local().bytes(), expected.octets());
        assert_eq!(mac.bytes(), [0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        assert_eq!(Mac::from_number(0xffff_0242_ac11_0002), mac);
    }

    #[test]
    fn the_rest_continues() {
        for flags in [TCP_ACK, TCP_SYN | TCP_ACK, TCP_FIN | TCP_ACK, TCP_RST, TCP_RST | TCP_ACK, 0x18] {
            assert_eq!(tcp_intent(flags), Some(Intent::Continue), "{flags:#x}");
        }
    }

    /// Every flags byte, by the sentence: SYN alone opens, what has ACK or RST continues, and SYN, FIN and RST exclude
    /// each other.
    #[test]
    fn every_flags_byte_has_one_meaning() {
        for flags in 0..=u8::MAX {
            let has = |flag: u8| flags & flag == flag;
            let [fin, syn, rst, ack] = [0x01, 0x02, 0x04, 0x10].map(has);
            let expected = match (syn, ack, fin, rst) {
                (true, false, false, false) => Some(Intent::Open),
                (true, true, false, false) => Some(Intent::Continue),
                (true, ..) | (_, _, true, true) => None,
                (false, ack, _, rst) => (ack || rst).then_some(Intent::Continue),
            };
            assert_eq!(tcp_intent(flags), expected, "{flags:#04x}");
        }
    }

    #[test]
    fn an_address_keeps_its_bytes_whatever_it_is_made_from() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let address = Address::new(bytes);
        assert_eq!(address.bytes(), bytes);
        assert_eq!(Address::from_words(address.words()), address);
        assert_eq!(address.words().map(u64::to_ne_bytes).as_flattened(), bytes);
        let four = Address::from_ipv4([192, 0, 2, 7]);
        assert_eq!(four.bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(four.ipv4(), Some(0xc000_0207));
        assert_eq!(Address::from_ipv4_be(u32::from_ne_bytes([192, 0, 2, 7])), four);
    }

    /// What the standard library says of addresses, where it says the same as the rules here.
    #[test]
    fn groups_and_link_local_addresses_are_known_to_their_ends() {
        for first in 0..=u8::MAX {
            let four = Address::from_ipv4([first, 1, 2, 3]);
            assert_eq!(four.is_group(), first >= 224, "{first}.1.2.3");
            assert!(!four.is_link_local_ipv6());
            assert_eq!(four.is_impossible_source(), matches!(first, 0 | 127 | 224..), "{first}.1.2.3");
            assert_eq!(four.is_impossible_destination(), matches!(first, 0 | 127 | 240..), "{first}.1.2.3");
            for second in [0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xff] {
                let octets = [first, second, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1];
                let known = core::net::Ipv6Addr::from(octets);
                let six = Address::new(octets);
                assert_eq!(six.is_group(), known.is_multicast(), "{known}");
                assert_eq!(six.is_link_local_ipv6(), known.is_unicast_link_local(), "{known}");
                assert_eq!(six.is_impossible_source(), known.is_multicast(), "{known}");
                assert!(!six.is_impossible_destination() && !six.is_ipv4(), "{known}");
            }
        }
    }

    #[test]
    fn addresses_that_stand_for_ipv4_are_impossible_and_their_neighbours_are_not() {
        let v6 = |text: &str| Address::new(text.parse::<core::net::Ipv6Addr>().unwrap().octets());
        for (text, impossible) in [
            ("::", true),
            ("::ffff:ffff", true),
            ("::1:0:0", false),
            ("0:0:0:1::", false),
            ("64:ff9b::", true),
            ("64:ff9b::ffff:ffff", true),
            ("64:ff9b::1:0:0", false),
            ("64:ff9b:0:1::1", false),
            ("64:ff9a:ffff:ffff::1", false),
        ] {
            assert_eq!(v6(text).is_impossible_source(), impossible, "{text}");
            assert_eq!(v6(text).is_impossible_destination(), impossible, "{text}");
        }
        for (text, four) in [
            ("::ffff:0:0", true),
            ("::fffe:ffff:ffff", false),
            ("::1:ffff:1:1", false),
            ("1::ffff:1:1", false),
        ] {
            assert_eq!(v6(text).is_ipv4(), four, "{text}");
        }
    }

    #[test]
    fn a_mac_keeps_its_bytes() {
        let bytes = [0x01, 0x82, 0x43, 0xc4, 0x25, 0xa6];
        let [a, b, c, d, e, f] = bytes;
        let shorts = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
        assert_eq!(Mac::from_shorts(shorts).bytes(), bytes);
        assert_eq!(Mac::new(bytes), Mac::from_shorts(shorts));
        // The bit for local administration is turned over, whichever way it was.
        assert_eq!(
            Mac::new(bytes).link_local().bytes()[8..],
            [0x03, 0x82, 0x43, 0xff, 0xfe, 0xc4, 0x25, 0xa6]
        );
        assert_eq!(
            Mac::new([0xff; 6]).link_local().bytes()[8..],
            [0xfd, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff]
        );
    }
}
