//! What happens at each hook, in order: parse, validate the sender, track, decide, report.

use core::mem::MaybeUninit;

use agent_common::{
    config::Config,
    decision::{Attempt, Decision, Party, decide},
    endpoint::Interface,
    flow::{FlowEntry, FlowKey},
    packet::{Address, Intent},
    verdict::{Direction, DropReason, Hook, Mode, Verdict},
};

use crate::{
    diagnose,
    identify::{self, Side},
    maps::{self, Policy},
    parse::{self, Frame, FrameKind},
    recent,
    report::{self, Authority, Denial},
    skb::Skb,
    track::{self, Carried},
};

/// What a hook comes to. Counted and carried out in one place, which keeps the programs small.
///
/// One struct with all fields always set, see [`Side`].
struct Outcome {
    action: Action,
    reason: DropReason,
    /// For [`Action::Deny`]: which way the packet went that opened the flow.
    opened: Direction,
    /// False for later packets of an observed flow, and for what stacks send by themselves.
    opening: bool,
    /// The other side, as far as it is known.
    other: Side,
    authority: Authority,
}

#[derive(Clone, Copy)]
enum Action {
    Forward,
    /// For a reason that no policy entry was needed for.
    Refuse,
    /// By a policy.
    Deny,
    /// By a policy that only observes.
    Observe,
}

impl Outcome {
    const FORWARD: Self = Self {
        action: Action::Forward,
        reason: DropReason::NotReady,
        opened: Direction::Ingress,
        opening: true,
        other: Side::UNKNOWN,
        authority: Authority::NONE,
    };

    /// Whether the packet is forwarded.
    #[inline(always)]
    const fn goes_on(&self) -> bool {
        matches!(self.action, Action::Forward | Action::Observe)
    }

    #[inline(always)]
    const fn refuse(reason: DropReason, other: Side) -> Self {
        Self { action: Action::Refuse, reason, other, ..Self::FORWARD }
    }
}

/// What a hook knows while it looks at one packet.
struct Scene {
    skb: Skb,
    config: &'static Config,
    /// The hook's port.
    port: &'static Interface,
    /// The flow that the packet belongs to, not current; null for none.
    known: *mut FlowEntry,
    /// The endpoint behind the port.
    own: Party,
}

/// Runs one hook on one packet.
#[inline(always)]
pub(crate) fn run(skb: Skb, hook: Hook) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(hook);
    };
    let port = maps::port(skb.ifindex());
    if let Some(port) = port
        && passes_unseen(skb, config, port, hook)
    {
        return report::forward(hook);
    }
    // Also at a port that nothing is known of yet, for the report.
    parse::parse(skb, &mut scratch.frame);
    let outcome = match port {
        Some(port) if is_tracked(port, &scratch.frame, hook) => {
            let direction = direction(hook);
            // SAFETY: every field is written; as a whole it would be put together on the stack first.
            let key = unsafe {
                (*scratch.key.as_mut_ptr()).set(skb.ifindex(), direction, &scratch.frame.packet);
                scratch.key.assume_init_ref()
            };
            // Most packets end here, before anything is laid out that only the others need.
            let place = recent::place(key);
            if recent::knows(skb, config, key, place, direction, &scratch.frame) {
                return report::forward(hook);
            }
            let known = track::find(skb, config, key, direction, &scratch.frame);
            match track::carry(known, skb, config, key, place, direction, &scratch.frame) {
                Carried::On => return report::forward(hook),
                Carried::TableFull => {
                    diagnose::flow_not_kept(skb.ifindex());
                    Outcome::refuse(DropReason::TableFull, Side::UNKNOWN)
                }
                Carried::Not => {
                    maps::forget();
                    let own = Side::of_port(skb.ifindex(), port).party;
                    let scene = Scene { skb, config, port, known, own };
                    flow(&scene, &scratch.frame, key, &mut scratch.question, direction)
                }
            }
        }
        _ => judge(skb, port, &scratch.frame, hook),
    };
    if matches!(outcome.action, Action::Forward) {
        return report::forward(hook);
    }
    let own = match port {
        Some(port) => Side::of_port(skb.ifindex(), port),
        None => Side::UNKNOWN,
    };
    // Under a false address it is an attempt all the same.
    let chatter = scratch.frame.kind.is_chatter() && outcome.reason as u8 != DropReason::SpoofedSource as u8;
    let mut denial = Denial {
        hook,
        reason: outcome.reason,
        observed: matches!(outcome.action, Action::Observe),
        opening: outcome.opening && !chatter,
        source: own,
        destination: own,
        authority: outcome.authority,
    };
    let mut opened = outcome.opened;
    let mut other = outcome.other;
    if matches!(outcome.action, Action::Refuse) {
        let (authority, mode) = Authority::of_endpoint(config, hook, &own.party);
        opened = authority.direction;
        denial.authority = authority;
        denial.observed = matches!(mode, Mode::Observe);
        if matches!(hook, Hook::ToEndpoint) && !other.is_known() {
            other = identify::sender(skb, config);
        }
    }
    match opened {
        Direction::Ingress => denial.source = other,
        Direction::Egress => denial.destination = other,
    }
    let denial = scratch.denial.write(denial);
    maps::forget();
    report::denied(skb, config, &scratch.frame, &mut scratch.attempt, &mut scratch.denied, denial)
}

/// What a hook comes to for a frame that is not tracked.
#[inline(always)]
fn judge(skb: Skb, port: Option<&'static Interface>, frame: &Frame, hook: Hook) -> Outcome {
    let Some(port) = port else {
        diagnose::port_without_entry(skb.ifindex());
        let reason = match frame.flaw() {
            Some(DropReason::InvalidPacket) => DropReason::InvalidPacket,
            _ => DropReason::NotReady,
        };
        let mut outcome = Outcome::refuse(reason, Side::UNKNOWN);
        // A new container's stack finds its way before anybody uses it.
        outcome.opening = matches!(frame.kind, FrameKind::Flow);
        return outcome;
    };
    match hook {
        Hook::ToEndpoint if port.is_covered() => to_endpoint(frame),
        Hook::ToEndpoint => into_unmanaged(port, frame),
        Hook::FromEndpoint => from_endpoint(port, frame),
    }
}

/// Whether nothing about a packet matters here, so that it need not be parsed.
#[inline(always)]
fn passes_unseen(skb: Skb, config: &Config, port: &Interface, hook: Hook) -> bool {
    match hook {
        // Unmanaged containers are left alone, except by covered ones.
        Hook::ToEndpoint => !port.is_covered() && !identify::sender(skb, config).is_covered(),
        Hook::FromEndpoint => {
            // What leaves here carries its sender, for hooks that see it after it has been routed.
            skb.set_mark_bits(port.mark, config.mark_mask);
            !port.is_validated()
        }
    }
}

/// Which way packets go at a hook, seen from the port.
#[inline(always)]
const fn direction(hook: Hook) -> Direction {
    match hook {
        Hook::ToEndpoint => Direction::Ingress,
        Hook::FromEndpoint => Direction::Egress,
    }
}

/// Whether a packet is one of those that flows are made of, at a port whose flows are kept, and not under a false name.
#[inline(always)]
fn is_tracked(port: &Interface, frame: &Frame, hook: Hook) -> bool {
    port.is_covered()
        && frame.flaw().is_none()
        && matches!(frame.kind, FrameKind::Flow)
        && match hook {
            Hook::ToEndpoint => true,
            // The address is looked at only if the packet belongs to no flow: a flow has those that it was opened
            // with. An error is found by the addresses that it quotes, which are not its own.
            Hook::FromEndpoint => {
                !has_foreign_mac(port, frame)
                    && (!matches!(frame.packet.intent, Intent::Error) || is_own_source(port, frame))
            }
        }
}

/// Whether a frame carries another source MAC than the port's.
#[inline(always)]
fn has_foreign_mac(port: &Interface, frame: &Frame) -> bool {
    frame.source_mac != port.expected_mac(frame.source_mac)
}

/// tc egress of a covered port: what would enter the container, and is not tracked.
#[inline(always)]
fn to_endpoint(frame: &Frame) -> Outcome {
    if let Some(reason) = frame.flaw() {
        return Outcome::refuse(reason, Side::UNKNOWN);
    }
    match frame.kind {
        // Checked where they were sent; the host's own are trusted.
        FrameKind::Arp | FrameKind::Neighbour => Outcome::FORWARD,
        // What a flow is made of is tracked and does not get here.
        FrameKind::Flow | FrameKind::Listener | FrameKind::Chatter => {
            Outcome::refuse(DropReason::UnsupportedProtocol, Side::UNKNOWN)
        }
    }
}

/// What a covered container sends into an unmanaged one was judged by the address that it called, so it has to be
/// this container's. The report looks up the sender by itself.
#[inline(always)]
fn into_unmanaged(port: &Interface, frame: &Frame) -> Outcome {
    if let Some(reason) = frame.flaw() {
        return Outcome::refuse(reason, Side::UNKNOWN);
    }
    match frame.kind {
        FrameKind::Arp | FrameKind::Neighbour => Outcome::FORWARD,
        FrameKind::Flow if port.owns(&frame.packet.destination) => Outcome::FORWARD,
        _ => Outcome::refuse(DropReason::UnknownDestination, Side::UNKNOWN),
    }
}

/// tc ingress of a port: what the container sends, and is not tracked.
#[inline(always)]
fn from_endpoint(port: &Interface, frame: &Frame) -> Outcome {
    let foreign_mac = has_foreign_mac(port, frame);
    if let Some(reason) = frame.flaw() {
        if port.is_covered() {
            return Outcome::refuse(reason, Side::UNKNOWN);
        }
        // What an unmanaged container sends is refused where it would enter a covered endpoint; but no frame at all may
        // draw another's traffic to this port in the bridge's table.
        return if foreign_mac {
            Outcome::refuse(DropReason::SpoofedSource, Side::UNKNOWN)
        } else {
            Outcome::FORWARD
        };
    }
    let spoofed = foreign_mac
        || match frame.kind {
            FrameKind::Arp | FrameKind::Neighbour => !is_own_claim(port, frame),
            // A covered endpoint's would be tracked if it were its own.
            FrameKind::Flow => port.is_covered() || !is_own_source(port, frame),
            FrameKind::Listener | FrameKind::Chatter => false,
        };
    if spoofed { Outcome::refuse(DropReason::SpoofedSource, Side::UNKNOWN) } else { Outcome::FORWARD }
}

/// A tracked packet that the policy has to be asked about: it belongs to no flow, or to one that the revision in force
/// has not allowed yet.
#[inline(always)]
fn flow(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    question: &mut MaybeUninit<Attempt>,
    direction: Direction,
) -> Outcome {
    // SAFETY: as in `track::find`.
    let mut known = unsafe { scene.known.as_mut() };
    let outcome = ask(scene, frame, key, question, direction, known.as_deref_mut());
    if known.is_none() || !outcome.goes_on() {
        return outcome;
    }
    // SAFETY: as in `track::find`; not null, as was just seen.
    let entry = unsafe { &mut *scene.known };
    if let Err(reason) = track::follow(entry, key, direction, frame) {
        diagnose::flow_not_kept(scene.skb.ifindex());
        return Outcome::refuse(reason, Side::UNKNOWN);
    }
    outcome
}

/// Asks the policy about a packet that opens a flow, or again about the packet that opened the one it belongs to,
/// whichever way this one goes.
#[inline(always)]
fn ask(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    question: &mut MaybeUninit<Attempt>,
    direction: Direction,
    known: Option<&mut FlowEntry>,
) -> Outcome {
    let (opened, other) = match &known {
        Some(entry) if entry.opened == Direction::Ingress as u8 => {
            (Direction::Ingress, identify::peer(entry.peer))
        }
        Some(_) => (Direction::Egress, identify::receiver(&key.remote)),
        None => {
            let other = match direction {
                Direction::Ingress => identify::sender(scene.skb, scene.config),
                Direction::Egress => identify::receiver(&key.remote),
            };
            if let Some(reason) = cannot_open(scene, frame, key, direction, &other) {
                return Outcome::refuse(reason, other);
            }
            (direction, other)
        }
    };
    let attempt = question.write(match opened {
        Direction::Ingress => Attempt {
            source: other.party,
            destination: scene.own,
            source_address: key.remote,
            destination_address: key.local,
            protocol: key.protocol,
            port: key.local_port,
        },
        Direction::Egress => Attempt {
            source: scene.own,
            destination: other.party,
            source_address: key.local,
            destination_address: key.remote,
            protocol: key.protocol,
            port: key.remote_port,
        },
    });
    let policy = Policy { config: scene.config, revision: scene.config.revision };
    let decision = decide(&policy, attempt);
    carry_out(scene, frame, key, opened, known, &other, &decision)
}

/// Why a packet without a flow is not even asked about; the first reason in order.
#[inline(always)]
fn cannot_open(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    direction: Direction,
    other: &Side,
) -> Option<DropReason> {
    match direction {
        Direction::Ingress => {
            if !other.is_known() {
                diagnose::unknown_sender(scene.skb.ifindex(), scene.skb.ingress_ifindex(), scene.skb.mark());
                return Some(DropReason::UnknownSource);
            }
            if !scene.port.owns(&key.local) {
                return Some(DropReason::UnknownDestination);
            }
        }
        Direction::Egress => {
            if !is_own_source(scene.port, frame) {
                return Some(DropReason::SpoofedSource);
            }
            if !other.is_known() {
                return Some(DropReason::UnknownDestination);
            }
        }
    }
    matches!(frame.packet.intent, Intent::Continue | Intent::Error).then_some(DropReason::NotTracked)
}

/// Turns a decision into flow state and an outcome.
#[inline(always)]
fn carry_out(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    opened: Direction,
    known: Option<&mut FlowEntry>,
    other: &Side,
    decision: &Decision,
) -> Outcome {
    let deny = |reason, observed, opening| {
        let action = if observed { Action::Observe } else { Action::Deny };
        Outcome { action, reason, opened, opening, other: *other, authority: Authority::of(decision) }
    };
    // Towards a covered endpoint its own hook decides, drops and counts. What was decided here only says whether to
    // expect a reply: without a flow there is none to expect.
    let elsewhere = matches!(opened, Direction::Egress) && other.is_covered();
    if !decision.allowed && matches!(decision.mode, Mode::Enforce) {
        let reason = match known {
            Some(entry) => {
                track::revoke(entry, scene.config);
                diagnose::flow_revoked(scene.skb.ifindex(), scene.config.revision);
                DropReason::Revoked
            }
            None if elsewhere => return Outcome::FORWARD,
            None => decision.reason,
        };
        return deny(reason, false, true);
    }
    let observed = !decision.allowed && !elsewhere;
    let opening = known.is_none();
    match known {
        Some(entry) => track::refresh(entry, scene.config, observed),
        None => {
            let (skb, peer) = (scene.skb, other.peer);
            if let Err(reason) = track::open(skb, scene.config, key, opened, frame, peer, observed) {
                diagnose::flow_not_kept(scene.skb.ifindex());
                return Outcome::refuse(reason, *other);
            }
        }
    }
    if observed { deny(decision.reason, true, opening) } else { Outcome::FORWARD }
}

/// A packet's source is the port's own. That of an ICMP error stands apart: its packet is the one that it quotes.
#[inline(always)]
fn is_own_source(port: &Interface, frame: &Frame) -> bool {
    let source = if matches!(frame.packet.intent, Intent::Error) { frame.claim } else { frame.packet.source };
    port.owns(&source)
}

/// An address claim by ARP or ND names the port's own addresses and MAC, or asks before it takes one.
#[inline(always)]
fn is_own_claim(port: &Interface, frame: &Frame) -> bool {
    let mac = port.expected_mac(frame.source_mac);
    if frame.claim_mac != mac {
        return false;
    }
    if frame.claim == Address::UNSPECIFIED || port.owns(&frame.claim) {
        return true;
    }
    frame.kind == FrameKind::Neighbour
        && frame.claim.is_link_local_ipv6()
        && (frame.claim == mac.link_local() || frame.claim == frame.packet.source)
}
