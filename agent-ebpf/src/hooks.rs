//! What happens at each hook, in order: parse, validate the sender, track, decide, report. Here what all have in common:
//! how they end.

mod bridge;
mod case;
mod flow;
mod port;
mod published;
mod sender;
mod uplink;

use core::mem::MaybeUninit;

use agent_common::{
    config::Config,
    verdict::{Direction, DropReason, Hook, Mode, Verdict},
};

pub(crate) use self::{
    bridge::{from_bridge, to_bridge},
    case::Case,
    flow::Opening,
    port::at_port,
    uplink::from_uplink,
};
use crate::{
    identify::{self, Side},
    maps::{self, Scratch},
    report::{self, Authority, Denial},
    skb::Skb,
};

/// What a hook does with a packet. Counted and carried out in one place, which keeps the programs small.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Forward,
    /// For a reason that no policy entry was needed for.
    Refuse,
    /// By a policy.
    Deny,
    /// By a policy that only observes.
    Observe,
}

impl Action {
    /// Whether the packet is forwarded.
    #[inline(always)]
    const fn goes_on(self) -> bool {
        matches!(self, Self::Forward | Self::Observe)
    }
}

/// Why, for every action but [`Action::Forward`]. Lies in scratch memory: handed on in registers it would have to be put
/// together again wherever two ways through a program meet.
pub(crate) struct Cause {
    reason: DropReason,
    /// For [`Action::Deny`]: which way the packet went that opened the flow.
    opened: Direction,
    /// False for later packets of an observed flow, and for what stacks send by themselves.
    opening: bool,
    /// The other side, as far as it is known.
    other: Side,
    /// The container's port behind a published one, 0 if the packet's port is meant.
    service: u16,
    authority: Authority,
}

impl Cause {
    /// Field by field: the compiler would put a whole one together on the small stack first.
    #[inline(always)]
    fn put(
        because: &mut Because,
        reason: DropReason,
        opened: Direction,
        opening: bool,
        other: &Side,
        service: u16,
        authority: &Authority,
    ) {
        let cause = because.as_mut_ptr();
        // SAFETY: the room is large enough and aligned, and nobody else looks into it.
        unsafe {
            (&raw mut (*cause).reason).write(reason);
            (&raw mut (*cause).opened).write(opened);
            (&raw mut (*cause).opening).write(opening);
            (&raw mut (*cause).other).write(*other);
            (&raw mut (*cause).service).write(service);
            (&raw mut (*cause).authority).write(*authority);
        }
    }
}

/// Room for one packet's cause.
pub(crate) type Because = MaybeUninit<Cause>;

#[inline(always)]
fn refuse(because: &mut Because, reason: DropReason, other: Side) -> Action {
    Cause::put(because, reason, Direction::Ingress, true, &other, 0, &Authority::NONE);
    Action::Refuse
}

/// Counts, reports and carries out what a hook came to.
#[inline(always)]
fn conclude(skb: Skb, config: &'static Config, scratch: &mut Scratch, hook: Hook, action: Action) -> Verdict {
    if matches!(action, Action::Forward) {
        return report::forward(hook);
    }
    maps::forget();
    // SAFETY: whoever came to an action other than `Forward` has written its cause.
    let cause = unsafe { scratch.because.assume_init_ref() };
    let own = scratch.own;
    // Under a false address it is an attempt all the same.
    let chatter = scratch.frame.kind.is_chatter() && cause.reason as u8 != DropReason::SpoofedSource as u8;
    let mut denial = Denial {
        hook,
        reason: cause.reason,
        observed: matches!(action, Action::Observe),
        opening: cause.opening && !chatter,
        source: own,
        destination: own,
        service: cause.service,
        turned: false,
        authority: cause.authority,
    };
    let mut opened = cause.opened;
    let mut other = cause.other;
    if matches!(action, Action::Refuse) {
        let (authority, mode) = Authority::of_endpoint(config, hook, &own.party);
        opened = authority.direction;
        denial.authority = authority;
        denial.observed = matches!(mode, Mode::Observe);
        if matches!(hook, Hook::ToEndpoint | Hook::ToBridge | Hook::FromUplink) && !other.is_known() {
            other = identify::sender(skb, config);
        }
    }
    match opened {
        Direction::Ingress => denial.source = other,
        Direction::Egress => denial.destination = other,
    }
    denial.turned = matches!(
        (hook, opened),
        (Hook::ToEndpoint, Direction::Egress) | (Hook::FromEndpoint, Direction::Ingress)
    );
    let denial = scratch.denial.write(denial);
    maps::forget();
    report::denied(skb, config, &scratch.frame, &mut scratch.attempt, &mut scratch.denied, denial)
}
