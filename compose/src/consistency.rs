//! Parts of a model that contradict each other, or name what is not there.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Fault, FaultKind, Map, Node, Result, Span};

fn fault(span: Span, message: String) -> Fault {
    Fault::new(FaultKind::Inconsistent, span, message)
}

/// Volumes, secrets and configs by themselves.
pub(crate) fn check_resources(model: &Node) -> Result<()> {
    for (part, keys) in
        [("configs", &["file", "environment", "content"] as &[&str]), ("secrets", &["file", "environment"])]
    {
        for (name, entry) in model.get(part).into_iter().flat_map(Node::entries) {
            let given: Vec<&str> = keys.iter().copied().filter(|key| entry.node.get(key).is_some()).collect();
            let listed = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            if given.len() > 1 {
                return Err(fault(entry.key, format!("`{part}.{name}` has more than one of {listed}")));
            }
            let elsewhere = ["driver", "external"].iter().any(|key| entry.node.get(key).is_some());
            if given.is_empty() && !elsewhere {
                return Err(fault(entry.key, format!("`{part}.{name}` has none of {listed}")));
            }
        }
    }
    for (name, entry) in model.get("volumes").into_iter().flat_map(Node::entries) {
        external_alone(&format!("volumes.{name}"), &entry.node)?;
    }
    Ok(())
}

/// What is made elsewhere has nothing but a name here.
fn external_alone(path: &str, node: &Node) -> Result<()> {
    if node.get("external").and_then(Node::as_bool) != Some(true) {
        return Ok(());
    }
    let other = node.entries().find(|(key, _)| !["name", "external"].contains(key) && !key.starts_with("x-"));
    match other {
        Some((key, entry)) => {
            Err(fault(entry.key, format!("`{path}` is external and cannot have a `{key}`")))
        }
        None => Ok(()),
    }
}

/// Services against each other and against the rest.
pub(crate) fn check(model: &Node, enabled: &BTreeSet<String>) -> Result<()> {
    let part = |name: &str| model.get(name).and_then(Node::as_map);
    let has = |part: Option<&Map>, name: &str| part.is_some_and(|part| part.contains(name));
    let all = part("services");
    let services: BTreeMap<&str, (&Node, Span)> = all
        .into_iter()
        .flat_map(Map::iter)
        .filter(|(name, _)| enabled.contains(*name))
        .map(|(name, entry)| (name, (&entry.node, entry.key)))
        .collect();
    for (name, (service, key)) in &services {
        one(name, service, *key)?;
        for (network, entry) in service.get("networks").into_iter().flat_map(Node::entries) {
            if !has(part("networks"), network) {
                let message = format!("service `{name}` uses the network `{network}`, which is not defined");
                return Err(fault(entry.key, message)
                    .hint(format!("define it at the end of the file: `networks: {{ {network}: {{}} }}`")));
            }
        }
        for volume in service.get("volumes").map(Node::items).unwrap_or_default() {
            let source = volume.get("source").and_then(Node::as_text).filter(|source| !source.is_empty());
            if volume.get("type").and_then(Node::as_text) == Some("volume")
                && let Some(source) = source
                && !has(part("volumes"), source)
            {
                let message = format!("service `{name}` mounts the volume `{source}`, which is not defined");
                return Err(
                    fault(volume.span, message).hint(format!("define it: `volumes: {{ {source}: {{}} }}`"))
                );
            }
        }
        for (kind, list) in [("secret", "secrets"), ("config", "configs")] {
            let own = service.get(list).map(Node::items).unwrap_or_default();
            let built =
                service.get("build").and_then(|build| build.get(list)).map(Node::items).unwrap_or_default();
            for item in own.iter().chain(built) {
                if let Some(source) = item.get("source").and_then(Node::as_text)
                    && !has(part(list), source)
                {
                    let message =
                        format!("service `{name}` uses the {kind} `{source}`, which is not defined");
                    return Err(fault(item.span, message));
                }
            }
        }
        for (other, entry) in service.get("depends_on").into_iter().flat_map(Node::entries) {
            let required = entry.node.get("required").and_then(Node::as_bool) != Some(false);
            if !services.contains_key(other) && required {
                let message = if has(all, other) {
                    format!("service `{name}` depends on `{other}`, which is in none of the profiles in use")
                } else {
                    format!("service `{name}` depends on `{other}`, which is not defined")
                };
                return Err(fault(entry.key, message));
            }
        }
        if let Some(mode) = service.get("network_mode")
            && let Some(other) = mode.as_text().and_then(|text| text.strip_prefix("service:"))
            && !services.contains_key(other)
        {
            let message = format!("service `{name}` joins the network of `{other}`, which is not defined");
            return Err(fault(mode.span, message));
        }
    }
    container_names(&services)?;
    cycle(&services)
}

fn one(name: &str, service: &Node, key: Span) -> Result<()> {
    let has = |key: &str| service.get(key).is_some_and(|node| !node.is_null() && node.as_text() != Some(""));
    if !["image", "build", "provider"].into_iter().any(has) {
        let message = format!("service `{name}` has neither an image nor something to build it from");
        return Err(fault(key, message).hint("give it an `image` or a `build`"));
    }
    for port in service.get("ports").map(Node::items).unwrap_or_default() {
        if let Some(node) = port.get("host_ip")
            && let Some(text) = node.as_text().filter(|text| !text.is_empty())
            && text.parse::<std::net::IpAddr>().is_err()
        {
            return Err(fault(node.span, format!("`{text}` is no address to publish a port on")));
        }
    }
    for host in service.get("extra_hosts").map(Node::items).unwrap_or_default() {
        if let Some(text) = host.as_text().filter(|text| !text.contains(['=', ':'])) {
            return Err(fault(host.span, format!("the host `{text}` has no address"))
                .hint(format!("write `{text}=192.0.2.1`")));
        }
    }
    if let (Some(_), Some(mode)) = (
        service.get("networks").filter(|node| node.as_map().is_some_and(|map| !map.is_empty())),
        service.get("network_mode"),
    ) {
        let message = format!("service `{name}` has both `network_mode` and `networks`");
        return Err(fault(mode.span, message));
    }
    let deploy = service.get("deploy");
    let limits =
        deploy.and_then(|deploy| deploy.get("resources")).and_then(|resources| resources.get("limits"));
    let replicas = deploy.and_then(|deploy| deploy.get("replicas"));
    let scale = service.get("scale");
    if let (Some(scale), Some(replicas)) = (scale, replicas)
        && scale.as_int() != replicas.as_int()
    {
        let message = format!("service `{name}` has different `scale` and `deploy.replicas`");
        return Err(fault(scale.span, message));
    }
    let several = scale.or(replicas).and_then(Node::as_int).is_some_and(|count| count > 1);
    if let Some(container) = service.get("container_name")
        && several
    {
        let message = format!("service `{name}` runs several times, but has a `container_name`");
        return Err(fault(container.span, message));
    }
    let reserved = deploy
        .and_then(|deploy| deploy.get("resources")?.get("reservations")?.get("devices"))
        .map(Node::items)
        .unwrap_or_default();
    if let Some(device) =
        reserved.iter().find(|device| ["count", "device_ids"].iter().all(|key| device.get(key).is_some()))
    {
        return Err(fault(device.span, "a device has either a `count` or `device_ids`".to_owned()));
    }
    let counts = reserved.iter().chain(service.get("gpus").map(Node::items).unwrap_or_default());
    if let Some((node, text)) =
        counts.filter_map(|device| device.get("count")).find_map(|node| Some((node, node.as_text()?)))
        && text.parse::<i64>().is_err()
    {
        return Err(
            fault(node.span, format!("`{text}` is no number of devices")).hint("write a number, or `all`")
        );
    }
    for (own, of_deploy) in [("cpus", "cpus"), ("mem_limit", "memory"), ("pids_limit", "pids")] {
        if let (Some(node), Some(limits)) = (service.get(own), limits)
            && !same_amount(own, Some(node), limits.get(of_deploy))
        {
            let message =
                format!("service `{name}` has different `{own}` and `deploy.resources.limits.{of_deploy}`");
            return Err(fault(node.span, message));
        }
    }
    Ok(())
}

fn same_amount(key: &str, left: Option<&Node>, right: Option<&Node>) -> bool {
    let amount = |node: Option<&Node>| -> f64 {
        let Some(node) = node else {
            return 0.0;
        };
        let text = node.printed().unwrap_or_default();
        if key == "mem_limit" {
            #[expect(clippy::cast_precision_loss, reason = "only compared")]
            return crate::units::bytes(&text).map_or(-1.0, |bytes| bytes as f64);
        }
        text.parse().unwrap_or(-1.0)
    };
    amount(left).total_cmp(&amount(right)).is_eq()
}

fn container_names(services: &BTreeMap<&str, (&Node, Span)>) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, (service, _)) in services {
        if let Some(node) = service.get("container_name")
            && let Some(text) = node.as_text()
            && let Some(other) = seen.insert(text, name)
        {
            let message = format!("services `{other}` and `{name}` have the same `container_name`");
            return Err(fault(node.span, message));
        }
    }
    Ok(())
}

/// Services that wait for each other.
fn cycle(services: &BTreeMap<&str, (&Node, Span)>) -> Result<()> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for &start in services.keys() {
        // Depth first, without recursion: a chain can be as long as the file.
        let mut way: Vec<(&str, Vec<(&str, Span)>)> = vec![(start, next(services, start))];
        let mut on_the_way: BTreeSet<&str> = BTreeSet::from([start]);
        while let Some((here, rest)) = way.last_mut() {
            let here = *here;
            match rest.pop() {
                None => {
                    done.insert(here);
                    on_the_way.remove(here);
                    way.pop();
                }
                Some((other, _)) if done.contains(other) => {}
                Some((other, span)) => {
                    if !on_the_way.insert(other) {
                        let first = way.iter().position(|(name, _)| *name == other).unwrap_or_default();
                        let names: Vec<&str> =
                            way[first..].iter().map(|(name, _)| *name).chain([other]).collect();
                        let message =
                            format!("services depend on each other in a circle: {}", names.join(" -> "));
                        return Err(fault(span, message));
                    }
                    way.push((other, next(services, other)));
                }
            }
        }
    }
    Ok(())
}

fn next<'m>(services: &BTreeMap<&'m str, (&'m Node, Span)>, name: &str) -> Vec<(&'m str, Span)> {
    let service = services.get(name).map(|(service, _)| *service);
    let dependencies = service.and_then(|service| service.get("depends_on"));
    let mut found: Vec<_> =
        dependencies.into_iter().flat_map(Node::entries).map(|(name, entry)| (name, entry.key)).collect();
    found.retain(|(name, _)| services.contains_key(name));
    found.reverse();
    found
}
