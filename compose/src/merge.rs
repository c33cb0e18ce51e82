//! One tree over another: how a second file changes the first, and a service the one that it extends.

use std::collections::{HashMap, HashSet};

use crate::{
    node::{Fault, FaultKind, Map, Node, Result, Value},
    path::Path,
};

/// What is not merged by its kind alone.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The later one counts.
    Replace,
    /// Mappings become lists of `key=value`, one behind the other.
    Sequence,
    /// The same, but without those that are there already.
    Hosts,
    /// Texts are contexts.
    Build,
    /// Names in a list are keys with a condition.
    DependsOn,
    /// Names in a list are keys with nothing.
    Names,
    /// Options are of a driver.
    Logging,
    /// Ranges are known by their subnet.
    Subnets,
    /// Mappings into mappings, anything else is replaced.
    Ulimit,
}

const RULES: [(&str, Rule); 29] = [
    ("networks.*.ipam.config", Rule::Subnets),
    ("networks.*.labels", Rule::Sequence),
    ("volumes.*.labels", Rule::Sequence),
    ("services.*.annotations", Rule::Sequence),
    ("services.*.build", Rule::Build),
    ("services.*.build.args", Rule::Sequence),
    ("services.*.build.additional_contexts", Rule::Sequence),
    ("services.*.build.extra_hosts", Rule::Hosts),
    ("services.*.build.labels", Rule::Sequence),
    ("services.*.command", Rule::Replace),
    ("services.*.depends_on", Rule::DependsOn),
    ("services.*.deploy.labels", Rule::Sequence),
    ("services.*.dns", Rule::Sequence),
    ("services.*.dns_opt", Rule::Sequence),
    ("services.*.dns_search", Rule::Sequence),
    ("services.*.entrypoint", Rule::Replace),
    ("services.*.env_file", Rule::Sequence),
    ("services.*.label_file", Rule::Sequence),
    ("services.*.environment", Rule::Sequence),
    ("services.*.extra_hosts", Rule::Hosts),
    ("services.*.healthcheck.test", Rule::Replace),
    ("services.*.labels", Rule::Sequence),
    ("services.*.volumes.*.volume.labels", Rule::Sequence),
    ("services.*.logging", Rule::Logging),
    ("services.*.models", Rule::Names),
    ("services.*.networks", Rule::Names),
    ("services.*.sysctls", Rule::Sequence),
    ("services.*.tmpfs", Rule::Sequence),
    ("services.*.ulimits.*", Rule::Ulimit),
];

/// Lays a whole file over another.
pub(crate) fn merge(base: Node, over: Node) -> Result<Node> {
    node(base, over, &Path::ROOT)
}

/// Lays a service over the one that it extends.
pub(crate) fn service(base: Node, over: Node) -> Result<Node> {
    let services = Path::ROOT.child("services");
    node(base, over, &services.child("x"))
}

fn node(base: Node, over: Node, path: &Path<'_>) -> Result<Node> {
    match RULES.iter().find(|(pattern, _)| path.matches(pattern)) {
        Some((_, rule)) => special(*rule, base, over, path),
        None => plain(base, over, path),
    }
}

fn plain(base: Node, over: Node, path: &Path<'_>) -> Result<Node> {
    let Node { span, value, tag } = base;
    match (value, over.value) {
        (value, Value::Null) => Ok(Node { span, value, tag }),
        (Value::Map(base), Value::Map(over_map)) => {
            Ok(Node::new(over.span, Value::Map(maps(base, over_map, path)?)))
        }
        (Value::List(mut items), Value::List(more)) => {
            items.extend(more);
            Ok(Node::new(over.span, Value::List(items)))
        }
        (Value::Map(_) | Value::List(_), value) => {
            let over = Node::new(over.span, value);
            let message = format!(
                "`{path}` cannot be merged: it is {} here and something else in what it overrides",
                over.kind()
            );
            Err(Fault::new(FaultKind::Schema, over.span, message)
                .hint("write both the same way, or put `!override` in front"))
        }
        (_, value) => Ok(Node::new(over.span, value)),
    }
}

fn maps(mut base: Map, over: Map, path: &Path<'_>) -> Result<Map> {
    for (name, entry) in over {
        match base.remove(&name) {
            Some(old) => {
                // What both files say something of is where it was first named.
                let both = old.node.as_map().is_some() && entry.node.as_map().is_some();
                let key = if both { old.key } else { entry.key };
                base.insert(&*name, key, node(old.node, entry.node, &path.child(&name))?);
            }
            None => base.insert(&*name, entry.key, entry.node),
        }
    }
    Ok(base)
}

fn special(rule: Rule, base: Node, over: Node, path: &Path<'_>) -> Result<Node> {
    match rule {
        Rule::Replace => Ok(over),
        Rule::Sequence => {
            let span = over.span;
            let items = sequence(base).into_iter().chain(sequence(over)).collect();
            Ok(Node::new(span, Value::List(items)))
        }
        Rule::Hosts => {
            let span = over.span;
            let mut items = sequence(base);
            let mut known: HashSet<String> = items.iter().filter_map(Node::printed).collect();
            // What is no text is refused by its shape.
            items.extend(
                sequence(over)
                    .into_iter()
                    .filter(|host| host.printed().is_none_or(|text| known.insert(text))),
            );
            Ok(Node::new(span, Value::List(items)))
        }
        Rule::Build => plain(context(base), context(over), path),
        Rule::DependsOn => plain(named(base, dependency), named(over, dependency), path),
        Rule::Names => plain(named(base, nothing), named(over, nothing), path),
        Rule::Logging => {
            let driver = |node: &Node| node.get("driver").cloned();
            match (driver(&base), driver(&over)) {
                (Some(old), Some(new)) if old != new => Ok(over),
                _ => plain(base, over, path),
            }
        }
        Rule::Subnets => Ok(subnets(base, over, path)?),
        Rule::Ulimit if base.as_map().is_some() && over.as_map().is_some() => plain(base, over, path),
        Rule::Ulimit => Ok(over),
    }
}

/// A value as the list of texts that it stands for.
fn sequence(node: Node) -> Vec<Node> {
    match node.value {
        Value::List(items) => items,
        Value::Map(map) => map
            .into_iter()
            .flat_map(|(name, entry)| {
                let span = crate::node::Span { end: entry.node.span.end.max(entry.key.end), ..entry.key };
                let span = if entry.node.span.source == span.source && entry.node.span.start >= span.start {
                    span
                } else {
                    entry.key
                };
                let texts = match (&entry.node.value, entry.node.printed()) {
                    (Value::Null, _) => vec![name],
                    (_, Some(value)) => vec![format!("{name}={value}")],
                    (_, None) => entry
                        .node
                        .items()
                        .iter()
                        .filter_map(Node::printed)
                        .map(|value| format!("{name}={value}"))
                        .collect(),
                };
                texts.into_iter().map(move |text| Node::text(span, text))
            })
            .collect(),
        Value::Null => Vec::new(),
        _ => vec![node],
    }
}

fn context(node: Node) -> Node {
    if node.as_text().is_none() {
        return node;
    }
    let mut map = Map::default();
    let span = node.span;
    map.insert("context", span, node);
    Node::new(span, Value::Map(map))
}

/// A list of names as a mapping.
pub(crate) fn named(node: Node, value: fn(&Node) -> Node) -> Node {
    let Value::List(items) = node.value else {
        return node;
    };
    let mut map = Map::default();
    for item in items {
        if let Some(name) = item.as_text() {
            map.insert(name, item.span, value(&item));
        }
    }
    Node::new(node.span, Value::Map(map))
}

pub(crate) fn nothing(name: &Node) -> Node {
    Node::new(name.span, Value::Null)
}

pub(crate) fn dependency(name: &Node) -> Node {
    let mut map = Map::default();
    map.insert("condition", name.span, Node::text(name.span, "service_started"));
    map.insert("required", name.span, Node::new(name.span, Value::Bool(true)));
    Node::new(name.span, Value::Map(map))
}

fn subnets(base: Node, over: Node, path: &Path<'_>) -> Result<Node> {
    let (Value::List(base), Value::List(over_items)) = (base.value, over.value) else {
        return Err(Fault::schema(over.span, format!("`{path}` is a list")));
    };
    // Ranges that the later file does not name are gone.
    let subnet = |node: &Node| node.get("subnet").and_then(Node::printed);
    let mut earlier: HashMap<Option<String>, Node> = HashMap::new();
    for item in base {
        earlier.entry(subnet(&item)).or_insert(item);
    }
    let mut merged: Vec<Node> = Vec::new();
    for item in over_items {
        merged.push(match earlier.remove(&subnet(&item)) {
            Some(old) => plain(old, item, path)?,
            None => item,
        });
    }
    Ok(Node::new(over.span, Value::List(merged)))
}
