//! From text to policies. Everything that is wrong is reported, with its place, and parsing goes on.

mod fields;
pub(super) mod peer;
pub(super) mod probes;
pub(super) mod service;

use std::collections::BTreeMap;

use agent_common::verdict::Mode;

use self::{
    fields::{Fields, name_is_usable, named, scalar, word},
    peer::{Names, networks},
    service::{MODES, service},
};
use super::{
    Source,
    glob::Glob,
    model::{Group, Policy, Target},
    report::{Code, Mark, Report},
    tree::{self, Key, Node, Value},
};

/// The keys of a policy document.
pub(super) const POLICY_KEYS: [&str; 8] =
    ["version", "policy", "applies_to", "mode", "profile", "groups", "audit", "services"];
/// The keys of `applies_to`.
pub(super) const TARGET_KEYS: [&str; 2] = ["project", "container"];

/// What one text holds.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) policies: Vec<Policy>,
    /// Whether every document came to a policy, possibly with mistakes.
    pub(super) complete: bool,
}

/// Reads every policy of a text.
pub(super) fn parse(index: usize, source: &Source, report: &mut Report<'_>) -> Parsed {
    let before = report.errors();
    let documents = tree::parse(index, source, report);
    if documents.is_empty() && report.errors() == before {
        let message = "the file holds no policy".to_owned();
        let hint = "a policy begins with `version: 1` and `policy: NAME`".to_owned();
        report.add_whole(Code::Empty, &source.name, message, Some(hint));
    }
    let policies: Vec<Policy> = documents.iter().filter_map(|document| policy(document, report)).collect();
    let complete = !documents.is_empty() && policies.len() == documents.len();
    Parsed { policies, complete }
}

fn policy(document: &Node, report: &mut Report<'_>) -> Option<Policy> {
    let start = Mark { end: document.mark.start + 1, ..document.mark };
    if let Some(host) = host_key(document) {
        let message = "documents of kind `host` are not supported yet".to_owned();
        let hint = "they will be the host firewall; this version reads `policy` documents only".to_owned();
        report.add(Code::HostDocument, host.mark, message, Some(hint));
        return None;
    }
    let fields = Fields::new(document, start, &POLICY_KEYS, "a policy", report)?;
    if let Some((_, node)) = fields.require("version", "the policy", "begin with `version: 1`", report)
        && let Some(version) = scalar(node, "version", report)
        && version != "1"
    {
        let hint = "this agent reads `version: 1`".to_owned();
        report.add(Code::BadValue, node.mark, format!("unknown version `{version}`"), Some(hint));
    }
    let name = fields.require("policy", "the policy", "name it: `policy: shop`", report);
    let name = name.and_then(|(_, node)| Some((scalar(node, "policy", report)?.to_owned(), node.mark)));
    if let Some((name, mark)) = &name {
        name_is_usable(name, *mark, "policy", report);
    }
    let hint = "say which compose projects it is for: `applies_to: { project: shop }`";
    let target = fields.require("applies_to", "the policy", hint, report);
    let target = target.and_then(|(key, node)| Some((target_of(key, node, report)?, key.mark)));
    let mode = fields.get("mode").and_then(|(_, node)| word(node, "mode", &MODES, report));
    let profile = fields.get("profile").and_then(|(_, node)| {
        let name = scalar(node, "profile", report)?;
        name_is_usable(name, node.mark, "profile", report);
        Some((name.to_owned(), node.mark))
    });
    let probes = fields.get("audit").map(|(key, node)| probes::probes(key, node, report)).unwrap_or_default();
    let (groups, services, services_mark) = groups_and_services(&fields, report);
    let (name, name_mark) = name?;
    let (target, target_mark) = target?;
    Some(Policy {
        name,
        name_mark,
        target,
        target_mark,
        mode: mode.unwrap_or(Mode::Enforce),
        profile_mark: profile.as_ref().map(|(_, mark)| *mark),
        profile: profile.map(|(name, _)| name),
        groups,
        probes,
        services,
        services_mark: services_mark.unwrap_or(name_mark),
    })
}

type GroupsAndServices = (BTreeMap<String, Group>, BTreeMap<String, super::model::Service>, Option<Mark>);

fn groups_and_services(fields: &Fields<'_>, report: &mut Report<'_>) -> GroupsAndServices {
    let group_nodes =
        fields.get("groups").map(|(_, node)| named(node, "`groups`", "group", report)).unwrap_or_default();
    let hint = "list them: `services: { web: { exposure: public, ports: [80/tcp] } }`";
    let services = fields.require("services", "the policy", hint, report);
    let service_nodes =
        services.map(|(_, node)| named(node, "`services`", "service", report)).unwrap_or_default();
    for (key, _) in &service_nodes {
        if let Some((group, _)) = group_nodes.iter().find(|(group, _)| group.name == key.name) {
            let message = format!("`{}` is the name of a group and of a service", key.name);
            let hint = format!("the group stands at {}; rename one of them", report.at(group.mark));
            report.add(Code::SharedName, key.mark, message, Some(hint));
        }
    }
    let names = Names {
        services: service_nodes.iter().map(|(key, _)| key.name.as_str()).collect(),
        groups: group_nodes.iter().map(|(key, _)| key.name.as_str()).collect(),
    };
    let groups = group_nodes
        .iter()
        .map(|(key, node)| {
            let networks = networks(node, &key.name, report);
            (key.name.clone(), Group { mark: key.mark, networks })
        })
        .collect();
    let parsed = service_nodes
        .iter()
        .map(|(key, node)| (key.name.clone(), service(key, node, &names, report)))
        .collect();
    (groups, parsed, services.map(|(key, _)| key.mark))
}

fn host_key(document: &Node) -> Option<&Key> {
    let Value::Map(entries) = &document.value else {
        return None;
    };
    let has_policy = entries.iter().any(|(key, _)| key.name == "policy");
    entries.iter().map(|(key, _)| key).find(|key| key.name == "host" && !has_policy)
}

fn target_of(key: &Key, node: &Node, report: &mut Report<'_>) -> Option<Target> {
    let fields = Fields::new(node, key.mark, &TARGET_KEYS, "`applies_to`", report)?;
    match (fields.get("project"), fields.get("container")) {
        (Some((_, node)), None) => {
            scalar(node, "project", report).map(|text| Target::Project(Glob::new(text)))
        }
        (None, Some((_, node))) => {
            scalar(node, "container", report).map(|text| Target::Container(Glob::new(text)))
        }
        _ => {
            let hint = "write `{ project: shop }`, or `{ container: \"shop-*\" }` without compose".to_owned();
            let message = "`applies_to` is either `project` or `container`".to_owned();
            report.add(Code::BadValue, key.mark, message, Some(hint));
            None
        }
    }
}
