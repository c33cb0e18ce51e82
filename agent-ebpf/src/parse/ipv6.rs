//! The IPv6 header (RFC 8200). Extension headers are not walked: nothing that containers need has one, save
//! multicast listener messages, whose one shape is known.

use agent_common::{
    packet::{Address, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::DropReason,
};

use super::{ETHERNET, Frame, FrameKind, IPV6, byte, halves, high, icmp, transport};
use crate::skb::Skb;

const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
/// The fixed part of a listener message's hop-by-hop header: router alert for MLD, padding (RFC 2711, RFC 3810).
const ROUTER_ALERT: u64 = 0x0000_0502_0000_0100;
/// Length of that header and of the one that every ICMPv6 message has.
const LISTENER: usize = 8 + 8;

#[inline(always)]
pub(super) fn parse(skb: Skb, frame: &mut Frame) -> Result<(), DropReason> {
    let header: [u64; IPV6 / 8] = skb.load(ETHERNET).ok_or(DropReason::InvalidPacket)?;
    frame.packet.source = Address::from_words([header[1], header[2]]);
    frame.packet.destination = Address::from_words([header[3], header[4]]);
    let [first, second] = halves(header[0]);
    let (version, next_header, hop_limit) = (byte(first, 0) >> 4, byte(second, 2), byte(second, 3));
    frame.packet.protocol = next_header;
    if version != 6 {
        return Err(DropReason::InvalidPacket);
    }
    let payload = payload_length(skb, high(second))?;
    // `::` is only ever the source of duplicate address detection and of listener messages, checked there.
    let unspecified = frame.packet.source == Address::UNSPECIFIED;
    if frame.packet.source.is_ipv4()
        || frame.packet.destination.is_ipv4()
        || (!unspecified && frame.packet.source.is_impossible_source())
        || frame.packet.destination.is_impossible_destination()
    {
        return Err(DropReason::InvalidPacket);
    }
    match next_header {
        PROTOCOL_ICMPV6 => icmp::parse_v6(skb, payload, hop_limit, unspecified, frame),
        HOP_BY_HOP => parse_listener(skb, payload, frame),
        FRAGMENT => Err(DropReason::Fragment),
        _ if unspecified => Err(DropReason::InvalidPacket),
        PROTOCOL_TCP => transport::parse_tcp(skb, ETHERNET + IPV6, payload, frame),
        PROTOCOL_UDP => transport::parse_udp(skb, ETHERNET + IPV6, payload, frame),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

#[inline(always)]
fn payload_length(skb: Skb, payload: u16) -> Result<u32, DropReason> {
    let headers = (ETHERNET + IPV6) as u32;
    if skb.len() < headers {
        return Err(DropReason::InvalidPacket);
    }
    let available = skb.len() - headers;
    // A local segmentation-offload packet above 64 KiB (BIG TCP) carries no length; a jumbogram from the wire
    // has a hop-by-hop header, which only listener messages may have.
    let payload = if payload == 0 && available > 0xffff { available } else { u32::from(payload) };
    if payload == 0 || payload > available {
        return Err(DropReason::InvalidPacket);
    }
    Ok(payload)
}

/// MLD messages (RFC 2710, RFC 3810): a router alert, then ICMPv6 130 to 132 or 143.
#[inline(always)]
fn parse_listener(skb: Skb, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    if payload < LISTENER as u32 {
        return Err(DropReason::InvalidPacket);
    }
    let words: [u32; 3] = skb.load(ETHERNET + IPV6).ok_or(DropReason::InvalidPacket)?;
    let options = (u64::from(u32::from_be(words[0]) & 0xffff) << 32) | u64::from(u32::from_be(words[1]));
    let is_icmp = byte(words[0], 0) == PROTOCOL_ICMPV6 && byte(words[0], 1) == 0;
    if !is_icmp || options != ROUTER_ALERT || !matches!(byte(words[2], 0), 130..=132 | 143) {
        return Err(DropReason::UnsupportedProtocol);
    }
    frame.kind = FrameKind::Listener;
    Ok(())
}
