//! What holds for a service under one profile: its own keys, those of its overlay, those of its ports.

use agent_common::verdict::{Mode, Severity};

use super::{
    model::{EgressEntry, Exposure, Layer, Peer, Policy, RunAs, Service},
    ports::Ports,
    report::Mark,
};

/// A service under the profile in force.
#[derive(Clone, Debug)]
pub struct Effective<'p> {
    /// False if the profile in force leaves the service out.
    pub in_profile: bool,
    pub severity: Severity,
    pub mode: Mode,
    /// Where it is written that the service must not run as root, if it is.
    pub non_root: Option<Mark>,
    pub ports: Vec<EffectivePort<'p>>,
    pub egress: Vec<EffectiveEgress<'p>>,
}

/// One entry of `ports` with the keys that hold for it.
#[derive(Clone, Debug)]
pub struct EffectivePort<'p> {
    pub ports: Ports,
    pub mark: Mark,
    /// Where it is written, below the service: `ports[0]`, `profiles.development.ports[0]`.
    pub path: String,
    pub exposure: Exposure,
    pub exposure_mark: Mark,
    pub exposure_path: String,
    pub from: &'p [(Peer, Mark)],
    pub from_path: String,
}

/// One entry of `egress`.
#[derive(Clone, Debug)]
pub struct EffectiveEgress<'p> {
    pub entry: &'p EgressEntry,
    pub path: String,
}

/// The key's value from the overlay if it stands there, else from the service, with its path's beginning.
fn pick<'p, T>(
    service: &'p Service,
    overlay: Option<(&str, &'p Layer)>,
    get: impl Fn(&'p Layer) -> Option<T>,
) -> Option<(T, String)> {
    overlay
        .and_then(|(profile, layer)| Some((get(layer)?, format!("profiles.{profile}."))))
        .or_else(|| Some((get(&service.base)?, String::new())))
}

/// What holds for a service of a policy.
#[must_use]
pub fn effective<'p>(policy: &'p Policy, service: &'p Service) -> Effective<'p> {
    let profile = policy.profile.as_deref();
    let overlay = profile.and_then(|name| Some((name, &service.overlays.get(name)?.layer)));
    let in_profile = service
        .only_in
        .as_ref()
        .is_none_or(|only_in| profile.is_some_and(|profile| only_in.contains(profile)));
    let severity =
        pick(service, overlay, |layer| layer.severity).map_or(Severity::Warning, |(value, _)| value);
    let mode = pick(service, overlay, |layer| layer.mode).map_or(policy.mode, |(value, _)| value);
    let non_root = pick(service, overlay, |layer| layer.run_as)
        .and_then(|((run_as, mark), _)| (run_as == RunAs::NonRoot).then_some(mark));
    let exposure = pick(service, overlay, |layer| layer.exposure);
    let from = pick(service, overlay, |layer| layer.from.as_deref());
    let ports = pick(service, overlay, |layer| layer.ports.as_deref());
    let egress = pick(service, overlay, |layer| layer.egress.as_deref());
    let ports = ports.map_or_else(Vec::new, |(entries, prefix)| {
        entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let path = format!("{prefix}ports[{index}]");
                let (exposure, exposure_mark, exposure_path) = match (entry.exposure, &exposure) {
                    (Some((value, mark)), _) => (value, mark, format!("{path}.exposure")),
                    (None, Some(((value, mark), prefix))) => (*value, *mark, format!("{prefix}exposure")),
                    (None, None) => (Exposure::Internal, service.mark, "exposure".to_owned()),
                };
                let (from, from_path) = match (&entry.from, &from) {
                    (Some(from), _) => (from.as_slice(), format!("{path}.from")),
                    (None, Some((from, prefix))) => (*from, format!("{prefix}from")),
                    (None, None) => (&[] as &[_], "from".to_owned()),
                };
                EffectivePort {
                    ports: entry.ports,
                    mark: entry.mark,
                    path,
                    exposure,
                    exposure_mark,
                    exposure_path,
                    from,
                    from_path,
                }
            })
            .collect()
    });
    let egress = egress.map_or_else(Vec::new, |(entries, prefix)| {
        entries
            .iter()
            .enumerate()
            .map(|(index, entry)| EffectiveEgress { entry, path: format!("{prefix}egress[{index}]") })
            .collect()
    });
    Effective { in_profile, severity, mode, non_root, ports, egress }
}
