//! Counts every verdict exactly and tells the agent about denied attempts.

use core::mem::MaybeUninit;

use agent_common::{
    config::Config,
    counter::{DeniedKey, Total},
    decision::{Decision, Party, PartyKind},
    event::{AttemptEntry, AttemptKey, DeniedEvent},
    identity::{PORT_LABEL, UNKNOWN},
    packet::{Address, Intent, PROTOCOL_TCP, PROTOCOL_UDP, Packet},
    policy::PolicyTable,
    verdict::{Direction, DropReason, Hook, Mode, Severity, Verdict},
};

use crate::{
    identify::Side,
    maps::{self, Policy},
    parse::{Frame, FrameKind},
    skb::Skb,
    track,
};

/// A refusal: why, under whose policy, and between whom.
pub(crate) struct Denial {
    pub(crate) hook: Hook,
    pub(crate) reason: DropReason,
    pub(crate) observed: bool,
    /// False for what is a packet but no attempt: later packets of an observed flow, chatter of stacks.
    pub(crate) opening: bool,
    /// Whoever opened the flow, and whom he called.
    pub(crate) source: Side,
    pub(crate) destination: Side,
    /// The container's port behind a published one, 0 if the packet's port is meant.
    pub(crate) service: u16,
    /// Whether this packet goes the other way.
    pub(crate) turned: bool,
    pub(crate) authority: Authority,
}

impl Denial {
    /// Addresses and ports of the packet, those of `source` first.
    #[inline(always)]
    const fn ends<'p>(&self, packet: &'p Packet) -> [(&'p Address, u16); 2] {
        let (source, destination) =
            ((&packet.source, packet.source_port), (&packet.destination, packet.destination_port));
        if self.turned { [destination, source] } else { [source, destination] }
    }
}

/// Whose policy a refusal falls under, and what it says.
#[derive(Clone, Copy)]
pub(crate) struct Authority {
    pub(crate) direction: Direction,
    severity: Severity,
    policy: u16,
    /// The identity whose policy decided, 0 if none.
    subject: u32,
    rule: u32,
}

impl Authority {
    pub(crate) const NONE: Self = Self {
        direction: Direction::Ingress,
        severity: Severity::Warning,
        policy: 0,
        subject: UNKNOWN,
        rule: 0,
    };

    /// A decision's.
    #[inline(always)]
    pub(crate) const fn of(decision: &Decision) -> Self {
        Self {
            direction: decision.direction,
            severity: decision.severity,
            policy: decision.policy,
            subject: decision.subject,
            rule: decision.rule,
        }
    }

    /// That of the hook's endpoint where no policy entry was needed, and the mode that applies: the endpoint's, or
    /// the strictest that is loaded if it has none.
    #[inline(always)]
    pub(crate) fn of_endpoint(config: &Config, hook: Hook, own: &Party) -> (Self, Mode) {
        let policy = Policy { config, revision: config.revision };
        let direction = match hook {
            Hook::FromEndpoint => Direction::Egress,
            _ => Direction::Ingress,
        };
        let mut authority = Self { direction, ..Self::NONE };
        if own.kind == PartyKind::Covered
            && let Some(row) = policy.subject(own.identity)
        {
            authority.severity = Severity::from_number(row.severity);
            authority.policy = row.policy;
            authority.subject = own.identity;
            return (authority, Mode::from_number(row.mode));
        }
        (authority, policy.strictest_mode())
    }
}

/// A packet that goes on.
#[inline(always)]
pub(crate) fn forward(hook: Hook) -> Verdict {
    forward_total(hook);
    Verdict::Forwarded
}

/// A packet before the agent has ever written its settings: nothing is known, so nothing passes.
#[inline(always)]
pub(crate) fn without_config(hook: Hook) -> Verdict {
    drop_total(hook);
    Verdict::Dropped(DropReason::NotReady)
}

/// Counts and reports a refused packet.
#[inline(always)]
pub(crate) fn denied(
    skb: Skb,
    config: &Config,
    frame: &Frame,
    attempt: &mut MaybeUninit<AttemptKey>,
    key: &mut MaybeUninit<DeniedKey>,
    denial: &Denial,
) -> Verdict {
    let recognised =
        if denial.opening { recognise(skb, config, frame, attempt, denial) } else { Recognised::OLD };
    let (port_first, port_last) = port_label(config, frame, denial);
    let key = key.write(DeniedKey {
        subject: denial.authority.subject,
        source: denial.source.party.identity,
        destination: denial.destination.party.identity,
        port_first,
        port_last,
        policy: denial.authority.policy,
        protocol: frame.packet.protocol,
        reason: denial.reason as u8,
        severity: denial.authority.severity as u8,
        observed: u8::from(denial.observed),
        _pad: [0; 2],
    });
    maps::add_denied(key, recognised.attempt);
    if recognised.event {
        emit(skb, config, frame, denial, recognised.suppressed);
    } else {
        maps::add_total(Total::EventsSuppressed);
    }
    if denial.observed {
        forward_total(denial.hook);
        Verdict::Observed(denial.reason)
    } else {
        drop_total(denial.hook);
        Verdict::Dropped(denial.reason)
    }
}

#[inline(always)]
fn forward_total(hook: Hook) {
    maps::add_total(Total::forwarded(hook));
}

#[inline(always)]
fn drop_total(hook: Hook) {
    maps::add_total(Total::dropped(hook));
}

/// What a denied packet is, compared with those before it.
struct Recognised {
    attempt: bool,
    event: bool,
    /// Packets since the last event.
    suppressed: u32,
}

impl Recognised {
    const NEW: Self = Self { attempt: true, event: true, suppressed: 0 };
    const OLD: Self = Self { attempt: false, event: false, suppressed: 0 };
}

/// Whether a denied packet is an attempt of its own and deserves an event.
///
/// TCP: a SYN with a new tuple and sequence number. UDP and ICMP echo: the first packet of a tuple within the
/// window. Anything else is an attempt by itself, with one event per tuple and window.
#[inline(always)]
fn recognise(
    skb: Skb,
    config: &Config,
    frame: &Frame,
    key: &mut MaybeUninit<AttemptKey>,
    denial: &Denial,
) -> Recognised {
    let syn = frame.packet.protocol == PROTOCOL_TCP && matches!(frame.packet.intent, Intent::Open);
    let key = key.write(AttemptKey {
        source_address: frame.packet.source,
        destination_address: frame.packet.destination,
        ifindex: skb.ifindex(),
        source_port: frame.packet.source_port,
        destination_port: frame.packet.destination_port,
        protocol: frame.packet.protocol,
        reason: denial.reason as u8,
        hook: denial.hook as u8,
        syn: u8::from(syn),
        _pad2: 0,
    });
    let now = track::now();
    let entry = AttemptEntry { time: now, sequence: frame.packet.sequence, suppressed: 0 };
    let Some(pointer) = maps::attempt(key) else {
        maps::remember_attempt(key, &entry);
        return Recognised::NEW;
    };
    // SAFETY: a map value stays readable while the program runs; a race between CPUs may count a retransmission
    // as an attempt, never the reverse.
    let last = unsafe { &mut *pointer };
    let repeated = if syn {
        last.sequence == frame.packet.sequence
    } else {
        now.wrapping_sub(last.time) < u64::from(config.attempt_window) * 1_000_000_000
    };
    if repeated {
        last.suppressed = last.suppressed.wrapping_add(1);
        let opens = matches!(frame.kind, FrameKind::Flow)
            && matches!(frame.packet.intent, Intent::Open | Intent::Datagram);
        return Recognised { attempt: !opens, event: false, suppressed: 0 };
    }
    let suppressed = last.suppressed;
    *last = entry;
    Recognised { attempt: true, event: true, suppressed }
}

/// The ports of the destination's policy entry that the packet's port belongs to, which bounds the labels.
#[inline(always)]
fn port_label(config: &Config, frame: &Frame, denial: &Denial) -> (u16, u16) {
    let [_, (_, port)] = denial.ends(&frame.packet);
    let port = if denial.service != 0 { denial.service } else { port };
    if !denial.destination.is_covered()
        || !matches!(frame.packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
        || port == 0
    {
        return (0, 0);
    }
    let policy = Policy { config, revision: config.revision };
    match policy.rule(
        denial.destination.party.identity,
        PORT_LABEL,
        Direction::Ingress,
        frame.packet.protocol,
        port,
    ) {
        Some(rule) => (rule.port_first, rule.port_last),
        None => (0, 0),
    }
}

#[inline(always)]
fn emit(skb: Skb, config: &Config, frame: &Frame, denial: &Denial, packets_suppressed: u32) {
    let [(source_address, source_port), (destination_address, destination_port)] = denial.ends(&frame.packet);
    let Some(mut record) = maps::EVENTS.reserve::<DeniedEvent>(0) else {
        maps::add_total(Total::EventsLost);
        return;
    };
    record.write(DeniedEvent {
        time: track::now(),
        source_address: *source_address,
        destination_address: *destination_address,
        source: denial.source.party.identity,
        destination: denial.destination.party.identity,
        source_port_ifindex: denial.source.port(),
        destination_port_ifindex: denial.destination.port(),
        subject: denial.authority.subject,
        rule: denial.authority.rule,
        revision: config.revision,
        ifindex: skb.ifindex(),
        packets_suppressed,
        source_port,
        destination_port,
        policy: denial.authority.policy,
        ethertype: frame.ethertype,
        protocol: frame.packet.protocol,
        tcp_flags: frame.packet.tcp_flags,
        reason: denial.reason as u8,
        hook: denial.hook as u8,
        direction: denial.authority.direction as u8,
        severity: denial.authority.severity as u8,
        observed: u8::from(denial.observed),
        _pad: 0,
        _pad2: 0,
    });
    record.submit(0);
}
