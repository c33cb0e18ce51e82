//! The one view of the agent that it publishes to its own readers: metrics, events and status. Plain values; the
//! reconcile loop writes it through a `watch` channel, nobody else does.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use agent_common::{decision::PartyKind, verdict::Mode};
use serde::{Deserialize, Serialize};

use crate::{
    interference::Interference,
    inventory::{
        identity::IdentityRegistry,
        snapshot::{Endpoint, Obstacle, Snapshot, Unenforceable},
    },
    policy::entries::{Entries, ResolvedEndpoint},
};

/// Everything that metrics, events and status say about the agent, except what is read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    pub snapshot: Arc<Snapshot>,
    /// The entries in force; `endpoints` runs in step with the snapshot's.
    pub entries: Arc<Entries>,
    /// Names of everything that a number in a counter or an event may still stand for.
    pub names: Arc<Names>,
    /// The revision of `entries`.
    pub revision: u32,
    /// What is attached to each port of a watched bridge, by ifindex.
    pub ports: BTreeMap<u32, PortState>,
    pub inventory: InventoryState,
    pub reload: ReloadState,
    /// What others did to what enforces.
    pub interference: Interference,
    /// What lies in the pin directory and is not ours.
    pub strangers: Vec<PathBuf>,
    /// Whether everything that was found is enforced.
    pub ready: bool,
    /// Seconds since 1970.
    pub started_at: u64,
}

/// Names that outlive what they name: a counter may stand for a service that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By policy number.
    pub policies: BTreeMap<u16, String>,
    /// By identity: (instance, service).
    pub identities: BTreeMap<u32, (String, String)>,
}

/// The programs of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    pub name: String,
    /// The bridge's interface name.
    pub bridge: String,
    /// Whether both programs are attached.
    pub attached: bool,
    /// Whether the kernel knows what is behind the port; until then it drops everything (`not_ready`).
    pub ready: bool,
    /// How the programs are attached.
    pub via: Option<AttachKind>,
}

/// The two ways to attach a program to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachKind {
    /// A link of kernel 6.6 and later.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl AttachKind {
    /// The word used in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Where containers are learnt from, and whether that works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryState {
    pub source: InventorySource,
    pub connected: bool,
    /// Whether the snapshot holds everything that the source knows.
    pub complete: bool,
    /// Why it is not connected or not complete.
    pub error: Option<String>,
}

/// The kinds of inventory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InventorySource {
    /// The Docker Engine API.
    #[default]
    Docker,
    /// An inventory file.
    File,
}

impl InventorySource {
    /// The word used in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::File => "file",
        }
    }
}

/// How the last attempt to load the policy and the settings went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadState {
    pub successful: bool,
    /// Seconds since 1970; 0 if none succeeded yet.
    pub last_success: u64,
    pub last_error: Option<String>,
}

/// What is done about one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Covered, and denials are carried out.
    Enforced,
    /// Covered, and denials are reported only.
    Observed,
    /// Covered, but its port is not known, has no programs, or is not known to them yet.
    Pending,
    /// No policy covers it.
    Unmanaged,
}

impl EndpointState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Enforced, Self::Observed, Self::Pending, Self::Unmanaged];

    /// The word used in metrics and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Observed => "observed",
            Self::Pending => "pending",
            Self::Unmanaged => "unmanaged",
        }
    }
}

impl Names {
    /// Everything that the registry ever handed out.
    #[must_use]
    pub fn from_registry(registry: &IdentityRegistry) -> Self {
        Self {
            policies: registry.all_policies().map(|(number, name)| (number, name.to_owned())).collect(),
            identities: registry
                .all_identities()
                .map(|(number, instance, service)| (number, (instance.to_owned(), service.to_owned())))
                .collect(),
        }
    }
}

impl AgentState {
    /// The endpoints of the snapshot with what each was resolved to, `None` where that is not done yet.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, Option<&ResolvedEndpoint>)> {
        self.snapshot
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| (endpoint, self.entries.endpoints.get(index)))
    }

    /// Containers that are not enforced as the policy says. Those that share a network and would have the same rights
    /// by themselves are not among them.
    pub fn unenforceable(&self) -> impl Iterator<Item = &Unenforceable> {
        unenforceable(&self.snapshot, &self.entries)
    }

    /// The endpoint behind a port.
    #[must_use]
    pub fn endpoint_at_port(&self, ifindex: u32) -> Option<&Endpoint> {
        self.snapshot
            .endpoints
            .iter()
            .find(|endpoint| endpoint.port.as_ref().is_some_and(|port| port.ifindex == ifindex))
    }

    /// The endpoint with this address and identity. The identity keeps an address that another network uses too,
    /// or that NAT wrote into the packet, from naming the wrong container.
    #[must_use]
    pub fn endpoint_by_address(&self, address: IpAddr, identity: u32) -> Option<&Endpoint> {
        self.endpoints()
            .find(|(endpoint, resolved)| {
                endpoint.addresses.contains(&address)
                    && resolved.is_some_and(|resolved| resolved.party.identity == identity)
            })
            .map(|(endpoint, _)| endpoint)
    }

    /// (instance, service) of an identity, whether or not it is still present.
    #[must_use]
    pub fn identity_names(&self, identity: u32) -> Option<(&str, &str)> {
        if let Some(info) = self.entries.identities.get(&identity) {
            return Some((&info.instance, &info.service));
        }
        self.names.identities.get(&identity).map(|(instance, service)| (instance.as_str(), service.as_str()))
    }

    /// The name of a policy, whether or not it is still loaded.
    #[must_use]
    pub fn policy_name(&self, number: u16) -> Option<&str> {
        match self.entries.policies.get(&number) {
            Some(policy) => Some(&policy.name),
            None => self.names.policies.get(&number).map(String::as_str),
        }
    }

    /// The name of an interface that the snapshot or the datapath knows.
    #[must_use]
    pub fn interface_name(&self, ifindex: u32) -> Option<&str> {
        let snapshot = &self.snapshot;
        let interfaces = snapshot
            .ports
            .iter()
            .map(|port| &port.interface)
            .chain(snapshot.bridges.iter().map(|bridge| &bridge.interface))
            .chain(snapshot.uplinks.iter().map(|uplink| &uplink.interface));
        self.ports.get(&ifindex).map(|port| port.name.as_str()).or_else(|| {
            interfaces.into_iter().find(|known| known.ifindex == ifindex).map(|known| known.name.as_str())
        })
    }

    /// What is done about an endpoint.
    #[must_use]
    pub fn endpoint_state(&self, endpoint: &Endpoint, resolved: Option<&ResolvedEndpoint>) -> EndpointState {
        let Some(resolved) = resolved else {
            return EndpointState::Pending;
        };
        if resolved.party.kind != PartyKind::Covered {
            return EndpointState::Unmanaged;
        }
        let ready = endpoint
            .port
            .as_ref()
            .and_then(|port| self.ports.get(&port.ifindex))
            .is_some_and(|port| port.attached && port.ready);
        match (ready, resolved.mode) {
            (false, _) => EndpointState::Pending,
            (true, Mode::Enforce) => EndpointState::Enforced,
            (true, Mode::Observe) => EndpointState::Observed,
        }
    }

    /// For people: what is missing until the agent is ready; `None` once it is.
    #[must_use]
    pub fn waiting_for(&self) -> Option<String> {
        if self.ready {
            return None;
        }
        let waiting = self.ports.values().filter(|port| !port.attached || !port.ready).count();
        Some(if waiting > 0 {
            format!("{waiting} of {} ports are not enforced yet", self.ports.len())
        } else if let Some(error) = &self.reload.last_error {
            format!("no policy is in force: {error}")
        } else {
            "starting".to_owned()
        })
    }
}

/// The containers of a snapshot that are not enforced as these entries say.
pub fn unenforceable<'s>(
    snapshot: &'s Snapshot,
    entries: &'s Entries,
) -> impl Iterator<Item = &'s Unenforceable> {
    let all = snapshot.unenforceable.iter().enumerate();
    all.filter(|(place, container)| {
        !matches!(container.obstacle, Obstacle::SharedNetwork { .. }) || entries.at_odds.contains(place)
    })
    .map(|(_, container)| container)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
