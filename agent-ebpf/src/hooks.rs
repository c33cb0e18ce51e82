//! What happens at each hook, in order: parse, validate the sender, track, decide, report. Here the hooks of ports, and
//! what all have in common.

mod bridge;
mod published;
mod uplink;

use core::{mem::MaybeUninit, ptr::null_mut};

use agent_common::{
    config::Config,
    decision::{Attempt, Decision, Party, PartyKind, decide},
    endpoint::Interface,
    flow::{FlowEntry, FlowKey, LENT, OBSERVED, OUTSIDER, PEER_UNBOUND},
    packet::{Address, Intent},
    verdict::{Direction, DropReason, Hook, Mode, Verdict},
};

use crate::{
    diagnose,
    identify::{self, Side},
    maps::{self, Policy, Scratch},
    parse::{self, Frame, FrameKind, Ports},
    report::{self, Authority, Denial},
    skb::Skb,
    track::{self, NewFlow},
};

pub(crate) use self::{
    bridge::{from_bridge, to_bridge},
    uplink::from_uplink,
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

impl Action {
    /// Whether the packet is forwarded.
    #[inline(always)]
    const fn goes_on(self) -> bool {
        matches!(self, Self::Forward | Self::Observe)
    }
}

#[inline(always)]
fn refuse(because: &mut Because, reason: DropReason, other: Side) -> Action {
    Cause::put(because, reason, Direction::Ingress, true, &other, 0, &Authority::NONE);
    Action::Refuse
}

/// What a hook knows while it looks at one packet.
struct Scene {
    skb: Skb,
    config: &'static Config,
    hook: Hook,
    /// The hook's port; at an uplink that of the endpoint which is called.
    port: &'static Interface,
    /// The endpoint behind it.
    own: Party,
    /// The port that the endpoint listens on, where the packet names the one that is published for it; else 0.
    service: u16,
    /// Whether flows are kept. Of what an unmanaged container sends only calls of published ports are judged, each packet
    /// for itself.
    tracked: bool,
}

/// Runs one hook of a port on one packet.
#[inline(always)]
pub(crate) fn at_port(skb: Skb, hook: Hook) -> Verdict {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else {
        return report::without_config(hook);
    };
    let port = maps::port(skb.ifindex());
    let action = judge(skb, config, port, scratch, hook);
    if !matches!(action, Action::Forward) {
        scratch.own = match port {
            Some(port) => Side::of_port(skb.ifindex(), port),
            None => Side::UNKNOWN,
        };
    }
    conclude(skb, config, scratch, hook, action)
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
) -> Action {
    if let Some(port) = port
        && passes_unseen(skb, config, port, hook)
    {
        return Action::Forward;
    }
    // Also at a port that nothing is known of yet, for the report.
    let strictly = !matches!(hook, Hook::FromEndpoint) || port.is_none_or(Interface::is_validated);
    if maps::opaque(strictly) {
        parse::parse(skb, &mut scratch.frame);
    }
    let Some(port) = port else {
        diagnose::port_without_entry(skb.ifindex());
        let reason = match scratch.frame.flaw() {
            Some(DropReason::InvalidPacket) => DropReason::InvalidPacket,
            _ => DropReason::NotReady,
        };
        let action = refuse(&mut scratch.because, reason, Side::UNKNOWN);
        // A new container's stack finds its way before anybody uses it.
        // SAFETY: just written.
        unsafe { scratch.because.assume_init_mut() }.opening = matches!(scratch.frame.kind, FrameKind::Flow);
        return action;
    };
    let scene = Scene {
        skb,
        config,
        hook,
        port,
        own: Side::of_port(skb.ifindex(), port).party,
        service: 0,
        tracked: port.is_covered(),
    };
    if matches!(hook, Hook::FromEndpoint) {
        from_endpoint(&scene, scratch)
    } else if port.is_covered() {
        to_endpoint(&scene, scratch)
    } else {
        into_unmanaged(&scene, &scratch.frame, &mut scratch.because)
    }
}

/// Whether nothing about a packet matters here, so that it need not be parsed.
#[inline(always)]
fn passes_unseen(skb: Skb, config: &Config, port: &Interface, hook: Hook) -> bool {
    if matches!(hook, Hook::FromEndpoint) {
        // What leaves here carries its sender, for hooks that see it after it has been routed.
        skb.set_mark_bits(port.mark, config.mark_mask);
        return !port.is_validated() && config.has_published == 0;
    }
    // Unmanaged containers are left alone, except by covered ones.
    !port.is_covered() && !identify::sender(skb, config).is_covered()
}

/// tc egress of a port: what would enter the container.
#[inline(always)]
fn to_endpoint(scene: &Scene, scratch: &mut Scratch) -> Action {
    if let Some(reason) = scratch.frame.flaw() {
        return refuse(&mut scratch.because, reason, Side::UNKNOWN);
    }
    match scratch.frame.kind {
        FrameKind::Flow => flow(scene, scratch, Direction::Ingress),
        // Checked where they were sent; the host's own are trusted.
        FrameKind::Arp | FrameKind::Neighbour => Action::Forward,
        FrameKind::Listener | FrameKind::Chatter => {
            refuse(&mut scratch.because, DropReason::UnsupportedProtocol, Side::UNKNOWN)
        }
    }
}

/// What a covered container sends into an unmanaged one was judged by the address that it called, so it has to be
/// this container's. The report looks up the sender by itself.
#[inline(always)]
fn into_unmanaged(scene: &Scene, frame: &Frame, because: &mut Because) -> Action {
    if let Some(reason) = frame.flaw() {
        return refuse(because, reason, Side::UNKNOWN);
    }
    match frame.kind {
        FrameKind::Arp | FrameKind::Neighbour => Action::Forward,
        FrameKind::Flow if scene.port.owns(&frame.packet.destination) => Action::Forward,
        _ => refuse(because, DropReason::UnknownDestination, Side::UNKNOWN),
    }
}

/// tc ingress of a port: what the container sends.
#[inline(always)]
fn from_endpoint(scene: &Scene, scratch: &mut Scratch) -> Action {
    if scene.port.is_validated()
        && let Some(reason) = is_unsound(scene.port, &scratch.frame)
    {
        return refuse(&mut scratch.because, reason, Side::UNKNOWN);
    }
    maps::forget();
    if scene.tracked {
        if !matches!(scratch.frame.kind, FrameKind::Flow) {
            return Action::Forward;
        }
    } else {
        if scene.config.has_published == 0 {
            return Action::Forward;
        }
        parse::locate(scene.skb, &mut scratch.frame, true);
        match scratch.frame.ports() {
            Ports::None => return Action::Forward,
            Ports::Hidden => return published::hidden(&scratch.frame, &mut scratch.because),
            Ports::Found => {}
        }
    }
    flow(scene, scratch, Direction::Egress)
}

/// Why a frame may not leave the port, whomever it is for.
#[inline(always)]
fn is_unsound(port: &Interface, frame: &Frame) -> Option<DropReason> {
    let foreign_mac = frame.source_mac != port.expected_mac(frame.source_mac);
    if let Some(reason) = frame.flaw() {
        if port.is_covered() {
            return Some(reason);
        }
        // What an unmanaged container sends is refused where it would enter a covered endpoint; but no frame at all may
        // draw another's traffic to this port in the bridge's table.
        return if foreign_mac { Some(DropReason::SpoofedSource) } else { None };
    }
    let spoofed = foreign_mac
        || match frame.kind {
            FrameKind::Arp | FrameKind::Neighbour => !is_own_claim(port, frame),
            // A covered endpoint's is looked at only if it belongs to no flow: a flow has the addresses that it
            // was opened with. An error is found by the addresses that it quotes, which are not its own.
            FrameKind::Flow => {
                (!port.is_covered() || matches!(frame.packet.intent, Intent::Error))
                    && !is_own_source(port, frame)
            }
            FrameKind::Listener | FrameKind::Chatter => false,
        };
    if spoofed { Some(DropReason::SpoofedSource) } else { None }
}

/// A TCP, UDP or ICMP packet at a covered port, which either belongs to a flow or opens one.
#[inline(always)]
fn flow(scene: &Scene, scratch: &mut Scratch, direction: Direction) -> Action {
    let frame = &scratch.frame;
    let because = &mut scratch.because;
    let key: &FlowKey = scratch.key.write(FlowKey::new(scene.skb.ifindex(), direction, &frame.packet));
    let pointer =
        if scene.tracked { track::find(scene.skb, scene.config, key, direction, frame) } else { null_mut() };
    // SAFETY: as in `track::find`.
    let known = unsafe { pointer.as_mut() };
    let action = match known {
        Some(entry) if track::is_current(entry, scene.config) => Action::Forward,
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

/// A packet's case before the policy. Lies in scratch memory, where zeroes are valid; see [`Cause`].
pub(crate) struct Case {
    /// The other side.
    other: Side,
    /// Whom the packet calls by a published port, if anybody.
    called: published::Called,
    /// Which way the packet went that opened the flow, or would.
    opened: Direction,
    inquiry: Inquiry,
    /// Of the flow to be.
    flags: u8,
    question: MaybeUninit<Attempt>,
    decision: MaybeUninit<Decision>,
    new: NewFlow,
}

/// How many questions a case raises.
#[repr(u8)]
#[derive(Clone, Copy)]
enum Inquiry {
    One = 0,
    /// A call of a published port: the world has to be open to the caller, and the callee to the world.
    Both = 1,
    /// A connection from before the first start: it is not known which side opened it.
    Either = 2,
}

/// Asks the policy about a packet that opens a flow, or again about the packet that opened the one it belongs to,
/// whichever way this one goes.
#[inline(always)]
fn ask(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    case: &mut Case,
    direction: Direction,
    known: Option<&mut FlowEntry>,
    because: &mut Because,
) -> Action {
    case.inquiry = Inquiry::One;
    case.flags = 0;
    match &known {
        Some(entry) if entry.opened == Direction::Ingress as u8 => {
            case.opened = Direction::Ingress;
            case.other = identify::peer(entry.peer);
        }
        Some(_) => {
            case.opened = Direction::Egress;
            case.other = identify::receiver(&key.remote);
        }
        None if !scene.tracked => {
            case.opened = Direction::Egress;
            case.other = Side::HOST;
        }
        None => {
            if matches!(scene.hook, Hook::FromUplink)
                && track::is_lent(scene.config, key, frame, &mut case.new)
            {
                return Action::Forward;
            }
            case.opened = direction;
            case.other = match direction {
                Direction::Ingress => identify::sender(scene.skb, scene.config),
                Direction::Egress => identify::receiver(&key.remote),
            };
            if let Some(reason) = cannot_open(scene, frame, key, direction, &case.other) {
                return refuse(because, reason, case.other);
            }
            if !frame.packet.intent.opens() {
                if !track::may_adopt(scene.config, frame) {
                    return refuse(because, DropReason::NotTracked, case.other);
                }
                case.inquiry = Inquiry::Either;
            }
        }
    }
    maps::forget();
    case.called = published::Called::NOBODY;
    if matches!(case.opened, Direction::Egress) {
        if matches!(case.other.party.kind, PartyKind::Host) {
            case.called = published::called(scene.config, key.protocol, &key.remote, key.remote_port);
        }
        if case.called.is_published {
            if !case.called.side.is_covered() {
                return refuse(because, DropReason::NotReady, case.other);
            }
            case.inquiry = Inquiry::Both;
            case.flags = OUTSIDER;
            case.other = case.called.side;
        } else if published::is_number(scene.config, key.protocol, key.local_port)
            && !published::is_host(&key.remote)
        {
            case.flags = LENT;
            track::lend(key, &mut case.new);
        }
    }
    if !scene.tracked && !case.called.is_published {
        return Action::Forward;
    }
    maps::forget();
    if !is_answered(scene, key, case) {
        return refuse(because, DropReason::NotTracked, case.other);
    }
    maps::forget();
    carry_out(scene, frame, key, direction, known, case, because)
}

/// Asks what there is to ask; false if a connection from before the first start is nobody's.
#[inline(always)]
fn is_answered(scene: &Scene, key: &FlowKey, case: &mut Case) -> bool {
    let policy = Policy { config: scene.config, revision: scene.config.revision };
    let attempt = case.question.write(Attempt {
        source: scene.own,
        destination: scene.own,
        source_address: key.local,
        destination_address: key.remote,
        protocol: key.protocol,
        port: 0,
    });
    scene.put(
        attempt,
        key,
        case.opened,
        if case.called.is_published { Party::OUTSIDER } else { case.other.party },
    );
    let mut first_allows = true;
    // In a loop, so that there is one copy of the answer's code.
    for second in [false, true] {
        maps::forget();
        let answer = decide(&policy, attempt);
        let allowed = answer.allowed;
        let decided = match case.inquiry {
            Inquiry::One => true,
            Inquiry::Both => !answer.goes_on(),
            Inquiry::Either => allowed,
        };
        // What the caller's policy observes and the callee's lets through is the caller's denial.
        let keep = second && matches!(case.inquiry, Inquiry::Both) && !decided && !first_allows;
        if !keep {
            case.decision.write(answer);
        }
        if second {
            return decided || !matches!(case.inquiry, Inquiry::Either);
        }
        if decided {
            break;
        }
        first_allows = allowed;
        maps::forget();
        if matches!(case.inquiry, Inquiry::Both) {
            attempt.source = Party::OUTSIDER;
            attempt.destination = case.other.party;
            attempt.port = case.called.port;
        } else {
            case.opened = match case.opened {
                Direction::Ingress => Direction::Egress,
                Direction::Egress => Direction::Ingress,
            };
            scene.put(attempt, key, case.opened, case.other.party);
        }
    }
    true
}

impl Scene {
    /// The attempt to open this flow: by the other side, or by the endpoint.
    #[inline(always)]
    fn put(&self, attempt: &mut Attempt, key: &FlowKey, opened: Direction, other: Party) {
        if matches!(opened, Direction::Ingress) {
            attempt.source = other;
            attempt.destination = self.own;
            attempt.source_address = key.remote;
            attempt.destination_address = key.local;
            attempt.port = if matches!(self.hook, Hook::FromUplink) { self.service } else { key.local_port };
        } else {
            attempt.source = self.own;
            attempt.destination = other;
            attempt.source_address = key.local;
            attempt.destination_address = key.remote;
            attempt.port = key.remote_port;
        }
    }
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
            // At an uplink it is the host's address that is called.
            if matches!(scene.hook, Hook::ToEndpoint) && !scene.port.owns(&key.local) {
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
    None
}

/// Which way a packet goes, and which way the one went that opened its flow.
pub(crate) struct Way {
    pub(crate) direction: Direction,
    pub(crate) opened: Direction,
}

/// Turns a decision into flow state and an action.
#[inline(always)]
fn carry_out(
    scene: &Scene,
    frame: &Frame,
    key: &FlowKey,
    direction: Direction,
    known: Option<&mut FlowEntry>,
    case: &mut Case,
    because: &mut Because,
) -> Action {
    let (skb, config, opened) = (scene.skb, scene.config, case.opened);
    // SAFETY: `is_answered` has written it.
    let decision = unsafe { case.decision.assume_init_ref() };
    let service = if matches!(scene.hook, Hook::FromUplink) { scene.service } else { case.called.port };
    // Towards a covered endpoint its own hook decides, drops and counts. What was decided here only says whether to
    // expect a reply: without a flow there is none to expect.
    let elsewhere =
        matches!(opened, Direction::Egress) && case.other.is_covered() && !case.called.is_published;
    if !decision.goes_on() {
        let reason = match known {
            Some(entry) => {
                track::revoke(entry, config);
                diagnose::flow_revoked(skb.ifindex(), config.revision);
                DropReason::Revoked
            }
            None if elsewhere => return Action::Forward,
            None => decision.reason,
        };
        Cause::put(because, reason, opened, true, &case.other, service, &Authority::of(decision));
        return Action::Deny;
    }
    let observed = !decision.allowed
        && !elsewhere
        && !(matches!(scene.hook, Hook::ToEndpoint) && published::was_judged(skb, config, &case.other.party));
    if observed {
        let opening = known.is_none() && frame.packet.intent.opens();
        let authority = Authority::of(decision);
        Cause::put(because, decision.reason, opened, opening, &case.other, service, &authority);
        case.flags |= OBSERVED;
    }
    if case.called.is_published {
        published::mark_outsider(skb, config);
        // docker-proxy answers, or the endpoint itself, as the host has it.
        case.other.peer = PEER_UNBOUND;
    }
    match known {
        Some(entry) => track::refresh(entry, config, observed),
        None if scene.tracked => {
            let way = Way { direction, opened };
            let peer = case.other.peer;
            if let Err(reason) = track::open(skb, config, key, &way, frame, peer, case.flags, &mut case.new) {
                diagnose::flow_not_kept(skb.ifindex());
                return refuse(because, reason, case.other);
            }
        }
        None => {}
    }
    if observed { Action::Observe } else { Action::Forward }
}

/// A packet's source is the port's own. That of an ICMP error stands apart: its packet is the one that it quotes.
#[inline(always)]
fn is_own_source(port: &Interface, frame: &Frame) -> bool {
    let source = if matches!(frame.packet.intent, Intent::Error) { frame.claim } else { frame.packet.source };
    // Every stack also has a link-local address, which Docker does not tell. Covered endpoints do not get far with it.
    port.owns(&source) || (!port.is_covered() && source == port.expected_mac(frame.source_mac).link_local())
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
