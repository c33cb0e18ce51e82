//! What nobody writes but everybody means: values that Compose fills in itself.

use crate::{
    load::Environment,
    node::{Entry, Map, Node, Value},
    shape::is_name,
};

/// Calls a function with every service.
pub(crate) fn for_each_service(model: &mut Node, mut visit: impl FnMut(&str, &mut Map)) {
    let services = model.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut);
    for (name, entry) in services.into_iter().flat_map(Map::iter_mut) {
        if let Some(service) = entry.node.as_map_mut() {
            visit(name, service);
        }
    }
}

fn each_item<'m>(map: &'m mut Map, key: &str) -> impl Iterator<Item = &'m mut Node> {
    match map.get_mut(key).map(|node| &mut node.value) {
        Some(Value::List(items)) => items.iter_mut(),
        _ => [].iter_mut(),
    }
}

/// Values with defaults of their own.
pub(crate) fn fill_in(model: &mut Node) {
    for_each_service(model, |_, service| {
        for port in each_item(service, "ports") {
            let span = port.span;
            if let Some(port) = port.as_map_mut() {
                port.put_if_missing("mode", || Node::text(span, "ingress"));
                port.put_if_missing("protocol", || Node::text(span, "tcp"));
            }
        }
        for secret in each_item(service, "secrets") {
            secret_target(secret);
        }
        for gpu in each_item(service, "gpus") {
            device_count(gpu);
        }
        let reservations = ["deploy", "resources", "reservations"]
            .iter()
            .try_fold(&mut *service, |map, key| map.get_mut(key).and_then(Node::as_map_mut));
        if let Some(reservations) = reservations {
            for device in each_item(reservations, "devices") {
                device_count(device);
            }
        }
        if let Some(entry) = service.entry("build").cloned()
            && let Some(build) = service.get_mut("build").and_then(Node::as_map_mut)
        {
            build.put_if_missing("context", || Node::text(entry.key, "."));
        }
    });
}

fn secret_target(secret: &mut Node) {
    let span = secret.span;
    let Some(map) = secret.as_map_mut() else {
        return;
    };
    if let Some(source) = map.get("source").and_then(Node::as_text).map(str::to_owned) {
        map.put_if_missing("target", || Node::text(span, format!("/run/secrets/{source}")));
    }
}

fn device_count(device: &mut Node) {
    let span = device.span;
    if let Some(map) = device.as_map_mut()
        && !map.contains("device_ids")
    {
        map.put_if_missing("count", || Node::new(span, Value::Int(-1)));
        if let Some(count) = map.get_mut("count")
            && count.as_text() == Some("all")
        {
            count.value = Value::Int(-1);
        }
    }
}

/// Empty names of servers are none.
pub(crate) fn drop_empty(model: &mut Node) {
    for_each_service(model, |_, service| {
        if let Some(Value::List(items)) = service.get_mut("dns").map(|node| &mut node.value) {
            items.retain(|item| item.as_text() != Some(""));
        }
    });
}

/// Gives variables without a value the one that the environment has, and secrets and configs theirs.
pub(crate) fn resolve_environment(model: &mut Node, environment: &Environment) {
    for_each_service(model, |_, service| {
        if let Some(variables) = service.get_mut("environment") {
            with_values(variables, environment, false);
        }
    });
    for part in ["secrets", "configs"] {
        let Some(parts) = model.as_map_mut().and_then(|map| map.get_mut(part)).and_then(Node::as_map_mut)
        else {
            continue;
        };
        for (_, entry) in parts.iter_mut() {
            let span = entry.key;
            let Some(map) = entry.node.as_map_mut() else {
                continue;
            };
            let variable = map.get("environment").and_then(Node::as_text).map(str::to_owned);
            if let Some(value) = variable.and_then(|name| environment.get(&name)) {
                let key = if part == "secrets" { "x-#value" } else { "content" };
                map.put(key, Node::text(span, value));
            }
        }
    }
}

/// Puts values to names without one; those that the environment does not know are left out if asked for.
pub(crate) fn with_values(node: &mut Node, environment: &Environment, drop_unknown: bool) {
    match &mut node.value {
        Value::List(items) => items.retain_mut(|item| {
            let Some(name) = item.as_text().filter(|text| !text.contains('=')).map(str::to_owned) else {
                return true;
            };
            match environment.get(&name) {
                Some(value) => {
                    item.value = Value::Text(format!("{name}={value}"));
                    true
                }
                None => !drop_unknown,
            }
        }),
        Value::Map(map) => map.retain(|name, entry| {
            if !entry.node.is_null() {
                return true;
            }
            match environment.get(name) {
                Some(value) => {
                    entry.node.value = Value::Text(value.clone());
                    true
                }
                None => !drop_unknown,
            }
        }),
        _ => {}
    }
}

/// Gives the model what follows from all of it: the default network, names, dependencies.
pub(crate) fn normalize(model: &mut Node, project: &str, environment: &Environment) {
    default_network(model);
    for_each_service(model, |_, service| normalize_service(service, environment));
    for part in ["networks", "volumes", "secrets", "configs"] {
        let parts = model.as_map_mut().and_then(|map| map.get_mut(part)).and_then(Node::as_map_mut);
        for (key, entry) in parts.into_iter().flat_map(Map::iter_mut) {
            name(key, entry, project);
        }
    }
}

fn name(key: &str, entry: &mut Entry, project: &str) {
    if entry.node.is_null() {
        entry.node = Node::map(entry.key);
    }
    let span = entry.key;
    if let Some(map) = entry.node.as_map_mut() {
        let external = map.get("external").and_then(Node::as_bool).unwrap_or_default();
        let name = if external { key.to_owned() } else { format!("{project}_{key}") };
        map.put_if_missing("name", || Node::text(span, name));
    }
}

fn default_network(model: &mut Node) {
    let mut used = None;
    let services = model.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut);
    for (_, entry) in services.into_iter().flat_map(Map::iter_mut) {
        let span = entry.key;
        let Some(service) = entry.node.as_map_mut() else {
            continue;
        };
        if service.contains("network_mode") || service.contains("provider") {
            continue;
        }
        if service
            .get("networks")
            .is_none_or(|node| node.is_null() || node.as_map().is_some_and(Map::is_empty))
        {
            let mut networks = Map::default();
            networks.insert("default", span, Node::new(span, Value::Null));
            service.put("networks", Node::new(span, Value::Map(networks)));
            used = Some(span);
        } else if let Some(entry) =
            service.get("networks").and_then(Node::as_map).and_then(|map| map.entry("default"))
        {
            used = Some(entry.key);
        }
    }
    let (Some(span), Some(model)) = (used, model.as_map_mut()) else {
        return;
    };
    if model.get("networks").is_none_or(Node::is_null) {
        model.insert("networks", span, Node::map(span));
    }
    if let Some(networks) = model.get_mut("networks").and_then(Node::as_map_mut) {
        networks.put_if_missing("default", || Node::new(span, Value::Null));
    }
}

fn normalize_service(service: &mut Map, environment: &Environment) {
    if let Some(policy) = service.get_mut("pull_policy")
        && policy.as_text() == Some("if_not_present")
    {
        policy.value = Value::Text("missing".to_owned());
    }
    if let Some(build) = service.get_mut("build") {
        let span = build.span;
        if let Some(build) = build.as_map_mut() {
            if !build.contains("dockerfile_inline") {
                build.put_if_missing("dockerfile", || Node::text(span, "Dockerfile"));
            }
            if let Some(arguments) = build.get_mut("args") {
                with_values(arguments, environment, true);
            }
        }
    }
    for mount in each_item(service, "volumes") {
        if let Some(target) = mount.as_map_mut().and_then(|map| map.get_mut("target"))
            && let Some(text) = target.as_text()
        {
            let cleaned = crate::paths::clean(std::path::Path::new(text));
            target.value = Value::Text(cleaned.display().to_string());
        }
    }
    if let Some(scale) = service.get("scale").cloned()
        && let Some(deploy) = service.get_mut("deploy").and_then(Node::as_map_mut)
    {
        deploy.put_if_missing("replicas", || scale);
    }
    depend(service);
}

/// Links and shared namespaces are dependencies.
fn depend(service: &mut Map) {
    let mut found: Vec<(String, bool, crate::node::Span)> = Vec::new();
    for link in service.get("links").map(Node::items).unwrap_or_default() {
        if let Some(text) = link.as_text() {
            found.push((text.split(':').next().unwrap_or(text).to_owned(), true, link.span));
        }
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(other) = node.as_text().and_then(|text| text.strip_prefix("service:"))
        {
            found.push((other.to_owned(), true, node.span));
        }
    }
    for volume in service.get("volumes_from").map(Node::items).unwrap_or_default() {
        if let Some(text) = volume.as_text().filter(|text| !text.starts_with("container:")) {
            found.push((text.split(':').next().unwrap_or(text).to_owned(), false, volume.span));
        }
    }
    for (other, restart, span) in found.into_iter().filter(|(other, ..)| is_name(other)) {
        service.put_if_missing("depends_on", || Node::map(span));
        let Some(dependencies) = service.get_mut("depends_on").and_then(Node::as_map_mut) else {
            continue;
        };
        dependencies.put_if_missing(&other, || {
            let mut map = Map::default();
            map.insert("condition", span, Node::text(span, "service_started"));
            map.insert("required", span, Node::new(span, Value::Bool(true)));
            if restart {
                map.insert("restart", span, Node::new(span, Value::Bool(true)));
            }
            Node::new(span, Value::Map(map))
        });
    }
}
