//! TCP (RFC 9293) and UDP (RFC 768) headers. Checksums are not verified: between containers they are not
//! filled in until a packet reaches real hardware.

use agent_common::{
    packet::{Intent, PROTOCOL_TCP, PROTOCOL_UDP, tcp_intent},
    verdict::DropReason,
};

use super::{Frame, byte, high, low};
use crate::skb::Skb;

const TCP: usize = 20;
const UDP: usize = 8;

#[inline(always)]
pub(super) fn parse_tcp(skb: Skb, offset: usize, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    if payload < TCP as u32 {
        return Err(DropReason::InvalidPacket);
    }
    let header: [u32; TCP / 4] = skb.load(offset).ok_or(DropReason::InvalidPacket)?;
    let packet = &mut frame.packet;
    packet.protocol = PROTOCOL_TCP;
    packet.source_port = high(header[0]);
    packet.destination_port = low(header[0]);
    packet.sequence = u32::from_be(header[1]);
    packet.tcp_flags = byte(header[3], 1);
    let header_length = u32::from(byte(header[3], 0) >> 4) * 4;
    if header_length < TCP as u32 || header_length > payload {
        return Err(DropReason::InvalidPacket);
    }
    if packet.source_port == 0 || packet.destination_port == 0 {
        return Err(DropReason::InvalidPacket);
    }
    packet.intent = tcp_intent(packet.tcp_flags).ok_or(DropReason::InvalidPacket)?;
    Ok(())
}

#[inline(always)]
pub(super) fn parse_udp(skb: Skb, offset: usize, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    if payload < UDP as u32 {
        return Err(DropReason::InvalidPacket);
    }
    let header: [u32; UDP / 4] = skb.load(offset).ok_or(DropReason::InvalidPacket)?;
    let packet = &mut frame.packet;
    packet.protocol = PROTOCOL_UDP;
    packet.source_port = high(header[0]);
    packet.destination_port = low(header[0]);
    let length = u32::from(high(header[1]));
    if length < UDP as u32 || length > payload || packet.destination_port == 0 {
        return Err(DropReason::InvalidPacket);
    }
    // Only now: a malformed datagram is an attempt by itself, like any other malformed frame.
    packet.intent = Intent::Datagram;
    Ok(())
}
