//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861): who claims which address with which MAC.

use agent_common::{
    packet::{Address, Mac, PROTOCOL_ICMP},
    verdict::DropReason,
};

use super::{ETHERNET, Frame, FrameKind};
use crate::skb::Skb;

/// Half-words of an ARP message for IPv4 over Ethernet.
const ARP: usize = 14;
/// Hardware type, protocol, lengths of such a message.
const ETHERNET_IPV4: [u16; 3] = [1_u16.to_be(), 0x0800_u16.to_be(), 0x0604_u16.to_be()];
/// A solicitation or advertisement: type, code, checksum, flags, target.
const ND: usize = 24;
/// With one option of the shortest length, which holds an Ethernet address or a nonce.
const ND_WITH_OPTION: usize = 32;
const SOLICITATION: u8 = 135;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const NONCE: u8 = 14;

#[inline(always)]
pub(super) fn parse_arp(skb: Skb, frame: &mut Frame) -> Result<(), DropReason> {
    let arp: [u16; ARP] = skb.load(ETHERNET).ok_or(DropReason::InvalidPacket)?;
    let operation = u16::from_be(arp[3]);
    if [arp[0], arp[1], arp[2]] != ETHERNET_IPV4 || (operation != 1 && operation != 2) {
        return Err(DropReason::InvalidPacket);
    }
    frame.kind = FrameKind::Arp;
    frame.claim_mac = Mac::from_shorts([arp[4], arp[5], arp[6]]);
    let sender = ipv4_be([arp[7], arp[8]]);
    // 0.0.0.0 asks whether an address is taken and claims nothing (RFC 5227).
    frame.claim = if sender == 0 { Address::UNSPECIFIED } else { Address::from_ipv4_be(sender) };
    frame.packet.source = frame.claim;
    frame.packet.destination = Address::from_ipv4_be(ipv4_be([arp[12], arp[13]]));
    Ok(())
}

/// Two half-words as they lie in the packet to the word that they are.
#[inline(always)]
const fn ipv4_be(shorts: [u16; 2]) -> u32 {
    (((u16::from_be(shorts[0]) as u32) << 16) | u16::from_be(shorts[1]) as u32).to_be()
}

#[inline(always)]
pub(super) fn parse_nd(
    skb: Skb,
    offset: usize,
    payload: u32,
    kind: u8,
    code: u8,
    hop_limit: u8,
    frame: &mut Frame,
) -> Result<(), DropReason> {
    frame.packet.protocol = PROTOCOL_ICMP;
    // A hop limit of 255 proves that no router has passed the message on.
    if hop_limit != 255 || code != 0 {
        return Err(DropReason::InvalidPacket);
    }
    let message: [u64; ND / 8] = skb.load(offset).ok_or(DropReason::InvalidPacket)?;
    let target = Address::from_words([message[1], message[2]]);
    if target.is_group() {
        return Err(DropReason::InvalidPacket);
    }
    frame.claim_mac = frame.source_mac;
    if payload == ND_WITH_OPTION as u32 {
        let option: [u16; 4] = skb.load(offset + ND).ok_or(DropReason::InvalidPacket)?;
        // Duplicate address detection names no sender, but Linux adds a nonce to it (RFC 4861, 4.3; RFC 7527).
        let wanted = match (kind, frame.packet.source == Address::UNSPECIFIED) {
            (SOLICITATION, true) => NONCE,
            (SOLICITATION, false) => SOURCE_LINK_LAYER,
            _ => TARGET_LINK_LAYER,
        };
        if u16::from_be(option[0]) != u16::from_be_bytes([wanted, 1]) {
            return Err(DropReason::InvalidPacket);
        }
        if wanted != NONCE {
            frame.claim_mac = Mac::from_shorts([option[1], option[2], option[3]]);
        }
    } else if payload != ND as u32 {
        return Err(DropReason::InvalidPacket);
    }
    frame.target = target;
    if kind == SOLICITATION {
        frame.kind = FrameKind::Solicitation;
        frame.claim = frame.packet.source;
    } else {
        frame.kind = FrameKind::Advertisement;
        frame.claim = target;
    }
    Ok(())
}
