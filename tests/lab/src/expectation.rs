//! Who may open what, read from `tests/scenarios/*/expected.yaml`: tables written by hand from the requirement
//! documents, so that the agent's own resolver is never its own judge.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::beyond::BEYOND;
use crate::tools::repository;

/// One table: for each profile, service and port the names that may open it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    instances: String,
    profiles: BTreeMap<String, BTreeMap<String, BTreeMap<u16, Vec<String>>>>,
}

/// The tables of every scenario, for the profile in force.
#[derive(Debug)]
pub struct Expectation {
    tables: Vec<Table>,
    profile: String,
}

/// Where an attempt comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Service { instance: String, service: String },
    Host,
    Outside,
}

impl Expectation {
    /// Reads the tables of these scenarios.
    pub fn load(scenarios: &[&str], profile: &str) -> Result<Self> {
        let tables = scenarios.iter().map(|name| read(name)).collect::<Result<Vec<_>>>()?;
        if let Some(missing) = tables.iter().find(|table| !table.profiles.contains_key(profile)) {
            bail!("the table for `{}` has no profile `{profile}`", missing.instances);
        }
        Ok(Self { tables, profile: profile.to_owned() })
    }

    /// The ports of a service of an instance; none if no table names it.
    #[must_use]
    pub fn ports(&self, instance: &str, service: &str) -> Vec<u16> {
        self.rows(instance)
            .and_then(|rows| rows.get(service))
            .map(|ports| ports.keys().copied().collect())
            .unwrap_or_default()
    }

    /// The services that the tables name for an instance.
    #[must_use]
    pub fn services(&self, instance: &str) -> Vec<String> {
        self.rows(instance).map(|rows| rows.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether the table lets `source` open that port.
    #[must_use]
    pub fn allows(&self, source: &Party, instance: &str, service: &str, port: u16) -> bool {
        let Some(allowed) = self.rows(instance).and_then(|rows| rows.get(service)?.get(&port)) else {
            return false;
        };
        match source {
            Party::Service { instance: from, service } => {
                (from == instance && allowed.contains(service))
                    || allowed.contains(&format!("{from}/{service}"))
            }
            Party::Host => allowed.iter().any(|name| name == "host"),
            Party::Outside => allowed.iter().any(|name| name == "outside"),
        }
    }

    /// Whether the tables let `source` call the outside.
    #[must_use]
    pub fn may_leave(&self, source: &Party) -> bool {
        self.rows(BEYOND)
            .and_then(|rows| rows.get("outside"))
            .is_some_and(|ports| ports.keys().any(|port| self.allows(source, BEYOND, "outside", *port)))
    }

    fn rows(&self, instance: &str) -> Option<&BTreeMap<String, BTreeMap<u16, Vec<String>>>> {
        self.tables.iter().find(|table| matches(&table.instances, instance))?.profiles.get(&self.profile)
    }
}

fn read(name: &str) -> Result<Table> {
    let path = repository().join("tests/scenarios").join(name).join("expected.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("failed to read `{}`", path.display()))
}

/// A name, or a prefix with a star behind it: all that the tables need.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_what_the_documents_say() {
        let expected = Expectation::load(&["app", "qerds", "unmanaged"], "production").unwrap();
        let service = |instance: &str, service: &str| Party::Service {
            instance: instance.into(),
            service: service.into(),
        };
        assert!(expected.allows(&service("myapp-dev", "backend"), "myapp-dev", "db", 5432));
        assert!(
            !expected.allows(&service("myapp-test", "backend"), "myapp-dev", "db", 5432),
            "instances are isolated"
        );
        assert!(!expected.allows(&service("myapp-dev", "frontend"), "myapp-dev", "db", 5432));
        assert!(expected.allows(&Party::Outside, "qerds", "reverse-proxy", 443));
        assert!(!expected.allows(&Party::Host, "qerds", "postgres", 5432));
        assert_eq!(expected.ports("qerds", "minio"), [9000, 9001]);
        assert!(expected.ports("qerds", "qerds-worker").is_empty());
    }

    #[test]
    fn a_profile_that_no_table_has_is_an_error() {
        let error = Expectation::load(&["qerds"], "staging").unwrap_err();
        assert!(error.to_string().contains("staging"), "{error}");
    }
}
