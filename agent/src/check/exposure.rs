//! Published ports against who may reach them.

use compose::Node;

use super::{
    Code, Detail, Found,
    subject::{Published, Rules, Service, Subject, Zone},
};
use crate::policy::Mark;

pub(super) fn check(subject: &Subject<'_>, found: &mut Found<'_>) {
    for service in &subject.services {
        // A service that the policy does not know, or not in this profile, is a finding already.
        let Some(rules) = subject.rules_of(service).filter(|rules| rules.effective.in_profile) else {
            continue;
        };
        for published in &service.published {
            port(subject, service, rules, published, found);
        }
        replicas(service, rules, found);
    }
    reverse_proxy(subject, found);
}

/// Ports of the host that several containers would have to share.
fn replicas(service: &Service<'_>, rules: &Rules<'_>, found: &mut Found<'_>) {
    let deployed = || service.node.get("deploy").and_then(|deploy| deploy.get("replicas"));
    let replicas = service.node.get("scale").or_else(deployed).and_then(Node::as_int).unwrap_or(1);
    for port in service.node.get("ports").map(Node::items).unwrap_or_default() {
        let published = port.get("published").and_then(Node::printed).filter(|text| !text.is_empty());
        let Some(room) = published.as_deref().and_then(room).filter(|room| *room < replicas) else {
            continue;
        };
        let ports = if room == 1 { "one port".to_owned() } else { format!("{room} ports") };
        found.add(
            Code::ReplicasSharePort,
            Detail {
                service: Some(service.name),
                span: port.span,
                message: format!(
                    "`{}` runs {replicas} times, but publishes {ports} of the host",
                    service.name
                ),
                rule: Some(rules.written.mark),
                fix: "leave the port on the host out, or give it a range as long as the number of replicas"
                    .to_owned(),
            },
        );
    }
}

/// How many ports of the host `8080`, or `8080-8089`, stands for.
fn room(published: &str) -> Option<i64> {
    let (first, last) = published.split_once('-').unwrap_or((published, published));
    Some(i64::from(last.parse::<u16>().ok()?.checked_sub(first.parse().ok()?)?) + 1)
}

fn port(
    subject: &Subject<'_>,
    service: &Service<'_>,
    rules: &Rules<'_>,
    published: &Published,
    found: &mut Found<'_>,
) {
    let name = service.name;
    let ports = published.describe();
    let entries: Vec<Option<usize>> = (published.first..=published.last)
        .map(|port| published.protocol.and_then(|protocol| rules.entry(protocol, port)))
        .collect();
    if entries.iter().any(Option::is_none) {
        found.add(
            Code::UnknownPort,
            Detail {
                service: Some(name),
                span: published.span,
                message: format!("`{name}` publishes {ports}, which the policy does not list"),
                rule: Some(rules.written.mark),
                fix: format!(
                    "remove it, or list it in the policy: `ports: [{}]`, and say by `exposure` who may reach it",
                    published.ports()
                ),
            },
        );
        return;
    }
    let outside = published.zone() == Zone::Outside;
    let mut entries: Vec<usize> = entries.into_iter().flatten().collect();
    entries.dedup();
    let first = entries.first().copied();
    let mut all_outside = true;
    for entry in entries {
        if subject.allows_outside(rules, entry) {
            continue;
        }
        all_outside = false;
        let host = rules.allows(entry, "host");
        if host && !outside {
            continue;
        }
        let (code, message, fix) = if host {
            (
                Code::AllInterfaces,
                format!(
                    "{ports} of `{name}` is published {}, but the policy opens it to the host only",
                    on(published)
                ),
                format!("bind it to localhost: `127.0.0.1:{0}:{0}`", published.first),
            )
        } else {
            (
                Code::InternalPublished,
                format!(
                    "{ports} of `{name}` is published {}, but the policy keeps it internal",
                    on(published)
                ),
                "remove it; services of the same network reach it without".to_owned(),
            )
        };
        let detail = Detail {
            service: Some(name),
            span: published.span,
            message,
            rule: Some(mark_of(rules, entry)),
            fix,
        };
        found.add(code, detail);
        return;
    }
    if let Some(entry) = first.filter(|_| outside && all_outside) {
        ipv6(subject, service, published, mark_of(rules, entry), found);
    }
}

/// Where it is written who reaches a port entry.
fn mark_of(rules: &Rules<'_>, entry: usize) -> Mark {
    rules.effective.ports.get(entry).map_or(rules.written.mark, |port| port.exposure_mark)
}

/// Where a port is bound, in words.
fn on(published: &Published) -> String {
    match published.address {
        None => "on every interface".to_owned(),
        Some(address) if address.is_unspecified() => "on every interface".to_owned(),
        Some(address) if address.is_loopback() => format!("on localhost (`{address}`)"),
        Some(address) => format!("on `{address}`"),
    }
}

/// A port without an address listens on IPv6 too, and the network should know of it.
fn ipv6(
    subject: &Subject<'_>,
    service: &Service<'_>,
    published: &Published,
    rule: Mark,
    found: &mut Found<'_>,
) {
    if published.address.is_some() {
        return;
    }
    let networks = subject.project.part("networks").filter(|(name, _)| service.networks.contains(name));
    let (mut any, mut without) = (false, None);
    for (name, network) in networks {
        any |= network.node.get("enable_ipv6").and_then(compose::Node::as_bool) == Some(true)
            || network.node.get("external").and_then(compose::Node::as_bool) == Some(true);
        without = without.or(Some(name));
    }
    let Some(network) = without.filter(|_| !any) else {
        return;
    };
    let message = format!(
        "{} of `{}` is published on IPv6 as well, but its network `{network}` has no IPv6",
        published.describe(),
        service.name
    );
    found.add(
        Code::Ipv6Default,
        Detail {
            service: Some(service.name),
            span: published.span,
            message,
            rule: Some(rule),
            fix: format!(
                "set `enable_ipv6: true` for the network `{network}`, or publish on IPv4 only: `0.0.0.0:{0}:{0}`",
                published.first
            ),
        },
    );
}

/// Somebody has to face the public, if the policy says so.
fn reverse_proxy(subject: &Subject<'_>, found: &mut Found<'_>) {
    let mut public = subject.rules.iter().filter(|rules| is_public(rules)).peekable();
    let Some(first) = public.peek().copied() else {
        return;
    };
    let published = public.clone().filter_map(|rules| subject.service_of(rules.name)).any(|service| {
        let rules = subject.rules_of(service);
        service.published.iter().any(|port| {
            port.zone() == Zone::Outside
                && rules
                    .zip(port.protocol)
                    .is_some_and(|(rules, protocol)| rules.entry(protocol, port.first).is_some())
        })
    });
    if published {
        return;
    }
    let names: Vec<String> = public.map(|rules| format!("`{}`", rules.name)).collect();
    let service = subject.service_of(first.name);
    let (span, message) = match service {
        Some(service) => (
            service.key,
            format!("`{}` faces the public in the policy, but publishes none of its ports", service.name),
        ),
        None => (
            services_key(subject),
            format!(
                "nothing faces the public: the policy has {}, the {} does not",
                names.join(", "),
                subject.place
            ),
        ),
    };
    let mark = first.effective.ports.first().map_or(first.written.mark, |port| port.exposure_mark);
    let ports: Vec<String> = first.effective.ports.iter().map(|port| port.ports.to_string()).collect();
    found.add(
        Code::NoReverseProxy,
        Detail {
            service: service.map(|service| service.name),
            span,
            message,
            rule: Some(mark),
            fix: format!("start `{}` and publish {} on every interface", first.name, ports.join(", ")),
        },
    );
}

/// Whether a service of the policy faces the world and has to be there.
pub(super) fn is_public(rules: &Rules<'_>) -> bool {
    // A service of some profiles only is a tool, not the way in.
    rules.effective.in_profile
        && rules.written.only_in.is_none()
        && (0..rules.effective.ports.len()).any(|entry| rules.allows(entry, "world"))
}

/// Where the services are written, as far as one place stands for all of them.
pub(super) fn services_key(subject: &Subject<'_>) -> compose::Span {
    let model = subject.project.model.as_map();
    model.and_then(|map| map.entry("services")).map(|entry| entry.key).unwrap_or_default()
}
