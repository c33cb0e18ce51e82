//! Numbers for (instance, service) pairs: stable, persisted, never reused.

use std::collections::BTreeMap;

use agent_common::identity::{FIRST_ADDRESS_CLASS, FIRST_ENDPOINT};
use serde::{Deserialize, Serialize};

/// Hands out identity and instance numbers and remembers them.
///
/// Numbers only grow: a number that once stood for a service never stands for another while kernel state that
/// was made under it may live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRegistry {
    /// instance → number, from 1.
    instances: BTreeMap<String, u32>,
    /// instance → service → identity. A service named by the policy and one known by label only share the space.
    identities: BTreeMap<String, BTreeMap<String, u32>>,
    /// policy → number, from 1.
    policies: BTreeMap<String, u16>,
}

/// No number is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no number left for another {kind}")]
pub struct Exhausted {
    kind: &'static str,
}

impl IdentityRegistry {
    /// The number of an instance, allocated at its first use.
    pub fn instance(&mut self, instance: &str) -> Result<u32, Exhausted> {
        if let Some(&number) = self.instances.get(instance) {
            return Ok(number);
        }
        let number =
            u32::try_from(self.instances.len() + 1).map_err(|_overflow| Exhausted { kind: "instance" })?;
        self.instances.insert(instance.to_owned(), number);
        Ok(number)
    }

    /// The identity of a service of an instance, allocated at its first use.
    pub fn identity(&mut self, instance: &str, service: &str) -> Result<u32, Exhausted> {
        if let Some(&number) = self.identities.get(instance).and_then(|services| services.get(service)) {
            return Ok(number);
        }
        let used: usize = self.identities.values().map(BTreeMap::len).sum();
        let number = u32::try_from(used)
            .ok()
            .and_then(|used| used.checked_add(FIRST_ENDPOINT))
            .filter(|&number| number < FIRST_ADDRESS_CLASS)
            .ok_or(Exhausted { kind: "identity" })?;
        self.identities.entry(instance.to_owned()).or_default().insert(service.to_owned(), number);
        Ok(number)
    }

    /// The number of a policy, allocated at its first use.
    pub fn policy(&mut self, policy: &str) -> Result<u16, Exhausted> {
        if let Some(&number) = self.policies.get(policy) {
            return Ok(number);
        }
        let number =
            u16::try_from(self.policies.len() + 1).map_err(|_overflow| Exhausted { kind: "policy" })?;
        self.policies.insert(policy.to_owned(), number);
        Ok(number)
    }

    /// (instance, service) of an identity, if it was ever handed out.
    #[must_use]
    pub fn names(&self, identity: u32) -> Option<(&str, &str)> {
        self.identities.iter().find_map(|(instance, services)| {
            services
                .iter()
                .find(|&(_, &number)| number == identity)
                .map(|(service, _)| (instance.as_str(), service.as_str()))
        })
    }

    /// The name of a policy number, if it was ever handed out.
    #[must_use]
    pub fn policy_name(&self, number: u16) -> Option<&str> {
        self.policies.iter().find(|&(_, &known)| known == number).map(|(name, _)| name.as_str())
    }

    /// Every identity that was ever handed out, as (identity, instance, service).
    pub fn all_identities(&self) -> impl Iterator<Item = (u32, &str, &str)> {
        self.identities.iter().flat_map(|(instance, services)| {
            services.iter().map(move |(service, &number)| (number, instance.as_str(), service.as_str()))
        })
    }

    /// Every policy number that was ever handed out, with the policy's name.
    pub fn all_policies(&self) -> impl Iterator<Item = (u16, &str)> {
        self.policies.iter().map(|(name, &number)| (number, name.as_str()))
    }
}
