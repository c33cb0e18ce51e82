//! The resolved policy: exactly the entries that the kernel maps hold under one revision, with the names that
//! events and reports need. Also serves as the decision's table on the host.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::{
    decision::{Party, PartyKind},
    identity::{HOST, UNKNOWN, UNMANAGED, WORLD},
    packet::Address,
    policy::{PolicyTable, Rule, Scope, Subject},
    verdict::{Direction, Mode},
};

/// Everything that one set of policies comes down to on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// By identity.
    pub subjects: BTreeMap<u32, Subject>,
    /// By (subject, peer, direction, protocol), then by port prefix.
    pub rules: BTreeMap<RuleEntryKey, Rule>,
    /// Address classes by (subject, scope, prefix).
    pub addresses: BTreeMap<AddressEntryKey, u32>,
    /// By `agent_common::policy::Rule::rule` − 1.
    pub origins: Vec<RuleOrigin>,
    /// The origin of an identity's default denial: the line of its service (or of the policy's `services`).
    pub defaults: BTreeMap<u32, RuleOrigin>,
    /// Names of every identity in `subjects` and of unmanaged peers that rules name.
    pub identities: BTreeMap<u32, IdentityInfo>,
    /// By `agent_common::policy::Subject::policy`.
    pub policies: BTreeMap<u16, PolicyInfo>,
    /// What each endpoint of the snapshot is, in the snapshot's order.
    pub endpoints: Vec<ResolvedEndpoint>,
    /// Containers that share another's network (by their place among the snapshot's unenforceable ones) and by the
    /// policy have other rights than those that they get there.
    pub at_odds: BTreeSet<usize>,
    /// [`Mode`] of frames whose endpoint is unknown; enforce unless every loaded policy and service observes.
    pub strictest_mode: Option<Mode>,
}

/// Key of a rule, without the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleEntryKey {
    pub subject: u32,
    pub peer: u32,
    pub direction: Direction,
    pub protocol: u8,
    /// Host order, low bits zero beyond the prefix.
    pub port: u16,
    /// 0 to 16.
    pub prefix: u8,
}

/// Key of an address class, without the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressEntryKey {
    pub subject: u32,
    pub scope: Scope,
    /// IPv4 as `::ffff:a.b.c.d`, bits beyond the prefix zero.
    pub address: Address,
    /// 0 to 128, counted in the 16-byte form (96 + n for IPv4).
    pub prefix: u8,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// The policy's name.
    pub policy: String,
    /// For people and events: `qerds-api.from[0]`, `default`.
    pub rule: String,
    /// `file:line`.
    pub at: String,
}

/// What an identity stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityInfo {
    /// The compose project, or the policy's name for an instance without one.
    pub instance: String,
    pub instance_number: u32,
    pub service: String,
    /// Whether a policy covers it.
    pub covered: bool,
}

/// One policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    pub name: String,
    pub mode: Mode,
    /// The profile in force for it, empty if none.
    pub profile: String,
}

/// What an endpoint of the snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// Covered or unmanaged, with identity and instance number.
    pub party: Party,
    /// The mode of its policy or service; enforce for unmanaged ones.
    pub mode: Mode,
}

impl Entries {
    /// The party behind an identity, as far as names go: what an event or a flow needs.
    #[must_use]
    pub fn party(&self, identity: u32) -> Option<Party> {
        match identity {
            UNKNOWN => Some(Party::UNKNOWN),
            HOST => Some(Party::HOST),
            WORLD => Some(Party::WORLD),
            UNMANAGED => Some(Party::UNMANAGED),
            _ => self.identities.get(&identity).map(|info| Party {
                kind: if info.covered { PartyKind::Covered } else { PartyKind::Unmanaged },
                identity,
                instance: if info.covered { info.instance_number } else { 0 },
            }),
        }
    }
}

impl PolicyTable for Entries {
    fn strictest_mode(&self) -> Mode {
        self.strictest_mode.unwrap_or(Mode::Enforce)
    }

    fn subject(&self, identity: u32) -> Option<Subject> {
        self.subjects.get(&identity).copied()
    }

    fn address_class(&self, subject: u32, scope: Scope, address: &Address) -> Option<u32> {
        let value = u128::from_be_bytes(address.bytes());
        (0..=128u8).rev().find_map(|prefix| {
            let masked = if prefix == 0 { 0 } else { value & (u128::MAX << (128 - prefix)) };
            let key = AddressEntryKey { subject, scope, address: Address::new(masked.to_be_bytes()), prefix };
            self.addresses.get(&key).copied()
        })
    }

    fn rule(&self, subject: u32, peer: u32, direction: Direction, protocol: u8, port: u16) -> Option<Rule> {
        (0..=16u8).rev().find_map(|prefix| {
            let masked = if prefix == 0 { 0 } else { port & (u16::MAX << (16 - prefix)) };
            let key = RuleEntryKey { subject, peer, direction, protocol, port: masked, prefix };
            self.rules.get(&key).copied()
        })
    }
}
