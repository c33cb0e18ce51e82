//! Policies as they are written. Nothing is resolved: whoever wants to know something walks the lists.

use std::collections::BTreeMap;

use crate::host::{Container, Net};
use crate::verdict::{Mode, Severity};

/// One policy document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub name: String,
    /// A compose project, perhaps with one `*`.
    pub projects: String,
    pub mode: Option<Mode>,
    pub profile: Option<String>,
    pub groups: BTreeMap<String, Vec<Net>>,
    pub services: BTreeMap<String, Service>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub keys: Keys,
    pub only_in: Option<Vec<String>>,
    pub profiles: BTreeMap<String, Keys>,
}

/// The keys of a service that a profile may replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub exposure: Option<Exposure>,
    pub ports: Option<Vec<Port>>,
    pub from: Option<Vec<Peer>>,
    pub egress: Option<Vec<Egress>>,
    pub severity: Option<Severity>,
    pub mode: Option<Mode>,
}

/// Who reaches a port without being in `from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    #[default]
    Internal,
    Localhost,
    Public,
}

/// One item of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub ports: Ports,
    pub from: Option<Vec<Peer>>,
    pub exposure: Option<Exposure>,
}

/// Port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// All of TCP and UDP.
    Any,
    /// Of one protocol, both ends included.
    Range { protocol: u8, first: u16, last: u16 },
}

impl Ports {
    /// Whether one port of one protocol is among them.
    #[must_use]
    pub fn contains(&self, of: u8, port: u16) -> bool {
        match *self {
            Self::Any => true,
            Self::Range { protocol, first, last } => protocol == of && (first..=last).contains(&port),
        }
    }

    /// The first and the last.
    #[must_use]
    pub const fn ends(&self) -> (u16, u16) {
        match *self {
            Self::Any => (0, u16::MAX),
            Self::Range { first, last, .. } => (first, last),
        }
    }

    /// One port beats a range, a range beats `any`.
    #[must_use]
    pub const fn narrowness(&self) -> u8 {
        match *self {
            Self::Any => 0,
            Self::Range { first, last, .. } => 1 + (first == last) as u8,
        }
    }
}

/// Who may be named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Host,
    World,
    Dns,
    Service(String),
    Group(String),
    Net(Net),
    /// By compose labels, each perhaps with one `*`.
    Labelled {
        project: String,
        service: String,
    },
}

/// One item of `egress`; without ports it is all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    pub to: Peer,
    pub ports: Option<Vec<Ports>>,
}

impl Policy {
    /// Whether the policy covers a container.
    #[must_use]
    pub fn covers(&self, container: &Container) -> bool {
        container.project.as_deref().is_some_and(|project| matches(&self.projects, project))
    }

    /// The mode of what belongs to no service.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or_default()
    }

    /// What holds for a service under the profile in force, or nothing if the policy does not name it.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<Effective<'_>> {
        let service = self.services.get(name)?;
        let overlay = self.profile.as_ref().and_then(|profile| service.profiles.get(profile));
        let layers = [overlay, Some(&service.keys)];
        let in_profile = match (&service.only_in, &self.profile) {
            (None, _) => true,
            (Some(profiles), Some(profile)) => profiles.contains(profile),
            (Some(_), None) => false,
        };
        Some(Effective {
            in_profile,
            exposure: first(layers, |keys| keys.exposure).unwrap_or_default(),
            ports: list(layers, |keys| keys.ports.as_deref()),
            from: list(layers, |keys| keys.from.as_deref()),
            egress: list(layers, |keys| keys.egress.as_deref()),
            severity: first(layers, |keys| keys.severity).unwrap_or_default(),
            mode: first(layers, |keys| keys.mode).unwrap_or_else(|| self.mode()),
        })
    }

    /// The ranges that a peer names.
    #[must_use]
    pub fn nets<'a>(&'a self, peer: &'a Peer) -> &'a [Net] {
        match peer {
            Peer::Net(net) => std::slice::from_ref(net),
            Peer::Group(name) => self.groups.get(name).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }
}

/// A service's keys with the profile's in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective<'a> {
    pub in_profile: bool,
    pub exposure: Exposure,
    pub ports: &'a [Port],
    pub from: &'a [Peer],
    pub egress: &'a [Egress],
    pub severity: Severity,
    pub mode: Mode,
}

impl<'a> Effective<'a> {
    /// The item of `ports` that decides about a port.
    #[must_use]
    pub fn entry(&self, protocol: u8, port: u16) -> Option<&'a Port> {
        let named = self.ports.iter().filter(|entry| entry.ports.contains(protocol, port));
        named.max_by_key(|entry| entry.ports.narrowness())
    }
}

fn first<'a, T>(layers: [Option<&'a Keys>; 2], key: impl Fn(&'a Keys) -> Option<T>) -> Option<T> {
    layers.into_iter().flatten().find_map(key)
}

fn list<'a, T>(layers: [Option<&'a Keys>; 2], key: impl Fn(&'a Keys) -> Option<&'a [T]>) -> &'a [T] {
    first(layers, key).unwrap_or(&[])
}

/// Whether a name fits a pattern with at most one `*`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

/// The mode of what belongs to nobody: enforce, unless everything that is loaded observes.
#[must_use]
pub fn strictest(policies: &[Policy]) -> Mode {
    let of_services = policies.iter().flat_map(|policy| {
        let names = policy.services.keys();
        names.filter_map(|name| policy.service(name)).map(|service| service.mode)
    });
    policies.iter().map(Policy::mode).chain(of_services).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_star_at_most() {
        for (pattern, name, fits) in [
            ("shop", "shop", true),
            ("shop", "shop-1", false),
            ("shop-*", "shop-1", true),
            ("shop-*", "shop", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_narrowest_entry_decides_and_the_profile_replaces() {
        let entry = |ports| Port { ports, from: None, exposure: None };
        let range = |first, last| Ports::Range { protocol: 6, first, last };
        let service = Service {
            keys: Keys {
                ports: Some(vec![entry(Ports::Any), entry(range(1, 100)), entry(range(22, 22))]),
                from: Some(vec![Peer::Host]),
                ..Keys::default()
            },
            only_in: None,
            profiles: BTreeMap::from([(
                "dev".to_owned(),
                Keys { from: Some(Vec::new()), ..Keys::default() },
            )]),
        };
        let services = BTreeMap::from([("web".to_owned(), service)]);
        let mut policy = Policy { services, ..Policy::default() };
        let web = policy.service("web").unwrap();
        let of = |protocol, port| web.entry(protocol, port).unwrap().ports.ends();
        assert_eq!(
            [of(6, 22), of(6, 23), of(6, 101), of(17, 22)],
            [(22, 22), (1, 100), (0, 65535), (0, 65535)]
        );
        assert_eq!(web.from, [Peer::Host]);
        policy.profile = Some("dev".to_owned());
        assert!(policy.service("web").unwrap().from.is_empty());
        assert_eq!(policy.service("web").unwrap().ports.len(), 3);
    }
}
