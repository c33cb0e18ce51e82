//! The Docker Engine API: requests, and its answers as plain values. The only file that names the client library.
//!
//! Works with Engine 20.10 and later. It only reads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{
        ContainerInspectResponse, ContainerSummary, EventMessage, EventMessageTypeEnum,
        Network as NetworkModel, NetworkInspect, NetworkSettings,
    },
    query_parameters::{
        EventsOptionsBuilder, InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
        ListNetworksOptions,
    },
};
use futures_util::{Stream, StreamExt};

use super::{
    containers::{Attachment, Container, Network, NetworkMode, own_labels, parse_mac},
    resolvers,
    snapshot::{Protocol, Published},
};

#[cfg(fuzzing)]
mod inputs;
mod url;
pub(super) mod watch;

#[cfg(fuzzing)]
pub(crate) use inputs::read_anything;

/// No request may take longer; one that does has failed. An inspection waits while the engine starts or stops
/// that container.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Images never change under their id, so their labels are kept; far more than a host has.
const IMAGE_CACHE: usize = 4096;

/// The engine could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("failed to use docker host `{url}`")]
    Url {
        url: String,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("failed to {what}")]
    Request {
        what: &'static str,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("failed to {what}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { what: &'static str },
    #[error("the engine ended its stream of events")]
    EventsEnded,
}

/// What an event asks to be looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Container(String),
    /// A container was connected to a network, be it running or about to be started.
    Connected {
        container: String,
        network: String,
    },
    Networks,
    Irrelevant,
}

type ImageLabels = Arc<BTreeMap<String, String>>;

/// A connection to the engine.
#[derive(Clone, Debug)]
pub(super) struct Client {
    docker: Docker,
    /// By image id.
    images: Arc<Mutex<HashMap<String, ImageLabels>>>,
}

impl Client {
    /// Connects to `url`, else to what `DOCKER_HOST` names, else to the usual socket.
    pub(super) async fn connect(url: Option<&str>) -> Result<Self, DockerError> {
        let url = &url::resolve(url);
        let use_error = |source| DockerError::Url { url: url.clone(), source };
        let seconds = REQUEST_TIMEOUT.as_secs();
        let docker = match url.split_once("://") {
            Some(("unix", _)) => Docker::connect_with_unix(url, seconds, API_DEFAULT_VERSION),
            Some(("tcp" | "http", _)) => Docker::connect_with_http(url, seconds, API_DEFAULT_VERSION),
            _ => Err(bollard::errors::Error::UnsupportedURISchemeError { uri: url.clone() }),
        }
        .map_err(use_error)?;
        let docker = match tokio::time::timeout(REQUEST_TIMEOUT, docker.negotiate_version()).await {
            // Both clocks run out at the same time; whichever is read first, it is the same trouble.
            Ok(Err(bollard::errors::Error::RequestTimeoutError)) | Err(_) => {
                return Err(DockerError::TimedOut { what: "ask the engine for its version" });
            }
            Ok(docker) => docker.map_err(use_error)?,
        };
        Ok(Self { docker, images: Arc::default() })
    }

    /// What happens from a moment ago on: the engine replays what fell between the two requests when a list is
    /// asked for next.
    pub(super) fn events(&self) -> impl Stream<Item = Result<Event, DockerError>> + Send + use<> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(Duration::from_secs(1)).as_secs().to_string();
        let filters = HashMap::from([("type", vec!["container", "network"])]);
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        self.docker.events(Some(options)).map(|event| match event {
            Ok(event) => Ok(event_of(event)),
            Err(source) => Err(DockerError::Request { what: "follow the engine's events", source }),
        })
    }

    /// A container that is being started or connected, as far as the engine tells without waiting: it answers an
    /// inspection only when it is done, and by then the container's process has run for some milliseconds.
    pub(super) async fn starting(
        &self,
        id: &str,
        networks: &[String],
    ) -> Result<Option<Container>, DockerError> {
        let filters = HashMap::from([("id", vec![id])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = limited("list a container", self.docker.list_containers(Some(options))).await?;
        let Some(summary) = listed.into_iter().find(|summary| summary.id.as_deref() == Some(id)) else {
            return Ok(None);
        };
        let image_labels = match summary.image_id.as_deref() {
            Some(image) => self.image_labels(image).await?,
            None => Arc::default(),
        };
        let mut attachments = Vec::new();
        for network in networks {
            let request = self.docker.inspect_network(network, None::<InspectNetworkOptions>);
            if let Some(network) = found(limited("inspect a network", request).await)? {
                attachments.extend(attachment_of(network, id));
            }
        }
        Ok(starting_of(summary, attachments, &image_labels, host_resolvers))
    }

    /// Whether the engine answers at all.
    pub(super) async fn ping(&self) -> Result<(), DockerError> {
        limited("ping the engine", self.docker.ping()).await.map(drop)
    }

    /// The ids of all containers that have, or will soon have again, a running process.
    pub(super) async fn container_ids(&self) -> Result<BTreeSet<String>, DockerError> {
        let filters = HashMap::from([("status", vec!["running", "paused", "restarting"])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = limited("list containers", self.docker.list_containers(Some(options))).await?;
        Ok(containers.into_iter().filter_map(|container| container.id).collect())
    }

    /// All networks by id.
    pub(super) async fn networks(&self) -> Result<BTreeMap<String, Network>, DockerError> {
        let networks =
            limited("list networks", self.docker.list_networks(None::<ListNetworksOptions>)).await?;
        Ok(networks.into_iter().filter_map(network_of).collect())
    }

    /// One container, if it runs.
    pub(super) async fn container(&self, id: &str) -> Result<Option<Container>, DockerError> {
        let request = self.docker.inspect_container(id, None::<InspectContainerOptions>);
        let Some(response) = found(limited("inspect a container", request).await)? else {
            return Ok(None);
        };
        let image_labels = match response.image.as_deref() {
            Some(image) => self.image_labels(image).await?,
            None => Arc::default(),
        };
        let own = response.resolv_conf_path.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
        Ok(container_of(response, &image_labels, own.as_deref(), host_resolvers))
    }

    /// The labels of an image. None if it was removed under its container: then nothing is known to come from it.
    async fn image_labels(&self, image: &str) -> Result<ImageLabels, DockerError> {
        if let Some(labels) = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(image) {
            return Ok(Arc::clone(labels));
        }
        let response = found(limited("inspect an image", self.docker.inspect_image(image)).await)?;
        let labels = response.and_then(|image| image.config?.labels).unwrap_or_default();
        let labels = Arc::new(labels.into_iter().collect());
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if images.len() >= IMAGE_CACHE {
            images.clear();
        }
        images.insert(image.to_owned(), Arc::clone(&labels));
        Ok(labels)
    }
}

/// Waits for a request, but not for long.
async fn limited<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, DockerError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Err(bollard::errors::Error::RequestTimeoutError)) | Err(_) => Err(DockerError::TimedOut { what }),
        Ok(result) => result.map_err(|source| DockerError::Request { what, source }),
    }
}

/// What is not there is no failure.
fn found<T>(result: Result<T, DockerError>) -> Result<Option<T>, DockerError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(DockerError::Request {
            source: bollard::errors::Error::DockerResponseServerError { status_code: 404, .. },
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn event_of(event: EventMessage) -> Event {
    let (action, actor) = (event.action.unwrap_or_default(), event.actor.unwrap_or_default());
    match (event.typ, action.as_str()) {
        (Some(EventMessageTypeEnum::CONTAINER), "start" | "restart" | "die" | "destroy" | "rename") => {
            actor.id.map_or(Event::Irrelevant, Event::Container)
        }
        (Some(EventMessageTypeEnum::NETWORK), "connect" | "disconnect") => {
            let container = actor.attributes.and_then(|mut attributes| attributes.remove("container"));
            match (container, actor.id) {
                (Some(container), Some(network)) if action == "connect" => {
                    Event::Connected { container, network }
                }
                (Some(container), _) => Event::Container(container),
                (None, _) => Event::Irrelevant,
            }
        }
        (Some(EventMessageTypeEnum::NETWORK), _) => Event::Networks,
        _ => Event::Irrelevant,
    }
}

fn network_of(network: NetworkModel) -> Option<(String, Network)> {
    let (id, driver) = (network.id?, network.driver.unwrap_or_default());
    let mut options = network.options.unwrap_or_default();
    let bridge = (driver == "bridge").then(|| {
        options
            .remove("com.docker.network.bridge.name")
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(&id)))
    });
    let mut subnets: Vec<_> = network
        .ipam
        .and_then(|ipam| ipam.config)
        .into_iter()
        .flatten()
        .filter_map(|config| config.subnet?.parse::<ipnet::IpNet>().ok())
        .map(|subnet| subnet.trunc())
        .collect();
    subnets.sort();
    Some((id, Network { name: network.name.unwrap_or_default(), driver, bridge, subnets }))
}

/// A container, if it runs. `resolv_conf` is the text of its own file, where that can be read.
fn container_of(
    response: ContainerInspectResponse,
    image_labels: &BTreeMap<String, String>,
    resolv_conf: Option<&str>,
    host_resolvers: impl Fn() -> Vec<IpAddr>,
) -> Option<Container> {
    let state = response.state.unwrap_or_default();
    if !(state.running.unwrap_or(false) || state.restarting.unwrap_or(false)) {
        return None;
    }
    let host_config = response.host_config.unwrap_or_default();
    let network_mode = match host_config.network_mode.as_deref() {
        Some("host") => NetworkMode::Host,
        Some(mode) => mode
            .strip_prefix("container:")
            .map_or(NetworkMode::Own, |owner| NetworkMode::Container(owner.to_owned())),
        None => NetworkMode::Own,
    };
    // The engine mixes an image's labels into its containers': whoever builds an image must not choose identities.
    let labels = response.config.and_then(|config| config.labels).unwrap_or_default();
    let labels = labels.into_iter().filter(|(key, value)| image_labels.get(key) != Some(value)).collect();
    let settings = response.network_settings.unwrap_or_default();
    let configured: Vec<IpAddr> =
        host_config.dns.unwrap_or_default().iter().filter_map(|server| server.parse().ok()).collect();
    let resolvers = resolv_conf
        .and_then(resolvers::of_container)
        .or_else(|| (!configured.is_empty()).then_some(configured))
        .unwrap_or_else(host_resolvers);
    let shares = matches!(network_mode, NetworkMode::Container(_));
    Some(Container {
        id: response.id?,
        name: response.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels,
        network_mode,
        published: if shares { Vec::new() } else { published_of(&settings) },
        sandbox: given(settings.sandbox_key.clone()).map(PathBuf::from),
        attachments: if shares { Vec::new() } else { attachments_of(settings) },
        resolvers,
    })
}

/// What a list says of a container that is being started. Its published ports and resolvers of its own follow with
/// the inspection.
fn starting_of(
    summary: ContainerSummary,
    attachments: Vec<Attachment>,
    image_labels: &BTreeMap<String, String>,
    host_resolvers: impl Fn() -> Vec<IpAddr>,
) -> Option<Container> {
    // Links add names of the form `/other/alias`.
    let name = summary.names?.into_iter().find(|name| name.matches('/').count() == 1)?;
    Some(Container {
        id: summary.id?,
        name: name.trim_start_matches('/').to_owned(),
        labels: own_labels(summary.labels, image_labels),
        network_mode: NetworkMode::Own,
        sandbox: None,
        attachments,
        published: Vec::new(),
        resolvers: host_resolvers(),
    })
}

/// The connection of a container to a network, from the network's side.
fn attachment_of(network: NetworkInspect, container: &str) -> Option<Attachment> {
    let endpoint = network.containers?.remove(container)?;
    Some(Attachment {
        network_name: network.name?,
        network_id: network.id?,
        mac: endpoint.mac_address.as_deref().and_then(parse_mac),
        addresses: [endpoint.ipv4_address, endpoint.ipv6_address]
            .into_iter()
            // Here they come with the prefix length.
            .filter_map(|address| given(address)?.split('/').next()?.parse().ok())
            .collect(),
    })
}

fn attachments_of(settings: NetworkSettings) -> Vec<Attachment> {
    let mut attachments: Vec<Attachment> = settings
        .networks
        .unwrap_or_default()
        .into_iter()
        .map(|(network_name, endpoint)| Attachment {
            network_name,
            network_id: endpoint.network_id.unwrap_or_default(),
            mac: endpoint.mac_address.as_deref().and_then(parse_mac),
            addresses: [endpoint.ip_address, endpoint.global_ipv6_address]
                .into_iter()
                .filter_map(|address| given(address)?.parse().ok())
                .collect(),
        })
        .collect();
    attachments.sort();
    attachments
}

fn published_of(settings: &NetworkSettings) -> Vec<Published> {
    let mut published = BTreeSet::new();
    for (target, bindings) in settings.ports.iter().flatten() {
        let (port, protocol) = target.split_once('/').unwrap_or((target, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => continue,
        };
        let Ok(container_port) = port.parse() else {
            continue;
        };
        for binding in bindings.iter().flatten() {
            let host = binding.host_ip.as_deref().filter(|host| !host.is_empty()).unwrap_or("0.0.0.0");
            let (Ok(host_address), Some(Ok(host_port))) =
                (host.parse(), binding.host_port.as_deref().map(str::parse))
            else {
                continue;
            };
            published.insert(Published { host_address, host_port, container_port, protocol });
        }
    }
    published.into_iter().collect()
}

/// Old engines say `""` for what is absent.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn host_resolvers() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    resolvers::of_host(
        &read("/etc/resolv.conf").unwrap_or_default(),
        read("/run/systemd/resolve/resolv.conf").as_deref(),
    )
}

#[cfg(test)]
mod tests;
