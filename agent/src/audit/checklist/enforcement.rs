//! What the agent enforces, in its own words, against what the instance needs.

use std::collections::BTreeSet;

use super::{Asked, could_not_tell, weigh};
use crate::{
    audit::line::{Answer, Line},
    check::Code,
    state::EndpointState,
    status::Status,
};

pub(super) fn enforced(asked: &Asked<'_>) -> Answer {
    let line = Line::Enforced;
    let status = match &asked.seen.status {
        Ok(status) => status,
        // Whoever is not there enforces nothing; what it has left pinned cannot be seen from here.
        Err(error) => return could_not_tell(line, asked.subject(), error),
    };
    let mut against = agent(status);
    against.extend(policy(asked, status));
    let mut enforced = 0;
    let names: BTreeSet<&str> =
        asked.instance.containers.iter().map(|container| container.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for endpoint in status.endpoints.iter().filter(|endpoint| names.contains(endpoint.container.as_str())) {
        seen.insert(endpoint.container.as_str());
        let bridge = &endpoint.bridge;
        let port = endpoint.port.as_deref().unwrap_or("no port");
        match endpoint.state {
            EndpointState::Enforced => enforced += 1,
            state => {
                let state = state_name(state);
                against.push(format!("`{}` at `{port}` of `{bridge}` is {state}", endpoint.container));
            }
        }
        let unready = status.ports.iter().find(|own| Some(&own.name) == endpoint.port.as_ref());
        if let Some(own) = unready.filter(|own| own.state != "ready") {
            against.push(format!("the port `{}` of `{bridge}` is {}", own.name, own.state));
        }
    }
    for container in &asked.instance.containers {
        let has_networks = container.networks().next().is_some();
        if has_networks && !seen.contains(container.name.as_str()) {
            against.push(format!("the agent does not know the container `{}`", container.name));
        }
    }
    let looked = vec![
        format!(
            "the agent is ready, its programs are attached and first in order, revision {}",
            status.revision
        ),
        format!("{enforced} interfaces of {} containers are enforced", seen.len()),
    ];
    weigh(line, asked.subject(), against, Vec::new(), looked)
}

const fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Enforced => "enforced",
        EndpointState::Observed => "only observed",
        EndpointState::Pending => "not enforced yet",
        EndpointState::Unmanaged => "covered by no policy",
    }
}

/// What speaks against the agent as a whole.
fn agent(status: &Status) -> Vec<String> {
    let mut against = Vec::new();
    if !status.ready {
        let why = status.waiting_for.as_deref().unwrap_or("something");
        against.push(format!("the agent is not ready: it waits for {why}"));
    }
    if !status.enforcement.intact {
        let faults = status.enforcement.faults.iter().filter(|(_, state)| state.active);
        let faults: Vec<&str> = faults.map(|(fault, _)| fault.name()).collect();
        against.push(format!("what enforces is not as the agent made it: {}", faults.join(", ")));
    }
    if !status.reload.successful {
        against.push("the agent's last reload failed: it enforces an older policy".to_owned());
    }
    if !status.inventory.connected {
        against.push("the agent does not reach the engine: new containers are denied everything".to_owned());
    }
    against
}

/// Whether it is this policy that is in force for the instance.
fn policy(asked: &Asked<'_>, status: &Status) -> Option<String> {
    let policy = asked.instance.policy;
    let Some(own) = status.policies.iter().find(|own| own.name == policy.name) else {
        return Some(format!("the agent has no policy `{}`", policy.name));
    };
    let profile = policy.profile.as_deref().unwrap_or_default();
    (own.profile != profile)
        .then(|| format!("the agent enforces the profile `{}`, not `{profile}`", own.profile))
}

pub(super) fn enforceable(asked: &Asked<'_>) -> Answer {
    let mut against = asked.found(&[Code::HostNetwork, Code::SharedNamespace]);
    if let Ok(status) = &asked.seen.status {
        let names: BTreeSet<&str> =
            asked.instance.containers.iter().map(|container| container.name.as_str()).collect();
        let told =
            status.unenforceable.iter().filter(|container| names.contains(container.container.as_str()));
        against.extend(told.map(|container| {
            format!("the agent cannot enforce `{}`: {}", container.container, container.reason)
        }));
    }
    let looked = vec![asked.looked_at()];
    weigh(Line::Enforceable, asked.subject(), against, Vec::new(), looked)
}
