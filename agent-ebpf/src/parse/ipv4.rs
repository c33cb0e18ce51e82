//! The IPv4 header (RFC 791).

use agent_common::{
    packet::{Address, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::DropReason,
};

use super::{ETHERNET, Frame, FrameKind, IPV4, byte, icmp, low, transport};
use crate::skb::Skb;

/// Hosts that join a multicast group say so (RFC 3376); a bridge with snooping on is one.
const PROTOCOL_IGMP: u8 = 2;
const FLAG_RESERVED: u16 = 0x8000;
const MORE_FRAGMENTS_AND_OFFSET: u16 = 0x3fff;

#[inline(always)]
pub(super) fn parse(skb: Skb, frame: &mut Frame) -> Result<(), DropReason> {
    let header: [u32; IPV4 / 4] = skb.load(ETHERNET).ok_or(DropReason::InvalidPacket)?;
    frame.packet.source = Address::from_ipv4_be(header[3]);
    frame.packet.destination = Address::from_ipv4_be(header[4]);
    let protocol = byte(header[2], 1);
    frame.packet.protocol = protocol;
    let (version, words) = (byte(header[0], 0) >> 4, byte(header[0], 0) & 0x0f);
    if version != 4 || words < 5 {
        return Err(DropReason::InvalidPacket);
    }
    let payload = payload_length(skb, low(header[0]), u32::from(words) * 4)?;
    let fragment = low(header[1]);
    if fragment & FLAG_RESERVED != 0
        || frame.packet.source.is_impossible_source()
        || frame.packet.destination.is_impossible_destination()
    {
        return Err(DropReason::InvalidPacket);
    }
    if fragment & MORE_FRAGMENTS_AND_OFFSET != 0 {
        return Err(DropReason::Fragment);
    }
    if protocol == PROTOCOL_IGMP && frame.packet.destination.is_group() {
        frame.kind = FrameKind::Chatter;
        return Err(DropReason::UnsupportedProtocol);
    }
    // Options: routes and timestamps that no container needs, and a moving offset for whoever gets it wrong.
    if words != 5 {
        return Err(DropReason::UnsupportedProtocol);
    }
    match protocol {
        PROTOCOL_TCP => transport::parse_tcp(skb, ETHERNET + IPV4, payload, frame),
        PROTOCOL_UDP => transport::parse_udp(skb, ETHERNET + IPV4, payload, frame),
        PROTOCOL_ICMP => icmp::parse_v4(skb, payload, frame),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

/// Bytes behind the header, which must lie within the frame; padding behind them does not count.
#[inline(always)]
fn payload_length(skb: Skb, total: u16, header: u32) -> Result<u32, DropReason> {
    let available = skb.len().wrapping_sub(ETHERNET as u32);
    let total = u32::from(total);
    if total >= header && total <= available {
        return Ok(total - header);
    }
    // A local segmentation-offload packet above 64 KiB (BIG TCP) carries no length.
    if total == 0 && available > 0xffff {
        return Ok(available - header);
    }
    Err(DropReason::InvalidPacket)
}

/// Whether a quoted header is one that this agent would have forwarded: no options, not a later fragment.
#[inline(always)]
pub(super) const fn is_plain(header: &[u32; IPV4 / 4 + 2]) -> bool {
    byte(header[0], 0) == 0x45 && low(header[1]) & 0x1fff == 0
}
