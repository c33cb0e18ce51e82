//! Who shares a network or a namespace with whom, against who may talk to whom.

use std::collections::BTreeSet;

use compose::{Entry, Node, Span};

use super::{
    Code, Detail, Found,
    subject::{Rules, Service, Subject},
};
use crate::policy::model::{Peer, Target};

pub(super) fn check(subject: &Subject<'_>, found: &mut Found<'_>) {
    for service in &subject.services {
        joined(subject, service, found);
        apart(subject, service, found);
    }
    together(subject, found);
    names(subject, found);
}

/// A service in the network namespace of another one.
fn joined(subject: &Subject<'_>, service: &Service<'_>, found: &mut Found<'_>) {
    let Some(mode) = service.node.get("network_mode") else {
        return;
    };
    let text = mode.as_text().unwrap_or_default();
    let Some(own) = subject.rules_of(service) else {
        return;
    };
    let message = if let Some(container) = text.strip_prefix("container:") {
        format!("`{}` joins the network of the container `{container}`, whatever that one may", service.name)
    } else if let Some(other) = text.strip_prefix("service:") {
        let theirs = subject.services.iter().find(|service| service.name == other);
        if theirs.and_then(|theirs| subject.rules_of(theirs)).is_some_and(|theirs| same_rights(own, theirs)) {
            return;
        }
        format!(
            "`{}` joins the network of `{other}`, but the policy gives them different rights",
            service.name
        )
    } else {
        return;
    };
    found.add(
        Code::SharedNamespace,
        Detail {
            service: Some(service.name),
            span: mode.span,
            message,
            rule: Some(own.written.mark),
            fix: "give it networks of its own".to_owned(),
        },
    );
}

fn same_rights(left: &Rules<'_>, right: &Rules<'_>) -> bool {
    let ports = |rules: &Rules<'_>| -> Vec<_> {
        let mut ports: Vec<_> = rules
            .effective
            .ports
            .iter()
            .map(|port| {
                let from: BTreeSet<Peer> = port.from.iter().map(|(peer, _)| peer.clone()).collect();
                (port.ports, port.exposure, from)
            })
            .collect();
        ports.sort();
        ports
    };
    let egress = |rules: &Rules<'_>| -> BTreeSet<_> {
        rules
            .effective
            .egress
            .iter()
            .map(|egress| (egress.entry.to.clone(), egress.entry.ports.clone()))
            .collect()
    };
    left.effective.in_profile == right.effective.in_profile
        && ports(left) == ports(right)
        && egress(left) == egress(right)
}

/// Services that may call this one, but cannot.
fn apart(subject: &Subject<'_>, service: &Service<'_>, found: &mut Found<'_>) {
    let Some(rules) = subject.rules_of(service).filter(|rules| rules.effective.in_profile) else {
        return;
    };
    // On the host's network, or in somebody else's: said elsewhere.
    if has_namespace_of_others(service) {
        return;
    }
    let mut callers: BTreeSet<&str> = BTreeSet::new();
    let mut rule = None;
    for (peer, mark) in rules.effective.ports.iter().flat_map(|port| port.from) {
        let Peer::Service(name) = peer else {
            continue;
        };
        let Some(caller) = subject.service_of(name).filter(|caller| !has_namespace_of_others(caller)) else {
            continue;
        };
        if caller.name != service.name && caller.networks.is_disjoint(&service.networks) {
            callers.insert(caller.name);
            rule = rule.or(Some(*mark));
        }
    }
    if callers.is_empty() {
        return;
    }
    let listed: Vec<String> = callers.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "`{}` shares no network with {}, which the policy lets call it",
        service.name,
        listed.join(" and ")
    );
    found.add(
        Code::NoSharedNetwork,
        Detail {
            service: Some(service.name),
            span: networks_span(service),
            message,
            rule,
            fix: format!("put them on a common network, or take {} out of `from`", listed.join(" and ")),
        },
    );
}

fn has_namespace_of_others(service: &Service<'_>) -> bool {
    service.node.get("network_mode").is_some()
}

/// Where the networks of a service are written, or else the service.
fn networks_span(service: &Service<'_>) -> Span {
    let entry = service.node.as_map().and_then(|map| map.entry("networks"));
    entry.map_or(
        service.key,
        |entry: &Entry| if entry.node.span == service.key { service.key } else { entry.key },
    )
}

/// How many pairs a message lists.
const MAX_PAIRS: usize = 3;

/// Services on one network that nothing lets talk.
fn together(subject: &Subject<'_>, found: &mut Found<'_>) {
    for (network, entry) in subject.project.part("networks") {
        let members: Vec<(&Service<'_>, &Rules<'_>)> = subject
            .services
            .iter()
            .filter(|service| service.networks.contains(network))
            .filter_map(|service| Some((service, subject.rules_of(service)?)))
            .collect();
        let mut pairs = Vec::new();
        for (index, (service, rules)) in members.iter().enumerate() {
            for (other, others) in &members[index + 1..] {
                if !may_call(service, rules, others) && !may_call(other, others, rules) {
                    pairs.push(format!("`{}` and `{}`", service.name, other.name));
                }
            }
        }
        if pairs.is_empty() {
            continue;
        }
        let more = pairs.len().saturating_sub(MAX_PAIRS);
        let mut listed = pairs[..pairs.len().min(MAX_PAIRS)].join(", ");
        if more > 0 {
            listed.push_str(&format!(" and {more} more pairs"));
        }
        found.add(
            Code::NeedlessNetwork,
            Detail {
                service: None,
                span: entry.key,
                message: format!("the network `{network}` joins services that nothing lets talk: {listed}"),
                rule: Some(subject.policy.services_mark),
                fix: "give each group of services that talk a network of its own".to_owned(),
            },
        );
    }
}

/// Whether the policy lets a service be called by another.
fn may_call(_called: &Service<'_>, called: &Rules<'_>, caller: &Rules<'_>) -> bool {
    let peers = called.effective.ports.iter().flat_map(|port| port.from);
    peers.into_iter().any(|(peer, _)| *peer == Peer::Service(caller.name.to_owned()))
}

/// Names that every instance would have.
fn names(subject: &Subject<'_>, found: &mut Found<'_>) {
    let Target::Project(glob) = &subject.policy.target else {
        return;
    };
    if glob.is_exact() {
        return;
    }
    let mut fixed: Vec<(Option<&str>, Span, String)> = Vec::new();
    for (part, what) in [("networks", "network"), ("volumes", "volume")] {
        for (key, entry) in subject.project.part(part) {
            let external = entry.node.get("external").and_then(Node::as_bool) == Some(true);
            if let Some(name) = entry.node.get("name").filter(|_| !external)
                && is_fixed(subject, name, entry)
            {
                let text = name.as_text().unwrap_or_default();
                fixed.push((
                    None,
                    name.span,
                    format!("the {what} `{key}` is called `{text}` in every instance"),
                ));
            }
        }
    }
    for service in &subject.services {
        if let Some(name) = service.node.get("container_name")
            && !found.written(name.span).contains('$')
        {
            let text = name.as_text().unwrap_or_default();
            let message = format!("the container of `{}` is called `{text}` in every instance", service.name);
            fixed.push((Some(service.name), name.span, message));
        }
    }
    for (service, span, message) in fixed {
        if found.written(span).contains('$') {
            continue;
        }
        found.add(
            Code::FixedName,
            Detail {
                service,
                span,
                message,
                rule: Some(subject.policy.target_mark),
                fix: "put `${COMPOSE_PROJECT_NAME}` into the name, or leave the name out".to_owned(),
            },
        );
    }
}

/// Whether a name is written at all: Compose gives one to what has none, and it begins with the project's.
fn is_fixed(subject: &Subject<'_>, name: &Node, entry: &Entry) -> bool {
    let given = name.span == entry.key || name.span == entry.node.span;
    !given && !name.as_text().unwrap_or_default().contains(&subject.project.name)
}
