//! What runs, judged as a compose file would be: containers become the project that would have started them, and `check`
//! finds in it what it finds in files.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use compose::{Entry, Map, Node, Project, Source, Sources, Span, Value};

use super::host::{Container, Host, Instance, Network};
use crate::check::{self, Checked, Finding, Origin, Policies};

/// More replicas of a service than are looked at one by one.
const MAX_REPLICAS: usize = 256;

/// The findings about an instance, each with its container.
pub fn findings(instance: &Instance<'_>, host: &Host, policies: Policies<'_>) -> Vec<Finding> {
    let mut services: BTreeMap<&str, Vec<&Container>> = BTreeMap::new();
    for container in &instance.containers {
        services.entry(container.service()).or_default().push(container);
    }
    let replicas = services.values().map(Vec::len).max().unwrap_or(0).clamp(1, MAX_REPLICAS);
    let mut findings: Vec<Finding> = Vec::new();
    // Each time a whole project, with another replica of what has several.
    for replica in 0..replicas {
        let chosen: BTreeMap<&str, &Container> = services
            .iter()
            .filter_map(|(&service, containers)| {
                Some((service, *containers.get(replica).or_else(|| containers.first())?))
            })
            .collect();
        for finding in judge(instance, &chosen, host, policies).findings {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings.sort_by(|a, b| (a.code, &a.container, &a.message).cmp(&(b.code, &b.container, &b.message)));
    findings
}

fn judge(
    instance: &Instance<'_>,
    chosen: &BTreeMap<&str, &Container>,
    host: &Host,
    policies: Policies<'_>,
) -> Checked {
    let mut written = Written::default();
    written.source("");
    let used: BTreeSet<&str> = chosen.values().flat_map(|container| container.networks()).collect();
    let services = chosen.iter().map(|(&name, container)| {
        let span = written.source(&container.name);
        let node = service(span, container, chosen, &instance.project);
        (name.to_owned(), Entry { key: span, node })
    });
    let services: Map = services.collect();
    let networks =
        host.networks.iter().filter(|network| used.contains(network.name.as_str())).map(|network| {
            let span = written.source("");
            (network.name.clone(), Entry { key: span, node: network_node(span, network, &instance.project) })
        });
    let networks: Map = networks.collect();
    let volumes: BTreeSet<&str> = chosen
        .values()
        .flat_map(|container| &container.mounts)
        .filter(|mount| mount.kind.as_deref() == Some("volume"))
        .filter_map(|mount| mount.name.as_deref())
        // Nobody has named these.
        .filter(|name| !(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())))
        .collect();
    let volumes: Map = volumes
        .into_iter()
        .map(|name| {
            let span = written.source("");
            (name.to_owned(), Entry { key: span, node: map(span, [("name", text(elsewhere(span), name))]) })
        })
        .collect();
    let top = Span::default();
    let part = |map: Map| node(top, Value::Map(map));
    let model =
        map(top, [("services", part(services)), ("networks", part(networks)), ("volumes", part(volumes))]);
    let project = Project {
        name: instance.project.clone(),
        directory: PathBuf::new(),
        model,
        enabled: chosen.keys().map(|&name| name.to_owned()).collect(),
        profiles: BTreeSet::new(),
        files: Vec::new(),
    };
    let mut checked = check::judge(&project, &written.sources, policies, instance.policy, Origin::Host);
    for finding in &mut checked.findings {
        finding.place = None;
        finding.container = Some(std::mem::take(&mut finding.file)).filter(|name| !name.is_empty());
    }
    checked
}

/// The sources of a project that nobody has written: one for each container, named after it.
#[derive(Default)]
struct Written {
    sources: Sources,
}

impl Written {
    fn source(&mut self, name: &str) -> Span {
        let source = self.sources.files.len();
        self.sources.files.push(Source { name: name.to_owned(), text: String::new() });
        Span { source, start: 0, end: 0 }
    }
}

/// A place of its own: what has none is taken for a name that nobody has chosen.
const fn elsewhere(span: Span) -> Span {
    Span { start: 1, end: 1, ..span }
}

fn service(span: Span, container: &Container, chosen: &BTreeMap<&str, &Container>, project: &str) -> Node {
    let mut entries = vec![
        ("user", text(span, &container.user())),
        // It runs: whatever profile it belongs to was in use.
        ("profiles", list(span, vec![text(span, "running")])),
        ("ports", list(span, ports(span, container))),
        ("volumes", list(span, container.mounts.iter().map(|mount| mount_node(span, mount)).collect())),
        ("cap_add", list(span, capabilities(container).map(|name| text(span, name)).collect())),
    ];
    let labels = container.config.labels.iter().flatten();
    let labels: Map = labels.map(|(key, value)| entry(span, key, text(span, value))).collect();
    entries.push(("labels", node(span, Value::Map(labels))));
    let networks: Map = container.networks().map(|name| entry(span, name, node(span, Value::Null))).collect();
    entries.push(("networks", node(span, Value::Map(networks))));
    // A name with the project in it is one that Compose has made.
    if !container.name.contains(project) {
        entries.push(("container_name", text(span, &container.name)));
    }
    let config = &container.host_config;
    if config.privileged == Some(true) {
        entries.push(("privileged", node(span, Value::Bool(true))));
    }
    for (key, mode) in [
        ("pid", &config.pid_mode),
        ("ipc", &config.ipc_mode),
        ("uts", &config.uts_mode),
        ("userns_mode", &config.userns_mode),
    ] {
        if mode.as_deref() == Some("host") {
            entries.push((key, text(span, "host")));
        }
    }
    match (container.joins(), container.network_mode()) {
        (Some(other), _) => {
            let mode = chosen
                .iter()
                .find(|(_, candidate)| candidate.id == other || candidate.name == other)
                .map_or_else(|| format!("container:{other}"), |(service, _)| format!("service:{service}"));
            entries.push(("network_mode", text(span, &mode)));
        }
        (None, mode @ ("host" | "none")) => entries.push(("network_mode", text(span, mode))),
        (None, _) => {}
    }
    map(span, entries)
}

/// Capabilities that were added; a privileged container has all of them anyway.
fn capabilities(container: &Container) -> impl Iterator<Item = &str> {
    container.host_config.cap_add.iter().flatten().map(String::as_str)
}

fn ports(span: Span, container: &Container) -> Vec<Node> {
    let bindings: BTreeSet<(u16, &str, Option<IpAddr>, u16)> = container.published().collect();
    let any = |address: &Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    let is_on = |number, protocol, outer, v6: bool| {
        bindings.iter().any(|&(inner, proto, address, port)| {
            (inner, proto, port) == (number, protocol, outer)
                && any(&address)
                && address.is_none_or(|address| address.is_ipv6() == v6)
        })
    };
    let mut nodes: Vec<Node> = Vec::new();
    for &(number, protocol, address, outer) in &bindings {
        // Both families on any address: how the engine shows a port that was published without an address.
        let both =
            any(&address) && is_on(number, protocol, outer, false) && is_on(number, protocol, outer, true);
        if both && address.is_some_and(|address| address.is_ipv6()) {
            continue;
        }
        let mut entries = vec![
            ("target", text(span, &number.to_string())),
            ("published", text(span, &outer.to_string())),
            ("protocol", text(span, protocol)),
        ];
        if let Some(address) = address.filter(|_| !both) {
            entries.push(("host_ip", text(span, &address.to_string())));
        }
        // Each port by itself: what differs in the number only would be taken for one entry.
        nodes.push(map(Span { start: nodes.len() + 2, end: nodes.len() + 2, ..span }, entries));
    }
    nodes
}

fn mount_node(span: Span, mount: &super::host::Mount) -> Node {
    let mut entries = vec![("type", text(span, mount.kind.as_deref().unwrap_or("volume")))];
    let source = if mount.kind.as_deref() == Some("volume") { &mount.name } else { &mount.source };
    if let Some(source) = source {
        entries.push(("source", text(span, source)));
    }
    if let Some(destination) = &mount.destination {
        entries.push(("target", text(span, destination)));
    }
    map(span, entries)
}

fn network_node(span: Span, network: &Network, project: &str) -> Node {
    let label = network.labels.as_ref().and_then(|labels| labels.get("com.docker.compose.project"));
    let external = label.is_none_or(|owner| owner != project);
    map(
        span,
        [
            ("name", text(elsewhere(span), &network.name)),
            ("external", node(span, Value::Bool(external))),
            ("enable_ipv6", node(span, Value::Bool(network.ipv6 == Some(true)))),
        ],
    )
}

fn node(span: Span, value: Value) -> Node {
    Node { span, value, tag: None }
}

fn text(span: Span, text: &str) -> Node {
    node(span, Value::Text(text.to_owned()))
}

fn list(span: Span, items: Vec<Node>) -> Node {
    node(span, Value::List(items))
}

fn entry(span: Span, key: &str, node: Node) -> (String, Entry) {
    (key.to_owned(), Entry { key: span, node })
}

fn map<'k>(span: Span, entries: impl IntoIterator<Item = (&'k str, Node)>) -> Node {
    node(span, Value::Map(entries.into_iter().map(|(key, node)| entry(span, key, node)).collect()))
}
