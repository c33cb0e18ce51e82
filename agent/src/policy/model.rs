//! Policies as values: what was written, with the place of everything that can decide.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::verdict::{Mode, Severity};
use ipnet::IpNet;

use super::{glob::Glob, ports::Ports, probes::Probes, report::Mark};

/// Every policy of a host, free of errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    pub policies: Vec<Policy>,
    /// Names of the texts, by [`Mark::source`].
    pub(super) files: Vec<String>,
}

impl PolicySet {
    /// `file:line` of a place.
    #[must_use]
    pub fn at(&self, mark: Mark) -> String {
        format!("{}:{}", self.files.get(mark.source).map_or("", String::as_str), mark.line)
    }
}

/// One policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: String,
    pub name_mark: Mark,
    pub target: Target,
    pub target_mark: Mark,
    pub mode: Mode,
    /// The profile in force: the one that the agent was told, else the document's.
    pub profile: Option<String>,
    pub profile_mark: Option<Mark>,
    pub groups: BTreeMap<String, Group>,
    /// What an audit asks from outside.
    pub probes: Probes,
    pub services: BTreeMap<String, Service>,
    /// The line of `services`.
    pub services_mark: Mark,
}

impl Policy {
    /// Every peer that the policy names, under whatever profile.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.services
            .values()
            .flat_map(|service| {
                std::iter::once(&service.base).chain(service.overlays.values().map(|overlay| &overlay.layer))
            })
            .flat_map(Layer::peers)
    }
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Compose projects; each is its own instance.
    Project(Glob),
    /// Containers without a project, together one instance.
    Container(Glob),
}

/// A named set of outside addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub mark: Mark,
    pub networks: Vec<IpNet>,
}

/// A service as written: its own keys and one overlay per profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub mark: Mark,
    pub select: Option<Select>,
    /// The profiles that the service belongs to; all if not given.
    pub only_in: Option<BTreeSet<String>>,
    pub only_in_marks: Vec<(String, Mark)>,
    pub base: Layer,
    pub overlays: BTreeMap<String, Overlay>,
}

/// Which containers of an instance a service is, instead of those with its compose label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    Container(Glob),
    Label { key: String, value: String },
}

/// What one profile changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub mark: Mark,
    pub layer: Layer,
}

/// The keys that an overlay may replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub exposure: Option<(Exposure, Mark)>,
    pub ports: Option<Vec<PortEntry>>,
    pub from: Option<Vec<(Peer, Mark)>>,
    pub egress: Option<Vec<EgressEntry>>,
    pub severity: Option<Severity>,
    pub mode: Option<Mode>,
    pub run_as: Option<(RunAs, Mark)>,
}

impl Layer {
    fn peers(&self) -> impl Iterator<Item = &Peer> {
        let from = self.from.iter().flatten();
        let of_ports = self.ports.iter().flatten().flat_map(|entry| entry.from.iter().flatten());
        let egress = self.egress.iter().flatten().map(|entry| &entry.to);
        from.chain(of_ports).map(|(peer, _)| peer).chain(egress)
    }
}

/// As whom the processes of a container may run. The kernel programs do not see it: `check` and people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    Any,
    NonRoot,
}

/// Who reaches a port without being in `from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// Nobody.
    #[default]
    Internal,
    /// The host.
    Localhost,
    /// The host and the world.
    Public,
}

impl Exposure {
    /// The word used in policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Localhost => "localhost",
            Self::Public => "public",
        }
    }
}

/// One item of `ports`; its own keys beat those of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEntry {
    pub ports: Ports,
    pub mark: Mark,
    pub from: Option<Vec<(Peer, Mark)>>,
    pub exposure: Option<(Exposure, Mark)>,
}

/// One item of `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressEntry {
    pub to: Peer,
    pub mark: Mark,
    /// All TCP and UDP if not given.
    pub ports: Option<Vec<Ports>>,
}

/// Somebody a service may be reached by, or may reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Host,
    World,
    Dns,
    /// A service of the same instance.
    Service(String),
    Group(String),
    Network(IpNet),
    /// Containers by their labels, covered or not.
    Labelled {
        project: Glob,
        service: Glob,
    },
}
