//! What happens at each hook, step by step as the documents list them, with a trace of the reasoning.

mod tracking;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::attempts::{Attempts, Kind, Shape};
use crate::claims;
use crate::decision::{Authority, Known};
use crate::flows::{Flows, Timeouts};
use crate::frame::{Content, Frame, Wish, link_local, read};
use crate::policy::strictest;
use crate::verdict::{Answer, Denial, Direction, Hook, Mode, Reason, Severity, Who};

/// One packet at one hook.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub hook: Hook,
    /// The interface of the hook.
    pub at: u32,
    /// The interface that it came in by; 0 for the host's own.
    pub from: u32,
    pub mark: u32,
    pub bytes: &'a [u8],
}

/// The model: what is known, what is remembered, and a clock of its own.
#[derive(Clone, Debug)]
pub struct Model {
    pub known: Known,
    pub revision: u32,
    pub timeouts: Timeouts,
    /// Seconds in which a repeated denial is no new attempt.
    pub attempt_window: u64,
    pub now: u64,
    /// Why the last answer was given.
    pub trace: Vec<String>,
    /// How often what happens to flows has happened, to know that packets were worth it.
    pub met: BTreeMap<&'static str, u64>,
    flows: Flows,
    attempts: Attempts,
}

/// What a hook comes to, before it is counted.
#[derive(Debug)]
enum Outcome {
    Forward,
    /// For a reason that needs no policy; perhaps it is known who is on the other side.
    Refuse(Reason, Option<Who>),
    /// By a policy. `opened` is the way that the flow's first packet went.
    Deny {
        reason: Reason,
        observed: bool,
        opened: Direction,
        other: Who,
        authority: Authority,
        attempt: bool,
    },
}

use Outcome::{Deny, Forward, Refuse};

const NOWHERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

impl Model {
    /// Everything that `met` counts.
    pub const MEETS: [&str; 11] = [
        "opened",
        "opened, observed",
        "opened again while open",
        "connected",
        "disconnected",
        "expired",
        "error of a flow",
        "of a flow",
        "of a flow that was decided again",
        "of a revoked flow",
        "of a revived flow",
    ];

    #[must_use]
    pub fn new(known: Known, revision: u32, timeouts: Timeouts, attempt_window: u64) -> Self {
        Self {
            known,
            revision,
            timeouts,
            attempt_window,
            now: 0,
            trace: Vec::new(),
            met: BTreeMap::new(),
            flows: Flows::new(),
            attempts: Attempts::default(),
        }
    }

    /// Lets a packet pass a hook.
    pub fn judge(&mut self, packet: &Packet<'_>) -> Answer {
        self.trace.clear();
        let frame = read(packet.bytes);
        self.say(format!("{frame:?}"));
        let outcome = match packet.hook {
            Hook::ToEndpoint => self.entering(packet, &frame),
            Hook::FromEndpoint => self.leaving(packet, &frame),
        };
        self.say(format!("{outcome:?}"));
        let denial = self.denial(packet, &frame, outcome);
        Answer {
            forwarded: denial.as_ref().is_none_or(|denial| denial.observed),
            denial,
            mark: self.mark_after(packet),
        }
    }

    fn say(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// What a container sends carries its port's number from then on.
    fn mark_after(&self, packet: &Packet<'_>) -> u32 {
        let host = &self.known.host;
        match (packet.hook, host.container(packet.at), host.marks.get(&packet.at)) {
            (Hook::FromEndpoint, Some(_), Some(own)) => packet.mark & !host.mark_mask | own,
            _ => packet.mark,
        }
    }

    fn not_ready(frame: &Frame) -> Outcome {
        match frame.flaw {
            Some(Reason::InvalidPacket) => Refuse(Reason::InvalidPacket, None),
            _ => Refuse(Reason::NotReady, None),
        }
    }

    fn entering(&mut self, packet: &Packet<'_>, frame: &Frame) -> Outcome {
        let Some(own) = self.known.host.container(packet.at) else { return Self::not_ready(frame) };
        let sender = self.known.host.sender(packet.from, packet.mark);
        if self.known.covered(packet.at).is_none() {
            if self.known.covered_who(sender).is_none() {
                return Forward;
            }
            return match (frame.flaw, frame.content) {
                (Some(reason), _) => Refuse(reason, None),
                (None, Content::Claim { .. }) => Forward,
                (None, Content::Flow(_)) if owns(&own.addresses, destination(frame)) => Forward,
                _ => Refuse(Reason::UnknownDestination, None),
            };
        }
        match (frame.flaw, frame.content) {
            (Some(reason), _) => Refuse(reason, None),
            (None, Content::Claim { .. }) => Forward,
            (None, Content::Flow(wish)) => self.flow(packet, frame, wish, Direction::Ingress),
            _ => Refuse(Reason::UnsupportedProtocol, None),
        }
    }

    fn leaving(&mut self, packet: &Packet<'_>, frame: &Frame) -> Outcome {
        let Some(own) = self.known.host.container(packet.at) else { return Self::not_ready(frame) };
        let bridge = self.known.host.bridge_of(packet.at);
        let Some(bridge) = bridge.filter(|&bridge| self.known.bridge_has_covered(bridge)) else {
            return Forward;
        };
        if frame.for_group && self.is_for_one(frame) {
            return Refuse(Reason::InvalidPacket, None);
        }
        let covered = self.known.covered(packet.at).is_some();
        let foreign_mac = own.mac.is_some_and(|mac| mac != frame.source_mac);
        match frame.flaw {
            Some(reason) if covered => return Refuse(reason, None),
            Some(_) if !foreign_mac => {
                let deceives = claims::may_deceive(packet.bytes, frame, &own.addresses);
                if deceives {
                    return Refuse(Reason::SpoofedSource, None);
                }
                let quiet = matches!(frame.content, Content::Chatter | Content::Listener);
                return if quiet { Forward } else { self.elsewhere(frame, bridge) };
            }
            _ => {}
        }
        if foreign_mac {
            return Refuse(Reason::SpoofedSource, None);
        }
        match frame.content {
            Content::Claim { address, mac, own_link_local, sender, target } => {
                let right = address.is_none_or(|address| owns(&own.addresses, address) || own_link_local)
                    && sender.is_none_or(|sender| owns(&own.addresses, sender));
                let near = target.is_none_or(|target| self.known.host.may_be_on(target, bridge));
                match (right && mac == frame.source_mac, near) {
                    (false, _) => Refuse(Reason::SpoofedSource, None),
                    (true, false) => Refuse(Reason::UnknownDestination, None),
                    (true, true) => Forward,
                }
            }
            Content::Flow(wish) => {
                // A flow has the addresses that it was opened with; an error has its own beside those it quotes.
                let first = !covered || matches!(wish, Wish::Complain { .. });
                let sender = sender_address(frame, wish);
                // An unmanaged one may use the address that every stack gives itself.
                let itself = !covered && sender == Some(IpAddr::from(link_local(frame.source_mac)));
                if first && !itself && !owns(&own.addresses, sender) {
                    return Refuse(Reason::SpoofedSource, None);
                }
                if covered {
                    self.flow(packet, frame, wish, Direction::Egress)
                } else {
                    self.elsewhere(frame, bridge)
                }
            }
            _ => Forward,
        }
    }

    /// Whether an IP packet has one receiver. A frame for a group has several.
    fn is_for_one(&self, frame: &Frame) -> bool {
        let one = |address: IpAddr| {
            let address = address.to_canonical();
            let group = address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 240);
            !group && address != NOWHERE && self.known.host.receiver(address) != Who::Host
        };
        matches!(frame.ethertype, 0x0800 | 0x86dd) && destination(frame).is_some_and(one)
    }

    /// What an unmanaged container sends is its own business, unless somebody may get it who is not known yet.
    fn elsewhere(&self, frame: &Frame, bridge: u32) -> Outcome {
        let nobody = destination(frame).is_some_and(|address| self.known.host.is_nobodys(address, bridge));
        if nobody && self.known.bridge_is_guarded(bridge) {
            return Refuse(Reason::UnknownDestination, None);
        }
        Forward
    }

    /// Counts a denied packet.
    fn denial(&mut self, packet: &Packet<'_>, frame: &Frame, outcome: Outcome) -> Option<Denial> {
        let own = self.known.host.container(packet.at).map_or(Who::Unknown, |_| Who::Container(packet.at));
        let here = match packet.hook {
            Hook::ToEndpoint => Direction::Ingress,
            Hook::FromEndpoint => Direction::Egress,
        };
        let (reason, observed, opened, other, authority, attempt) = match outcome {
            Forward => return None,
            Deny { reason, observed, opened, other, authority, attempt } => {
                (reason, observed, opened, other, authority, attempt)
            }
            Refuse(reason, other) => {
                let (authority, mode) = self.authority_of(own, here);
                let other = match other {
                    None if here == Direction::Ingress => self.known.host.sender(packet.from, packet.mark),
                    other => other.unwrap_or(Who::Unknown),
                };
                // What a new container's stack sends before anybody uses it is no attempt.
                let quiet = reason == Reason::NotReady
                    && matches!(frame.content, Content::Claim { .. } | Content::Listener | Content::Chatter);
                (reason, mode == Mode::Observe, here, other, authority, !quiet)
            }
        };
        let chatter = matches!(frame.content, Content::Listener | Content::Chatter);
        let attempt = attempt && (!chatter || reason == Reason::SpoofedSource);
        let (source, destination) = match opened {
            Direction::Ingress => (other, own),
            Direction::Egress => (own, other),
        };
        // The names are those of whoever opened the flow and whom he called; so are addresses and ports, also of the
        // answers.
        let turn = |(source, destination)| {
            if opened == here { (source, destination) } else { (destination, source) }
        };
        let ports = if opened == here { frame.ports } else { (frame.ports.1, frame.ports.0) };
        let kind = Kind {
            addresses: frame.addresses.unwrap_or((NOWHERE, NOWHERE)),
            ports: frame.ports,
            protocol: frame.protocol,
            reason,
            hook: packet.hook,
            interface: packet.at,
            syn: matches!(shape(frame), Shape::Syn(_)),
        };
        let (attempt, told) = if attempt {
            self.attempts.note(kind, shape(frame), self.now, self.attempt_window)
        } else {
            (false, None)
        };
        Some(Denial {
            reason,
            observed,
            source,
            destination,
            subject: authority.subject,
            policy: authority.policy,
            severity: authority.severity,
            direction: authority.direction,
            label: self.known.label(destination, frame.protocol, ports.1),
            protocol: frame.protocol,
            addresses: frame.addresses.map(turn),
            ports,
            tcp_flags: frame.tcp_flags,
            ethertype: frame.ethertype,
            attempt,
            told,
        })
    }

    /// Whose policy a refusal falls under that needs none, and the mode: the strictest for whoever has none.
    fn authority_of(&self, own: Who, direction: Direction) -> (Authority, Mode) {
        match self.known.covered_who(own) {
            Some(covered) => (covered.authority(direction), covered.mode()),
            None => {
                let severity = Severity::default();
                let nobody = Authority { subject: None, policy: None, severity, direction };
                (nobody, strictest(&self.known.policies))
            }
        }
    }
}

const fn deny(
    reason: Reason,
    observed: bool,
    opened: Direction,
    other: Who,
    authority: Authority,
) -> Outcome {
    Deny { reason, observed, opened, other, authority, attempt: true }
}

fn shape(frame: &Frame) -> Shape {
    match (frame.flaw, frame.content) {
        (None, Content::Flow(Wish::Connect(_))) => Shape::Syn(frame.sequence),
        (None, Content::Flow(Wish::Ask | Wish::Send)) => Shape::Opening,
        _ => Shape::Other,
    }
}

fn owns(addresses: &[IpAddr], address: impl Into<Option<IpAddr>>) -> bool {
    address.into().is_some_and(|address| addresses.contains(&address))
}

fn destination(frame: &Frame) -> Option<IpAddr> {
    frame.addresses.map(|(_, destination)| destination)
}

/// Who the packet itself says that it is from.
fn sender_address(frame: &Frame, wish: Wish) -> Option<IpAddr> {
    match wish {
        Wish::Complain { sender } => Some(sender),
        _ => frame.addresses.map(|(source, _)| source),
    }
}
