//! Who is on the other side: the sender by the interface that the packet came in by (which no sender can
//! forge), the receiver by its address.

use core::mem::MaybeUninit;

use agent_common::{
    config::{Config, outsider_bit, slot_bits, stamp_bit},
    decision::{Party, PartyKind},
    endpoint::{DestinationKind, Interface, InterfaceKind},
    flow::{PEER_HOST, PEER_LOCAL, PEER_OUTSIDER, PEER_UNBOUND, PEER_WORLD},
    packet::Address,
};

use aya_ebpf::bindings::bpf_fib_lookup;

use crate::{maps, parse::Frame, skb::Skb};

/// One side of a packet.
///
/// Plain fields, all of them always set: an `Option` leaves registers unset that the compiler copies all the same,
/// which the verifier refuses.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) party: Party,
    /// How a flow remembers it: the ifindex of its port, or one of the `PEER_` numbers.
    pub(crate) peer: u32,
}

impl Side {
    pub(crate) const UNKNOWN: Self = Self { party: Party::UNKNOWN, peer: PEER_UNBOUND };
    pub(crate) const HOST: Self = Self { party: Party::HOST, peer: PEER_HOST };
    const WORLD: Self = Self { party: Party::WORLD, peer: PEER_WORLD };

    /// The container behind a port that has called a published port.
    #[inline(always)]
    const fn outsider(ifindex: u32) -> Self {
        Self { party: Party::OUTSIDER, peer: ifindex | PEER_OUTSIDER }
    }

    /// The side behind a port.
    #[inline(always)]
    pub(crate) const fn of_port(ifindex: u32, port: &Interface) -> Self {
        let kind = if port.is_covered() { PartyKind::Covered } else { PartyKind::Unmanaged };
        Self { party: Party { kind, identity: port.identity, instance: port.instance }, peer: ifindex }
    }

    #[inline(always)]
    pub(crate) const fn is_known(&self) -> bool {
        !matches!(self.party.kind, PartyKind::Unknown)
    }

    #[inline(always)]
    pub(crate) const fn is_covered(&self) -> bool {
        matches!(self.party.kind, PartyKind::Covered)
    }

    /// The ifindex of the side's port, 0 if it has none.
    #[inline(always)]
    pub(crate) const fn port(&self) -> u32 {
        match self.party.kind {
            PartyKind::Covered | PartyKind::Unmanaged if self.peer != PEER_UNBOUND => self.peer,
            PartyKind::Outsider => self.peer & !PEER_OUTSIDER,
            _ => 0,
        }
    }
}

/// The sender of a packet at a port's egress.
///
/// Never "source address = gateway": Docker's MASQUERADE gives traffic of other bridges that address.
#[inline(always)]
pub(crate) fn sender(skb: Skb, config: &Config) -> Side {
    let ifindex = skb.ingress_ifindex();
    if ifindex == 0 {
        return Side::HOST;
    }
    let Some(interface) = maps::interface(ifindex) else {
        return Side::UNKNOWN;
    };
    if interface.kind == InterfaceKind::Port as u8 {
        // Without docker-proxy, br_netfilter translates a call of a published port inside the bridge: it goes on from
        // port to port.
        return if skb.mark() & config.mark_mask == interface.mark | outsider_bit(config.mark_mask) {
            Side::outsider(ifindex)
        } else {
            Side::of_port(ifindex, interface)
        };
    }
    if interface.kind == InterfaceKind::Bridge as u8 {
        return marked_sender(skb.mark(), config.mark_mask);
    }
    Side::WORLD
}

/// The port that `from_endpoint` wrote into the mark. Believed only for packets that came through a watched
/// bridge: nothing else can have come out of a container there.
#[inline(always)]
fn marked_sender(mark: u32, mask: u32) -> Side {
    if mark & stamp_bit(mask) == 0 {
        return Side::UNKNOWN;
    }
    let slot = (mark & slot_bits(mask)) >> mask.trailing_zeros();
    let Some(ifindex) = maps::port_of_slot(slot) else {
        return Side::UNKNOWN;
    };
    match maps::port(ifindex) {
        Some(_) if mark & outsider_bit(mask) != 0 => Side::outsider(ifindex),
        Some(port) => Side::of_port(ifindex, port),
        None => Side::UNKNOWN,
    }
}

/// Who an address stands for, seen from a port's ingress. Groups and link-local addresses are nobody: their
/// receivers cannot be told from the address.
#[inline(always)]
pub(crate) fn receiver(address: &Address) -> Side {
    if address.is_group() || address.is_link_local_ipv6() {
        return Side::UNKNOWN;
    }
    let Some(destination) = maps::destination(address) else {
        return Side::WORLD;
    };
    if destination.kind == DestinationKind::Host as u32 {
        return Side { party: Party::HOST, peer: PEER_LOCAL };
    }
    if destination.kind == DestinationKind::Containers as u32 {
        return Side { party: Party::UNMANAGED, peer: PEER_UNBOUND };
    }
    match maps::port(destination.ifindex) {
        Some(port) => Side::of_port(destination.ifindex, port),
        None => Side::UNKNOWN,
    }
}

/// The same for what would open something: a container whose port has gone is nobody, though no agent may have noticed
/// yet. Whoever has its address now is behind a port that has no program.
#[inline(always)]
pub(crate) fn present_receiver(skb: Skb, address: &Address, room: &mut MaybeUninit<bpf_fib_lookup>) -> Side {
    let side = receiver(address);
    if side.port() != 0 && !skb.has_interface(side.port(), room) { Side::UNKNOWN } else { side }
}

/// Whether an address is one of the host's, broadcast addresses of its subnets included.
#[inline(always)]
pub(crate) fn is_hosts(address: &Address) -> bool {
    maps::destination(address).is_some_and(|destination| destination.kind == DestinationKind::Host as u32)
}

/// Whether a packet is for an address that belongs onto a bridge, and nobody is known to have it: somebody may who is on the
/// bridge already and whose port has no program yet. Groups are not asked about, their receivers cannot be told.
#[inline(always)]
pub(crate) fn is_for_nobody(
    skb: Skb,
    frame: &Frame,
    bridge: u32,
    room: &mut MaybeUninit<bpf_fib_lookup>,
) -> bool {
    let address = &frame.packet.destination;
    if address.is_group() {
        return false;
    }
    let Some(destination) = maps::destination(address) else {
        return address.is_link_local_ipv6() && maps::interface(bridge).is_none_or(Interface::knows_macs);
    };
    if destination.kind == DestinationKind::Endpoint as u32 {
        return maps::port(destination.ifindex).is_none()
            || (frame.may_open() && !skb.has_interface(destination.ifindex, room));
    }
    destination.kind == DestinationKind::Containers as u32 && destination.ifindex == bridge
}

/// Whether an address belongs onto a bridge, as far as is known: it is link-local, of a container there, or in one of its
/// subnets. Of the host's other addresses it is not known where they are.
#[inline(always)]
pub(crate) fn may_be_on_bridge(address: &Address, bridge: u32) -> bool {
    if address.is_link_local_ipv6() {
        return true;
    }
    let Some(destination) = maps::destination(address) else {
        return false;
    };
    if destination.kind == DestinationKind::Endpoint as u32 {
        return maps::port(destination.ifindex).is_none_or(|port| port.bridge == bridge);
    }
    destination.ifindex == 0 || destination.ifindex == bridge
}

/// The peer that a flow remembers.
#[inline(always)]
pub(crate) fn peer(peer: u32) -> Side {
    match peer {
        PEER_HOST | PEER_LOCAL => Side::HOST,
        PEER_WORLD => Side::WORLD,
        PEER_UNBOUND => Side::UNKNOWN,
        outsider if outsider & PEER_OUTSIDER != 0 => Side::outsider(outsider & !PEER_OUTSIDER),
        ifindex => match maps::port(ifindex) {
            Some(port) => Side::of_port(ifindex, port),
            None => Side::UNKNOWN,
        },
    }
}
