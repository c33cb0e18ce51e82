//! The variables of services: what `env_file` and `label_file` add to what is written.

use std::{collections::BTreeSet, path::Path};

use crate::{
    defaults::for_each_service,
    dotenv,
    load::{Environment, Loader},
    node::{Fault, FaultKind, Map, Node, Result, Span, Value},
    project::pairs,
    template::Lookup,
};

/// Reads the files of every service in use and puts their variables below those that are written.
pub(crate) fn resolve_env_files(
    loader: &mut Loader,
    model: &mut Node,
    enabled: &BTreeSet<String>,
    environment: &Environment,
) -> Result<()> {
    let mut failed = None;
    for_each_service(model, |name, service| {
        if failed.is_none() && enabled.contains(name) {
            failed = resolve(loader, service, environment).err();
        }
    });
    failed.map_or(Ok(()), Err)
}

fn resolve(loader: &mut Loader, service: &mut Map, environment: &Environment) -> Result<()> {
    let files = service.remove("env_file");
    if let Some(files) = files {
        let written: Environment = service
            .get("environment")
            .map(pairs)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, value, _)| Some((name, value?)))
            .collect();
        let lookup = |name: &str| environment.get(name).or_else(|| written.get(name)).cloned();
        let mut variables = Map::default();
        let mut known = Environment::new();
        for item in files.node.items() {
            let found = read(loader, item, &lookup, known.clone())?;
            for (name, value) in found.iter().filter(|(name, value)| known.get(*name) != Some(value)) {
                variables.insert(name.as_str(), item.span, Node::text(item.span, value.as_str()));
            }
            known = found;
        }
        lay_under(service, "environment", variables, files.node.span);
    }
    let files = service.remove("label_file");
    if let Some(files) = files {
        let mut labels = Map::default();
        for item in files.node.items() {
            let path = item.as_text().unwrap_or_default();
            let source = loader.read(Path::new(path), Some(item.span))?;
            let found = dotenv::parse(source, &loader.sources.files[source].text, &|_| None)?;
            for (name, value) in found {
                labels.insert(name, item.span, Node::text(item.span, value));
            }
        }
        lay_under(service, "labels", labels, files.node.span);
    }
    Ok(())
}

fn read(loader: &mut Loader, item: &Node, lookup: Lookup<'_>, above: Environment) -> Result<Environment> {
    let path = item.get("path").and_then(Node::as_text).unwrap_or_default().to_owned();
    let required = item.get("required").and_then(Node::as_bool) != Some(false);
    if !Path::new(&path).exists() {
        if !required {
            return Ok(above);
        }
        let shown = loader.shown(Path::new(&path));
        let message = format!("the env file `{shown}` does not exist");
        return Err(Fault::new(FaultKind::Unreadable, item.span, message));
    }
    let source = loader.read(Path::new(&path), Some(item.span))?;
    let text = loader.sources.files[source].text.clone();
    if item.get("format").and_then(Node::as_text) == Some("raw") {
        return Ok(above.into_iter().chain(raw(&text)).collect());
    }
    dotenv::parse_below(source, &text, lookup, above)
}

/// Lines as they are.
fn raw(text: &str) -> Environment {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Puts entries below a key, where they are not written already.
fn lay_under(service: &mut Map, key: &str, mut entries: Map, span: Span) {
    if let Some(written) = service.get(key) {
        for (name, value, span) in pairs(written) {
            let value = value.map_or(Value::Null, Value::Text);
            entries.insert(name, span, Node::new(span, value));
        }
    }
    let span = service.get(key).map_or(span, |node| node.span);
    service.put(key, Node::new(span, Value::Map(entries)));
}
