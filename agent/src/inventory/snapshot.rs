//! One view of the host, a plain value: everything the policy resolver and the datapath plan need to know.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

/// Everything that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Container network interfaces on watched bridges, sorted by container name and bridge. One whose `port` is
    /// not known yet is pending.
    pub endpoints: Vec<Endpoint>,
    /// Every bridge of Docker's bridge driver that exists as an interface (file inventory: every bridge that a
    /// listed port belongs to).
    pub bridges: Vec<Bridge>,
    /// Every port of a watched bridge, whether or not a container is known for it.
    pub ports: Vec<Port>,
    /// Interfaces that are neither loopback nor a watched bridge or its port.
    pub uplinks: Vec<Uplink>,
    /// All addresses that the host's own stack answers to: of its interfaces, gateways of bridges included, and the
    /// broadcast addresses of their subnets.
    pub host_addresses: Vec<IpAddr>,
    /// Containers that cannot be enforced, with the reason (`network_mode: host`, macvlan, …).
    pub unenforceable: Vec<Unenforceable>,
}

/// One container network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The full container id, or the port name in a file inventory.
    pub container_id: String,
    pub container: String,
    /// The compose project (`com.docker.compose.project`), unless that label comes from the image.
    pub project: Option<String>,
    /// The compose service (`com.docker.compose.service`), unless that label comes from the image.
    pub service: Option<String>,
    /// Labels that were given to the container, not those of its image.
    pub labels: BTreeMap<String, String>,
    /// The network's name.
    pub network: String,
    /// The bridge's interface name.
    pub bridge: String,
    /// The host-side veth.
    pub port: Option<Interface>,
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<IpAddr>,
    pub published: Vec<Published>,
    /// The resolvers that Docker gave the container, for `dns`.
    pub resolvers: Vec<IpAddr>,
}

/// A port published on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Published {
    /// Unspecified for all addresses.
    pub host_address: IpAddr,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// The protocols that ports can be named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
}

/// An interface that the world is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uplink {
    pub interface: Interface,
    /// Whether its packets have an Ethernet header; those of tunnels start with the IP header.
    pub ethernet: bool,
}

/// A watched bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bridge {
    pub interface: Interface,
    /// The network's name, empty where unknown.
    pub network: String,
    pub subnets: Vec<IpNet>,
}

/// A port of a watched bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub interface: Interface,
    /// The bridge's ifindex.
    pub bridge: u32,
}

/// A running container outside the reach of the bridge hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unenforceable {
    pub container: String,
    pub project: Option<String>,
    pub service: Option<String>,
    /// For people: `uses the host's network`, `network driver macvlan`, …
    pub reason: String,
}
