//! Finds the flow that a packet belongs to and follows it. Decides nothing: a packet without a flow, or with one
//! that must be looked at again, goes back to the hook.

use core::ptr::null_mut;

use agent_common::{
    config::Config,
    flow::{FlowEntry, FlowKey, FlowState, OBSERVED, PEER_HOST, PEER_UNBOUND, REVOKED, Step},
    packet::Intent,
    verdict::{Direction, DropReason},
};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns};

use crate::{
    identify, maps,
    parse::Frame,
    recent::{self, Place},
    skb::Skb,
};

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The low bits of the kernel's coarse clock.
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_jiffies64() as u32 }
}

/// The living flow that a packet belongs to; null for none.
#[inline(always)]
pub(crate) fn find(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    direction: Direction,
    frame: &Frame,
) -> *mut FlowEntry {
    // An opening is always decided, whatever flow there is: a SYN from the other side is a connection of its own.
    if matches!(frame.packet.intent, Intent::Open) {
        return null_mut();
    }
    let Some(pointer) = maps::flow(key) else {
        return null_mut();
    };
    // SAFETY: the pointer is into a map value, which stays readable while the program runs. Another CPU may write
    // to it at the same time, or an LRU map may reuse it: every field is checked for itself or only refreshed.
    let entry = unsafe { &mut *pointer };
    if !entry.is_fresh(jiffies()) && entry.is_expired(key.protocol, now(), &config.timeouts) {
        return null_mut();
    }
    if direction == Direction::Ingress && !is_from_peer(skb, config, entry, frame.packet.intent) {
        return null_mut();
    }
    pointer
}

/// Whether a flow was allowed by the revision in force. Otherwise it has to be decided again, in its original
/// direction: the revision has moved, or it is only observed, or revoked.
#[inline(always)]
const fn is_current(entry: &FlowEntry, config: &Config) -> bool {
    entry.revision == config.revision && entry.flags & (OBSERVED | REVOKED) == 0
}

/// What a flow does for its packet.
pub(crate) enum Carried {
    /// Nothing: there is none, or the revision in force has not allowed it.
    Not,
    /// Lets it through.
    On,
    /// It became established, for which there is no room.
    TableFull,
}

/// Lets a packet through that belongs to a flow which the revision in force has allowed.
#[inline(always)]
pub(crate) fn carry(
    known: *mut FlowEntry,
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    place: Place,
    direction: Direction,
    frame: &Frame,
) -> Carried {
    // SAFETY: as in `find`.
    let Some(entry) = (unsafe { known.as_mut() }) else {
        return Carried::Not;
    };
    if !is_current(entry, config) {
        return Carried::Not;
    }
    match follow(entry, key, direction, frame) {
        Ok(Step::Stay) => {
            recent::remember(skb, config, key, place, direction, entry, frame);
            Carried::On
        }
        Ok(Step::Establish) => Carried::On,
        Err(_) => Carried::TableFull,
    }
}

/// Follows a packet of a flow that has been allowed.
#[inline(always)]
pub(crate) fn follow(
    entry: &mut FlowEntry,
    key: &FlowKey,
    direction: Direction,
    frame: &Frame,
) -> Result<Step, DropReason> {
    if matches!(frame.packet.intent, Intent::Error) {
        return Ok(Step::Stay);
    }
    // Now and then is often enough for timeouts, and keeps the entry's cache line clean.
    if !entry.is_fresh(jiffies()) {
        entry.last_seen = now();
        entry.refreshed = jiffies();
    }
    let (state, flags) = (entry.state, entry.flags);
    // An entry in the established table never says so again.
    if matches!(entry.advance(key.protocol, direction, frame.packet.tcp_flags), Step::Stay) {
        return Ok(Step::Stay);
    }
    let moved = *entry;
    // Without room for it the flow has not come further: its next packet asks again.
    entry.state = state;
    entry.flags = flags;
    match maps::establish_flow(key, &moved) {
        Ok(()) => Ok(Step::Establish),
        Err(()) => Err(DropReason::TableFull),
    }
}

/// Whether a packet comes from the flow's peer, so that a reused address inherits nothing.
#[inline(always)]
fn is_from_peer(skb: Skb, config: &Config, entry: &mut FlowEntry, intent: Intent) -> bool {
    let ifindex = skb.ingress_ifindex();
    let mark = skb.mark() & config.mark_mask;
    if entry.peer_ifindex == ifindex && entry.peer_mark == mark {
        return true;
    }
    let sender = identify::sender(skb, config);
    if !sender.is_known() {
        return false;
    }
    // The host forwards for others and says so when it cannot.
    if matches!(intent, Intent::Error) && sender.peer == PEER_HOST {
        return true;
    }
    if entry.peer != sender.peer && entry.peer != PEER_UNBOUND {
        return false;
    }
    entry.peer = sender.peer;
    entry.peer_ifindex = ifindex;
    entry.peer_mark = mark;
    true
}

/// Takes up a flow again that the revision in force allows, or only observes.
#[inline(always)]
pub(crate) fn refresh(entry: &mut FlowEntry, config: &Config, observed: bool) {
    entry.flags = (entry.flags & !(OBSERVED | REVOKED)) | if observed { OBSERVED } else { 0 };
    entry.revision = config.revision;
    entry.last_seen = now();
    entry.refreshed = jiffies();
}

/// Marks a flow that the revision in force denies. It is kept, unrefreshed, so that what follows is known to be
/// revoked and a later policy can revive it.
#[inline(always)]
pub(crate) fn revoke(entry: &mut FlowEntry, config: &Config) {
    entry.flags |= REVOKED;
    entry.revision = config.revision;
}

/// Remembers a flow whose first packet is allowed or observed.
///
/// `peer` is who the other side is; `skb` binds how its packets arrive if it has sent this one.
#[inline(always)]
pub(crate) fn open(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    direction: Direction,
    frame: &Frame,
    peer: u32,
    observed: bool,
) -> Result<(), DropReason> {
    let now = now();
    if let Some(pointer) = maps::established_flow(key) {
        // SAFETY: as in `find`.
        let entry = unsafe { &mut *pointer };
        // A late copy of the SYN must not push a living connection back to where a flood could evict it.
        if entry.state() == FlowState::Established
            && entry.is_opener(direction)
            && entry.peer == peer
            && !entry.is_expired(key.protocol, now, &config.timeouts)
            && matches!(frame.packet.intent, Intent::Open)
        {
            refresh(entry, config, observed);
            return Ok(());
        }
        maps::remove_established_flow(key);
    }
    recent::forget(key);
    let (peer_ifindex, peer_mark) = match direction {
        Direction::Ingress => (skb.ingress_ifindex(), skb.mark() & config.mark_mask),
        // No interface has this index: the first reply is looked at.
        Direction::Egress => (u32::MAX, 0),
    };
    let entry = FlowEntry {
        last_seen: now,
        revision: config.revision,
        peer,
        peer_ifindex,
        peer_mark,
        state: FlowState::Opening as u8,
        opened: direction as u8,
        flags: if observed { OBSERVED } else { 0 },
        _pad: 0,
        refreshed: jiffies(),
    };
    maps::open_flow(key, &entry).or(Err(DropReason::TableFull))
}
