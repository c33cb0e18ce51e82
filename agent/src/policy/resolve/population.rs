//! Who is who: which instance and service every container belongs to, and which identities a peer stands for.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::{
    decision::{Party, PartyKind},
    verdict::Mode,
};

use super::{
    super::{
        effective::effective,
        entries::ResolvedEndpoint,
        model::{Peer, Policy, PolicySet, Select, Service, Target},
    },
    ResolveError,
};
use crate::inventory::{
    identity::IdentityRegistry,
    snapshot::{Endpoint, Snapshot, Unenforceable},
};

/// One instance that is present.
#[derive(Debug)]
pub(super) struct Instance<'p> {
    pub(super) policy: &'p Policy,
    pub(super) policy_number: u16,
    /// The compose project, or the policy's name.
    pub(super) name: String,
    /// The name in the registry, where projects and policies must not be confused.
    key: String,
    pub(super) number: u32,
    /// The services that choose their containers themselves, instead of by compose's label.
    selecting: Vec<(&'p str, &'p Service)>,
}

/// One covered identity.
#[derive(Debug)]
pub(super) struct Resident<'p> {
    pub(super) identity: u32,
    /// Index of the instance.
    pub(super) instance: usize,
    /// For people.
    pub(super) service: String,
    /// The service of the policy; `None` if the policy does not name it, or names it twice.
    pub(super) named: Option<&'p str>,
    in_profile: bool,
    mode: Mode,
    /// Compose project and service labels of its containers, or those that they would have.
    labels: BTreeSet<(Option<String>, Option<String>)>,
}

/// What a container that shares another's network would be by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// No policy covers it.
    Uncovered,
    /// Of an instance whose policy gives it no rights.
    Nameless,
    Service(u32),
}

impl<'p> Instance<'p> {
    /// The services that say a container is theirs, in the order of their names.
    fn selected_by(&self, endpoint: &Endpoint) -> Vec<&'p str> {
        let label = endpoint.service.as_deref().and_then(|label| self.policy.services.get_key_value(label));
        let by_label = label.filter(|(_, service)| service.select.is_none()).map(|(name, _)| name.as_str());
        let selecting = self.selecting.iter().filter(|(_, service)| selects(service, endpoint));
        let mut found: Vec<&str> = by_label.into_iter().chain(selecting.map(|(name, _)| *name)).collect();
        found.sort_unstable();
        found
    }
}

/// Everybody on the host that policies can tell apart.
#[derive(Debug)]
pub(super) struct Population<'p> {
    pub(super) instances: Vec<Instance<'p>>,
    /// By identity.
    pub(super) residents: BTreeMap<u32, Resident<'p>>,
    /// Identities of the services that policies name, by instance and name.
    named: BTreeMap<(usize, &'p str), u32>,
    /// Uncovered (project, service) that peers name, by identity.
    pub(super) outsiders: BTreeMap<u32, (String, String)>,
    /// Of each endpoint of the snapshot, `None` for containers that nobody names.
    identities: Vec<Option<u32>>,
}

/// The service of containers without a usable name.
const NAMELESS: &str = "(unnamed)";

impl<'p> Population<'p> {
    pub(super) fn new(
        policies: &'p PolicySet,
        snapshot: &Snapshot,
        registry: &mut IdentityRegistry,
    ) -> Result<Self, ResolveError> {
        let mut population = Self {
            instances: Vec::new(),
            residents: BTreeMap::new(),
            named: BTreeMap::new(),
            outsiders: BTreeMap::new(),
            identities: vec![None; snapshot.endpoints.len()],
        };
        let places = population.find_instances(policies, snapshot, registry)?;
        population.settle_named(registry)?;
        for (index, endpoint) in snapshot.endpoints.iter().enumerate() {
            if let Some(instance) = places[index] {
                population.identities[index] = Some(population.settle(instance, endpoint, registry)?);
            }
        }
        population.find_outsiders(policies, snapshot, &places, registry)?;
        Ok(population)
    }

    /// The instance of each endpoint.
    fn find_instances(
        &mut self,
        policies: &'p PolicySet,
        snapshot: &Snapshot,
        registry: &mut IdentityRegistry,
    ) -> Result<Vec<Option<usize>>, ResolveError> {
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut places = Vec::with_capacity(snapshot.endpoints.len());
        for endpoint in &snapshot.endpoints {
            let Some(policy) = policies.policies.iter().find(|policy| applies_to(policy, endpoint)) else {
                places.push(None);
                continue;
            };
            let (name, key) = match &endpoint.project {
                Some(project) => (project.clone(), project_key(project)),
                None => (policy.name.clone(), format!("policy:{}", policy.name)),
            };
            if let Some(&index) = known.get(&key) {
                places.push(Some(index));
                continue;
            }
            let index = self.instances.len();
            let number = registry.instance(&key)?;
            let policy_number = registry.policy(&policy.name)?;
            let selecting = policy.services.iter().filter(|(_, service)| service.select.is_some());
            let selecting = selecting.map(|(name, service)| (name.as_str(), service)).collect();
            self.instances.push(Instance {
                policy,
                policy_number,
                name,
                key: key.clone(),
                number,
                selecting,
            });
            known.insert(key, index);
            places.push(Some(index));
        }
        Ok(places)
    }

    /// Gives every service that a policy names for a present instance its identity.
    fn settle_named(&mut self, registry: &mut IdentityRegistry) -> Result<(), ResolveError> {
        for (index, instance) in self.instances.iter().enumerate() {
            for (name, service) in &instance.policy.services {
                let identity = registry.identity(&instance.key, name)?;
                let effective = effective(instance.policy, service);
                let by_label =
                    service.select.is_none() && matches!(instance.policy.target, Target::Project(_));
                let expected = (Some(instance.name.clone()), Some(name.clone()));
                let resident = Resident {
                    identity,
                    instance: index,
                    service: name.clone(),
                    named: Some(name),
                    in_profile: effective.in_profile,
                    mode: effective.mode,
                    labels: by_label.then_some(expected).into_iter().collect(),
                };
                self.residents.insert(identity, resident);
                self.named.insert((index, name.as_str()), identity);
            }
        }
        Ok(())
    }

    /// The identity of a covered endpoint.
    fn settle(
        &mut self,
        index: usize,
        endpoint: &Endpoint,
        registry: &mut IdentityRegistry,
    ) -> Result<u32, ResolveError> {
        let instance = &self.instances[index];
        let services = &instance.policy.services;
        let found = instance.selected_by(endpoint);
        let name = match (found.as_slice(), &endpoint.service) {
            ([name], _) => (*name).to_owned(),
            // A name of its own: that of one of the services would bring its rules.
            ([], Some(label)) if !services.contains_key(label) => label.clone(),
            ([], _) => NAMELESS.to_owned(),
            (several, _) => several.join("|"),
        };
        let named = found.len() == 1;
        let identity = registry.identity(&instance.key, &name)?;
        let mode = instance.policy.mode;
        let resident = self.residents.entry(identity).or_insert_with(|| Resident {
            identity,
            instance: index,
            service: name,
            named: None,
            in_profile: true,
            mode,
            labels: BTreeSet::new(),
        });
        debug_assert_eq!(named, resident.named.is_some());
        resident.labels.insert((endpoint.project.clone(), endpoint.service.clone()));
        Ok(identity)
    }

    /// Gives uncovered containers that a policy names by labels an identity, whether or not they are there: an
    /// entry that comes and goes with them would be a new revision each time.
    fn find_outsiders(
        &mut self,
        policies: &'p PolicySet,
        snapshot: &Snapshot,
        places: &[Option<usize>],
        registry: &mut IdentityRegistry,
    ) -> Result<(), ResolveError> {
        let peers: BTreeSet<&Peer> = policies.policies.iter().flat_map(Policy::peers).collect();
        for peer in &peers {
            if let Peer::Labelled { project, service } = peer
                && project.is_exact()
                && service.is_exact()
                && !policies.policies.iter().any(|policy| covers_project(policy, &project.to_string()))
            {
                self.outsider(&project.to_string(), &service.to_string(), registry)?;
            }
        }
        for (index, endpoint) in snapshot.endpoints.iter().enumerate() {
            let (None, Some(project), Some(service)) = (places[index], &endpoint.project, &endpoint.service)
            else {
                continue;
            };
            if peers.iter().any(|peer| has_labels(peer, Some(project), Some(service))) {
                self.identities[index] = Some(self.outsider(project, service, registry)?);
            }
        }
        Ok(())
    }

    fn outsider(
        &mut self,
        project: &str,
        service: &str,
        registry: &mut IdentityRegistry,
    ) -> Result<u32, ResolveError> {
        let identity = registry.identity(&project_key(project), service)?;
        self.outsiders.insert(identity, (project.to_owned(), service.to_owned()));
        Ok(identity)
    }

    /// What each endpoint is, in the snapshot's order.
    pub(super) fn endpoints(&self) -> Vec<ResolvedEndpoint> {
        let unmanaged = |identity| Party { kind: PartyKind::Unmanaged, identity, instance: 0 };
        self.identities
            .iter()
            .map(|identity| match identity {
                None => ResolvedEndpoint { party: Party::UNMANAGED, mode: Mode::Enforce },
                Some(identity) => self.residents.get(identity).map_or(
                    ResolvedEndpoint { party: unmanaged(*identity), mode: Mode::Enforce },
                    |resident| {
                        let instance = self.instances[resident.instance].number;
                        let party = Party { kind: PartyKind::Covered, identity: *identity, instance };
                        ResolvedEndpoint { party, mode: resident.mode }
                    },
                ),
            })
            .collect()
    }

    /// The identity of an endpoint of the snapshot, `None` for containers that nobody names.
    pub(super) fn identity_of(&self, endpoint: usize) -> Option<u32> {
        self.identities[endpoint]
    }

    /// What a container that shares another's network would be by itself.
    pub(super) fn member(&self, policies: &PolicySet, member: &Unenforceable) -> Member {
        let by_itself = Endpoint {
            container_id: String::new(),
            container: member.container.clone(),
            project: member.project.clone(),
            service: member.service.clone(),
            labels: member.labels.clone(),
            network: String::new(),
            bridge: String::new(),
            port: None,
            mac: None,
            addresses: Vec::new(),
            published: Vec::new(),
            resolvers: Vec::new(),
        };
        let Some(policy) = policies.policies.iter().find(|policy| applies_to(policy, &by_itself)) else {
            return Member::Uncovered;
        };
        let instance = self.instances.iter().position(|instance| {
            instance.policy.name == policy.name
                && by_itself.project.as_ref().is_none_or(|project| *project == instance.name)
        });
        let Some(instance) = instance else { return Member::Nameless };
        let [name] = self.instances[instance].selected_by(&by_itself)[..] else { return Member::Nameless };
        self.named.get(&(instance, name)).map_or(Member::Nameless, |&identity| Member::Service(identity))
    }

    /// The identity of a service of an instance, if it takes part at all.
    pub(super) fn service(&self, instance: usize, name: &str) -> Option<u32> {
        let identity = *self.named.get(&(instance, name))?;
        self.residents.get(&identity).filter(|resident| resident.in_profile).map(|_| identity)
    }

    /// Covered identities that a peer by labels stands for. An identity some of whose containers do not have the
    /// labels is not one of them.
    pub(super) fn labelled_residents(&self, peer: &Peer) -> impl Iterator<Item = u32> {
        self.residents
            .values()
            .filter(|resident| resident.named.is_some() && resident.in_profile && !resident.labels.is_empty())
            .filter(|resident| {
                resident
                    .labels
                    .iter()
                    .all(|(project, service)| has_labels(peer, project.as_deref(), service.as_deref()))
            })
            .map(|resident| resident.identity)
    }

    /// Uncovered identities that a peer by labels stands for.
    pub(super) fn labelled_outsiders(&self, peer: &Peer) -> impl Iterator<Item = u32> {
        self.outsiders
            .iter()
            .filter(|(_, (project, service))| has_labels(peer, Some(project), Some(service)))
            .map(|(&identity, _)| identity)
    }
}

/// The registry's name of a project. Instances of container policies begin with `policy:`, which a project's
/// label could do as well.
fn project_key(project: &str) -> String {
    if project.starts_with("policy:") || project.starts_with("project:") {
        format!("project:{project}")
    } else {
        project.to_owned()
    }
}

fn applies_to(policy: &Policy, endpoint: &Endpoint) -> bool {
    match (&policy.target, &endpoint.project) {
        (Target::Project(glob), Some(project)) => glob.matches(project),
        (Target::Container(glob), None) => glob.matches(&endpoint.container),
        _ => false,
    }
}

fn covers_project(policy: &Policy, project: &str) -> bool {
    matches!(&policy.target, Target::Project(glob) if glob.matches(project))
}

/// Whether a service that chooses its containers itself chooses this one.
fn selects(service: &Service, endpoint: &Endpoint) -> bool {
    match &service.select {
        None => false,
        Some(Select::Container(glob)) => glob.matches(&endpoint.container),
        Some(Select::Label { key, value }) => endpoint.labels.get(key) == Some(value),
    }
}

fn has_labels(peer: &Peer, project: Option<&str>, service: Option<&str>) -> bool {
    match (peer, project, service) {
        (Peer::Labelled { project: wanted, service: wanted_service }, Some(project), Some(service)) => {
            wanted.matches(project) && wanted_service.matches(service)
        }
        _ => false,
    }
}
