//! Ports that Docker publishes on the host for covered endpoints. docker-proxy turns whoever calls one into the host,
//! so the call is judged where its sender still shows.

use agent_common::{
    config::{Config, outsider_bit, stamp_bit},
    decision::{Party, PartyKind},
    packet::Address,
};

use super::{Action, Because, refuse};
use crate::{
    identify::{self, Side},
    maps,
    parse::Frame,
    skb::Skb,
};

/// The covered endpoint behind a port of the host.
///
/// Plain fields, see [`Side`].
#[derive(Clone, Copy)]
pub(super) struct Called {
    /// False if the address is not the host's, or the port not published for a covered endpoint.
    pub(super) is_published: bool,
    pub(super) side: Side,
    /// The port that its container listens on.
    pub(super) port: u16,
}

impl Called {
    pub(super) const NOBODY: Self = Self { is_published: false, side: Side::UNKNOWN, port: 0 };
}

/// Whom a packet to this address and port would reach through the host.
#[inline(always)]
pub(super) fn called(config: &Config, protocol: u8, address: &Address, port: u16) -> Called {
    if config.has_published == 0 {
        return Called::NOBODY;
    }
    let Some(published) = maps::published(protocol, port, address) else {
        return Called::NOBODY;
    };
    if !is_host(address) {
        return Called::NOBODY;
    }
    let mut called = Called { is_published: true, side: Side::UNKNOWN, port: published.port };
    if let Some(port) = maps::port(published.ifindex) {
        called.side = Side::of_port(published.ifindex, port);
    }
    called
}

/// Whether a port number is published on any address for a covered endpoint.
#[inline(always)]
pub(super) fn is_number(config: &Config, protocol: u8, port: u16) -> bool {
    config.has_published != 0 && maps::is_published_number(protocol, port)
}

/// Whether the host's own stack takes packets to this address: also to groups, and to its loopback addresses where
/// `route_localnet` is set.
#[inline(always)]
pub(super) fn is_host(address: &Address) -> bool {
    address.is_group()
        || address.is_link_local_ipv6()
        || address.ipv4().is_some_and(|address| address >> 24 == 127)
        || identify::is_hosts(address)
}

/// The bits of the mark that say, together, that a packet calls a published port.
#[inline(always)]
const fn outsider_bits(config: &Config) -> u32 {
    stamp_bit(config.mark_mask) | outsider_bit(config.mark_mask)
}

/// Whether a packet that would be denied has been judged, and counted, where its sender called the published port.
#[inline(always)]
pub(super) fn was_judged(skb: Skb, config: &Config, sender: &Party) -> bool {
    let bits = outsider_bits(config);
    matches!(sender.kind, PartyKind::Outsider | PartyKind::World) && skb.mark() & bits == bits
}

/// Says of a packet that its sender acts as an outsider.
#[inline(always)]
pub(super) fn mark_outsider(skb: Skb, config: &Config) {
    let bits = outsider_bits(config);
    skb.set_mark_bits(bits, bits);
}

/// What becomes of a packet whose ports cannot be found, though its receiver's stack might find some. Behind another tag
/// not even its address was found.
#[inline(always)]
pub(super) fn hidden(frame: &Frame, because: &mut Because) -> Action {
    match frame.flaw() {
        Some(reason)
            if frame.packet.destination == Address::UNSPECIFIED || is_host(&frame.packet.destination) =>
        {
            refuse(because, reason, Side::UNKNOWN)
        }
        _ => Action::Forward,
    }
}
