//! From policies and a snapshot of the host to the entries that the kernel needs.
//!
//! Three steps: who is who ([`population`]), what each service may be reached by ([`ingress`]), and what it may
//! reach ([`egress`]). Every number comes from the registry, so the same service keeps its identity.

mod classes;
mod egress;
mod ingress;
mod population;
mod sharing;
mod table;

use agent_common::{
    policy::{OUT_OF_PROFILE, Subject, UNNAMED},
    verdict::Mode,
};

use self::{
    population::{Population, Resident},
    table::Table,
};
use super::{
    effective::{Effective, effective},
    entries::{Entries, IdentityInfo, PolicyInfo, RuleOrigin},
    model::{Policy, PolicySet},
};
use crate::inventory::{
    identity::{Exhausted, IdentityRegistry},
    snapshot::Snapshot,
};

/// Why policies cannot be brought to a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("the policies name more than the kernel can tell apart")]
    Numbers(#[from] Exhausted),
    #[error("the policies have more than {} deciding lines", u32::MAX)]
    Rules,
    #[error("service `{service}` of `{instance}` names more address ranges than the kernel can tell apart")]
    Classes { instance: String, service: String },
}

/// Resolves policies on a host.
pub fn resolve(
    policies: &PolicySet,
    snapshot: &Snapshot,
    registry: &mut IdentityRegistry,
) -> Result<Entries, ResolveError> {
    let mut entries = Entries { strictest_mode: strictest_mode(policies), ..Entries::default() };
    for policy in &policies.policies {
        let number = registry.policy(&policy.name)?;
        let info = PolicyInfo {
            name: policy.name.clone(),
            mode: policy.mode,
            profile: policy.profile.clone().unwrap_or_default(),
        };
        entries.policies.insert(number, info);
    }
    let population = Population::new(policies, snapshot, registry)?;
    entries.endpoints = population.endpoints();
    for (&identity, (project, service)) in &population.outsiders {
        let info = IdentityInfo {
            instance: project.clone(),
            instance_number: 0,
            service: service.clone(),
            covered: false,
        };
        entries.identities.insert(identity, info);
    }
    let mut table = Table::new(policies, &mut entries);
    for resident in population.residents.values() {
        subject(&population, resident, snapshot, &mut table)?;
    }
    entries.at_odds = sharing::at_odds(policies, &population, snapshot, &entries);
    Ok(entries)
}

/// Enforce, unless everything that is loaded observes.
fn strictest_mode(policies: &PolicySet) -> Option<Mode> {
    policies
        .policies
        .iter()
        .flat_map(|policy| {
            let services = policy.services.values().map(|service| effective(policy, service).mode);
            std::iter::once(policy.mode).chain(services)
        })
        .min()
}

fn subject(
    population: &Population<'_>,
    resident: &Resident<'_>,
    snapshot: &Snapshot,
    table: &mut Table<'_>,
) -> Result<(), ResolveError> {
    let instance = &population.instances[resident.instance];
    let policy = instance.policy;
    let info = IdentityInfo {
        instance: instance.name.clone(),
        instance_number: instance.number,
        service: resident.service.clone(),
        covered: true,
    };
    table.entries.identities.insert(resident.identity, info);
    let row = |mode: Mode, severity: u8, flags: u8| Subject {
        policy: instance.policy_number,
        mode: mode as u8,
        severity,
        flags,
        _pad: [0; 3],
    };
    let Some(service) = resident.named.and_then(|name| policy.services.get(name)) else {
        table.entries.subjects.insert(
            resident.identity,
            row(policy.mode, agent_common::verdict::Severity::Warning as u8, UNNAMED),
        );
        table.set_default(resident.identity, default_origin(policy, table.at(policy.services_mark)));
        return Ok(());
    };
    let effective = effective(policy, service);
    table.set_default(resident.identity, default_origin(policy, table.at(service.mark)));
    ingress::labels(resident.identity, &effective, table);
    let flags = if effective.in_profile {
        let context = Context { population, resident, policy, effective: &effective, snapshot };
        let mut classes = classes::Classes::default();
        ingress::entries(&context, &mut classes, table)?;
        egress::entries(&context, &mut classes, table)?;
        classes.flags()
    } else {
        OUT_OF_PROFILE
    };
    let row = row(effective.mode, effective.severity as u8, flags);
    table.entries.subjects.insert(resident.identity, row);
    Ok(())
}

fn default_origin(policy: &Policy, at: String) -> RuleOrigin {
    RuleOrigin { policy: policy.name.clone(), rule: "default".to_owned(), at }
}

/// What the entries of one subject are made from.
#[derive(Clone, Copy, Debug)]
struct Context<'c> {
    population: &'c Population<'c>,
    resident: &'c Resident<'c>,
    policy: &'c Policy,
    effective: &'c Effective<'c>,
    snapshot: &'c Snapshot,
}

impl Context<'_> {
    /// The name of a rule of this service in events.
    fn rule_name(&self, path: &str) -> String {
        format!("{}.{path}", self.resident.service)
    }

    fn too_many_classes(&self) -> ResolveError {
        ResolveError::Classes {
            instance: self.population.instances[self.resident.instance].name.clone(),
            service: self.resident.service.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
