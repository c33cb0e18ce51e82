//! Finds the ports of a packet behind whatever IP header it has, for hooks that watch over some ports and leave all
//! other traffic alone. [`super::parse`] is for those that let nothing pass which they do not fully understand.

use agent_common::{
    packet::{Address, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Intent, PROTOCOL_TCP, PROTOCOL_UDP, tcp_intent},
    verdict::DropReason,
};

use super::{ETHERNET, Frame, FrameKind, IPV4, IPV6, byte, halves, high, low};
use crate::{maps, skb::Skb};

/// Bits of the VLAN tag that number the VLAN; 0 only carries a priority and is received like no tag.
const VLAN: u32 = 0x0fff;
const ETHERTYPE_VLAN: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// Extension headers that are walked. A stack sends two or three at most.
const EXTENSIONS: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What was found.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    /// Nothing that could reach a TCP or UDP socket of the host by itself.
    None = 0,
    /// `packet` is complete.
    Found = 1,
    /// There may be ports that the receiver's stack would find; the frame's flaw says why they were not.
    Hidden = 2,
}

impl Frame {
    /// What [`locate`] found.
    #[inline(always)]
    pub(crate) const fn ports(&self) -> Ports {
        match self.ports {
            0 => Ports::None,
            1 => Ports::Found,
            _ => Ports::Hidden,
        }
    }
}

/// Fills `frame.packet` as far as ports can be found. `link_header`: whether the packet has an Ethernet header.
#[inline(always)]
pub(crate) fn locate(skb: Skb, frame: &mut Frame, link_header: bool) {
    frame.reset();
    frame.flaw = 0;
    frame.kind = FrameKind::Flow;
    frame.ports = match find(skb, frame, if link_header { ETHERNET } else { 0 }) {
        Ok(ports) => ports as u8,
        Err(reason) => {
            frame.flaw = reason as u8;
            Ports::Hidden as u8
        }
    };
    maps::forget();
}

#[inline(always)]
fn find(skb: Skb, frame: &mut Frame, network: usize) -> Result<Ports, DropReason> {
    frame.ethertype = u16::from_be(skb.protocol() as u16);
    // A frame of a numbered VLAN goes to that VLAN's interface, which has a hook of its own.
    if skb.vlan_present() != 0 && skb.vlan_tci() & VLAN != 0 {
        return Ok(Ports::None);
    }
    match frame.ethertype {
        ETHERTYPE_IPV4 => find_ipv4(skb, frame, network),
        ETHERTYPE_IPV6 => find_ipv6(skb, frame, network),
        // A receiver takes off any number of priority tags; the kernel has taken off one before this.
        ethertype if is_vlan(ethertype) => Err(DropReason::UnsupportedProtocol),
        _ => Ok(Ports::None),
    }
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    let [a, b, c, d] = ETHERTYPE_VLAN;
    ethertype == a || ethertype == b || ethertype == c || ethertype == d
}

#[inline(always)]
fn find_ipv4(skb: Skb, frame: &mut Frame, network: usize) -> Result<Ports, DropReason> {
    let header: [u32; IPV4 / 4] = skb.copy(network).ok_or(DropReason::InvalidPacket)?;
    frame.packet.source = Address::from_ipv4_be(header[3]);
    frame.packet.destination = Address::from_ipv4_be(header[4]);
    let (version, words) = (byte(header[0], 0) >> 4, byte(header[0], 0) & 0x0f);
    // Without its first fragment a datagram is never put together.
    if version != 4 || words < 5 || low(header[1]) & FRAGMENT_OFFSET != 0 {
        return Ok(Ports::None);
    }
    find_ports(skb, frame, network + words as usize * 4, byte(header[2], 1))
}

#[inline(always)]
fn find_ipv6(skb: Skb, frame: &mut Frame, network: usize) -> Result<Ports, DropReason> {
    let header: [u64; IPV6 / 8] = skb.copy(network).ok_or(DropReason::InvalidPacket)?;
    frame.packet.source = Address::from_words([header[1], header[2]]);
    frame.packet.destination = Address::from_words([header[3], header[4]]);
    let [first, second] = halves(header[0]);
    if byte(first, 0) >> 4 != 6 {
        return Ok(Ports::None);
    }
    // It would be taken for the IPv4 address.
    if frame.packet.source.is_ipv4() {
        return Err(DropReason::InvalidPacket);
    }
    let (mut next, mut offset) = (byte(second, 2), network + IPV6);
    for _ in 0..EXTENSIONS {
        if !is_extension(next) {
            return find_ports(skb, frame, offset, next);
        }
        let [extension, _] = skb.copy::<u32, 2>(offset).ok_or(DropReason::InvalidPacket)?;
        if next == FRAGMENT && low(extension) >> 3 != 0 {
            return Ok(Ports::None);
        }
        // The length counts what follows the first 8 bytes, in units of 8, but for two headers (RFC 8200, RFC 4302).
        offset += match next {
            FRAGMENT => 8,
            AUTHENTICATION => (byte(extension, 1) as usize + 2) * 4,
            _ => (byte(extension, 1) as usize + 1) * 8,
        };
        next = byte(extension, 0);
    }
    Err(DropReason::UnsupportedProtocol)
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

#[inline(always)]
fn find_ports(skb: Skb, frame: &mut Frame, offset: usize, protocol: u8) -> Result<Ports, DropReason> {
    let packet = &mut frame.packet;
    packet.protocol = protocol;
    let ports = if protocol == PROTOCOL_TCP {
        // A first fragment without the flags would be completed by one that this hook does not judge (RFC 3128).
        let header: [u32; 5] = skb.copy(offset).ok_or(DropReason::Fragment)?;
        packet.sequence = u32::from_be(header[1]);
        packet.tcp_flags = byte(header[3], 1);
        packet.intent = match tcp_intent(packet.tcp_flags) {
            Some(Intent::Open) => Intent::Open,
            _ => Intent::Continue,
        };
        header[0]
    } else if protocol == PROTOCOL_UDP {
        let header: [u32; 2] = skb.copy(offset).ok_or(DropReason::Fragment)?;
        packet.intent = Intent::Datagram;
        header[0]
    } else {
        return Ok(Ports::None);
    };
    packet.source_port = high(ports);
    packet.destination_port = low(ports);
    Ok(Ports::Found)
}
