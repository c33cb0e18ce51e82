//! Reads peers: the items of `from`, `egress` and groups.

use ipnet::IpNet;

use super::{
    super::{
        glob::Glob,
        model::{EgressEntry, Peer},
        names, networks,
        ports::Ports,
        report::{Code, Mark, Report},
        tree::{Node, Value},
    },
    fields::{Fields, list, scalar},
    service::ports,
};

/// The names that a policy defines, for those that it uses.
#[derive(Debug)]
pub(super) struct Names<'n> {
    pub(super) services: Vec<&'n str>,
    pub(super) groups: Vec<&'n str>,
}

/// Which way a peer is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// The keys of a peer that is known by its labels.
pub(in super::super) const LABELLED_KEYS: [&str; 2] = ["project", "service"];
/// The keys of an egress item with ports.
pub(in super::super) const EGRESS_KEYS: [&str; 2] = ["to", "ports"];

/// The items of `from`.
pub(super) fn from_list(
    node: &Node,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<(Peer, Mark)>> {
    let items = list(node, "from", report)?;
    Some(items.iter().filter_map(|item| Some((peer(item, Side::From, names, report)?, item.mark))).collect())
}

/// The items of `egress`.
pub(super) fn egress_list(
    node: &Node,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<EgressEntry>> {
    let items = list(node, "egress", report)?;
    Some(items.iter().filter_map(|item| egress_entry(item, names, report)).collect())
}

/// The ranges of a group.
pub(super) fn networks(node: &Node, what: &str, report: &mut Report<'_>) -> Vec<IpNet> {
    let items = list(node, what, report).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let text = scalar(item, "address range", report)?;
            network(text, item.mark, report)
        })
        .collect()
}

fn network(text: &str, mark: Mark, report: &mut Report<'_>) -> Option<IpNet> {
    match networks::parse(text) {
        Ok(network) => Some(network),
        Err(error) => {
            report.add(Code::BadCidr, mark, error.to_string(), Some(error.hint()));
            None
        }
    }
}

fn egress_entry(node: &Node, names: &Names<'_>, report: &mut Report<'_>) -> Option<EgressEntry> {
    let is_long = match &node.value {
        Value::Map(entries) => !entries.iter().any(|(key, _)| LABELLED_KEYS.contains(&key.name.as_str())),
        _ => false,
    };
    if !is_long {
        let to = peer(node, Side::To, names, report)?;
        return Some(EgressEntry { to, mark: node.mark, ports: None });
    }
    let fields = Fields::new(node, node.mark, &EGRESS_KEYS, "an item of `egress`", report)?;
    let hint = "write `{to: world, ports: [443/tcp]}`";
    let to = fields.require("to", "this item of `egress`", hint, report);
    let to = to.and_then(|(_, node)| peer(node, Side::To, names, report));
    let listed = match fields.get("ports") {
        Some((_, ports_node)) => {
            let items = list(ports_node, "ports", report)?;
            let parsed: Vec<Ports> = items.iter().filter_map(|item| ports(item, report)).collect();
            Some(parsed)
        }
        None => None,
    };
    let to = to?;
    if to == Peer::Dns && listed.is_some() {
        let hint = "write just `dns`, or name the resolver's address".to_owned();
        report.add(Code::BadPeer, node.mark, "`dns` is port 53 already".to_owned(), Some(hint));
        return None;
    }
    Some(EgressEntry { to, mark: node.mark, ports: listed })
}

fn peer(node: &Node, side: Side, names: &Names<'_>, report: &mut Report<'_>) -> Option<Peer> {
    match &node.value {
        Value::Scalar(text) => named_peer(text, node.mark, side, names, report),
        Value::Map(_) => labelled_peer(node, report),
        other => {
            let message = format!("a peer is a name, an address range or a mapping, not {}", other.kind());
            report.add(Code::WrongType, node.mark, message, None);
            None
        }
    }
}

fn labelled_peer(node: &Node, report: &mut Report<'_>) -> Option<Peer> {
    let fields = Fields::new(node, node.mark, &LABELLED_KEYS, "a peer", report)?;
    let hint = "a peer by labels is written `{project: p, service: s}`";
    let mut part = |key| {
        let (_, node) = fields.require(key, "this peer", hint, report)?;
        scalar(node, key, report).map(Glob::new)
    };
    let (project, service) = (part("project"), part("service"));
    Some(Peer::Labelled { project: project?, service: service? })
}

fn named_peer(
    text: &str,
    mark: Mark,
    side: Side,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Peer> {
    let mut refuse = |message: String, hint: &str| {
        report.add(Code::BadPeer, mark, message, Some(hint.to_owned()));
        None
    };
    match text {
        "host" => return Some(Peer::Host),
        "world" => return Some(Peer::World),
        "dns" if side == Side::To => return Some(Peer::Dns),
        "dns" => {
            return refuse("`dns` cannot stand in `from`".to_owned(), "`dns` is for `egress`");
        }
        "any" => {
            return refuse(
                "`any` is no peer".to_owned(),
                "name the peers: `world`, `host`, services, groups or address ranges",
            );
        }
        _ => {}
    }
    if names.groups.contains(&text) {
        return Some(Peer::Group(text.to_owned()));
    }
    if names.services.contains(&text) {
        if side == Side::To {
            return refuse(
                format!("`{text}` is a service of the same instance, which `egress` does not govern"),
                "between two endpoints only the destination decides: add this service to the other's `from`",
            );
        }
        return Some(Peer::Service(text.to_owned()));
    }
    if networks::looks_like_network(text) {
        return network(text, mark, report).map(Peer::Network);
    }
    if report.is_full() {
        // Looking for near misses among thousands of names is only worth it if somebody will see them.
        report.add(Code::UnknownName, mark, String::new(), None);
        return None;
    }
    let (kind, mut known) = match side {
        Side::From => ("service or group", names.services.clone()),
        Side::To => ("peer", vec!["world", "host", "dns"]),
    };
    known.extend(&names.groups);
    if side == Side::From {
        // Worth finding by a near miss, not worth listing.
        if let Some(found) = names::nearest(text, ["host", "world"]) {
            known.push(found);
        }
    }
    let message = format!("unknown {kind} `{text}`");
    report.add(Code::UnknownName, mark, message, names::hint(text, &known, "there are"));
    None
}
