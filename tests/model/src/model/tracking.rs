//! TCP, UDP and ICMP at a covered port: a packet belongs to a flow, or opens one, or neither.

use std::net::IpAddr;

use super::{
    Model, NOWHERE, Outcome,
    Outcome::{Deny, Forward, Refuse},
    Packet, deny, owns, sender_address,
};
use crate::decision::{Question, Ruling};
use crate::flows::{FarEnd, Flow, Tuple};
use crate::frame::{Flags, Frame, Wish};
use crate::verdict::{Direction, Mode, Reason, Who};

/// A packet that crosses a port.
#[derive(Clone, Copy, Debug)]
struct Crossing {
    tuple: Tuple,
    wish: Wish,
    direction: Direction,
    /// The address that it is really from.
    source: Option<IpAddr>,
    /// On its way into the container: who sends it, and how it arrives.
    sender: Who,
    arrival: (u32, u32),
}

impl Model {
    /// What a hook comes to for such a packet.
    pub(super) fn flow(
        &mut self,
        packet: &Packet<'_>,
        frame: &Frame,
        wish: Wish,
        direction: Direction,
    ) -> Outcome {
        let host = &self.known.host;
        let crossing = Crossing {
            tuple: tuple(packet.at, frame, direction),
            wish,
            direction,
            source: sender_address(frame, wish),
            sender: host.sender(packet.from, packet.mark),
            arrival: (packet.from, packet.mark & host.mark_mask),
        };
        if self.belongs(&crossing) { self.known_flow(&crossing) } else { self.new_flow(&crossing) }
    }

    /// Whether a packet belongs to a living flow, from the flow's own far end.
    fn belongs(&mut self, crossing: &Crossing) -> bool {
        // What opens a flow is always decided, whatever flow there is.
        if matches!(crossing.wish, Wish::Connect(_) | Wish::Ask) {
            return false;
        }
        let Some(flow) = self.flows.get_mut(&crossing.tuple) else { return false };
        self.trace.push(format!("{flow:?} at {}, packet from {:?}", self.now, crossing.sender));
        if flow.is_expired(crossing.tuple.protocol, self.now, &self.timeouts) {
            self.meet("expired");
            return false;
        }
        if crossing.direction == Direction::Egress || flow.arrival == Some(crossing.arrival) {
            return true;
        }
        let sender = crossing.sender;
        if sender == Who::Unknown {
            return false;
        }
        // The host forwards for others, and says so when it cannot.
        if matches!(crossing.wish, Wish::Complain { .. }) && sender == Who::Host {
            return true;
        }
        let same = match flow.far_end {
            FarEnd::Anybody => true,
            FarEnd::Local => sender != Who::World,
            FarEnd::Known(known) => known == sender,
        };
        if same {
            flow.far_end = FarEnd::Known(sender);
            flow.arrival = Some(crossing.arrival);
        }
        same
    }

    /// A packet of a flow passes, unless the flow has to be decided again and no longer may.
    fn known_flow(&mut self, crossing: &Crossing) -> Outcome {
        let Some(flow) = self.flows.get(&crossing.tuple) else { return Forward };
        let (was_revoked, was_connected) = (flow.revoked, flow.is_connected());
        let current = flow.revision == self.revision && !flow.observed && !flow.revoked;
        let outcome = if current { Forward } else { self.again(&crossing.tuple) };
        let revoked = matches!(outcome, Deny { observed: false, .. });
        self.meet(match (current, was_revoked, revoked) {
            (true, ..) => "of a flow",
            (_, _, true) => "of a revoked flow",
            (_, true, false) => "of a revived flow",
            (_, false, false) => "of a flow that was decided again",
        });
        let flags = match crossing.wish {
            Wish::Complain { .. } => {
                self.meet("error of a flow");
                return outcome;
            }
            Wish::GoOn(flags) | Wish::Connect(flags) => flags,
            Wish::Ask | Wish::Send => Flags::default(),
        };
        if let Some(flow) = self.flows.get_mut(&crossing.tuple)
            && !revoked
        {
            flow.note(crossing.tuple.protocol, crossing.direction, flags, self.now);
            match (was_connected, flow.is_connected()) {
                (false, true) => self.meet("connected"),
                (true, false) => self.meet("disconnected"),
                _ => {}
            }
        }
        outcome
    }

    /// Decides a flow again, in the direction that it was opened in.
    fn again(&mut self, tuple: &Tuple) -> Outcome {
        let Some(flow) = self.flows.get(tuple) else { return Forward };
        let opened = flow.opened;
        let other = match (opened, flow.far_end) {
            (Direction::Ingress, FarEnd::Known(who)) => self.still(who),
            (Direction::Ingress, FarEnd::Anybody | FarEnd::Local) => Who::Unknown,
            (Direction::Egress, _) => self.known.host.receiver(tuple.remote.0),
        };
        let ruling = self.ask(tuple, opened, other);
        let elsewhere = self.decides_elsewhere(opened, other);
        let (revision, now) = (self.revision, self.now);
        let Some(flow) = self.flows.get_mut(tuple) else { return Forward };
        flow.revision = revision;
        flow.revoked = ruling.denied.is_some() && ruling.mode == Mode::Enforce;
        if flow.revoked {
            return deny(Reason::Revoked, false, opened, other, ruling.authority);
        }
        flow.observed = ruling.denied.is_some() && !elsewhere;
        flow.touch(now);
        match ruling.denied {
            Some(reason) if !elsewhere => {
                let authority = ruling.authority;
                Deny { reason, observed: true, opened, other, authority, attempt: false }
            }
            _ => Forward,
        }
    }

    /// Somebody, if he is still there.
    fn still(&self, who: Who) -> Who {
        match who {
            Who::Container(port) if self.known.host.container(port).is_none() => Who::Unknown,
            _ => who,
        }
    }

    /// Towards another covered container that one's own hook says no.
    fn decides_elsewhere(&self, opened: Direction, other: Who) -> bool {
        opened == Direction::Egress && self.known.covered_who(other).is_some()
    }

    /// A packet without a flow: may it open one?
    fn new_flow(&mut self, crossing: &Crossing) -> Outcome {
        let Crossing { tuple, direction, .. } = *crossing;
        let other = match direction {
            Direction::Ingress => crossing.sender,
            Direction::Egress => self.known.host.receiver(tuple.remote.0),
        };
        if let Err(reason) = self.may_ask(crossing, other) {
            return Refuse(reason, Some(other));
        }
        let ruling = self.ask(&tuple, direction, other);
        let elsewhere = self.decides_elsewhere(direction, other);
        let observed = match (ruling.denied, ruling.mode) {
            (None, _) => false,
            (Some(_), Mode::Observe) => !elsewhere,
            (Some(_), Mode::Enforce) if elsewhere => return Forward,
            (Some(reason), Mode::Enforce) => return deny(reason, false, direction, other, ruling.authority),
        };
        self.open(crossing, other, observed);
        match ruling.denied {
            Some(reason) if observed => deny(reason, true, direction, other, ruling.authority),
            _ => Forward,
        }
    }

    /// What stands before any policy, in order.
    fn may_ask(&self, crossing: &Crossing, other: Who) -> Result<(), Reason> {
        let own = self.known.host.container(crossing.tuple.port).map_or(&[][..], |own| &own.addresses);
        match crossing.direction {
            Direction::Ingress if other == Who::Unknown => return Err(Reason::UnknownSource),
            Direction::Ingress if !owns(own, crossing.tuple.local.0) => {
                return Err(Reason::UnknownDestination);
            }
            Direction::Egress if !owns(own, crossing.source) => return Err(Reason::SpoofedSource),
            Direction::Egress if other == Who::Unknown => return Err(Reason::UnknownDestination),
            _ => {}
        }
        match crossing.wish {
            Wish::GoOn(_) | Wish::Complain { .. } => Err(Reason::NotTracked),
            Wish::Connect(_) | Wish::Ask | Wish::Send => Ok(()),
        }
    }

    fn ask(&mut self, tuple: &Tuple, opened: Direction, other: Who) -> Ruling {
        let own = Who::Container(tuple.port);
        let (source, destination, port) = match opened {
            Direction::Ingress => (other, own, tuple.local.1),
            Direction::Egress => (own, other, tuple.remote.1),
        };
        let (outside, protocol) = (tuple.remote.0, tuple.protocol);
        let question = Question { source, destination, outside, protocol, port };
        let ruling = self.known.decide(&question);
        self.say(format!("{question:?}: {ruling:?}"));
        ruling
    }

    fn open(&mut self, crossing: &Crossing, other: Who, observed: bool) {
        let Crossing { tuple, direction, .. } = *crossing;
        let far_end = match other {
            Who::SomeContainer | Who::Unknown => FarEnd::Anybody,
            Who::Host if direction == Direction::Egress => FarEnd::Local,
            who => FarEnd::Known(who),
        };
        let (now, revision) = (self.now, self.revision);
        // A late copy of the SYN does not begin a connection again that is open at both ends.
        if let Some(flow) = self.flows.get_mut(&tuple)
            && matches!(crossing.wish, Wish::Connect(_))
            && flow.is_connected()
            && flow.opened == direction
            && (flow.far_end == far_end || matches!(far_end, FarEnd::Local | FarEnd::Anybody))
            && !flow.is_expired(tuple.protocol, now, &self.timeouts)
        {
            flow.touch(now);
            (flow.revision, flow.observed, flow.revoked) = (revision, observed, false);
            self.meet("opened again while open");
            return;
        }
        self.meet(if observed { "opened, observed" } else { "opened" });
        let mut flow = Flow::new(direction, far_end, revision, observed, now);
        flow.arrival = (direction == Direction::Ingress).then_some(crossing.arrival);
        self.flows.insert(tuple, flow);
    }
}

fn tuple(port: u32, frame: &Frame, direction: Direction) -> Tuple {
    let (source, destination) = frame.addresses.unwrap_or((NOWHERE, NOWHERE));
    let (source, destination) = ((source, frame.ports.0), (destination, frame.ports.1));
    let (local, remote) = match direction {
        Direction::Ingress => (destination, source),
        Direction::Egress => (source, destination),
    };
    Tuple { port, protocol: frame.protocol, local, remote }
}
