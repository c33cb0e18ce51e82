//! Checks what only all policies together can tell: names across files, patterns that meet, profiles.

use std::collections::BTreeMap;

use super::{
    model::{Peer, Policy, Target},
    names,
    report::{Code, Mark, Report},
};

/// Checks policies against each other.
pub(super) fn validate(policies: &[Policy], report: &mut Report<'_>) {
    for (index, policy) in policies.iter().enumerate() {
        for earlier in &policies[..index] {
            duplicate_name(earlier, policy, report);
            common_target(earlier, policy, report);
        }
        nothing_open(policy, report);
    }
    never_in_profile(policies, report);
    idle_egress(policies, report);
}

/// An egress entry for containers that a policy covers: it is their `from` that decides.
fn idle_egress(policies: &[Policy], report: &mut Report<'_>) {
    let layers = policies.iter().flat_map(|policy| policy.services.values()).flat_map(|service| {
        std::iter::once(&service.base).chain(service.overlays.values().map(|overlay| &overlay.layer))
    });
    for entry in layers.flat_map(|layer| layer.egress.iter().flatten()) {
        let Peer::Labelled { project, service } = &entry.to else {
            continue;
        };
        let covering = policies.iter().find(|policy| {
            project.is_exact()
                && matches!(&policy.target, Target::Project(glob) if glob.matches(&project.to_string()))
        });
        if let Some(covering) = covering {
            let message = format!(
                "egress to `{project}/{service}` has no effect: policy `{}` covers it",
                covering.name
            );
            let hint =
                "between two endpoints only the destination decides: add this service to the other's `from`";
            report.add(Code::IdleEgress, entry.mark, message, Some(hint.to_owned()));
        }
    }
}

fn duplicate_name(earlier: &Policy, policy: &Policy, report: &mut Report<'_>) {
    if earlier.name == policy.name {
        let hint = format!("the other one is named at {}", report.at(earlier.name_mark));
        let message = format!("duplicate policy `{}`", policy.name);
        report.add(Code::DuplicatePolicy, policy.name_mark, message, Some(hint));
    }
}

fn common_target(earlier: &Policy, policy: &Policy, report: &mut Report<'_>) {
    let (what, left, right) = match (&earlier.target, &policy.target) {
        (Target::Project(left), Target::Project(right)) => ("project", left, right),
        (Target::Container(left), Target::Container(right)) => ("container", left, right),
        _ => return,
    };
    if left.intersects(right) {
        let message = format!(
            "policies `{}` and `{}` can apply to the same {what}: `{left}` and `{right}`",
            earlier.name, policy.name
        );
        let hint =
            format!("the other one stands at {}; make one of them narrower", report.at(earlier.target_mark));
        report.add(Code::GlobOverlap, policy.target_mark, message, Some(hint));
    }
}

/// A service that says who may reach it, but not where.
fn nothing_open(policy: &Policy, report: &mut Report<'_>) {
    for (name, service) in &policy.services {
        let layers =
            || std::iter::once(&service.base).chain(service.overlays.values().map(|each| &each.layer));
        let named = layers().any(|layer| {
            layer.from.as_ref().is_some_and(|from| !from.is_empty())
                || layer.exposure.is_some_and(|(exposure, _)| exposure != Default::default())
        });
        let has_ports = layers().any(|layer| layer.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
        if named && !has_ports {
            let message = format!("service `{name}` names peers but no `ports`: nothing reaches it");
            report.add(Code::NothingOpen, service.mark, message, Some("add `ports: [...]`".to_owned()));
        }
    }
}

/// Checks the names of profiles: what all documents use, and what the agent was told.
pub(super) fn profiles(policies: &[Policy], profile: Option<&str>, report: &mut Report<'_>) {
    let mut used: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
    for policy in policies {
        if let (Some(name), Some(mark)) = (&policy.profile, policy.profile_mark) {
            used.entry(name).or_default().push(mark);
        }
        for service in policy.services.values() {
            for (name, overlay) in &service.overlays {
                used.entry(name).or_default().push(overlay.mark);
            }
            for (name, mark) in &service.only_in_marks {
                used.entry(name).or_default().push(*mark);
            }
        }
    }
    let known: Vec<&str> = used.keys().copied().collect();
    if let Some(profile) = profile
        && !used.contains_key(profile)
    {
        let message = format!("no loaded policy uses a profile `{profile}`");
        report.add_whole(
            Code::UnknownProfile,
            "--profile",
            message,
            names::hint(profile, &known, "profiles are"),
        );
    }
    for policy in policies {
        for service in policy.services.values() {
            for (name, overlay) in &service.overlays {
                let alone = used.get(name.as_str()).is_some_and(|marks| marks.len() == 1);
                if alone && profile != Some(name) {
                    let others: Vec<&str> = known.iter().copied().filter(|other| other != name).collect();
                    let message = format!("profile `{name}` occurs only here");
                    let hint = names::nearest(name, others)
                        .map(|found| format!("did you mean `{found}`?"))
                        .or_else(|| Some(format!("the overlay is in force with `--profile {name}`")));
                    report.add(Code::LonelyOverlay, overlay.mark, message, hint);
                }
            }
        }
    }
}

/// An overlay for a profile in which its service does not exist.
fn never_in_profile(policies: &[Policy], report: &mut Report<'_>) {
    for policy in policies {
        for (service_name, service) in &policy.services {
            let Some(only_in) = &service.only_in else { continue };
            for (name, overlay) in &service.overlays {
                if !only_in.contains(name) {
                    let message = format!(
                        "service `{service_name}` does not exist in profile `{name}`: see its `only_in`"
                    );
                    report.add(Code::NeverInProfile, overlay.mark, message, None);
                }
            }
        }
    }
}
