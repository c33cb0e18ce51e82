//! What a container engine told us, as plain values. Knows nothing of interfaces; [`super::merge`] joins the two.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;

use super::{links::Moment, snapshot::Published};

/// The label that names a container's compose project.
pub const PROJECT_LABEL: &str = "com.docker.compose.project";
/// The label that names a container's compose service.
pub const SERVICE_LABEL: &str = "com.docker.compose.service";

/// All that is known of the engine's containers and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    /// Running containers by id.
    pub containers: BTreeMap<String, Arc<Container>>,
    /// Networks by id.
    pub networks: BTreeMap<String, Network>,
    /// When the list that `networks` comes from was asked for; `None` before the first one.
    pub networks_listed: Option<Moment>,
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// Labels that were given to the container, not those of its image.
    pub labels: BTreeMap<String, String>,
    /// Where the container's network comes from.
    pub network_mode: NetworkMode,
    /// The file that stands for the container's network namespace.
    pub sandbox: Option<PathBuf>,
    /// The networks that the container is connected to, sorted by name.
    pub attachments: Vec<Attachment>,
    pub published: Vec<Published>,
    pub resolvers: Vec<IpAddr>,
}

/// A connection of a container to a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub network_name: String,
    pub network_id: String,
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<IpAddr>,
}

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// Its own namespace, on any number of networks.
    Own,
    /// The host's stack.
    Host,
    /// Another container's namespace; the other one's id or name.
    Container(String),
}

/// A network of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    pub driver: String,
    /// The bridge's interface name, if the driver is Docker's bridge driver.
    pub bridge: Option<String>,
    pub subnets: Vec<IpNet>,
}

impl Container {
    /// The compose project.
    #[must_use]
    pub fn project(&self) -> Option<String> {
        self.labels.get(PROJECT_LABEL).cloned()
    }

    /// The compose service.
    #[must_use]
    pub fn service(&self) -> Option<String> {
        self.labels.get(SERVICE_LABEL).cloned()
    }
}

/// The labels that were given to the container. The engine mixes those of its image in, and whoever builds an image
/// must not choose identities.
#[must_use]
pub fn own_labels(
    labels: Option<HashMap<String, String>>,
    image_labels: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    labels
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, value)| image_labels.get(key) != Some(value))
        .collect()
}

/// Reads a MAC address; what is absent or malformed is none.
#[must_use]
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::parse_mac;

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for wrong in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:0:2", "zz:42:ac:11:00:02"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
