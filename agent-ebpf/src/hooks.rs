//! What happens at each hook, in order: parse, validate the sender, track, decide, report.

use agent_common::{
    config::Config,
    decision::{Attempt, Decision, Party, decide},
    endpoint::Interface,
    flow::{FlowEntry, FlowKey},
    packet::{Address, Intent},
    verdict::{Direction, DropReason, Hook, Mode, Verdict},
};

use crate::{
    identify::{self, Side},
    maps::{self, Policy, Scratch},
    parse::{self, Frame, FrameKind},
    report::{self, Authority, Denial},
    skb::Skb,
    track::{self, Tracked},
};

/// What a hook comes to. Counted and carried out in one place, which keeps the programs small.
///
/// One struct with all fields always set, see [`Side`].
struct Outcome {
    action: Action,
    reason: DropReason,
    /// For [`Action::Deny`]: which way the packet went that opened the flow.
    opened: Direction,
    /// For [`Action::Deny`]: false for later packets of an observed flow.
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
    /// The endpoint behind it.
    own: Party,
}

/// Runs one hook on one packet.
#[inline(always)]
pub(crate) fn run(skb: Skb, hook: Hook) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(hook);
    };
    let port = maps::port(skb.ifindex());
    let outcome = judge(skb, config, port, scratch, hook);
    if matches!(outcome.action, Action::Forward) {
        return report::forward(hook);
    }
    let own = match port {
        Some(port) => Side::of_port(skb.ifindex(), port),
        None => Side::UNKNOWN,
    };
    let mut denial = Denial {
        hook,
        reason: outcome.reason,
        observed: matches!(outcome.action, Action::Observe),
        opening: outcome.opening,
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

/// What a hook comes to for one packet.
#[inline(always)]
fn judge(
    skb: Skb,
    config: &'static Config,
    port: Option<&'static Interface>,
    scratch: &mut Scratch,
    hook: Hook,
) -> Outcome {
    if let Some(port) = port
        && passes_unseen(skb, config, port, hook)
    {
        return Outcome::FORWARD;
    }
    // Also at a port that nothing is known of yet, for the report.
    parse::parse(skb, &mut scratch.frame);
    let Some(port) = port else {
        return match scratch.frame.flaw() {
            Some(DropReason::InvalidPacket) => Outcome::refuse(DropReason::InvalidPacket, Side::UNKNOWN),
            _ => Outcome::refuse(DropReason::NotReady, Side::UNKNOWN),
        };
    };
    let scene = Scene { skb, config, port, own: Side::of_port(skb.ifindex(), port).party };
    match hook {
        Hook::ToEndpoint if port.is_covered() => to_endpoint(&scene, scratch),
        Hook::ToEndpoint => into_unmanaged(&scene, &scratch.frame),
        Hook::FromEndpoint => from_endpoint(&scene, scratch),
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

/// tc egress of a port: what would enter the container.
#[inline(always)]
fn to_endpoint(scene: &Scene, scratch: &mut Scratch) -> Outcome {
    if let Some(reason) = scratch.frame.flaw() {
        return Outcome::refuse(reason, Side::UNKNOWN);
    }
    match scratch.frame.kind {
        FrameKind::Flow => flow(scene, scratch, Direction::Ingress),
        // Checked where they were sent; the host's own are trusted.
        FrameKind::Arp | FrameKind::Neighbour => Outcome::FORWARD,
        FrameKind::Listener => Outcome::refuse(DropReason::UnsupportedProtocol, Side::UNKNOWN),
    }
}

/// What a covered container sends into an unmanaged one was judged by the address that it called, so it has to be
/// this container's. The report looks up the sender by itself.
#[inline(always)]
fn into_unmanaged(scene: &Scene, frame: &Frame) -> Outcome {
    if let Some(reason) = frame.flaw() {
        return Outcome::refuse(reason, Side::UNKNOWN);
    }
    match frame.kind {
        FrameKind::Arp | FrameKind::Neighbour => Outcome::FORWARD,
        FrameKind::Flow if scene.port.owns(&frame.packet.destination) => Outcome::FORWARD,
        _ => Outcome::refuse(DropReason::UnknownDestination, Side::UNKNOWN),
    }
}

/// tc ingress of a port: what the container sends.
#[inline(always)]
fn from_endpoint(scene: &Scene, scratch: &mut Scratch) -> Outcome {
    let frame = &scratch.frame;
    if let Some(reason) = frame.flaw() {
        // What an unmanaged container sends is refused where it would enter a covered endpoint.
        return if scene.port.is_covered() {
            Outcome::refuse(reason, Side::UNKNOWN)
        } else {
            Outcome::FORWARD
        };
    }
    let spoofed = frame.source_mac != scene.port.expected_mac(frame.source_mac)
        || match frame.kind {
            FrameKind::Arp | FrameKind::Neighbour => !is_own_claim(scene.port, frame),
            // A covered endpoint's is looked at only if it belongs to no flow: a flow has the addresses that it
            // was opened with.
            FrameKind::Flow => !scene.port.is_covered() && !is_own_source(scene.port, frame),
            FrameKind::Listener => false,
        };
    if spoofed {
        return Outcome::refuse(DropReason::SpoofedSource, Side::UNKNOWN);
    }
    maps::forget();
    if scene.port.is_covered() && matches!(frame.kind, FrameKind::Flow) {
        return flow(scene, scratch, Direction::Egress);
    }
    Outcome::FORWARD
}

/// A TCP, UDP or ICMP packet at a covered port, which either belongs to a flow or opens one.
#[inline(always)]
fn flow(scene: &Scene, scratch: &mut Scratch, direction: Direction) -> Outcome {
    let frame = &scratch.frame;
    let key: &FlowKey = scratch.key.write(FlowKey::new(scene.skb.ifindex(), direction, &frame.packet));
    let tracked = track::track(scene.skb, scene.config, key, direction, frame);
    // The question is always about the packet that opened the flow, whichever way this one goes.
    let (again, opened, other) = match tracked {
        Tracked::Current => return Outcome::FORWARD,
        Tracked::Full => return Outcome::refuse(DropReason::TableFull, Side::UNKNOWN),
        Tracked::Again(pointer) => {
            // SAFETY: as in `track::track`.
            let (opened, peer) = unsafe { ((*pointer).opened, (*pointer).peer) };
            if opened == Direction::Ingress as u8 {
                (Some(pointer), Direction::Ingress, identify::peer(peer))
            } else {
                (Some(pointer), Direction::Egress, identify::receiver(&key.remote))
            }
        }
        Tracked::None => {
            let other = match direction {
                Direction::Ingress => identify::sender(scene.skb, scene.config),
                Direction::Egress => identify::receiver(&key.remote),
            };
            if let Some(reason) = cannot_open(scene, frame, key, direction, &other) {
                return Outcome::refuse(reason, other);
            }
            (None, direction, other)
        }
    };
    let attempt = scratch.question.write(match opened {
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
    carry_out(scene, frame, key, direction, opened, again, &other, &decision)
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
#[expect(clippy::too_many_arguments, reason = "one inlined step of `flow`, apart for readability")]
fn carry_out(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    direction: Direction,
    opened: Direction,
    again: Option<*mut FlowEntry>,
    other: &Side,
    decision: &Decision,
) -> Outcome {
    // Towards a covered endpoint its own hook decides, drops and counts. What was decided here only says whether to
    // expect a reply: without a flow there is none to expect.
    let deny = |reason, observed, opening| {
        let action = if observed { Action::Observe } else { Action::Deny };
        Outcome { action, reason, opened, opening, other: *other, authority: Authority::of(decision) }
    };
    let elsewhere = matches!(opened, Direction::Egress) && other.is_covered();
    let (reason, observed) = match decision.verdict {
        Verdict::Forwarded => (None, false),
        Verdict::Observed(reason) => (Some(reason), !elsewhere),
        Verdict::Dropped(reason) => {
            let reason = match again {
                Some(pointer) => {
                    track::revoke(pointer, scene.config);
                    DropReason::Revoked
                }
                None if elsewhere => return Outcome::FORWARD,
                None => reason,
            };
            return deny(reason, false, true);
        }
    };
    match again {
        Some(pointer) => track::renew(pointer, scene.config, observed),
        None => {
            if let Err(reason) =
                track::open(scene.skb, scene.config, key, direction, frame, other.peer, observed)
            {
                return Outcome::refuse(reason, *other);
            }
        }
    }
    match reason {
        Some(reason) if observed => deny(reason, true, again.is_none()),
        _ => Outcome::FORWARD,
    }
}

/// A packet's source is the port's own. An ICMP error is filed under the packet that it quotes, whose receiver was
/// this port's container; without a flow that says so it goes nowhere anyway.
#[inline(always)]
fn is_own_source(port: &Interface, frame: &Frame) -> bool {
    matches!(frame.packet.intent, Intent::Error) || port.owns(&frame.packet.source)
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
