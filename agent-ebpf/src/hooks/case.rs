//! Asks the policy: what is asked about whom, once or twice.

use core::mem::MaybeUninit;

use agent_common::{
    decision::{Attempt, Decision, Party, PartyKind, decide},
    flow::{FlowEntry, FlowKey, LENT, OUTSIDER},
    verdict::{Direction, DropReason, Hook},
};
use aya_ebpf::bindings::bpf_fib_lookup;

use super::{
    Action, Because,
    flow::{Scene, carry_out},
    published, refuse,
    sender::is_own_source,
};
use crate::{
    diagnose,
    identify::{self, Side},
    maps::{self, Policy},
    parse::Frame,
    track::{self, NewFlow},
};

/// A packet's case before the policy. Lies in scratch memory, where zeroes are valid; see [`Cause`].
pub(crate) struct Case {
    /// The other side.
    pub(super) other: Side,
    /// Whom the packet calls by a published port, if anybody.
    pub(super) called: published::Called,
    /// Which way the packet went that opened the flow, or would.
    pub(super) opened: Direction,
    inquiry: Inquiry,
    /// The one in force, read once for each packet.
    pub(crate) revision: u32,
    /// Of the flow to be.
    pub(super) flags: u8,
    pub(super) route: MaybeUninit<bpf_fib_lookup>,
    question: MaybeUninit<Attempt>,
    pub(super) decision: MaybeUninit<Decision>,
    pub(super) new: NewFlow,
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
pub(super) fn ask(
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
                Direction::Egress => identify::present_receiver(scene.skb, &key.remote, &mut case.route),
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
    let policy = Policy { config: scene.config, revision: case.revision };
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
