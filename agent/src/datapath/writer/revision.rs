//! The entries of one revision of the policy: written beside those in force, then put in their place at once.

use std::{collections::BTreeMap, time::Duration};

use agent_common::policy::{AddressKey, PolicyTable, Rule, RuleKey, Subject, SubjectKey, prefix_words};
use aya::maps::lpm_trie::Key;
use rustix::time::{ClockId, clock_gettime};

use super::{Datapath, DatapathError, absent_is_fine, remove, write_error};
use crate::policy::entries::{AddressEntryKey, Entries, RuleEntryKey};

impl Datapath {
    /// Writes the entries under a new revision, moves every packet over to it with one write, removes the old ones.
    pub(super) fn swap(&mut self, entries: &Entries) -> Result<(), DatapathError> {
        let old = self.config;
        let revision = old.revision.checked_add(1).unwrap_or(1);
        // Leftovers of a swap that was cut short would be in force at once.
        self.keep_revision(old.revision)?;
        self.write_revision(revision, entries)?;
        self.config.revision = revision;
        self.config.strictest_mode = entries.strictest_mode() as u8;
        if old.revision == 0 && !self.adopt.is_zero() {
            // The first policy of all: what is connected now was so before anybody watched.
            self.config.adopt_until = adopt_until(self.adopt);
        }
        if let Err(error) = self.write_config() {
            self.config = old;
            return Err(error);
        }
        // In force from here, whatever comes after.
        self.entries = Some(entries.clone());
        // Packets that read the old number are through in microseconds.
        std::thread::sleep(Duration::from_millis(2));
        if let Err(error) = self.keep_revision(revision) {
            tracing::warn!(%error, "entries of an old revision not removed, the next change tries again");
        }
        Ok(())
    }

    /// Whether the kernel holds just these entries already: then an earlier agent's revision stays in force.
    pub(super) fn holds(&self, entries: &Entries) -> bool {
        let revision = self.config.revision;
        if revision == 0 || self.config.strictest_mode != entries.strictest_mode() as u8 {
            return false;
        }
        let subjects: BTreeMap<u32, Subject> = self
            .maps
            .subjects
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, _)| key.revision == revision)
            .map(|(key, subject)| (key.identity, subject))
            .collect();
        let addresses: BTreeMap<_, u32> = self
            .maps
            .addresses
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, _)| { key.data() }.revision == revision)
            .map(|(key, class)| (address_parts(&key), class))
            .collect();
        let rules: BTreeMap<_, Rule> = self
            .maps
            .rules
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, _)| { key.data() }.revision == revision)
            .map(|(key, rule)| (rule_parts(&key), rule))
            .collect();
        let same_addresses = addresses.len() == entries.addresses.len()
            && entries.addresses.iter().all(|(entry, class)| {
                addresses.get(&address_parts(&address_key(revision, entry))) == Some(class)
            });
        let same_rules = rules.len() == entries.rules.len()
            && entries
                .rules
                .iter()
                .all(|(entry, rule)| rules.get(&rule_parts(&rule_key(revision, entry))) == Some(rule));
        subjects == entries.subjects && same_addresses && same_rules
    }

    fn write_revision(&mut self, revision: u32, entries: &Entries) -> Result<(), DatapathError> {
        for (&identity, subject) in &entries.subjects {
            let key = SubjectKey { revision, identity };
            self.maps.subjects.insert(key, subject, 0).map_err(write_error("SUBJECTS"))?;
        }
        for (entry, &class) in &entries.addresses {
            let key = address_key(revision, entry);
            self.maps.addresses.insert(&key, class, 0).map_err(write_error("ADDRESSES"))?;
        }
        for (entry, rule) in &entries.rules {
            let key = rule_key(revision, entry);
            self.maps.rules.insert(&key, rule, 0).map_err(write_error("RULES"))?;
        }
        Ok(())
    }

    /// Removes the entries of all other revisions.
    fn keep_revision(&mut self, revision: u32) -> Result<(), DatapathError> {
        let subjects: Vec<SubjectKey> =
            self.maps.subjects.keys().filter_map(Result::ok).filter(|key| key.revision != revision).collect();
        for key in subjects {
            remove(&mut self.maps.subjects, &key).map_err(write_error("SUBJECTS"))?;
        }
        let addresses: Vec<Key<AddressKey>> = self
            .maps
            .addresses
            .keys()
            .filter_map(Result::ok)
            .filter(|key| { key.data() }.revision != revision)
            .collect();
        for key in addresses {
            absent_is_fine(self.maps.addresses.remove(&key)).map_err(write_error("ADDRESSES"))?;
        }
        let rules: Vec<Key<RuleKey>> = self
            .maps
            .rules
            .keys()
            .filter_map(Result::ok)
            .filter(|key| { key.data() }.revision != revision)
            .collect();
        for key in rules {
            absent_is_fine(self.maps.rules.remove(&key)).map_err(write_error("RULES"))?;
        }
        Ok(())
    }
}

/// When connections from before are no longer taken over, if that begins now.
pub(super) fn adopt_until(window: Duration) -> u64 {
    boot_time().saturating_add(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX))
}

/// Nanoseconds since boot, suspend included: the programs' clock.
fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn address_key(revision: u32, entry: &AddressEntryKey) -> Key<AddressKey> {
    let address = prefix_words(&entry.address);
    let key = AddressKey { revision, subject: entry.subject, scope: entry.scope as u32, address };
    Key::new(AddressKey::PREFIX_BASE + u32::from(entry.prefix), key)
}

fn rule_key(revision: u32, entry: &RuleEntryKey) -> Key<RuleKey> {
    let key = RuleKey {
        revision,
        subject: entry.subject,
        peer: entry.peer,
        direction: entry.direction as u8,
        protocol: entry.protocol,
        port_be: entry.port.to_be(),
    };
    Key::new(RuleKey::PREFIX_BASE + u32::from(entry.prefix), key)
}

/// What tells one key of a revision from another.
fn address_parts(key: &Key<AddressKey>) -> (u32, u32, u32, [u32; 4]) {
    let data = { key.data() };
    (key.prefix_len(), data.subject, data.scope, data.address)
}

/// What tells one key of a revision from another.
fn rule_parts(key: &Key<RuleKey>) -> (u32, u32, u32, u8, u8, u16) {
    let data = { key.data() };
    (key.prefix_len(), data.subject, data.peer, data.direction, data.protocol, data.port_be)
}

/// Whether two resolutions come to the same kernel entries. Names, endpoints and the lines that rules stand on do
/// not count: readers get the new ones with the state that is published.
pub(super) fn same_entries(current: &Entries, new: &Entries) -> bool {
    current.subjects == new.subjects
        && current.rules == new.rules
        && current.addresses == new.addresses
        && current.strictest_mode == new.strictest_mode
}
