//! Finds the flow that a packet belongs to and follows it. Decides nothing: a packet without a flow, or with one
//! that must be looked at again, goes back to the hook.

use core::{mem::MaybeUninit, ptr::null_mut};

use agent_common::{
    config::Config,
    flow::{
        FlowEntry, FlowKey, FlowState, LENT, OBSERVED, OUTSIDER, PEER_HOST, PEER_LOCAL, PEER_UNBOUND,
        PEER_WORLD, REVOKED, Step,
    },
    packet::{Address, Intent, PROTOCOL_TCP, TCP_FIN, TCP_RST},
    verdict::{Direction, DropReason},
};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns};

use crate::{hooks::Opening, identify, maps, parse::Frame, recent, skb::Skb};

/// Room outside the small BPF stack for what goes into a flow table.
pub(crate) struct NewFlow {
    entry: MaybeUninit<FlowEntry>,
    key: MaybeUninit<FlowKey>,
}

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The kernel's coarse clock.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_jiffies64() }
}

/// The low bits of [`ticks`].
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    ticks() as u32
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
    let Some(pointer) = maps::flow(key, is_of_opening(frame)) else {
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

/// Whether a packet's flow is probably not established yet: most of those that are have been remembered.
#[inline(always)]
const fn is_of_opening(frame: &Frame) -> bool {
    frame.packet.protocol == PROTOCOL_TCP && frame.packet.tcp_flags & (TCP_FIN | TCP_RST) == 0
}

/// Whether a flow was allowed by the revision in force. Otherwise it has to be decided again, in its original
/// direction: the revision has moved, or it is only observed, or revoked, or has more to do than pass.
#[inline(always)]
pub(crate) const fn is_current(entry: &FlowEntry, revision: u32) -> bool {
    entry.revision == revision && entry.flags & (OBSERVED | REVOKED | LENT) == 0
}

/// Follows a packet that simply belongs to a flow which the revision in force allows, and tells how far the flow has come
/// with it: [`FlowState`], or 0 if there is more to it.
///
/// An ICMP error is not simple: who sent it stands in none of the flow's addresses.
#[inline(always)]
pub(crate) fn goes_on(
    entry: &mut FlowEntry,
    revision: u32,
    key: &FlowKey,
    direction: Direction,
    frame: &Frame,
) -> u8 {
    // What calls a published port has to say so in its mark.
    if !is_current(entry, revision)
        || entry.flags & OUTSIDER != 0
        || matches!(frame.packet.intent, Intent::Error)
    {
        return 0;
    }
    match follow(entry, key, direction, frame) {
        Ok(Step::Stay) => entry.state,
        Ok(Step::Establish) => FlowState::Established as u8,
        Ok(Step::Close) => FlowState::Closing as u8,
        Err(_) => 0,
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
    let step = entry.advance(key.protocol, direction, frame.packet.tcp_flags);
    if matches!(step, Step::Stay) {
        return Ok(step);
    }
    let moved = *entry;
    if matches!(step, Step::Close) {
        maps::close_flow(key, &moved);
        return Ok(step);
    }
    // Without room for it the flow has not come further: its next packet asks again.
    entry.state = state;
    entry.flags = flags;
    match maps::establish_flow(key, &moved) {
        Ok(()) => {
            // The place is kept for when the flow is over: to make another costs more.
            entry.state = FlowState::Moved as u8;
            Ok(Step::Establish)
        }
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
    let may_bind = entry.peer == PEER_UNBOUND || (entry.peer == PEER_LOCAL && sender.peer != PEER_WORLD);
    if entry.peer != sender.peer && !may_bind {
        return false;
    }
    entry.peer = sender.peer;
    entry.peer_ifindex = ifindex;
    entry.peer_mark = mark;
    true
}

/// Takes up a flow again that the revision in force allows, or only observes.
#[inline(always)]
pub(crate) fn refresh(entry: &mut FlowEntry, revision: u32, observed: bool) {
    entry.flags = (entry.flags & !(OBSERVED | REVOKED)) | if observed { OBSERVED } else { 0 };
    entry.revision = revision;
    entry.last_seen = now();
    entry.refreshed = jiffies();
}

/// Marks a flow that the revision in force denies. It is kept, unrefreshed, so that what follows is known to be
/// revoked and a later policy can revive it.
#[inline(always)]
pub(crate) fn revoke(entry: &mut FlowEntry, revision: u32) {
    entry.flags |= REVOKED;
    entry.revision = revision;
}

/// Remembers a flow whose first packet is allowed or observed.
///
/// `skb` binds how the peer's packets arrive if it has sent this one. A flow that this packet
/// does not open is adopted: both sides have been heard before.
#[inline(always)]
pub(crate) fn open(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    opening: &Opening,
    frame: &Frame,
    new: &mut NewFlow,
) -> Result<(), DropReason> {
    let now = now();
    if let Some(pointer) = maps::established_flow(key) {
        // SAFETY: as in `find`.
        let entry = unsafe { &mut *pointer };
        // A late copy of the SYN must not push a living connection back to where a flood could evict it.
        if entry.state() == FlowState::Established
            && entry.is_opener(opening.opened)
            && (entry.peer == opening.peer || matches!(opening.peer, PEER_LOCAL | PEER_UNBOUND))
            && !entry.is_expired(key.protocol, now, &config.timeouts)
            && matches!(frame.packet.intent, Intent::Open)
        {
            refresh(entry, opening.revision, opening.flags & OBSERVED != 0);
            return Ok(());
        }
        maps::remove_established_flow(key);
    }
    recent::forget(key);
    let (peer_ifindex, peer_mark) = match opening.direction {
        Direction::Ingress => (skb.ingress_ifindex(), skb.mark() & config.mark_mask),
        // No interface has this index: the first reply is looked at.
        Direction::Egress => (u32::MAX, 0),
    };
    let entry = new.entry.write(FlowEntry {
        last_seen: now,
        revision: opening.revision,
        peer: opening.peer,
        peer_ifindex,
        peer_mark,
        state: FlowState::Opening as u8,
        opened: opening.opened as u8,
        flags: opening.flags,
        _pad: 0,
        refreshed: jiffies(),
    });
    if frame.packet.intent.opens() {
        return maps::open_flow(key, entry).or(Err(DropReason::TableFull));
    }
    entry.state = FlowState::Established as u8;
    maps::remove_opening_flow(key);
    maps::establish_flow(key, entry).or(Err(DropReason::TableFull))
}

/// Whether a segment without a flow may belong to a connection from before the first start.
#[inline(always)]
pub(crate) fn may_adopt(config: &Config, frame: &Frame) -> bool {
    matches!(frame.packet.intent, Intent::Continue)
        && frame.packet.protocol == PROTOCOL_TCP
        && frame.packet.tcp_flags & (TCP_FIN | TCP_RST) == 0
        && config.adopt_until != 0
        && now() < config.adopt_until
}

/// Expects replies at the uplinks for a container whose port number is also a published one, see
/// [`agent_common::flow::LENT`]. `key` is that of the container's flow.
#[inline(always)]
pub(crate) fn lend(key: &FlowKey, new: &mut NewFlow) {
    let lent = lent_key(key, &mut new.key);
    let entry = new.entry.write(FlowEntry {
        last_seen: now(),
        revision: 0,
        peer: PEER_UNBOUND,
        peer_ifindex: 0,
        peer_mark: 0,
        state: FlowState::Established as u8,
        opened: Direction::Egress as u8,
        flags: LENT,
        _pad: 0,
        refreshed: jiffies(),
    });
    // Without it the replies are dropped, as they would be without a flow.
    maps::remember_lent(lent, entry);
}

/// Whether a packet to a published port answers a container that the host has lent the number to.
#[inline(always)]
pub(crate) fn is_lent(config: &Config, key: &FlowKey, frame: &Frame, new: &mut NewFlow) -> bool {
    // A reply over IPv4 that no container asked for is judged once more where it enters one; over IPv6 docker-proxy may
    // take it.
    let reply = match frame.packet.intent {
        Intent::Continue => true,
        Intent::Datagram => key.remote.is_ipv4(),
        Intent::Open | Intent::Error => false,
    };
    reply
        && maps::lent(lent_key(key, &mut new.key)).is_some_and(|pointer| {
            // SAFETY: as in `find`.
            let entry = unsafe { &*pointer };
            !entry.is_expired(key.protocol, now(), &config.timeouts)
        })
}

/// No port has the number 0, and no flow the address `::`.
#[inline(always)]
fn lent_key<'a>(key: &FlowKey, room: &'a mut MaybeUninit<FlowKey>) -> &'a FlowKey {
    room.write(FlowKey { port: 0, local: Address::UNSPECIFIED, ..*key })
}
