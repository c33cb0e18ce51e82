//! Containers that share another's network. On the wire they are one endpoint, which has the rights of the network's
//! owner: a policy that gives a member other rights asks for what nobody can enforce.

use std::collections::BTreeSet;

use agent_common::{
    decision::PartyKind,
    identity::PORT_LABEL,
    packet::Address,
    policy::{OUT_OF_PROFILE, Scope},
    verdict::Direction,
};

use super::population::{Member, Population};
use crate::{
    inventory::snapshot::{Obstacle, Snapshot},
    policy::{entries::Entries, model::PolicySet},
};

/// The members whose own rights differ from those of the owner, by their place among the unenforceable.
pub(super) fn at_odds(
    policies: &PolicySet,
    population: &Population<'_>,
    snapshot: &Snapshot,
    entries: &Entries,
) -> BTreeSet<usize> {
    let odd = |owner_id: &str, member: Member| {
        // Without an interface on a bridge the two have nothing to share.
        let mut owners =
            snapshot.endpoints.iter().enumerate().filter(|(_, known)| known.container_id == owner_id);
        owners.next().is_some_and(|(owner, _)| {
            let owner = entries.endpoints[owner].party;
            let covered = owner.kind == PartyKind::Covered;
            match member {
                Member::Uncovered => covered,
                _ if !covered => true,
                Member::Nameless => !Rights::of(entries, owner.identity, owner.identity).is_empty(),
                Member::Service(member) => {
                    Rights::of(entries, owner.identity, member) != Rights::of(entries, member, owner.identity)
                }
            }
        })
    };
    let members = snapshot.unenforceable.iter().enumerate();
    members
        .filter(|(_, member)| match &member.obstacle {
            Obstacle::SharedNetwork { owner_id, .. } => odd(owner_id, population.member(policies, member)),
            _ => false,
        })
        .map(|(place, _)| place)
        .collect()
}

/// All that entries say about one identity.
#[derive(Debug, PartialEq, Eq)]
struct Rights {
    /// As subject or as peer, who the other is, and what is allowed.
    rules: BTreeSet<(bool, u32, Direction, u8, u16, u8, u8)>,
    addresses: BTreeSet<(Scope, Address, u8, u32)>,
    /// Mode, and whether it is out of the profile.
    subject: Option<(u8, bool)>,
}

impl Rights {
    /// Towards everybody but the `other` one in the same network: what the two say to each other meets no hook.
    fn of(entries: &Entries, identity: u32, other: u32) -> Self {
        let rules = entries.rules.iter().filter_map(|(key, rule)| {
            let (is_subject, peer) = match (key.subject == identity, key.peer == identity) {
                (true, _) => (true, key.peer),
                (_, true) => (false, key.subject),
                _ => return None,
            };
            let counts = peer != PORT_LABEL && peer != identity && peer != other;
            counts.then_some((
                is_subject,
                peer,
                key.direction,
                key.protocol,
                key.port,
                key.prefix,
                rule.allow,
            ))
        });
        let addresses = entries
            .addresses
            .iter()
            .filter(|(key, _)| key.subject == identity)
            .map(|(key, class)| (key.scope, key.address, key.prefix, *class));
        let subject = entries.subjects.get(&identity);
        Self {
            rules: rules.collect(),
            addresses: addresses.collect(),
            subject: subject.map(|subject| (subject.mode, subject.flags & OUT_OF_PROFILE != 0)),
        }
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[cfg(test)]
mod tests;
