//! What is checked: the services of a project in use, each beside what the policy says of it.

use std::{collections::BTreeSet, net::IpAddr};

use compose::{Node, Project, Span, pairs};

use super::Origin;
use crate::{
    inventory::snapshot::Protocol,
    policy::{
        effective::{Effective, EffectivePort, effective},
        matrix::Openings,
        model::{self, Policy, Select},
    },
};

/// A project and its policy.
pub(super) struct Subject<'s> {
    pub(super) project: &'s Project,
    pub(super) policy: &'s Policy,
    pub(super) services: Vec<Service<'s>>,
    pub(super) rules: Vec<Rules<'s>>,
    /// Where the project is, in words.
    pub(super) place: &'static str,
}

/// A service of the policy, under its profile.
pub(super) struct Rules<'s> {
    pub(super) name: &'s str,
    pub(super) written: &'s model::Service,
    pub(super) effective: Effective<'s>,
    /// Who reaches each entry of `effective.ports`, by the resolved table.
    reached_by: Vec<Option<&'s BTreeSet<String>>>,
}

/// A service of the project that is in use.
pub(super) struct Service<'s> {
    pub(super) name: &'s str,
    /// Where its name is written.
    pub(super) key: Span,
    pub(super) node: &'s Node,
    /// Which of the policy's services it is.
    pub(super) rules: Option<usize>,
    pub(super) published: Vec<Published>,
    pub(super) networks: BTreeSet<&'s str>,
}

/// A published port, or several that are written as one and differ in nothing but the number.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) span: Span,
    pub(super) address: Option<IpAddr>,
    pub(super) protocol: Option<Protocol>,
    /// The protocol as it is written.
    pub(super) protocol_name: String,
    /// The first and the last port of the container.
    pub(super) first: u16,
    pub(super) last: u16,
}

/// Who can call a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Outside,
    Host,
}

impl Published {
    /// From where the port can be reached, by the address that it is bound to.
    pub(super) fn zone(&self) -> Zone {
        match self.address {
            Some(address) if address.is_loopback() => Zone::Host,
            _ => Zone::Outside,
        }
    }

    /// `5432/tcp`, `8000-8010/tcp`.
    pub(super) fn ports(&self) -> String {
        if self.first == self.last {
            format!("{}/{}", self.first, self.protocol_name)
        } else {
            format!("{}-{}/{}", self.first, self.last, self.protocol_name)
        }
    }

    /// As people say it: `port 5432/tcp`.
    pub(super) fn describe(&self) -> String {
        let noun = if self.first == self.last { "port" } else { "ports" };
        format!("{noun} `{}`", self.ports())
    }
}

impl<'s> Subject<'s> {
    pub(super) fn new(
        project: &'s Project,
        origin: Origin,
        policy: &'s Policy,
        openings: &'s Openings,
    ) -> Self {
        let rules: Vec<Rules<'s>> = policy
            .services
            .iter()
            .map(|(name, written)| Rules::new(policy, name, written, openings))
            .collect();
        let services = project
            .services()
            .filter(|(name, _)| project.enabled.contains(*name))
            .map(|(name, entry)| Service {
                name,
                key: entry.key,
                node: &entry.node,
                rules: rules.iter().position(|rules| is_meant(project, rules, name, &entry.node)),
                published: published(&entry.node),
                networks: entry
                    .node
                    .get("networks")
                    .into_iter()
                    .flat_map(Node::entries)
                    .map(|(name, _)| name)
                    .collect(),
            })
            .collect();
        let place = if origin == Origin::Host { "host" } else { "compose file" };
        Self { project, policy, services, rules, place }
    }

    /// What the policy says of a service.
    pub(super) fn rules_of(&self, service: &Service<'_>) -> Option<&Rules<'s>> {
        self.rules.get(service.rules?)
    }

    /// The project's service that is one of the policy.
    pub(super) fn service_of(&self, rules: &str) -> Option<&Service<'s>> {
        self.services.iter().find(|service| self.rules_of(service).is_some_and(|own| own.name == rules))
    }

    /// Whether anybody outside reaches a port entry: the world, or a group of it.
    pub(super) fn allows_outside(&self, rules: &Rules<'_>, entry: usize) -> bool {
        let inside = |caller: &str| {
            ["host", "unmanaged", "other instance"].contains(&caller)
                || self.policy.services.contains_key(caller)
                || caller.contains('/') && caller.parse::<ipnet::IpNet>().is_err()
        };
        rules.callers(entry).any(|caller| !inside(caller))
    }
}

impl<'s> Rules<'s> {
    fn new(policy: &'s Policy, name: &'s str, written: &'s model::Service, openings: &'s Openings) -> Self {
        let effective = effective(policy, written);
        let callers =
            |port: &EffectivePort<'_>| openings.callers(&policy.name, name, &port.ports.to_string());
        let reached_by = effective.ports.iter().map(callers).collect();
        Self { name, written, effective, reached_by }
    }

    fn callers(&self, entry: usize) -> impl Iterator<Item = &'s str> {
        self.reached_by.get(entry).copied().flatten().into_iter().flatten().map(String::as_str)
    }

    /// The entry that decides about a port, by its place among the entries: exact beats range beats `any`.
    pub(super) fn entry(&self, protocol: Protocol, port: u16) -> Option<usize> {
        let entries = self.effective.ports.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.ports.contains(protocol, port))
            .max_by_key(|(_, entry)| entry.ports.width())
            .map(|(index, _)| index)
    }

    /// Whether a caller reaches a port entry.
    pub(super) fn allows(&self, entry: usize, caller: &str) -> bool {
        self.reached_by.get(entry).copied().flatten().is_some_and(|callers| callers.contains(caller))
    }
}

/// Whether a service of the project is one of the policy.
fn is_meant(project: &Project, rules: &Rules<'_>, name: &str, node: &Node) -> bool {
    match &rules.written.select {
        None => rules.name == name,
        Some(Select::Label { key, value }) => node
            .get("labels")
            .map(pairs)
            .unwrap_or_default()
            .iter()
            .any(|(own, text, _)| own == key && text.as_deref().unwrap_or_default() == value),
        Some(Select::Container(glob)) => {
            let own = node.get("container_name").and_then(Node::as_text).map(str::to_owned);
            glob.matches(&own.unwrap_or_else(|| format!("{}-{name}-1", project.name)))
        }
    }
}

fn published(node: &Node) -> Vec<Published> {
    let mut found: Vec<Published> = Vec::new();
    // What is on the host's network, or on none, publishes nothing.
    if node
        .get("network_mode")
        .and_then(Node::as_text)
        .is_some_and(|mode| mode != "bridge" && mode != "default")
    {
        return found;
    }
    let mut single: Vec<Published> =
        node.get("ports").map(Node::items).unwrap_or_default().iter().filter_map(one).collect();
    single.sort_by_key(|port| (port.span, port.first));
    for port in single {
        match found.last_mut() {
            Some(last)
                if last.span == port.span
                    && last.last.checked_add(1) == Some(port.first)
                    && (last.address, &last.protocol_name) == (port.address, &port.protocol_name) =>
            {
                last.last = port.last;
            }
            _ => found.push(port),
        }
    }
    found
}

fn one(port: &Node) -> Option<Published> {
    let text = |key: &str| port.get(key).and_then(Node::printed).filter(|text| !text.is_empty());
    let target = text("target")?.parse().ok()?;
    let protocol_name = text("protocol").unwrap_or_else(|| "tcp".to_owned());
    let protocol = match protocol_name.as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    };
    let address = text("host_ip").and_then(|text| text.parse().ok());
    Some(Published { span: port.span, address, protocol, protocol_name, first: target, last: target })
}
