//! What a policy says about a service, as far as callers without an identity are concerned: the host and the outside.

use crate::{
    inventory::snapshot::Protocol,
    policy::{
        effective::{Effective, EffectivePort, effective},
        model::{Exposure, Peer, Policy, RunAs, Service},
        ports::Ports,
    },
};

/// A service of a policy, under the profile in force.
#[derive(Clone, Debug)]
pub struct Rights<'p> {
    pub name: &'p str,
    pub written: &'p Service,
    pub effective: Effective<'p>,
}

/// Who calls, without an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    Host,
    Outside,
}

/// Every service of a policy.
#[must_use]
pub fn rights(policy: &Policy) -> Vec<Rights<'_>> {
    let services = policy.services.iter();
    services.map(|(name, written)| Rights { name, written, effective: effective(policy, written) }).collect()
}

impl Rights<'_> {
    /// Whether a caller may open a port: exact beats range beats `any`.
    #[must_use]
    pub fn allows(&self, caller: Caller, protocol: Protocol, port: u16) -> bool {
        let entries = self.effective.ports.iter().filter(|entry| entry.ports.contains(protocol, port));
        self.effective.in_profile
            && entries.max_by_key(|entry| entry.ports.width()).is_some_and(|entry| opens(entry, caller))
    }

    /// Whether neither the host nor the outside may call it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        let open = |entry: &EffectivePort<'_>| opens(entry, Caller::Host) || opens(entry, Caller::Outside);
        !self.effective.ports.iter().any(open)
    }

    /// Whether the policy says that it may be root.
    #[must_use]
    pub fn may_be_root(&self, profile: Option<&str>) -> bool {
        let overlay = profile.and_then(|name| self.written.overlays.get(name));
        let layers = [overlay.map(|overlay| &overlay.layer), Some(&self.written.base)];
        let run_as = layers.into_iter().flatten().find_map(|layer| layer.run_as);
        matches!(run_as, Some((RunAs::Any, _)))
    }

    /// The TCP ports that the policy names, at most `most` of a range.
    pub fn tcp_ports(&self, most: usize) -> impl Iterator<Item = u16> {
        let ranges = self.effective.ports.iter().filter_map(|entry| match entry.ports {
            Ports::Range { protocol: Protocol::Tcp, first, last } => Some(first..=last),
            _ => None,
        });
        ranges.flat_map(move |range| range.take(most))
    }
}

fn opens(entry: &EffectivePort<'_>, caller: Caller) -> bool {
    let by_exposure = match caller {
        Caller::Host => entry.exposure != Exposure::Internal,
        Caller::Outside => entry.exposure == Exposure::Public,
    };
    by_exposure
        || entry.from.iter().any(|(peer, _)| match peer {
            Peer::Host => caller == Caller::Host,
            Peer::World | Peer::Group(_) | Peer::Network(_) => caller == Caller::Outside,
            _ => false,
        })
}
