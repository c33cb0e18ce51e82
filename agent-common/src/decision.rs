//! The decision: may this party open this port of that one? One pure function for the kernel, the tests and
//! every command that explains a verdict.

use crate::{
    identity,
    packet::Address,
    policy::{OUT_OF_PROFILE, PolicyTable, Scope, Subject, UNNAMED},
    verdict::{Direction, DropReason, Mode, Severity, Verdict},
};

/// Which of the disjoint peers a side is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyKind {
    /// Nobody that is known.
    Unknown = 0,
    /// An endpoint of an instance that a policy applies to.
    Covered = 1,
    /// Any other container on a watched bridge.
    Unmanaged = 2,
    /// The host's own stack.
    Host = 3,
    /// Everything else.
    World = 4,
    /// A container that calls a port published on the host: one of the world to whom no CIDR applies. As a destination,
    /// such a port.
    Outsider = 5,
}

/// One side of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub kind: PartyKind,
    /// See [`crate::identity`].
    pub identity: u32,
    /// The number of the instance of a covered party, else 0.
    pub instance: u32,
}

impl Party {
    /// Nobody that is known.
    pub const UNKNOWN: Self = Self { kind: PartyKind::Unknown, identity: identity::UNKNOWN, instance: 0 };
    /// The host's own stack.
    pub const HOST: Self = Self { kind: PartyKind::Host, identity: identity::HOST, instance: 0 };
    /// Everything behind an uplink.
    pub const WORLD: Self = Self { kind: PartyKind::World, identity: identity::WORLD, instance: 0 };
    /// See [`PartyKind::Outsider`].
    pub const OUTSIDER: Self = Self { kind: PartyKind::Outsider, identity: identity::WORLD, instance: 0 };
    /// A container that nothing is known of.
    pub const UNMANAGED: Self =
        Self { kind: PartyKind::Unmanaged, identity: identity::UNMANAGED, instance: 0 };
}

/// An attempt to open a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub source: Party,
    pub destination: Party,
    /// As the deciding hook sees them.
    pub source_address: Address,
    pub destination_address: Address,
    /// TCP, UDP or ICMP.
    pub protocol: u8,
    /// The port that is called, 0 for ICMP echo.
    pub port: u16,
}

/// What was decided, by whom, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the policy allows it; if so, `reason` and `mode` mean nothing.
    pub allowed: bool,
    pub reason: DropReason,
    pub mode: Mode,
    /// The identity whose policy decided; [`identity::UNKNOWN`] where no policy applies.
    pub subject: u32,
    /// Seen from the subject.
    pub direction: Direction,
    /// The policy line that decided, 0 for a default.
    pub rule: u32,
    /// The number of the policy, 0 for none.
    pub policy: u16,
    pub severity: Severity,
}

impl Decision {
    /// Whether the packet is forwarded: allowed, or denied by a policy that only observes.
    #[inline(always)]
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        self.allowed || matches!(self.mode, Mode::Observe)
    }

    /// What happens to the packet.
    ///
    /// Not a field: a verdict without a reason leaves bytes unset that the compiler copies all the same, which the
    /// kernel's verifier refuses.
    #[inline(always)]
    pub const fn verdict(&self) -> Verdict {
        if self.allowed { Verdict::Forwarded } else { Verdict::denied(self.reason, self.mode) }
    }
}

/// Decides an attempt.
///
/// 1. Between two endpoints the destination's policy decides; towards the host, the world and unmanaged
///    containers the source's; where neither side is covered nothing is restricted.
/// 2. The deciding side's entry for the peer and the port allows or denies.
/// 3. Without an entry the answer is no. The reason is the first that applies.
/// 4. Where the deciding side only observes, a denial is reported and the packet goes on.
#[inline(always)]
pub fn decide(table: &impl PolicyTable, attempt: &Attempt) -> Decision {
    let (direction, subject_party, peer, address) = if attempt.destination.kind == PartyKind::Covered {
        (Direction::Ingress, &attempt.destination, &attempt.source, &attempt.source_address)
    } else if attempt.source.kind == PartyKind::Covered {
        (Direction::Egress, &attempt.source, &attempt.destination, &attempt.destination_address)
    } else {
        return Decision {
            allowed: true,
            reason: DropReason::NoRule,
            mode: Mode::Enforce,
            subject: identity::UNKNOWN,
            direction: Direction::Ingress,
            rule: 0,
            policy: 0,
            severity: Severity::Info,
        };
    };
    let subject = subject_party.identity;
    let Some(row) = table.subject(subject) else {
        return Decision {
            allowed: false,
            reason: DropReason::NotReady,
            mode: table.strictest_mode(),
            subject,
            direction,
            rule: 0,
            policy: 0,
            severity: Severity::Warning,
        };
    };
    let mut decision = Decision {
        allowed: false,
        reason: DropReason::NoRule,
        mode: Mode::from_number(row.mode),
        subject,
        direction,
        rule: 0,
        policy: row.policy,
        severity: Severity::from_number(row.severity),
    };
    let class = peer_class(table, &row, subject, direction, peer, address);
    if let Some(rule) = table.rule(subject, class, direction, attempt.protocol, attempt.port) {
        decision.rule = rule.rule;
        if rule.allow != 0 {
            decision.allowed = true;
            return decision;
        }
    }
    decision.reason = denial_reason(table, &row, direction, subject_party, peer);
    decision
}

/// The number under which the peer stands in the subject's entries.
#[inline(always)]
fn peer_class(
    table: &impl PolicyTable,
    row: &Subject,
    subject: u32,
    direction: Direction,
    peer: &Party,
    address: &Address,
) -> u32 {
    let scope = match (direction, peer.kind) {
        (Direction::Ingress, PartyKind::World) => Scope::FromWorld,
        (Direction::Egress, PartyKind::World) => Scope::ToWorld,
        (Direction::Egress, PartyKind::Host) => Scope::ToHost,
        (Direction::Egress, PartyKind::Unmanaged) => Scope::ToUnmanaged,
        _ => return peer.identity,
    };
    // Most subjects name no addresses; the flag saves them the lookup.
    if row.flags & scope.flag() == 0 {
        return peer.identity;
    }
    table.address_class(subject, scope, address).unwrap_or(peer.identity)
}

#[inline(always)]
fn denial_reason(
    table: &impl PolicyTable,
    row: &Subject,
    direction: Direction,
    subject: &Party,
    peer: &Party,
) -> DropReason {
    if peer.kind == PartyKind::Unknown {
        return match direction {
            Direction::Ingress => DropReason::UnknownSource,
            Direction::Egress => DropReason::UnknownDestination,
        };
    }
    if row.flags & UNNAMED != 0 {
        return DropReason::NoRule;
    }
    if row.flags & OUT_OF_PROFILE != 0 {
        return DropReason::NotInProfile;
    }
    if direction == Direction::Egress {
        return DropReason::EgressDenied;
    }
    match peer.kind {
        PartyKind::Covered => {
            let peer_row = table.subject(peer.identity);
            if peer_row.is_some_and(|row| row.flags & OUT_OF_PROFILE != 0) {
                DropReason::NotInProfile
            } else if peer.instance != subject.instance {
                DropReason::CrossInstance
            } else {
                DropReason::NoRule
            }
        }
        PartyKind::Host => DropReason::HostDenied,
        PartyKind::World | PartyKind::Outsider => DropReason::NotExposed,
        PartyKind::Unmanaged | PartyKind::Unknown => DropReason::NoRule,
    }
}

#[cfg(test)]
mod tests;
