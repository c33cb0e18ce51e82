//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors by the packet that they quote.

use agent_common::{
    packet::{Address, Intent, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Packet},
    verdict::DropReason,
};

use super::{ETHERNET, Frame, FrameKind, IPV4, IPV6, byte, halves, high, ipv4, low, neighbour};
use crate::skb::Skb;

/// Length of the header in front of an echo's data or an error's quotation.
const ICMP: usize = 8;
/// How much of a quoted TCP, UDP or ICMP header an error is sure to hold.
const QUOTED: usize = 8;

#[inline(always)]
pub(super) fn parse_v4(skb: Skb, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    let offset = ETHERNET + IPV4;
    let header = header(skb, offset, payload)?;
    match byte(header[0], 0) {
        8 => parse_echo(header, true, frame),
        0 => parse_echo(header, false, frame),
        // Destination unreachable, time exceeded, parameter problem.
        3 | 11 | 12 => parse_error_v4(skb, offset + ICMP, payload, frame),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

#[inline(always)]
pub(super) fn parse_v6(
    skb: Skb,
    payload: u32,
    hop_limit: u8,
    unspecified: bool,
    frame: &mut Frame,
) -> Result<(), DropReason> {
    let offset = ETHERNET + IPV6;
    let header = header(skb, offset, payload)?;
    match byte(header[0], 0) {
        kind @ (135 | 136) => {
            neighbour::parse_nd(skb, offset, payload, kind, byte(header[0], 1), hop_limit, frame)
        }
        133 => {
            frame.kind = FrameKind::Chatter;
            Err(DropReason::UnsupportedProtocol)
        }
        _ if unspecified => Err(DropReason::InvalidPacket),
        128 => parse_echo(header, true, frame),
        129 => parse_echo(header, false, frame),
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        1..=4 => parse_error_v6(skb, offset + ICMP, payload, frame),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

#[inline(always)]
fn header(skb: Skb, offset: usize, payload: u32) -> Result<[u32; ICMP / 4], DropReason> {
    if payload < ICMP as u32 {
        return Err(DropReason::InvalidPacket);
    }
    skb.load(offset).ok_or(DropReason::InvalidPacket)
}

#[inline(always)]
fn parse_echo(header: [u32; ICMP / 4], request: bool, frame: &mut Frame) -> Result<(), DropReason> {
    if byte(header[0], 1) != 0 {
        return Err(DropReason::InvalidPacket);
    }
    set_echo(&mut frame.packet, high(header[1]), request);
    frame.packet.intent = if request { Intent::Open } else { Intent::Continue };
    Ok(())
}

/// The identifier stands on the asker's side, so that a request is never mistaken for the reply to another.
#[inline(always)]
const fn set_echo(packet: &mut Packet, identifier: u16, request: bool) {
    packet.protocol = PROTOCOL_ICMP;
    packet.source_port = if request { identifier } else { 0 };
    packet.destination_port = if request { 0 } else { identifier };
}

#[inline(always)]
fn parse_error_v4(skb: Skb, offset: usize, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    if payload < (ICMP + IPV4 + QUOTED) as u32 {
        return Err(DropReason::InvalidPacket);
    }
    let quoted: [u32; (IPV4 + QUOTED) / 4] = skb.load(offset).ok_or(DropReason::InvalidPacket)?;
    // The quoted sender must be the error's receiver: nobody else has a use for it.
    if !ipv4::is_plain(&quoted) || Address::from_ipv4_be(quoted[3]) != frame.packet.destination {
        return Err(DropReason::InvalidPacket);
    }
    quote(&mut frame.packet, byte(quoted[2], 1), [8, 0], [quoted[5], quoted[6]])?;
    frame.claim = frame.packet.source;
    frame.packet.source = Address::from_ipv4_be(quoted[4]);
    Ok(())
}

#[inline(always)]
fn parse_error_v6(skb: Skb, offset: usize, payload: u32, frame: &mut Frame) -> Result<(), DropReason> {
    if payload < (ICMP + IPV6 + QUOTED) as u32 {
        return Err(DropReason::InvalidPacket);
    }
    let quoted: [u64; IPV6 / 8 + 1] = skb.load(offset).ok_or(DropReason::InvalidPacket)?;
    let [first, second] = halves(quoted[0]);
    if byte(first, 0) >> 4 != 6 || Address::from_words([quoted[1], quoted[2]]) != frame.packet.destination {
        return Err(DropReason::InvalidPacket);
    }
    let protocol = match byte(second, 2) {
        PROTOCOL_ICMPV6 => PROTOCOL_ICMP,
        // IPv4's has no place here.
        PROTOCOL_ICMP => return Err(DropReason::UnsupportedProtocol),
        protocol => protocol,
    };
    quote(&mut frame.packet, protocol, [128, 129], halves(quoted[5]))?;
    frame.claim = frame.packet.source;
    frame.packet.source = Address::from_words([quoted[3], quoted[4]]);
    Ok(())
}

/// Turns the quoted packet round, so that the error looks like a packet of the same flow: its source is the quoted
/// receiver, whichever router sent it.
#[inline(always)]
fn quote(
    packet: &mut Packet,
    protocol: u8,
    echo_types: [u8; 2],
    transport: [u32; 2],
) -> Result<(), DropReason> {
    let kind = byte(transport[0], 0);
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            packet.protocol = protocol;
            packet.source_port = low(transport[0]);
            packet.destination_port = high(transport[0]);
        }
        PROTOCOL_ICMP if kind == echo_types[0] || kind == echo_types[1] => {
            set_echo(packet, high(transport[1]), kind != echo_types[0]);
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    packet.intent = Intent::Error;
    Ok(())
}
