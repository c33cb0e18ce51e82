//! Which services run, against which the policy knows, and in which profile.

use compose::Node;

use super::{
    Code, Detail, Found,
    exposure::{is_public, services_key},
    pattern,
    subject::{Service, Subject},
};

pub(super) fn check(subject: &Subject<'_>, covered: bool, found: &mut Found<'_>) {
    if !covered {
        not_covered(subject, found);
    }
    for service in &subject.services {
        match subject.rules_of(service) {
            None => unknown(subject, service, found),
            Some(_) => profiles(subject, service, found),
        }
    }
    missing(subject, found);
}

fn not_covered(subject: &Subject<'_>, found: &mut Found<'_>) {
    let name = subject.project.model.as_map().and_then(|map| map.entry("name"));
    let span = name.map_or_else(|| services_key(subject), |entry| entry.node.span);
    let message = format!(
        "the project is called `{}`, but the policy `{}` is for {}",
        subject.project.name,
        subject.policy.name,
        pattern(subject.policy)
    );
    found.add(
        Code::NotCovered,
        Detail {
            service: None,
            span,
            message,
            rule: Some(subject.policy.target_mark),
            fix: "set `name` in the compose file, or `--project-name`, to a name that the policy is for"
                .to_owned(),
        },
    );
}

fn unknown(subject: &Subject<'_>, service: &Service<'_>, found: &mut Found<'_>) {
    // Not a container of this engine.
    if service.node.get("provider").is_some() {
        return;
    }
    let known: Vec<&str> = subject.policy.services.keys().map(String::as_str).collect();
    let fix = known
        .iter()
        .find(|known| {
            known.eq_ignore_ascii_case(service.name)
                || known.replace('_', "-") == service.name.replace('_', "-")
        })
        .map_or_else(
            || {
                format!(
                    "add it to the policy: `{}: {{}}` gets and sends nothing until it says more",
                    service.name
                )
            },
            |known| format!("did you mean `{known}`?"),
        );
    found.add(
        Code::UnknownService,
        Detail {
            service: Some(service.name),
            span: service.key,
            message: format!("the policy does not know the service `{}`", service.name),
            rule: Some(subject.policy.services_mark),
            fix,
        },
    );
}

fn profiles(subject: &Subject<'_>, service: &Service<'_>, found: &mut Found<'_>) {
    let Some(rules) = subject.rules_of(service) else {
        return;
    };
    let Some(only_in) = &rules.written.only_in else {
        return;
    };
    let names: Vec<&str> = only_in.iter().map(String::as_str).collect();
    let rule = rules.written.only_in_marks.first().map_or(rules.written.mark, |(_, mark)| *mark);
    let own = service.node.get("profiles").filter(|node| !node.items().is_empty());
    let profile = subject.policy.profile.as_deref().unwrap_or("(none)");
    let (code, span, message, fix) = match own {
        None => (
            Code::DevWithoutProfile,
            service.key,
            format!(
                "`{}` belongs to {} only, but is started in every profile",
                service.name,
                names.join(", ")
            ),
            format!("write `profiles: [{}]`", names.join(", ")),
        ),
        Some(_) if rules.effective.in_profile => return,
        Some(own) => (
            Code::DevInProfile,
            own.span,
            format!(
                "`{}` is started in the profile `{profile}`, but belongs to {} only",
                service.name,
                names.join(", ")
            ),
            format!("write `profiles: [{}]`", names.join(", ")),
        ),
    };
    found.add(code, Detail { service: Some(service.name), span, message, rule: Some(rule), fix });
}

fn missing(subject: &Subject<'_>, found: &mut Found<'_>) {
    for rules in &subject.rules {
        let there = subject.service_of(rules.name).is_some();
        // What faces the public is a finding of its own.
        if there || !rules.effective.in_profile || is_public(rules) {
            continue;
        }
        let written = subject.project.services().find(|(name, _)| *name == rules.name);
        let (span, message) = match written {
            Some((name, entry)) => {
                let own = entry.node.get("profiles").map(Node::items).unwrap_or_default();
                let own: Vec<&str> = own.iter().filter_map(Node::as_text).collect();
                (entry.key, format!("`{name}` is only started in the profiles {}", own.join(", ")))
            }
            None => (
                services_key(subject),
                format!("the policy has a service `{}`, the compose file does not", rules.name),
            ),
        };
        found.add(
            Code::MissingService,
            Detail {
                service: Some(rules.name),
                span,
                message,
                rule: Some(rules.written.mark),
                fix: "start it, remove it from the policy, or say by `only_in` where it runs".to_owned(),
            },
        );
    }
}
