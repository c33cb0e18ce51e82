//! A watched bridge's own device: what crosses between its ports and the host. A backstop for what no port's program
//! has seen; packets between two ports of the bridge never get here.

use agent_common::{
    config::stamp_bit,
    endpoint::{DestinationKind, InterfaceKind},
    packet::Address,
    verdict::{DropReason, Hook, Verdict},
};

use super::{Action, conclude, published, refuse};
use crate::{
    identify::Side,
    maps::{self, Scratch},
    parse::{self, FrameKind, Ports},
    report,
    skb::Skb,
};

/// A copy of what the host itself sent to a group (PACKET_LOOPBACK of the kernel's if_packet.h).
const LOOPED_BACK: u32 = 5;

/// tc ingress of the bridge: to the host, or through it.
#[inline(always)]
pub(crate) fn from_bridge(skb: Skb) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(Hook::FromBridge);
    };
    // Its port's program has judged it.
    if skb.mark() & stamp_bit(config.mark_mask) != 0 || skb.pkt_type() == LOOPED_BACK {
        return report::forward(Hook::FromBridge);
    }
    let guarded = is_guarded(skb.ifindex());
    if !guarded && config.has_published == 0 {
        return report::forward(Hook::FromBridge);
    }
    parse::locate(skb, &mut scratch.frame, true);
    let packet = &scratch.frame.packet;
    let ports = scratch.frame.ports();
    let called = if matches!(ports, Ports::Found) {
        published::called(config, packet.protocol, &packet.destination, packet.destination_port)
    } else {
        published::Called::NOBODY
    };
    let action = if guarded || called.is_published {
        refuse(&mut scratch.because, DropReason::UnknownSource, Side::UNKNOWN)
    } else if matches!(ports, Ports::Hidden) {
        published::hidden(&scratch.frame, &mut scratch.because)
    } else {
        Action::Forward
    };
    scratch.own = called.side;
    conclude(skb, config, scratch, Hook::FromBridge, action)
}

/// tc egress of the bridge: from the host, or from beyond it.
#[inline(always)]
pub(crate) fn to_bridge(skb: Skb) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(Hook::ToBridge);
    };
    if !is_guarded(skb.ifindex()) {
        return report::forward(Hook::ToBridge);
    }
    let action = towards_container(skb, scratch);
    scratch.own = Side::UNKNOWN;
    conclude(skb, config, scratch, Hook::ToBridge, action)
}

/// Only whether there is a known container for the packet: the rest is for its port's program.
#[inline(always)]
fn towards_container(skb: Skb, scratch: &mut Scratch) -> Action {
    parse::parse(skb, &mut scratch.frame);
    let (frame, because) = (&scratch.frame, &mut scratch.because);
    match frame.kind {
        FrameKind::Arp | FrameKind::Solicitation | FrameKind::Advertisement => return Action::Forward,
        FrameKind::Listener | FrameKind::Chatter => {
            return refuse(because, DropReason::UnsupportedProtocol, Side::UNKNOWN);
        }
        FrameKind::Flow => {}
    }
    if frame.packet.destination == Address::UNSPECIFIED {
        return refuse(because, frame.flaw().unwrap_or(DropReason::InvalidPacket), Side::UNKNOWN);
    }
    // Only the host itself calls link-local addresses, which are in no map: an unmanaged container's must get its answer.
    if frame.packet.destination.is_link_local_ipv6() {
        return Action::Forward;
    }
    let known = maps::destination(&frame.packet.destination).is_some_and(|destination| {
        destination.kind == DestinationKind::Endpoint as u32
            && maps::port(destination.ifindex).is_some_and(|port| port.bridge == skb.ifindex())
            && (!frame.may_open() || skb.has_interface(destination.ifindex, &mut scratch.case.route))
    });
    if known { Action::Forward } else { refuse(because, DropReason::UnknownDestination, Side::UNKNOWN) }
}

/// A bridge that nothing is known of yet is guarded like the strictest.
#[inline(always)]
pub(super) fn is_guarded(ifindex: u32) -> bool {
    match maps::interface(ifindex) {
        Some(bridge) if bridge.kind == InterfaceKind::Bridge as u8 => bridge.is_guarded(),
        _ => true,
    }
}
