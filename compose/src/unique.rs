//! Items of lists that stand for the same thing: the later one takes the place of the earlier.

use std::collections::HashMap;

use crate::{
    canonical::volume_target,
    node::{Fault, Node, Result, Value},
    path::{ITEM, Path},
};

/// By what an item is known.
#[derive(Clone, Copy, Debug)]
enum Key {
    /// What stands before `=`.
    Variable,
    /// The text itself.
    Text,
    Port,
    /// The path in the container.
    Mount,
    /// The file's path.
    EnvFile,
    /// The path in the container, or the name below a folder.
    FileMount(&'static str),
}

const KEYS: [(&str, Key); 29] = [
    ("networks.*.labels", Key::Variable),
    ("networks.*.ipam.options", Key::Variable),
    ("services.*.annotations", Key::Variable),
    ("services.*.build.args", Key::Variable),
    ("services.*.build.additional_contexts", Key::Variable),
    ("services.*.build.platforms", Key::Variable),
    ("services.*.build.tags", Key::Variable),
    ("services.*.build.labels", Key::Variable),
    ("services.*.cap_add", Key::Variable),
    ("services.*.cap_drop", Key::Variable),
    ("services.*.configs", Key::FileMount("")),
    ("services.*.deploy.labels", Key::Variable),
    ("services.*.devices", Key::Mount),
    ("services.*.dns", Key::Variable),
    ("services.*.dns_opt", Key::Variable),
    ("services.*.dns_search", Key::Variable),
    ("services.*.environment", Key::Variable),
    ("services.*.env_file", Key::EnvFile),
    ("services.*.expose", Key::Text),
    ("services.*.labels", Key::Variable),
    ("services.*.links", Key::Variable),
    ("services.*.networks.*.aliases", Key::Variable),
    ("services.*.networks.*.link_local_ips", Key::Variable),
    ("services.*.ports", Key::Port),
    ("services.*.profiles", Key::Variable),
    ("services.*.secrets", Key::FileMount("/run/secrets")),
    ("services.*.sysctls", Key::Variable),
    ("services.*.tmpfs", Key::Variable),
    ("services.*.volumes", Key::Mount),
];

/// Leaves out what is repeated, everywhere below.
pub(crate) fn enforce(node: &mut Node) -> Result<()> {
    walk(node, &Path::ROOT)
}

fn walk(node: &mut Node, path: &Path<'_>) -> Result<()> {
    match &mut node.value {
        Value::Map(map) => {
            for (name, entry) in map.iter_mut() {
                walk(&mut entry.node, &path.child(name))?;
            }
        }
        Value::List(items) => {
            if let Some((_, key)) = KEYS.iter().find(|(pattern, _)| path.matches(pattern)) {
                let all = std::mem::take(items);
                *items = last_of_each(all, *key, &path.child(ITEM))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn last_of_each(all: Vec<Node>, key: Key, path: &Path<'_>) -> Result<Vec<Node>> {
    let mut kept: Vec<Node> = Vec::with_capacity(all.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    for item in all {
        match places.get(&key.of(&item, path)?) {
            Some(&place) => kept[place] = item,
            None => {
                places.insert(key.of(&item, path)?, kept.len());
                kept.push(item);
            }
        }
    }
    Ok(kept)
}

impl Key {
    fn of(self, item: &Node, path: &Path<'_>) -> Result<String> {
        let printed = || item.printed();
        let field = |name: &str| item.get(name).and_then(Node::printed);
        let missing = |what: &str| Fault::schema(item.span, format!("`{path}` has no `{what}`"));
        let is_map = item.as_map().is_some();
        let found = match self {
            Self::Variable => printed().map(|text| text.split('=').next().unwrap_or_default().to_owned()),
            Self::Text => printed(),
            Self::Port if is_map => {
                let target = field("target").ok_or_else(|| missing("target"))?;
                let published = field("published").unwrap_or_default();
                let address = field("host_ip").unwrap_or_else(|| "0.0.0.0".to_owned());
                let protocol = field("protocol").unwrap_or_else(|| "tcp".to_owned());
                Some(format!("{address}:{published}:{target}/{protocol}"))
            }
            Self::Port => printed(),
            Self::Mount if is_map => Some(field("target").ok_or_else(|| missing("target"))?),
            Self::Mount => match item.as_text() {
                Some(text) => Some(volume_target(text, item.span)?),
                None => None,
            },
            Self::EnvFile => field("path").or_else(printed),
            Self::FileMount(folder) => match field("target") {
                Some(target) => Some(target),
                None => field("source").or_else(printed).map(|source| format!("{folder}/{source}")),
            },
        };
        // What has no key is refused by its shape later on.
        Ok(found.unwrap_or_else(|| format!("{}:{}", item.kind(), item.span.start)))
    }
}
