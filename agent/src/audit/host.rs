//! What the engine says about the host, as far as an audit asks, and which instances of which policy run on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use serde::Deserialize;

use crate::{
    inventory::docker::look::Looked,
    policy::{
        PolicySet,
        model::{Policy, Target},
    },
};

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// A host's engine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// By name.
    pub containers: Vec<Container>,
    pub networks: Vec<Network>,
    /// As the engine names itself: version and name.
    pub engine: String,
}

/// A running container, as the Engine API prints it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    pub name: String,
    pub image: String,
    pub state: State,
    pub config: Config,
    pub host_config: HostConfig,
    pub mounts: Vec<Mount>,
    pub network_settings: NetworkSettings,
    /// As whom its first process runs, if the kernel could be asked.
    #[serde(skip)]
    pub uid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct State {
    pub pid: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    pub user: Option<String>,
    /// Those of the image are taken out.
    pub labels: Option<BTreeMap<String, String>>,
    pub exposed_ports: Option<Ports>,
}

/// Before 0.21 of the client a map, since then a list; both are only names.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Ports {
    Map(BTreeMap<String, serde_json::Value>),
    List(Vec<String>),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    pub network_mode: Option<String>,
    pub privileged: Option<bool>,
    pub pid_mode: Option<String>,
    pub ipc_mode: Option<String>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: Option<String>,
    pub userns_mode: Option<String>,
    pub cap_add: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
    pub destination: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    pub ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
    pub networks: Option<BTreeMap<String, Attachment>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Binding {
    pub host_ip: Option<String>,
    pub host_port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    #[serde(rename = "IPAddress")]
    pub v4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    pub v6: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    pub name: String,
    pub driver: Option<String>,
    #[serde(rename = "EnableIPv6")]
    pub ipv6: Option<bool>,
    pub internal: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub id: Option<String>,
    pub options: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ipam {
    pub config: Option<Vec<IpamConfig>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamConfig {
    pub subnet: Option<String>,
}

impl Network {
    /// What the kernel calls its bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        let named = self.options.as_ref().and_then(|options| options.get("com.docker.network.bridge.name"));
        let id = self.id.as_deref().unwrap_or_default();
        named.cloned().unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(id)))
    }

    /// Whether an address is one of its own.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let configs = self.ipam.iter().flat_map(|ipam| ipam.config.iter().flatten());
        let mut subnets = configs.filter_map(|config| config.subnet.as_ref()?.parse::<ipnet::IpNet>().ok());
        subnets.any(|subnet| subnet.contains(&address))
    }
}

/// The containers of one instance, under the policy that is for them.
#[derive(Clone, Debug)]
pub struct Instance<'a> {
    pub project: String,
    pub policy: &'a Policy,
    pub containers: Vec<&'a Container>,
}

impl Host {
    /// Reads what the engine has said; what makes no sense is left out and told.
    #[must_use]
    pub fn new(looked: Looked) -> (Self, Vec<String>) {
        let mut unreadable = Vec::new();
        let mut read = |value: serde_json::Value, what: &str| {
            unreadable.push(format!("the engine's answer about {what} cannot be read: {value}"));
        };
        let mut containers: Vec<Container> = Vec::new();
        for value in looked.containers {
            let name = value["Name"].as_str().unwrap_or("a container").to_owned();
            match serde_json::from_value::<Container>(value) {
                Ok(container) => containers.push(container),
                Err(error) => read(error.to_string().into(), &name),
            }
        }
        for container in &mut containers {
            container.name = container.name.trim_start_matches('/').to_owned();
            if let (Some(labels), Some(image)) =
                (&mut container.config.labels, looked.image_labels.get(&container.image))
            {
                // Whoever builds an image must not choose identities.
                labels.retain(|key, value| image.get(key) != Some(value));
            }
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let networks =
            looked.networks.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
        let word = |key: &str| looked.info[key].as_str().unwrap_or("?").to_owned();
        let engine = format!("Docker Engine {} on `{}`", word("ServerVersion"), word("Name"));
        (Self { containers, networks, engine }, unreadable)
    }

    /// Asks the kernel as whom each container runs.
    pub fn ask_kernel(&mut self) {
        for container in &mut self.containers {
            container.uid = uid(container.state.pid, &container.id);
        }
    }

    /// Every instance that runs; of a policy without one, an empty instance.
    #[must_use]
    pub fn instances<'a>(&'a self, policies: &'a PolicySet) -> Vec<Instance<'a>> {
        let mut instances = Vec::new();
        for policy in &policies.policies {
            let mut running: BTreeMap<String, Vec<&Container>> = BTreeMap::new();
            for container in &self.containers {
                let project = match (&policy.target, container.project()) {
                    (Target::Project(glob), Some(project)) if glob.matches(project) => project.to_owned(),
                    (Target::Container(glob), None) if glob.matches(&container.name) => policy.name.clone(),
                    _ => continue,
                };
                running.entry(project).or_default().push(container);
            }
            if running.is_empty() {
                let project = match &policy.target {
                    Target::Project(glob) => glob.to_string(),
                    Target::Container(_) => policy.name.clone(),
                };
                running.insert(project, Vec::new());
            }
            instances.extend(running.into_iter().map(|(project, containers)| Instance {
                project,
                policy,
                containers,
            }));
        }
        instances
    }
}

impl Container {
    fn label(&self, key: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The compose project.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.label(PROJECT)
    }

    /// The compose service, else the container's own name.
    #[must_use]
    pub fn service(&self) -> &str {
        self.label(SERVICE).unwrap_or(&self.name)
    }

    /// Its networks' names. None on the host's network, or in that of another container.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        let own = !matches!(self.network_mode(), "host" | "none") && self.joins().is_none();
        self.network_settings.networks.iter().flatten().filter(move |_| own).map(|(name, _)| name.as_str())
    }

    /// `host`, `none`, `container:ID`, or a network's name.
    #[must_use]
    pub fn network_mode(&self) -> &str {
        self.host_config.network_mode.as_deref().unwrap_or_default()
    }

    /// The container whose network it is in.
    #[must_use]
    pub fn joins(&self) -> Option<&str> {
        self.network_mode().strip_prefix("container:")
    }

    /// Its own addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let attachments = self.network_settings.networks.iter().flatten();
        attachments
            .flat_map(|(_, attachment)| [&attachment.v4, &attachment.v6])
            .filter_map(|text| text.as_ref()?.parse().ok())
    }

    /// Its own ports and where each is published: number, protocol, host address, host port.
    pub fn published(&self) -> impl Iterator<Item = (u16, &str, Option<IpAddr>, u16)> {
        self.network_settings.ports.iter().flatten().flat_map(|(port, bindings)| {
            let parsed = split(port);
            bindings.iter().flatten().filter_map(move |binding| {
                let (number, protocol) = parsed?;
                let address = binding.host_ip.as_ref().and_then(|text| text.parse().ok());
                Some((number, protocol, address, binding.host_port.as_ref()?.parse().ok()?))
            })
        })
    }

    /// The ports that its image or its start names.
    #[must_use]
    pub fn exposed(&self) -> BTreeSet<(u16, String)> {
        let names: Vec<&String> = match &self.config.exposed_ports {
            Some(Ports::Map(map)) => map.keys().collect(),
            Some(Ports::List(list)) => list.iter().collect(),
            None => Vec::new(),
        };
        names
            .into_iter()
            .filter_map(|name| split(name))
            .map(|(port, proto)| (port, proto.to_owned()))
            .collect()
    }

    /// As whom it runs: what the kernel says, else what it was started with; nothing means root.
    #[must_use]
    pub fn user(&self) -> String {
        match (self.uid, self.config.user.as_deref()) {
            (Some(uid), _) => uid.to_string(),
            (None, None | Some("")) => "0".to_owned(),
            (None, Some(user)) => user.to_owned(),
        }
    }

    /// Whether its first process is root on the host.
    #[must_use]
    pub fn is_root(&self) -> bool {
        matches!(self.user().split(':').next(), Some("0" | "root"))
    }
}

/// `80/tcp`.
fn split(port: &str) -> Option<(u16, &str)> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    Some((number.parse().ok()?, protocol))
}

/// The user of a process, if it is the container's: an engine elsewhere has processes of the same numbers.
fn uid(pid: u32, id: &str) -> Option<u32> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if id.is_empty() || !cgroup.contains(id) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
