//! Short forms written out, so that everything behind this stage knows one form of each thing.

mod ports;
mod volumes;

use crate::{
    merge::{dependency, named, nothing},
    node::{Fault, Map, Node, Result, Span, Value},
    path::{ITEM, Path},
};

pub(crate) use ports::PortBudget;
pub(crate) use volumes::target as volume_target;

/// Writes out every short form below a whole file.
pub(crate) fn canonical(node: &mut Node, ports: &mut PortBudget) -> Result<()> {
    walk(node, &Path::ROOT, ports)
}

fn walk(node: &mut Node, path: &Path<'_>, ports: &mut PortBudget) -> Result<()> {
    if path.matches("services.*.ports") {
        return ports::expand(node, ports);
    }
    if let Some((_, form)) = FORMS.iter().find(|(pattern, _)| path.matches(pattern)) {
        form(node)?;
    }
    match &mut node.value {
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, entry)| walk(&mut entry.node, &path.child(name), ports))
        }
        Value::List(items) => items.iter_mut().try_for_each(|item| walk(item, &path.child(ITEM), ports)),
        _ => Ok(()),
    }
}

type Form = fn(&mut Node) -> Result<()>;

const FORMS: [(&str, Form); 22] = [
    ("services.*.build", build),
    ("services.*.build.secrets.*", source),
    ("services.*.build.additional_contexts", pairs),
    ("services.*.build.ssh", ssh),
    ("services.*.depends_on", depends_on),
    ("services.*.env_file", env_file),
    ("services.*.label_file", list),
    ("services.*.extends", extends),
    ("services.*.gpus", gpus),
    ("services.*.networks", networks),
    ("services.*.models", networks),
    ("services.*.volumes.*", volumes::expand),
    ("services.*.dns", list),
    ("services.*.dns_search", list),
    ("services.*.tmpfs", list),
    ("services.*.devices.*", device),
    ("services.*.secrets.*", source),
    ("services.*.configs.*", source),
    ("volumes.*", external),
    ("networks.*", external),
    ("secrets.*", external),
    ("configs.*", external),
];

/// Puts a text below a key of a mapping.
fn wrap(node: &mut Node, key: &str) -> Result<()> {
    if node.as_text().is_some() {
        let inner = node.clone();
        let mut map = Map::default();
        map.insert(key, node.span, inner);
        node.value = Value::Map(map);
    }
    Ok(())
}

fn build(node: &mut Node) -> Result<()> {
    wrap(node, "context")
}

fn source(node: &mut Node) -> Result<()> {
    wrap(node, "source")
}

fn extends(node: &mut Node) -> Result<()> {
    wrap(node, "service")
}

fn list(node: &mut Node) -> Result<()> {
    if node.as_text().is_some() {
        node.value = Value::List(vec![node.clone()]);
    }
    Ok(())
}

fn take(node: &mut Node) -> Node {
    Node::new(node.span, std::mem::replace(&mut node.value, Value::Null))
}

fn networks(node: &mut Node) -> Result<()> {
    *node = named(take(node), nothing);
    Ok(())
}

fn depends_on(node: &mut Node) -> Result<()> {
    *node = named(take(node), dependency);
    if let Some(map) = node.as_map_mut() {
        for (_, entry) in map.iter_mut() {
            let span = entry.key;
            if let Some(dependency) = entry.node.as_map_mut() {
                dependency.put_if_missing("required", || Node::new(span, Value::Bool(true)));
            }
        }
    }
    Ok(())
}

fn env_file(node: &mut Node) -> Result<()> {
    list(node)?;
    let Value::List(items) = &mut node.value else {
        return Ok(());
    };
    for item in items {
        wrap(item, "path")?;
        let span = item.span;
        if let Some(map) = item.as_map_mut() {
            map.put_if_missing("required", || Node::new(span, Value::Bool(true)));
        }
    }
    Ok(())
}

fn gpus(node: &mut Node) -> Result<()> {
    if node.as_text().is_some() {
        let mut map = Map::default();
        map.insert("count", node.span, Node::new(node.span, Value::Int(-1)));
        node.value = Value::List(vec![Node::new(node.span, Value::Map(map))]);
    }
    Ok(())
}

/// `name=value` items as a mapping.
fn pairs(node: &mut Node) -> Result<()> {
    if let Value::List(items) = &node.value {
        let mut map = Map::default();
        for item in items {
            if let Some((name, value)) = item.as_text().and_then(|text| text.split_once('=')) {
                map.insert(name, item.span, Node::text(item.span, value));
            }
        }
        node.value = Value::Map(map);
    }
    Ok(())
}

fn ssh(node: &mut Node) -> Result<()> {
    list(node)?;
    if let Value::List(items) = &node.value {
        let mut map = Map::default();
        for item in items {
            let text = item.as_text().unwrap_or_default();
            match text.split_once('=') {
                Some((name, value)) => map.insert(name, item.span, Node::text(item.span, value)),
                None if text == "default" => {
                    map.insert(text, item.span, Node::new(item.span, Value::Null));
                }
                None => {
                    let message = format!("invalid ssh key `{text}`");
                    return Err(Fault::schema(item.span, message).hint("write `default` or `name=path`"));
                }
            }
        }
        node.value = Value::Map(map);
    }
    Ok(())
}

fn device(node: &mut Node) -> Result<()> {
    let Some(text) = node.as_text() else {
        let span = node.span;
        if let Some(map) = node.as_map_mut() {
            let source = map.get("source").cloned();
            map.put_if_missing("target", || source.unwrap_or_else(|| Node::text(span, "")));
            map.put_if_missing("permissions", || Node::text(span, "rwm"));
        }
        return Ok(());
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match *parts.as_slice() {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ => return Err(Fault::schema(node.span, format!("confusing device mapping `{text}`"))),
    };
    let mut map = Map::default();
    for (key, value) in [("source", source), ("target", target), ("permissions", permissions)] {
        map.insert(key, node.span, Node::text(node.span, value));
    }
    node.value = Value::Map(map);
    Ok(())
}

/// `external: {name: x}` is the old way to write `external: true` and `name: x`.
fn external(node: &mut Node) -> Result<()> {
    let Some(map) = node.as_map_mut() else {
        return Ok(());
    };
    let Some(entry) = map.entry("external").cloned() else {
        return Ok(());
    };
    let Some(outer) = entry.node.as_map() else {
        return Ok(());
    };
    if let Some(name) = outer.get("name") {
        if map.get("name").is_some_and(|own| own != name) {
            let message = "`name` and `external.name` contradict each other";
            return Err(Fault::schema(name.span, message).hint("use `name` only"));
        }
        map.put("name", name.clone());
    }
    map.put("external", Node::new(entry.node.span, Value::Bool(true)));
    Ok(())
}

/// A mapping of texts at one place.
fn texts_at(span: Span, fields: &[(&str, &str)]) -> Map {
    let mut map = Map::default();
    for (key, value) in fields {
        map.insert(*key, span, Node::text(span, *value));
    }
    map
}
