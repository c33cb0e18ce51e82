//! A TCP, UDP or ICMP packet and its flow: found and followed, or opened by what the policy says.

use core::{mem::MaybeUninit, ptr::null_mut};

use agent_common::{
    config::Config,
    decision::Party,
    endpoint::Interface,
    flow::{AT_UPLINK, FlowEntry, FlowKey, OBSERVED, OUTSIDER, PEER_LOCAL},
    verdict::{Direction, DropReason, Hook},
};

use super::{
    Action, Because, Cause,
    case::{Case, ask},
    published, refuse,
};
use crate::{
    diagnose, identify::Side, maps::Scratch, parse::Frame, recent, report::Authority, skb::Skb, track,
};

/// What a hook knows while it looks at one packet.
pub(super) struct Scene {
    pub(super) skb: Skb,
    pub(super) config: &'static Config,
    pub(super) hook: Hook,
    /// The hook's port; at an uplink that of the endpoint which is called.
    pub(super) port: &'static Interface,
    /// The endpoint behind the port.
    pub(super) own: Party,
    /// The port that the endpoint listens on, where the packet names the one that is published for it; else 0.
    pub(super) service: u16,
    /// Whether flows are kept. Of what an unmanaged container sends only calls of published ports are judged, each packet
    /// for itself.
    pub(super) tracked: bool,
}

/// What is known of a flow that is about to be remembered.
pub(crate) struct Opening {
    /// Which way the packet goes that makes it known.
    pub(crate) direction: Direction,
    /// Which way the one went that opened it.
    pub(crate) opened: Direction,
    /// Who the other side is.
    pub(crate) peer: u32,
    pub(crate) flags: u8,
    /// The revision that allows it.
    pub(crate) revision: u32,
}

/// Whether the packet belongs to a flow, and there is nothing more to it. Otherwise the flow is looked for once more: with
/// it in hand the rest of the program would be another one to the verifier than without.
///
/// `has_link_header`: without one it is not remembered.
#[inline(always)]
pub(super) fn goes_on(
    skb: Skb,
    config: &'static Config,
    scratch: &mut Scratch,
    direction: Direction,
    has_link_header: bool,
) -> bool {
    let frame = &scratch.frame;
    let key = lay_out(&mut scratch.key, skb, direction, frame);
    let place = recent::place(key);
    let known = track::find(skb, config, key, direction, frame);
    // SAFETY: as in `track::find`.
    let Some(entry) = (unsafe { known.as_mut() }) else {
        return false;
    };
    let state = track::goes_on(entry, scratch.case.revision, key, direction, frame);
    if state == 0 {
        return false;
    }
    if has_link_header {
        recent::remember(skb, config, scratch, direction, place, entry, state);
    }
    true
}

/// The key of the packet's flow at this interface.
#[inline(always)]
pub(super) fn lay_out<'a>(
    room: &'a mut MaybeUninit<FlowKey>,
    skb: Skb,
    direction: Direction,
    frame: &Frame,
) -> &'a FlowKey {
    // SAFETY: every field is written; as a whole it would be put together on the stack first.
    unsafe {
        (*room.as_mut_ptr()).set(skb.ifindex(), direction, &frame.packet);
        room.assume_init_ref()
    }
}

/// A TCP, UDP or ICMP packet at a covered port, which either belongs to a flow or opens one.
#[inline(always)]
pub(super) fn flow(scene: &Scene, scratch: &mut Scratch, direction: Direction) -> Action {
    let frame = &scratch.frame;
    let because = &mut scratch.because;
    // SAFETY: laid out before the packet's flow was looked for.
    let key = unsafe { scratch.key.assume_init_ref() };
    let pointer =
        if scene.tracked { track::find(scene.skb, scene.config, key, direction, frame) } else { null_mut() };
    // SAFETY: as in `track::find`.
    let known = unsafe { pointer.as_mut() };
    let action = match known {
        Some(entry) if track::is_current(entry, scratch.case.revision) => Action::Forward,
        mut known => {
            let action = ask(scene, frame, key, &mut scratch.case, direction, known.as_deref_mut(), because);
            if known.is_none() || !action.goes_on() {
                return action;
            }
            action
        }
    };
    // SAFETY: as in `track::find`; not null, or the packet would be through.
    let entry = unsafe { &mut *pointer };
    if let Err(reason) = track::follow(entry, key, direction, frame) {
        diagnose::flow_not_kept(scene.skb.ifindex());
        return refuse(because, reason, Side::UNKNOWN);
    }
    if matches!(direction, Direction::Egress) && entry.flags & OUTSIDER != 0 {
        published::mark_outsider(scene.skb, scene.config);
    }
    action
}

/// Turns a decision into flow state and an action.
#[inline(always)]
pub(super) fn carry_out(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    direction: Direction,
    known: Option<&mut FlowEntry>,
    case: &mut Case,
    because: &mut Because,
) -> Action {
    let (skb, config, opened) = (scene.skb, scene.config, case.opened);
    let service = if matches!(scene.hook, Hook::FromUplink) { scene.service } else { case.called.port };
    // Towards a covered endpoint its own hook decides, drops and counts. What was decided here only says whether to
    // expect a reply: without a flow there is none to expect.
    let elsewhere =
        matches!(opened, Direction::Egress) && case.other.is_covered() && !case.called.is_published;
    // SAFETY: `is_answered` has written it.
    let decision = unsafe { case.decision.assume_init_ref() };
    if !decision.goes_on() {
        let reason = match known {
            Some(entry) => {
                track::revoke(entry, case.revision);
                diagnose::flow_revoked(skb.ifindex(), case.revision);
                DropReason::Revoked
            }
            None if elsewhere => return Action::Forward,
            None => decision.reason,
        };
        Cause::put(because, reason, opened, true, &case.other, service, &Authority::of(decision));
        return Action::Deny;
    }
    let judged =
        matches!(scene.hook, Hook::ToEndpoint) && published::was_judged(skb, config, &case.other.party);
    let observed = !decision.allowed && !elsewhere && !judged;
    if matches!(scene.hook, Hook::FromUplink) {
        case.flags |= AT_UPLINK;
    }
    if observed {
        let opening = known.is_none() && frame.packet.intent.opens();
        let authority = Authority::of(decision);
        Cause::put(because, decision.reason, opened, opening, &case.other, service, &authority);
        case.flags |= OBSERVED;
    }
    if case.called.is_published {
        published::mark_outsider(skb, config);
        // docker-proxy answers, or the endpoint itself, as the host has it.
        case.other.peer = PEER_LOCAL;
    }
    match known {
        Some(entry) => track::refresh(entry, case.revision, observed),
        None if scene.tracked => {
            let opening = Opening {
                direction,
                opened,
                peer: case.other.peer,
                flags: case.flags,
                revision: case.revision,
            };
            if let Err(reason) = track::open(skb, config, key, &opening, frame, &mut case.new) {
                diagnose::flow_not_kept(skb.ifindex());
                return refuse(because, reason, case.other);
            }
        }
        None => {}
    }
    if observed { Action::Observe } else { Action::Forward }
}
