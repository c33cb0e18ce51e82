//! The lines about the containers of one instance.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, could_not_tell, weigh};
use crate::{
    audit::{
        host::Container,
        line::{Answer, Line},
        reach::{Arrival, Try},
        rights::{Caller, Rights, rights},
    },
    check::Code,
    inventory::snapshot::Protocol,
};

/// How many pieces of evidence of one kind are listed.
const MOST: usize = 12;

const NOT_TRIED: &str = "connections are not tried: `--passive`";

/// A line for each internal service that runs.
pub(super) fn internal(asked: &Asked<'_>) -> Vec<Answer> {
    let all = rights(asked.instance.policy);
    let internal = all.iter().filter(|rights| rights.effective.in_profile && rights.is_internal());
    internal.filter_map(|rights| internal_service(asked, rights)).collect()
}

fn internal_service(asked: &Asked<'_>, rights: &Rights<'_>) -> Option<Answer> {
    let line = Line::InternalClosed;
    let subject = asked.service(rights.name);
    let containers: Vec<&&Container> = containers_of(asked, rights.name).collect();
    if containers.is_empty() {
        return None;
    }
    let mut against: Vec<String> = asked
        .findings
        .iter()
        .filter(|finding| finding.service.as_deref() == Some(rights.name))
        .filter(|finding| {
            let codes = [Code::InternalPublished, Code::AllInterfaces, Code::UnknownPort, Code::HostNetwork];
            codes.contains(&finding.code)
        })
        .map(super::told)
        .collect();
    let tries: Vec<&Try> = tries(asked).filter(|attempt| attempt.service == rights.name).collect();
    let (reached, mut unclear) = sort(tries.iter().copied());
    against.extend(reached);
    let mut looked = vec!["publishes no port that others reach".to_owned()];
    if asked.seen.tries.is_none() {
        unclear = [looked[0].clone(), NOT_TRIED.to_owned()].into();
    }
    looked.push(summary(&tries));
    Some(weigh(line, subject, against, unclear, looked))
}

fn containers_of<'a>(asked: &'a Asked<'_>, service: &'a str) -> impl Iterator<Item = &'a &'a Container> {
    asked.instance.containers.iter().filter(move |container| container.service() == service)
}

fn tries<'a>(asked: &'a Asked<'_>) -> impl Iterator<Item = &'a Try> {
    asked.seen.tries.iter().flatten().filter(|attempt| attempt.project == asked.instance.project)
}

/// What arrived although it must not, and what cannot be told.
fn sort<'t>(tries: impl Iterator<Item = &'t Try>) -> (Vec<String>, Vec<String>) {
    let (mut reached, mut unclear) = (BTreeSet::new(), BTreeSet::new());
    for attempt in tries.filter(|attempt| !attempt.allowed) {
        let what = format!("`{}` port {}", attempt.container, attempt.describe());
        match (attempt.arrival, &attempt.error) {
            (_, Some(error)) => _ = unclear.insert(error.clone()),
            (Arrival::Reached, None) => _ = reached.insert(format!("reached {what}")),
            (Arrival::Unclear, None) => {
                _ = unclear.insert(format!("something took the connection to {what} and said nothing"));
            }
            (Arrival::NotTried, None) => _ = unclear.insert(format!("no time was left to try {what}")),
            (Arrival::Blocked, None) => {}
        }
    }
    (listed(reached), listed(unclear))
}

fn listed(all: BTreeSet<String>) -> Vec<String> {
    let more = all.len().saturating_sub(MOST);
    let mut listed: Vec<String> = all.into_iter().take(MOST).collect();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed
}

/// How many were tried from where, and how many arrived.
fn summary(tries: &[&Try]) -> String {
    let mut by_caller: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for attempt in tries {
        let (tried, reached) = by_caller.entry(&attempt.from).or_default();
        *tried += 1;
        *reached += usize::from(attempt.arrival == Arrival::Reached);
    }
    if by_caller.is_empty() {
        return "no connection was tried: no TCP port is known".to_owned();
    }
    let callers = by_caller.iter();
    let callers: Vec<String> = callers
        .map(|(from, (tried, reached))| format!("{tried} connections tried from {from}, {reached} arrived"))
        .collect();
    callers.join("; ")
}

/// A line for each service that must not run in this profile.
pub(super) fn development(asked: &Asked<'_>) -> Vec<Answer> {
    let all = rights(asked.instance.policy);
    let out = all.iter().filter(|rights| !rights.effective.in_profile);
    out.map(|rights| {
        let running: Vec<String> = containers_of(asked, rights.name)
            .map(|container| format!("the container `{}` runs", container.name))
            .collect();
        let profile = asked.instance.policy.profile.as_deref().unwrap_or("(none)");
        let looked = vec![format!("no container of it runs in the profile `{profile}`")];
        weigh(Line::NoDevServices, asked.service(rights.name), running, Vec::new(), looked)
    })
    .collect()
}

pub(super) fn public(asked: &Asked<'_>) -> Answer {
    let all = rights(asked.instance.policy);
    let mut against = asked.found(&[Code::NoReverseProxy]);
    let mut looked = Vec::new();
    for container in &asked.instance.containers {
        let own = all.iter().find(|rights| rights.name == container.service());
        for (port, protocol, address, outer) in container.published() {
            if address.is_some_and(|address| address.is_loopback()) {
                continue;
            }
            let at = address.map_or_else(|| "every address".to_owned(), |address| format!("`{address}`"));
            let what =
                format!("`{}` port {port}/{protocol} is published at {at} port {outer}", container.name);
            let kind = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
            match own {
                Some(own) if own.allows(Caller::Outside, kind, port) => looked.push(what),
                _ => against.push(what),
            }
        }
    }
    if looked.is_empty() {
        looked.push("nothing is published on a public interface".to_owned());
    }
    weigh(Line::OnlyProxyPublic, asked.subject(), against, Vec::new(), looked)
}

pub(super) fn non_root(asked: &Asked<'_>) -> Answer {
    let all = rights(asked.instance.policy);
    let profile = asked.instance.policy.profile.as_deref();
    let (mut against, mut allowed, mut others) = (Vec::new(), Vec::new(), 0);
    let unasked = asked.instance.containers.iter().filter(|container| container.uid.is_none()).count();
    for container in &asked.instance.containers {
        let may = all.iter().any(|rights| rights.name == container.service() && rights.may_be_root(profile));
        match (container.is_root(), may) {
            (true, false) => against.push(format!("`{}` runs as root", container.name)),
            (true, true) => allowed.push(format!("`{}`", container.name)),
            (false, _) => others += 1,
        }
    }
    let mut looked = vec![format!("{others} containers run as somebody else than root")];
    if unasked > 0 {
        looked
            .push(format!("{unasked} of all judged by how they were started: the kernel could not be asked"));
    }
    if !allowed.is_empty() {
        looked.push(format!("the policy lets be root: {}", allowed.join(", ")));
    }
    weigh(Line::NonRoot, asked.subject(), against, Vec::new(), looked)
}

pub(super) fn networks(asked: &Asked<'_>) -> Answer {
    let mut against = Vec::new();
    let mut used = BTreeSet::new();
    for container in &asked.instance.containers {
        let name = &container.name;
        match (container.network_mode(), container.joins()) {
            ("host", _) => against.push(format!("`{name}` is on the host's network")),
            (_, Some(other)) => {
                against.push(format!("`{name}` is in the network of the container `{other}`"));
            }
            _ => {}
        }
        for network in container.networks() {
            if network == "bridge" {
                against.push(format!("`{name}` is on the engine's default bridge"));
            }
            used.insert(format!("`{network}`"));
        }
    }
    let looked =
        vec![asked.looked_at(), format!("networks: {}", used.into_iter().collect::<Vec<_>>().join(", "))];
    weigh(Line::PrivateNetworks, asked.subject(), against, Vec::new(), looked)
}

pub(super) fn isolated(asked: &Asked<'_>) -> Answer {
    let mut against = asked.found(&[Code::FixedName]);
    let own: BTreeSet<&str> =
        asked.instance.containers.iter().map(|container| container.id.as_str()).collect();
    let others = || asked.host.containers.iter().filter(|container| !own.contains(container.id.as_str()));
    let mut shared = BTreeSet::new();
    for container in &asked.instance.containers {
        let volumes: BTreeSet<&str> = named_volumes(container).collect();
        // The engine's default bridge is a line of its own.
        let networks: BTreeSet<&str> = container.networks().filter(|name| *name != "bridge").collect();
        for other in others() {
            for volume in named_volumes(other).filter(|name| volumes.contains(name)) {
                shared.insert(format!("the volume `{volume}` is shared with `{}`", other.name));
            }
            for network in other.networks().filter(|name| networks.contains(name)) {
                shared.insert(format!("the network `{network}` is shared with `{}`", other.name));
            }
        }
    }
    against.extend(listed(shared));
    let count = others().count();
    let looked = vec![format!("{}, and compared with {count} others of the host", asked.looked_at())];
    weigh(Line::InstancesIsolated, asked.subject(), against, Vec::new(), looked)
}

fn named_volumes(container: &Container) -> impl Iterator<Item = &str> {
    let named = container.mounts.iter().filter(|mount| mount.kind.as_deref() == Some("volume"));
    named.filter_map(|mount| mount.name.as_deref())
}

pub(super) fn escape(asked: &Asked<'_>) -> Answer {
    let codes = [Code::Privileged, Code::DangerousMount, Code::HostNamespace, Code::AddedCapability];
    asked.by_findings(Line::NoEscape, &codes)
}

pub(super) fn known(asked: &Asked<'_>) -> Answer {
    asked.by_findings(Line::KnownServices, &[Code::UnknownService, Code::MissingService])
}

pub(super) fn reachable(asked: &Asked<'_>) -> Answer {
    let tries: Vec<&Try> = tries(asked).collect();
    if asked.seen.tries.is_none() {
        return could_not_tell(Line::ReachableAllowed, asked.subject(), NOT_TRIED);
    }
    if tries.is_empty() {
        return could_not_tell(Line::ReachableAllowed, asked.subject(), "no TCP port to try is known");
    }
    let (reached, unclear) = sort(tries.iter().copied());
    let allowed = tries.iter().filter(|attempt| attempt.allowed);
    let (arrived, all) =
        (allowed.clone().filter(|attempt| attempt.arrival == Arrival::Reached).count(), allowed.count());
    let mut looked = vec![summary(&tries), format!("{arrived} of {all} that the policy allows arrived")];
    if tries.iter().all(|attempt| attempt.from == "host") {
        looked.push("from outside nothing was tried: name a network namespace by `--from`".to_owned());
    }
    weigh(Line::ReachableAllowed, asked.subject(), reached, unclear, looked)
}
