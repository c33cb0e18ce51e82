//! The open cells of the table alone: who reaches which port entry. The whole table grows with the square of the services;
//! what is open grows with what is written.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::{decision::Party, packet::Address, verdict::Direction};

use super::{Caller, cell, imagined::Imagined, sampled};
use crate::policy::{PolicySet, effective::effective, model::Policy, resolve::ResolveError};

/// Who reaches each port entry of each service, by name as in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Openings {
    policies: BTreeMap<String, BTreeMap<(String, String), BTreeSet<String>>>,
    /// How many cells were decided.
    decided: usize,
}

impl Openings {
    /// Those who reach a port entry, as it is written in the policy.
    #[must_use]
    pub fn callers(&self, policy: &str, service: &str, port: &str) -> Option<&BTreeSet<String>> {
        self.policies.get(policy)?.get(&(service.to_owned(), port.to_owned()))
    }

    /// How many cells had to be decided.
    #[must_use]
    pub fn decided(&self) -> usize {
        self.decided
    }
}

/// Works out what is open.
pub fn openings(policies: &PolicySet) -> Result<Openings, ResolveError> {
    let imagined = Imagined::new(policies)?;
    let peers = peers(&imagined);
    let mut openings = Openings::default();
    for policy in &policies.policies {
        let rows = rows(policy, &imagined, &peers, &mut openings.decided);
        openings.policies.insert(policy.name.clone(), rows);
    }
    Ok(openings)
}

/// By subject, the identities that some rule about who comes in names. Of all others the decision finds no rule.
fn peers(imagined: &Imagined) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut peers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for key in imagined.entries.rules.keys().filter(|key| key.direction == Direction::Ingress) {
        peers.entry(key.subject).or_default().insert(key.peer);
    }
    peers
}

fn rows(
    policy: &Policy,
    imagined: &Imagined,
    peers: &BTreeMap<u32, BTreeSet<u32>>,
    decided: &mut usize,
) -> BTreeMap<(String, String), BTreeSet<String>> {
    let services: BTreeMap<u32, &str> = policy
        .services
        .keys()
        .filter_map(|name| Some((imagined.service(policy, name)?.identity, name.as_str())))
        .collect();
    let twins: BTreeMap<u32, Party> =
        imagined.other_instances(policy).into_iter().map(|(party, _)| (party.identity, party)).collect();
    let strangers = imagined.strangers(policy);
    let none = BTreeSet::new();
    let mut rows = BTreeMap::new();
    for (name, service) in &policy.services {
        let Some(party) = imagined.service(policy, name) else { continue };
        let named = peers.get(&party.identity).unwrap_or(&none);
        let own = named.iter().filter_map(|peer| {
            let caller = imagined.entries.party(*peer)?;
            Some(Caller {
                name: (*services.get(peer)?).to_owned(),
                parties: vec![(caller, Address::UNSPECIFIED)],
            })
        });
        let others = Caller {
            name: super::imagined::OTHER_INSTANCE.to_owned(),
            parties: named
                .iter()
                .filter_map(|peer| Some((*twins.get(peer)?, Address::UNSPECIFIED)))
                .collect(),
        };
        let callers: Vec<Caller> = own
            .chain([others])
            .filter(|caller| !caller.parties.is_empty())
            .chain(strangers.clone())
            .collect();
        let effective = effective(policy, service);
        for (port, protocol, number) in sampled(&effective) {
            let mut open = BTreeSet::new();
            for caller in &callers {
                *decided += caller.parties.len();
                if cell(imagined, caller, party, protocol, number).allowed {
                    open.insert(caller.name.clone());
                }
            }
            rows.insert((name.clone(), port), open);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{super::matrix, *};
    use crate::policy::{Source, load};

    fn policies(texts: &[&str], profile: Option<&str>) -> PolicySet {
        let sources: Vec<Source> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| Source { name: format!("{index}.yaml"), text: (*text).to_owned() })
            .collect();
        let loaded = load(&sources, profile);
        loaded.policies.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
    }

    fn agree(policies: &PolicySet) {
        let open = openings(policies).unwrap();
        for table in matrix(policies).unwrap().policies {
            for row in table.ingress {
                let wanted: BTreeSet<String> =
                    row.sources.iter().filter(|cell| cell.allowed).map(|cell| cell.source.clone()).collect();
                assert_eq!(
                    open.callers(&table.policy, &row.service, &row.port),
                    Some(&wanted),
                    "{} {}",
                    row.service,
                    row.port
                );
            }
        }
    }

    #[test]
    fn what_is_open_is_open_in_the_table() {
        let shipped =
            [include_str!("../../../../policies/qerds.yaml"), include_str!("../../../../policies/app.yaml")];
        for profile in [None, Some("development"), Some("production")] {
            agree(&policies(&shipped, profile));
        }
        let odd = "\
version: 1
policy: odd
applies_to: { project: \"odd-*\" }
mode: observe
groups: { admin: [192.0.2.0/24] }
services:
  a: { ports: [any, { port: 22/tcp, from: [admin] }], from: [b, { project: \"odd-*\", service: b }, world] }
  b: { ports: [1-9/tcp, 5/tcp], from: [{ project: other, service: x }, host, 198.51.100.0/24], mode: enforce }
  c: {}
";
        agree(&policies(&[odd, shipped[0]], None));
    }

    #[test]
    fn thrice_the_services_take_thrice_the_decisions() {
        let decided = |services: u32| {
            let mut text =
                "version: 1\npolicy: chain\napplies_to: { project: \"chain-*\" }\nservices:\n  s0: { ports: [80/tcp] }\n"
                    .to_owned();
            for number in 1..services {
                writeln!(text, "  s{number}: {{ ports: [80/tcp], from: [s{}] }}", number - 1).unwrap();
            }
            openings(&policies(&[&text], None)).unwrap().decided()
        };
        let (few, many) = (decided(300), decided(900));
        assert!(few >= 300 && many <= 3 * few + 10, "{few}, {many}");
    }
}
