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

/// The prefix of IPv4 addresses in 16-byte form (RFC 4291, 2.5.5.2).
pub const IPV4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 address in 16-byte form.
#[inline(always)]
#[must_use]
pub const fn from_ipv4(address: [u8; 4]) -> [u8; 16] {
    let mut mapped = [0; 16];
    mapped[10] = 0xff;
    mapped[11] = 0xff;
    mapped[12] = address[0];
    mapped[13] = address[1];
    mapped[14] = address[2];
    mapped[15] = address[3];
    mapped
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

/// A TCP, UDP or ICMP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    pub destination: [u8; 16],
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

/// Whether no packet may carry this source address on a wire, whoever sends it.
///
/// Loopback, multicast, unspecified, broadcast, class E, and the IPv6 ranges that stand for IPv4
/// addresses (RFC 4291, RFC 6052): they would confuse whatever compares addresses.
#[inline(always)]
#[must_use]
pub fn is_impossible_source(address: &[u8; 16]) -> bool {
    if is_ipv4(address) {
        let first = address[12];
        first == 0 || first == 127 || first >= 224
    } else {
        address[0] == 0xff || is_impossible_ipv6(address)
    }
}

/// Whether no packet may carry this destination address on a wire.
#[inline(always)]
#[must_use]
pub fn is_impossible_destination(address: &[u8; 16]) -> bool {
    if is_ipv4(address) {
        let first = address[12];
        let broadcast = u32::from_be_bytes([address[12], address[13], address[14], address[15]]) == u32::MAX;
        first == 0 || first == 127 || (first >= 240 && !broadcast)
    } else {
        is_impossible_ipv6(address)
    }
}

/// Whether the address names a group: multicast or IPv4 limited broadcast.
#[inline(always)]
#[must_use]
pub fn is_group(address: &[u8; 16]) -> bool {
    if is_ipv4(address) {
        address[12] >= 224
    } else {
        address[0] == 0xff
    }
}

/// Whether the address is IPv6 link-local (fe80::/10).
#[inline(always)]
#[must_use]
pub fn is_link_local_ipv6(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// Whether the address is an IPv4 address in 16-byte form.
#[inline(always)]
#[must_use]
pub fn is_ipv4(address: &[u8; 16]) -> bool {
    (u128::from_be_bytes(*address) >> 32) == 0xffff
}

#[inline(always)]
fn is_impossible_ipv6(address: &[u8; 16]) -> bool {
    let value = u128::from_be_bytes(*address);
    // ::/96 holds `::`, `::1` and the IPv4-compatible addresses; 64:ff9b::/96 is NAT64.
    value >> 32 == 0 || value >> 32 == 0x0064_ff9b_0000_0000_0000_0000
}

const _: () = assert!(size_of::<Packet>() == 44);

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
        for flags in [
            0,
            TCP_FIN,
            0x29,
            TCP_SYN | TCP_FIN,
            TCP_SYN | TCP_RST,
            TCP_FIN | TCP_RST,
            0x08,
        ] {
            assert_eq!(tcp_intent(flags), None, "{flags:#x}");
        }
    }

    #[test]
    fn the_rest_continues() {
        for flags in [
            TCP_ACK,
            TCP_SYN | TCP_ACK,
            TCP_FIN | TCP_ACK,
            TCP_RST,
            TCP_RST | TCP_ACK,
            0x18,
        ] {
            assert_eq!(tcp_intent(flags), Some(Intent::Continue), "{flags:#x}");
        }
    }
}
