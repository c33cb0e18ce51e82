//! What the agent says about itself: the JSON of `portcullis status`, built from the published state and one
//! reading of the counters. Its text form is in [`text`].

mod counters;
pub mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use agent_common::{
    decision::PartyKind,
    policy::{OUT_OF_PROFILE, UNNAMED},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::counters::{CounterStatus, DeniedStatus, MapStatus};
use crate::{
    interference::{Fault, FaultState, Incident, Interference},
    inventory::snapshot::Endpoint,
    policy::entries::ResolvedEndpoint,
    state::{AgentState, AttachKind, EndpointState, InventoryState, ReloadState},
    telemetry::source::CounterReading,
};

/// The schema of [`Status`]: fields may be added under the same name.
pub const SCHEMA: &str = "portcullis.status/v1";

/// Everything that `portcullis status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub schema: String,
    pub version: String,
    pub ready: bool,
    /// What is missing until it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    pub revision: u32,
    pub uptime_seconds: u64,
    pub inventory: InventoryState,
    pub reload: ReloadState,
    pub enforcement: EnforcementStatus,
    /// What lies in the pin directory and is not the agent's.
    pub strangers: Vec<PathBuf>,
    pub policies: Vec<PolicyStatus>,
    pub bridges: Vec<BridgeStatus>,
    pub ports: Vec<PortStatus>,
    pub endpoints: Vec<EndpointStatus>,
    pub identities: Vec<IdentityStatus>,
    pub unenforceable: Vec<UnenforceableStatus>,
    /// Containers of covered instances whose service no policy names: they get and send nothing.
    pub unnamed: Vec<ContainerStatus>,
    /// Missing if the kernel's counters could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<CounterStatus>,
    pub maps: Vec<MapStatus>,
}

/// Whether what enforces is as the agent made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcementStatus {
    pub intact: bool,
    /// By kind.
    pub faults: BTreeMap<Fault, FaultState>,
    /// What others did to it, oldest first.
    pub incidents: Vec<Incident>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub name: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Empty if there is none.
    pub profile: String,
    /// The instances it applies to.
    pub instances: Vec<String>,
}

/// A watched bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeStatus {
    pub name: String,
    pub ifindex: u32,
    pub network: String,
    pub subnets: Vec<IpNet>,
    /// Whether a covered container is on it.
    pub covered: bool,
}

/// A port of a watched bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    pub name: String,
    pub ifindex: u32,
    pub bridge: String,
    pub attached: bool,
    pub via: Option<AttachKind>,
    /// `unattached`, `not_ready` or `ready`.
    pub state: String,
}

/// A container network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub container: String,
    pub project: Option<String>,
    pub service: Option<String>,
    pub identity: Option<u32>,
    pub state: EndpointState,
    pub bridge: String,
    pub port: Option<String>,
    pub mac: Option<String>,
    pub addresses: Vec<IpAddr>,
}

/// What an identity stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    pub identity: u32,
    pub project: String,
    pub service: String,
    pub policy: Option<String>,
    pub covered: bool,
    /// The service does not belong to the profile in force.
    pub out_of_profile: bool,
}

/// A container outside the reach of the bridge hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnenforceableStatus {
    pub container: String,
    pub project: Option<String>,
    pub service: Option<String>,
    /// `host_network`, `shared_network`, … as in `portcullis_unenforceable_containers`.
    pub kind: String,
    /// For people.
    pub reason: String,
}

/// A container by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub container: String,
    pub project: Option<String>,
    pub service: Option<String>,
}

impl Status {
    /// The status at a moment, given in seconds since 1970.
    #[must_use]
    pub fn new(state: &AgentState, reading: Option<&CounterReading>, now: u64) -> Self {
        let unenforceable = state.unenforceable().map(|container| UnenforceableStatus {
            container: container.container.clone(),
            project: container.project.clone(),
            service: container.service.clone(),
            kind: container.obstacle.name().to_owned(),
            reason: container.obstacle.to_string(),
        });
        Self {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: state.ready,
            waiting_for: state.waiting_for(),
            revision: state.revision,
            uptime_seconds: now.saturating_sub(state.started_at),
            inventory: state.inventory.clone(),
            reload: state.reload.clone(),
            enforcement: EnforcementStatus::new(&state.interference),
            strangers: state.strangers.clone(),
            policies: policies(state),
            bridges: bridges(state),
            ports: ports(state),
            endpoints: state
                .endpoints()
                .map(|(endpoint, resolved)| endpoint_status(state, endpoint, resolved))
                .collect(),
            identities: identities(state),
            unenforceable: unenforceable.collect(),
            unnamed: unnamed(state),
            counters: reading.map(CounterStatus::new),
            maps: reading.map(MapStatus::all).unwrap_or_default(),
        }
    }
}

impl EnforcementStatus {
    fn new(interference: &Interference) -> Self {
        Self {
            intact: interference.is_intact(),
            faults: Fault::ALL.map(|fault| (fault, interference.fault(fault))).into(),
            incidents: interference.incidents.clone(),
        }
    }
}

/// Seconds since 1970; 0 where the clock says an earlier time.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn policies(state: &AgentState) -> Vec<PolicyStatus> {
    let entries = &state.entries;
    let instances = |number: u16| -> BTreeSet<String> {
        let subjects = entries.subjects.iter().filter(|(_, subject)| subject.policy == number);
        subjects.filter_map(|(&identity, _)| Some(state.identity_names(identity)?.0.to_owned())).collect()
    };
    let policies = entries.policies.iter().map(|(&number, policy)| PolicyStatus {
        name: policy.name.clone(),
        mode: policy.mode.name().to_owned(),
        profile: policy.profile.clone(),
        instances: instances(number).into_iter().collect(),
    });
    policies.collect()
}

fn bridges(state: &AgentState) -> Vec<BridgeStatus> {
    let covered: BTreeSet<&str> = state
        .endpoints()
        .filter(|(_, resolved)| is_covered(*resolved))
        .map(|(endpoint, _)| endpoint.bridge.as_str())
        .collect();
    let bridges = state.snapshot.bridges.iter().map(|bridge| BridgeStatus {
        name: bridge.interface.name.clone(),
        ifindex: bridge.interface.ifindex,
        network: bridge.network.clone(),
        subnets: bridge.subnets.clone(),
        covered: covered.contains(bridge.interface.name.as_str()),
    });
    bridges.collect()
}

fn is_covered(resolved: Option<&ResolvedEndpoint>) -> bool {
    resolved.is_some_and(|resolved| resolved.party.kind == PartyKind::Covered)
}

fn ports(state: &AgentState) -> Vec<PortStatus> {
    let ports = state.ports.iter().map(|(&ifindex, port)| PortStatus {
        name: port.name.clone(),
        ifindex,
        bridge: port.bridge.clone(),
        attached: port.attached,
        via: port.via,
        state: match (port.attached, port.ready) {
            (false, _) => "unattached",
            (true, false) => "not_ready",
            (true, true) => "ready",
        }
        .to_owned(),
    });
    ports.collect()
}

fn endpoint_status(
    state: &AgentState,
    endpoint: &Endpoint,
    resolved: Option<&ResolvedEndpoint>,
) -> EndpointStatus {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    EndpointStatus {
        container: endpoint.container.clone(),
        project: endpoint.project.clone(),
        service: endpoint.service.clone(),
        identity: resolved.map(|resolved| resolved.party.identity),
        state: state.endpoint_state(endpoint, resolved),
        bridge: endpoint.bridge.clone(),
        port: endpoint.port.as_ref().map(|port| port.name.clone()),
        mac: endpoint.mac.map(mac),
        addresses: endpoint.addresses.clone(),
    }
}

fn identities(state: &AgentState) -> Vec<IdentityStatus> {
    let entries = &state.entries;
    let identities = entries.identities.iter().map(|(&identity, info)| {
        let subject = entries.subjects.get(&identity);
        IdentityStatus {
            identity,
            project: info.instance.clone(),
            service: info.service.clone(),
            policy: subject.and_then(|subject| state.policy_name(subject.policy)).map(str::to_owned),
            covered: info.covered,
            out_of_profile: subject.is_some_and(|subject| subject.flags & OUT_OF_PROFILE != 0),
        }
    });
    identities.collect()
}

fn unnamed(state: &AgentState) -> Vec<ContainerStatus> {
    let is_unnamed = |resolved: Option<&ResolvedEndpoint>| {
        resolved
            .and_then(|resolved| state.entries.subjects.get(&resolved.party.identity))
            .is_some_and(|subject| subject.flags & UNNAMED != 0)
    };
    let unnamed: BTreeSet<ContainerStatus> = state
        .endpoints()
        .filter(|(_, resolved)| is_unnamed(*resolved))
        .map(|(endpoint, _)| ContainerStatus {
            container: endpoint.container.clone(),
            project: endpoint.project.clone(),
            service: endpoint.service.clone(),
        })
        .collect();
    unnamed.into_iter().collect()
}

#[cfg(test)]
mod tests;
