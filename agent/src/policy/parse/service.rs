//! Reads one service: its own keys and its overlays.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::verdict::{Mode, Severity};

use super::{
    super::{
        glob::Glob,
        model::{Exposure, Layer, Overlay, PortEntry, RunAs, Select, Service},
        ports::Ports,
        report::{Code, Mark, Report},
        tree::{Key, Node, Value},
    },
    fields::{Fields, list, map, name_is_usable, named, scalar, word},
    peer::{Names, egress_list, from_list},
};

/// The keys that an overlay may hold.
pub(in super::super) const OVERLAY_KEYS: [&str; 7] =
    ["exposure", "ports", "from", "egress", "severity", "mode", "run_as"];
/// The keys of a service.
pub(in super::super) const SERVICE_KEYS: [&str; 10] =
    ["exposure", "ports", "from", "egress", "severity", "mode", "run_as", "only_in", "select", "profiles"];
/// The keys of an item of `ports`.
pub(in super::super) const PORT_KEYS: [&str; 3] = ["port", "from", "exposure"];
/// The keys of `select`.
pub(in super::super) const SELECT_KEYS: [&str; 2] = ["container", "label"];

/// Items of one list of ports; every item is compared with every other.
const MAX_PORTS: usize = 1024;

/// The words for modes.
pub(super) const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
const EXPOSURES: [(&str, Exposure); 3] =
    [("internal", Exposure::Internal), ("localhost", Exposure::Localhost), ("public", Exposure::Public)];
const SEVERITIES: [(&str, Severity); 3] =
    [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];
const RUN_AS: [(&str, RunAs); 2] = [("any", RunAs::Any), ("non_root", RunAs::NonRoot)];

/// Reads a service; of what is wrong the rest is kept, so that names that refer to it stay known.
pub(super) fn service(key: &Key, node: &Node, names: &Names<'_>, report: &mut Report<'_>) -> Service {
    let mut service = Service {
        mark: key.mark,
        select: None,
        only_in: None,
        only_in_marks: Vec::new(),
        base: Layer::default(),
        overlays: BTreeMap::new(),
    };
    let what = format!("service `{}`", key.name);
    let Some(fields) = Fields::new(node, key.mark, &SERVICE_KEYS, &what, report) else {
        return service;
    };
    service.base = layer(&fields, names, report);
    service.select = fields.get("select").and_then(|(key, node)| select(key, node, report));
    if let Some((key, node)) = fields.get("only_in") {
        let profiles = list(node, "only_in", report).unwrap_or_default();
        for item in profiles {
            if let Some(name) = scalar(item, "profile", report) {
                name_is_usable(name, item.mark, "profile", report);
                service.only_in_marks.push((name.to_owned(), item.mark));
            }
        }
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            let hint = "name a profile, or leave `only_in` out".to_owned();
            report.add(Code::BadValue, key.mark, "`only_in` names no profile".to_owned(), Some(hint));
        }
        let profiles: BTreeSet<String> = service.only_in_marks.iter().map(|(name, _)| name.clone()).collect();
        service.only_in = Some(profiles);
    }
    if let Some((_, node)) = fields.get("profiles") {
        for (key, node) in named(node, "`profiles`", "profile", report) {
            let what = format!("profile `{}`", key.name);
            if let Some(fields) = Fields::new(node, key.mark, &OVERLAY_KEYS, &what, report) {
                let layer = layer(&fields, names, report);
                service.overlays.insert(key.name.clone(), Overlay { mark: key.mark, layer });
            }
        }
    }
    service
}

fn layer(fields: &Fields<'_>, names: &Names<'_>, report: &mut Report<'_>) -> Layer {
    Layer {
        exposure: exposure(fields, report),
        ports: fields.get("ports").and_then(|(_, node)| port_list(node, names, report)),
        from: fields.get("from").and_then(|(_, node)| from_list(node, names, report)),
        egress: fields.get("egress").and_then(|(_, node)| egress_list(node, names, report)),
        severity: fields.get("severity").and_then(|(_, node)| word(node, "severity", &SEVERITIES, report)),
        mode: fields.get("mode").and_then(|(_, node)| word(node, "mode", &MODES, report)),
        run_as: fields
            .get("run_as")
            .and_then(|(key, node)| Some((word(node, "run_as", &RUN_AS, report)?, key.mark))),
    }
}

fn exposure(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<(Exposure, Mark)> {
    let (key, node) = fields.get("exposure")?;
    Some((word(node, "exposure", &EXPOSURES, report)?, key.mark))
}

fn port_list(node: &Node, names: &Names<'_>, report: &mut Report<'_>) -> Option<Vec<PortEntry>> {
    let items = list(node, "ports", report)?;
    if items.len() > MAX_PORTS {
        let message = format!("`ports` has more than {MAX_PORTS} items");
        report.add(Code::Limit, node.mark, message, Some("write ranges: `8000-8999/tcp`".to_owned()));
        return None;
    }
    let entries: Vec<PortEntry> = items.iter().filter_map(|item| port_entry(item, names, report)).collect();
    for (index, entry) in entries.iter().enumerate() {
        if let Some(first) = entries[..index].iter().find(|earlier| earlier.ports.collides(entry.ports)) {
            let message = if first.ports == entry.ports {
                format!("port `{}` stands here twice", entry.ports)
            } else {
                format!("the ranges `{}` and `{}` overlap", first.ports, entry.ports)
            };
            let hint = format!("the other one stands at {}", report.at(first.mark));
            report.add(Code::PortTwice, entry.mark, message, Some(hint));
        }
    }
    Some(entries)
}

fn port_entry(node: &Node, names: &Names<'_>, report: &mut Report<'_>) -> Option<PortEntry> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(PortEntry { ports: ports(node, report)?, mark: node.mark, from: None, exposure: None });
    }
    let fields = Fields::new(node, node.mark, &PORT_KEYS, "an item of `ports`", report)?;
    let hint = "write `{port: 9001/tcp, from: [...]}`";
    let port = fields.require("port", "this item of `ports`", hint, report);
    let parsed = port.and_then(|(_, node)| ports(node, report));
    let from = fields.get("from").and_then(|(_, node)| from_list(node, names, report));
    let exposure = exposure(&fields, report);
    Some(PortEntry { ports: parsed?, mark: port?.1.mark, from, exposure })
}

/// One port, range or `any`.
pub(super) fn ports(node: &Node, report: &mut Report<'_>) -> Option<Ports> {
    let text = scalar(node, "port", report)?;
    match Ports::parse(text) {
        Ok(ports) => Some(ports),
        Err(error) => {
            report.add(Code::BadPort, node.mark, error.to_string(), Some(error.hint()));
            None
        }
    }
}

fn select(key: &Key, node: &Node, report: &mut Report<'_>) -> Option<Select> {
    let fields = Fields::new(node, key.mark, &SELECT_KEYS, "`select`", report)?;
    match (fields.get("container"), fields.get("label")) {
        (Some((_, container)), None) => {
            scalar(container, "container", report).map(|text| Select::Container(Glob::new(text)))
        }
        (None, Some((label_key, label))) => match map(label, "`label`", report)? {
            [(key, value)] => {
                let value = scalar(value, "label value", report)?.to_owned();
                Some(Select::Label { key: key.name.clone(), value })
            }
            _ => {
                let hint = "write `{label: {key: value}}`".to_owned();
                report.add(
                    Code::BadValue,
                    label_key.mark,
                    "`label` is one key and its value".to_owned(),
                    Some(hint),
                );
                None
            }
        },
        _ => {
            let hint = "write `{container: \"app-*\"}` or `{label: {key: value}}`".to_owned();
            let message = "`select` is either `container` or `label`".to_owned();
            report.add(Code::BadValue, key.mark, message, Some(hint));
            None
        }
    }
}
