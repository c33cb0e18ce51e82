//! Writes entries: rule numbers with their origins, and the prefixes of one peer.

use std::collections::BTreeMap;

use agent_common::{packet::PROTOCOL_ICMP, policy::Rule, verdict::Direction};

use super::{
    super::{
        entries::{Entries, RuleEntryKey, RuleOrigin},
        model::PolicySet,
        ports::{Ports, prefixes, protocol_number},
        report::Mark,
    },
    ResolveError,
};
use crate::inventory::snapshot::Protocol;

/// The protocols that ports are named for.
pub(super) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The entries of one peer, by (protocol, port, prefix length): whether it is allowed, and the rule number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerRules(BTreeMap<(u8, u16, u8), (bool, u32)>);

impl PeerRules {
    /// Allows or denies ports. Must be called from the widest to the narrowest entry: of two entries that come
    /// down to the same prefix the later stands.
    pub(super) fn put(&mut self, ports: Ports, protocol: Protocol, allow: bool, rule: u32) {
        if let Some((first, last)) = ports.interval(protocol) {
            for (port, prefix) in prefixes(first, last) {
                self.0.insert((protocol_number(protocol), port, prefix), (allow, rule));
            }
        }
    }

    /// Allows ports, unless the very same ones are allowed already.
    pub(super) fn allow_more(&mut self, ports: Ports, rule: u32) {
        for protocol in PROTOCOLS {
            if let Some((first, last)) = ports.interval(protocol) {
                for (port, prefix) in prefixes(first, last) {
                    self.0.entry((protocol_number(protocol), port, prefix)).or_insert((true, rule));
                }
            }
        }
    }

    /// Who may open a port may ping.
    pub(super) fn with_ping(mut self) -> Self {
        if let Some((_, rule)) = self.0.values().find(|(allow, _)| *allow).copied() {
            self.0.insert((PROTOCOL_ICMP, 0, 0), (true, rule));
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The entries under construction.
#[derive(Debug)]
pub(super) struct Table<'t> {
    policies: &'t PolicySet,
    pub(super) entries: &'t mut Entries,
    numbers: BTreeMap<(String, String, String), u32>,
}

impl<'t> Table<'t> {
    pub(super) fn new(policies: &'t PolicySet, entries: &'t mut Entries) -> Self {
        Self { policies, entries, numbers: BTreeMap::new() }
    }

    /// `file:line`.
    pub(super) fn at(&self, mark: Mark) -> String {
        self.policies.at(mark)
    }

    pub(super) fn set_default(&mut self, identity: u32, origin: RuleOrigin) {
        self.entries.defaults.insert(identity, origin);
    }

    /// The number of a deciding line; all instances of a policy share it.
    pub(super) fn number(&mut self, policy: &str, rule: String, mark: Mark) -> Result<u32, ResolveError> {
        let at = self.at(mark);
        let key = (policy.to_owned(), rule, at);
        if let Some(&number) = self.numbers.get(&key) {
            return Ok(number);
        }
        let (policy, rule, at) = key.clone();
        self.entries.origins.push(RuleOrigin { policy, rule, at });
        let Ok(number) = u32::try_from(self.entries.origins.len()) else {
            return Err(ResolveError::Rules);
        };
        self.numbers.insert(key, number);
        Ok(number)
    }

    /// Writes the entries of one peer.
    pub(super) fn write(&mut self, subject: u32, peer: u32, direction: Direction, rules: &PeerRules) {
        for (&(protocol, port, prefix), &(allow, rule)) in &rules.0 {
            let key = RuleEntryKey { subject, peer, direction, protocol, port, prefix };
            let rule = Rule { rule, port_first: 0, port_last: 0, allow: u8::from(allow), _pad: [0; 3] };
            self.entries.rules.insert(key, rule);
        }
    }
}
