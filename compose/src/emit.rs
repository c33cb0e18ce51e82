//! A project as `docker compose config --format json` prints it: what can be compared with Compose itself, and be
//! read again.

mod form;
mod tables;
mod words;

use std::collections::BTreeSet;

use serde_json::{Map as Object, Value as Json};

use crate::{
    node::{Map, Node, Value},
    project::Project,
};
use form::Form;

/// The services in use and what they need.
#[must_use]
pub fn emit(project: &Project) -> Json {
    let mut out = Object::new();
    out.insert("name".to_owned(), Json::String(project.name.clone()));
    let mut services = Object::new();
    for name in &project.enabled {
        if let Some(service) = project.service(name) {
            services.insert(name.clone(), form::print(service, &tables::SERVICE));
        }
    }
    let used = Used::by(project);
    for (part, form, names) in [
        ("networks", &tables::NETWORK, &used.networks),
        ("volumes", &tables::VOLUME, &used.volumes),
        ("secrets", &tables::SECRET, &used.secrets),
        ("configs", &tables::CONFIG, &used.configs),
    ] {
        let printed = parts(project, part, form, names);
        if !printed.is_empty() {
            out.insert(part.to_owned(), Json::Object(printed));
        }
    }
    out.insert("services".to_owned(), Json::Object(services));
    for (name, entry) in project.model.entries().filter(|(name, _)| name.starts_with("x-")) {
        out.insert(name.to_owned(), form::print(&entry.node, &Form::Any));
    }
    let mut out = Json::Object(out);
    escape(&mut out);
    out
}

fn parts(project: &Project, part: &str, form: &Form, names: &BTreeSet<String>) -> Object<String, Json> {
    project
        .part(part)
        .filter(|(name, _)| names.contains(*name))
        .map(|(name, entry)| (name.to_owned(), form::print(&entry.node, form)))
        .collect()
}

/// What the services in use need of the rest.
#[derive(Default)]
struct Used {
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
}

impl Used {
    fn by(project: &Project) -> Self {
        let mut used = Self::default();
        for service in project.enabled.iter().filter_map(|name| project.service(name)) {
            let networks = service.get("networks").into_iter().flat_map(Node::entries);
            used.networks.extend(networks.map(|(name, _)| name.to_owned()));
            let sources = |node: Option<&Node>, key: &str| -> Vec<String> {
                let items = node.and_then(|node| node.get(key)).map(Node::items).unwrap_or_default();
                items.iter().filter_map(|item| item.get("source")?.as_text().map(str::to_owned)).collect()
            };
            used.volumes.extend(sources(Some(service), "volumes"));
            used.secrets.extend(sources(Some(service), "secrets"));
            used.secrets.extend(sources(service.get("build"), "secrets"));
            used.configs.extend(sources(Some(service), "configs"));
        }
        used
    }
}

/// What is printed can be read again: there a dollar sign would begin a variable.
fn escape(json: &mut Json) {
    match json {
        Json::String(text) => *text = text.replace('$', "$$"),
        Json::Array(items) => items.iter_mut().for_each(escape),
        Json::Object(map) => {
            let entries = std::mem::take(map);
            for (key, mut value) in entries {
                escape(&mut value);
                map.insert(key.replace('$', "$$"), value);
            }
        }
        _ => {}
    }
}

fn entries(node: &Node) -> impl Iterator<Item = (&str, &Node)> {
    node.as_map().into_iter().flat_map(Map::iter).map(|(name, entry)| (name, &entry.node))
}

/// A value as it is.
fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => number(*value),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(plain).collect()),
        Value::Map(_) => {
            Json::Object(entries(node).map(|(name, node)| (name.to_owned(), plain(node))).collect())
        }
    }
}

fn number(value: f64) -> Json {
    #[expect(clippy::cast_possible_truncation, reason = "the value is whole and small")]
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Json::from(value as i64);
    }
    Json::from(value)
}
