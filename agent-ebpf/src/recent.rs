//! What each CPU remembers of the flows whose packets it has just let through, so that the next packet needs no lookup
//! in the flow tables. Decides nothing: whatever does not fit is looked up.
//!
//! A place holds one flow, found by a fold of its key. It counts for as long as the flow's entry is fresh, which is as
//! long as the tables' own entry would be taken without a look at the clock.

use agent_common::{
    config::Config,
    flow::{FRESH, FlowEntry, FlowKey, FlowState},
    packet::{Intent, PROTOCOL_ICMP, PROTOCOL_TCP, TCP_FIN, TCP_RST, TCP_SYN},
    verdict::Direction,
};

use crate::{maps, parse::Frame, skb::Skb, track};

/// Places on each CPU, a power of two.
pub(crate) const PLACES: u32 = 1024;

/// One remembered flow. Zeroes are nobody's: no port has the index 0.
pub(crate) struct Recent {
    key: [u64; KEY],
    /// How often a flow had been opened at this place when this one was found in the tables.
    openings: u64,
    revision: u32,
    /// How the peer's packets arrive, as in [`FlowEntry`].
    peer_ifindex: u32,
    peer_mark: u32,
    refreshed: u32,
    /// The directions in which a packet has gone through: a bit for each.
    directions: u64,
}

impl Recent {
    /// Whether the flow has this key. Word by word, or the compiler would call `memcmp`.
    #[inline(always)]
    const fn is_of(&self, key: &FlowKey) -> bool {
        let words = words(key);
        let mut index = 0;
        while index < KEY {
            if self.key[index] != words[index] {
                return false;
            }
            index += 1;
        }
        true
    }
}

const KEY: usize = size_of::<FlowKey>() / size_of::<u64>();

/// Where a flow is remembered, and how often one had been opened there before it was looked for.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    index: u32,
    openings: u64,
}

/// The place of a key.
#[inline(always)]
pub(crate) fn place(key: &FlowKey) -> Place {
    let index = index(key);
    Place { index, openings: maps::openings(index) }
}

/// Says on all CPUs that what is remembered at a key's place may be of an earlier flow with the same addresses.
#[inline(always)]
pub(crate) fn forget(key: &FlowKey) {
    maps::add_opening(index(key));
}

/// Whether a packet belongs to a remembered flow and changes nothing about it.
#[inline(always)]
pub(crate) fn knows(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    place: Place,
    direction: Direction,
    frame: &Frame,
) -> bool {
    let Some(recent) = maps::recent(place.index) else {
        return false;
    };
    // SAFETY: this CPU's own, in which nobody else writes.
    let recent = unsafe { &*recent };
    if !recent.is_of(key) {
        return false;
    }
    let from_peer = match direction {
        Direction::Ingress => {
            recent.peer_ifindex == skb.ingress_ifindex() && recent.peer_mark == skb.mark() & config.mark_mask
        }
        Direction::Egress => true,
    };
    from_peer
        && recent.revision == config.revision
        && recent.openings == place.openings
        && recent.directions & bit(direction) != 0
        && track::jiffies().wrapping_sub(recent.refreshed) < FRESH
        && is_plain(frame)
}

/// Remembers a flow of which a packet has just been let through that changed nothing.
///
/// Each direction is remembered by a packet of its own, and how the peer's arrive from the packet: by now the entry
/// may have been evicted and be another flow's.
#[inline(always)]
pub(crate) fn remember(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    place: Place,
    direction: Direction,
    entry: &FlowEntry,
    frame: &Frame,
) {
    // TCP counts every step until it is established, and its end; a ping is over too soon.
    let lasting = match key.protocol {
        PROTOCOL_TCP => entry.state() as u8 == FlowState::Established as u8,
        protocol => protocol != PROTOCOL_ICMP,
    };
    if !lasting || !is_plain(frame) {
        return;
    }
    let Some(recent) = maps::recent(place.index) else {
        return;
    };
    // SAFETY: as in `knows`.
    let recent = unsafe { &mut *recent };
    if recent.refreshed != entry.refreshed
        || recent.openings != place.openings
        || recent.revision != config.revision
        || !recent.is_of(key)
    {
        recent.key = *words(key);
        recent.openings = place.openings;
        recent.revision = config.revision;
        recent.refreshed = entry.refreshed;
        recent.directions = 0;
    }
    recent.directions |= bit(direction);
    if matches!(direction, Direction::Ingress) {
        recent.peer_ifindex = skb.ingress_ifindex();
        recent.peer_mark = skb.mark() & config.mark_mask;
    }
}

/// Whether a packet is one of many: not an error, and none that begins or ends a connection.
#[inline(always)]
const fn is_plain(frame: &Frame) -> bool {
    matches!(frame.packet.intent, Intent::Datagram | Intent::Continue)
        && frame.packet.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0
}

#[inline(always)]
const fn bit(direction: Direction) -> u64 {
    1 << direction as u8
}

#[inline(always)]
fn index(key: &FlowKey) -> u32 {
    let words = words(key);
    // The ends of both addresses, and the ports.
    let fold = words[1] ^ words[3].rotate_left(16) ^ words[4];
    (fold.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACES.trailing_zeros())) as u32
}

#[inline(always)]
const fn words(key: &FlowKey) -> &[u64; KEY] {
    // SAFETY: a key consists of that many aligned words, and has no padding.
    unsafe { &*core::ptr::from_ref(key).cast() }
}
