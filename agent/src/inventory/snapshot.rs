//! One view of the host, a plain value: everything the policy resolver and the datapath plan need to know.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use agent_common::endpoint::MAX_ADDRESSES;
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
    /// Containers that the hooks do not tell apart or do not see (`network_mode: host`, macvlan, …), sorted by name.
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
    /// Whether it is a port of a bridge (or bond, VRF) that is not watched.
    pub port: bool,
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
    /// Labels that were given to the container, not those of its image.
    pub labels: BTreeMap<String, String>,
    pub obstacle: Obstacle,
}

/// What keeps a container out of reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Obstacle {
    /// `network_mode: host`, or that of a container that has it.
    HostNetwork,
    /// `network_mode: container:…`, which compose also makes of `service:…`: on the wire the two are one, and have the
    /// rights of the owner.
    SharedNetwork {
        /// The owner's full id.
        owner_id: String,
        owner: String,
    },
    /// A Swarm overlay network: its bridges are in namespaces of their own.
    Swarm { network: String },
    /// A network of another driver than Docker's bridge.
    Driver { driver: String, network: String },
    /// More addresses than a port can have. It gets and sends nothing.
    Addresses { count: usize },
}

impl Obstacle {
    /// Every word that [`Self::name`] can give.
    pub const NAMES: [&str; 7] = [
        "host_network",
        "shared_network",
        "swarm",
        "macvlan",
        "ipvlan",
        "other_driver",
        "too_many_addresses",
    ];

    /// The word used in metrics and status.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::SharedNetwork { .. } => "shared_network",
            Self::Swarm { .. } => "swarm",
            Self::Driver { driver, .. } if driver == "macvlan" => "macvlan",
            Self::Driver { driver, .. } if driver == "ipvlan" => "ipvlan",
            Self::Driver { .. } => "other_driver",
            Self::Addresses { .. } => "too_many_addresses",
        }
    }
}

/// For people, after the container's name.
impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => formatter.write_str("uses the host's network"),
            Self::SharedNetwork { owner, .. } => {
                write!(
                    formatter,
                    "shares the network of container `{owner}`, and has its rights instead of its own"
                )
            }
            Self::Swarm { network } => write!(formatter, "is on the Swarm network `{network}`"),
            Self::Driver { driver, network } => {
                write!(formatter, "is on network `{network}` of driver {driver}")
            }
            Self::Addresses { count } => {
                write!(
                    formatter,
                    "has {count} addresses, more than {MAX_ADDRESSES}, and gets and sends nothing"
                )
            }
        }
    }
}
