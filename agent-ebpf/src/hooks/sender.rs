//! Whether what leaves a port is its own: MAC, addresses, and what it claims by ARP and neighbour discovery.

use agent_common::{
    endpoint::Interface,
    packet::{Address, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Intent},
    verdict::DropReason,
};

use crate::{
    identify, maps,
    parse::{Frame, FrameKind},
    skb::Skb,
};

/// Why a frame may not leave the port, whomever it is for.
#[inline(always)]
pub(super) fn is_unsound(skb: Skb, port: &Interface, frame: &Frame) -> Option<DropReason> {
    if skb.is_for_group_mac() && is_for_one(frame) {
        return Some(DropReason::InvalidPacket);
    }
    let foreign_mac = has_foreign_mac(port, frame);
    if let Some(reason) = frame.flaw() {
        if port.is_covered() {
            return Some(reason);
        }
        // What an unmanaged container sends is refused where it would enter a covered endpoint; but no frame at all may
        // draw another's traffic to this port, in the bridge's table or in anybody's list of neighbours.
        let deceives = foreign_mac || may_deceive(skb, port, frame);
        return if deceives { Some(DropReason::SpoofedSource) } else { None };
    }
    let spoofed = foreign_mac
        || match frame.kind {
            FrameKind::Arp | FrameKind::Solicitation | FrameKind::Advertisement => !is_own_claim(port, frame),
            // A covered endpoint's is looked at only if it belongs to no flow: a flow has the addresses that it
            // was opened with. An error is found by the addresses that it quotes, which are not its own.
            FrameKind::Flow => {
                (!port.is_covered() || matches!(frame.packet.intent, Intent::Error))
                    && !is_own_source(port, frame)
            }
            FrameKind::Listener | FrameKind::Chatter => false,
        };
    if spoofed {
        return Some(DropReason::SpoofedSource);
    }
    maps::forget();
    // Whoever has another address is not on this bridge: nobody there is to answer for him.
    let astray = matches!(frame.kind, FrameKind::Solicitation)
        && !identify::may_be_on_bridge(&frame.target, port.bridge);
    if astray { Some(DropReason::UnknownDestination) } else { None }
}

/// Whether an IP packet is for a single receiver, as far as its header can be read. In a frame for all nobody sends one
/// (RFC 1122, 3.3.6). The broadcast address of a subnet is not told from the host's own.
#[inline(always)]
fn is_for_one(frame: &Frame) -> bool {
    let destination = &frame.packet.destination;
    matches!(frame.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
        && *destination != Address::UNSPECIFIED
        && !destination.is_group()
        && !identify::is_hosts(destination)
}

/// Whether a frame carries another source MAC than the port's.
#[inline(always)]
pub(super) fn has_foreign_mac(port: &Interface, frame: &Frame) -> bool {
    frame.source_mac != port.expected_mac(frame.source_mac)
}

/// A packet's source is the port's own. That of an ICMP error stands apart: its packet is the one that it quotes.
#[inline(always)]
pub(super) fn is_own_source(port: &Interface, frame: &Frame) -> bool {
    let source = if matches!(frame.packet.intent, Intent::Error) { frame.claim } else { frame.packet.source };
    // Every stack also has a link-local address, which Docker does not tell. Covered endpoints do not get far with it.
    port.owns(&source) || (!port.is_covered() && source == port.expected_mac(frame.source_mac).link_local())
}

/// Whether a frame that could not be parsed may be a packet under another's address to whoever can parse it, or hold
/// an address claim: ARP in a form that receivers take all the same, behind a priority tag, or neighbour discovery,
/// which receivers find behind extension headers too, but only believe with a hop limit of 255.
#[inline(always)]
fn may_deceive(skb: Skb, port: &Interface, frame: &Frame) -> bool {
    /// Of the next header's number and the hop limit.
    const NEXT_HEADER: usize = 14 + 6;
    let (source, chatter) = (frame.packet.source, frame.kind.is_chatter());
    let own = port.owns(&source)
        || source == port.expected_mac(frame.source_mac).link_local()
        || (chatter && source == Address::UNSPECIFIED);
    match frame.ethertype {
        _ if skb.vlan_present() != 0 => true,
        ETHERTYPE_IPV4 => !own,
        ETHERTYPE_IPV6 if !own || source.is_ipv4() => true,
        ETHERTYPE_IPV6 => {
            let [pair] = skb.copy::<u16, 1>(NEXT_HEADER).unwrap_or([u16::MAX]);
            !chatter && u16::from_be(pair) & 0xff == 255
        }
        ETHERTYPE_ARP | 0x8100 | 0x88a8 | 0x9100 | 0x9200 => true,
        _ => false,
    }
}

/// An address claim by ARP or ND names the port's own addresses and MAC, or asks before it takes one.
#[inline(always)]
fn is_own_claim(port: &Interface, frame: &Frame) -> bool {
    let mac = port.expected_mac(frame.source_mac);
    if frame.claim_mac != mac {
        return false;
    }
    // An advertisement's sender is not what it claims. A solicitation's is.
    let sender = &frame.packet.source;
    if frame.kind == FrameKind::Advertisement
        && *sender != frame.claim
        && *sender != mac.link_local()
        && !port.owns(sender)
    {
        return false;
    }
    if frame.claim == Address::UNSPECIFIED || port.owns(&frame.claim) {
        return true;
    }
    // Of link-local addresses only the one that follows from the MAC is sure to be nobody else's.
    frame.kind != FrameKind::Arp && frame.claim == mac.link_local()
}
