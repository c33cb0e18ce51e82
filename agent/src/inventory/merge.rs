//! Joins what the engine (or a file) says with what the kernel says into one [`Snapshot`]. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use agent_common::endpoint::MAX_ADDRESSES;
use ipnet::IpNet;

use super::{
    containers::{Container, Containers, Network, NetworkMode},
    file::Listed,
    links::{Link, Links},
    snapshot::{Bridge, Endpoint, Interface, Obstacle, Port, Snapshot, Unenforceable, Uplink},
};

/// How old a bridge with one of Docker's names must be before a network list that lacks it counts, in nanoseconds:
/// the engine makes the bridge before it registers the network.
const REGISTRATION_GRACE: u64 = 2_000_000_000;

/// Where knowledge of containers comes from.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    Engine {
        containers: &'a Containers,
        /// Namespace numbers by the file that stands for the namespace.
        namespaces: &'a BTreeMap<PathBuf, i32>,
        /// The MAC address at the other end of ports that lead into a namespace which no running container is
        /// known to have, by ifindex.
        other_ends: &'a BTreeMap<u32, [u8; 6]>,
    },
    File(&'a [Listed]),
}

/// Everything that is known, in a fixed order.
#[must_use]
pub fn merge(known: Known<'_>, links: &Links) -> Snapshot {
    let bridges = match known {
        Known::Engine { containers, .. } => engine_bridges(containers, links),
        Known::File(listed) => file_bridges(listed, links),
    };
    let watched: BTreeSet<u32> = bridges.iter().map(|bridge| bridge.interface.ifindex).collect();
    let (mut endpoints, mut unenforceable) = match known {
        Known::Engine { containers, namespaces, other_ends } => {
            engine_endpoints(containers, namespaces, other_ends, links)
        }
        Known::File(listed) => (file_endpoints(listed, links), Vec::new()),
    };
    endpoints.sort_by(|a, b| {
        (&a.container, &a.bridge, &a.container_id, &a.network).cmp(&(
            &b.container,
            &b.bridge,
            &b.container_id,
            &b.network,
        ))
    });
    unenforceable.extend(endpoints.iter().filter(|endpoint| endpoint.addresses.len() > MAX_ADDRESSES).map(
        |endpoint| Unenforceable {
            container: endpoint.container.clone(),
            project: endpoint.project.clone(),
            service: endpoint.service.clone(),
            labels: endpoint.labels.clone(),
            obstacle: Obstacle::Addresses { count: endpoint.addresses.len() },
        },
    ));
    unenforceable.sort_by(|a, b| (&a.container, &a.obstacle).cmp(&(&b.container, &b.obstacle)));

    let ports = links
        .links
        .values()
        .filter_map(|link| {
            let bridge = link.master.filter(|master| watched.contains(master))?;
            Some(Port { interface: interface(link), bridge })
        })
        .collect();
    let uplinks = links
        .links
        .values()
        .filter(|link| is_uplink(link, links, &watched))
        .map(|link| Uplink {
            interface: interface(link),
            ethernet: link.ethernet,
            port: link.master.is_some(),
        })
        .collect();
    let host_addresses: BTreeSet<_> = links
        .addresses
        .values()
        .flatten()
        .flat_map(|net| [net.addr()].into_iter().chain(broadcast(net)))
        .collect();

    Snapshot {
        endpoints,
        bridges,
        ports,
        uplinks,
        host_addresses: host_addresses.into_iter().collect(),
        unenforceable,
    }
}

/// The bridges of all bridge networks that exist, and those that by their name will soon be one.
fn engine_bridges(containers: &Containers, links: &Links) -> Vec<Bridge> {
    let networks: BTreeMap<&str, &Network> = containers
        .networks
        .values()
        .filter_map(|network| Some((network.bridge.as_deref()?, network)))
        .collect();
    let mut bridges: Vec<Bridge> = links
        .links
        .values()
        .filter(|link| link.kind == "bridge")
        .filter_map(|link| match networks.get(link.name.as_str()) {
            Some(network) => Some(Bridge {
                interface: interface(link),
                network: network.name.clone(),
                subnets: network.subnets.clone(),
            }),
            // A fresh bridge's first port must be hooked before the engine has answered for the network.
            None => (is_docker_name(&link.name) && !is_refuted(link, containers)).then(|| Bridge {
                interface: interface(link),
                network: String::new(),
                subnets: prefixes(link.ifindex, links),
            }),
        })
        .collect();
    bridges.sort_by(|a, b| a.interface.name.cmp(&b.interface.name));
    bridges
}

/// Docker's own names for bridges: `docker0` and `br-` with twelve hexadecimal digits.
fn is_docker_name(name: &str) -> bool {
    name == "docker0"
        || name.strip_prefix("br-").is_some_and(|id| {
            id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
}

/// Whether a list of networks without this bridge was taken when the bridge had long been there.
fn is_refuted(link: &Link, containers: &Containers) -> bool {
    containers.networks_listed.is_some_and(|listed| match link.appeared {
        Some(appeared) => listed.0 > appeared.0.saturating_add(REGISTRATION_GRACE),
        None => true,
    })
}

fn engine_endpoints(
    containers: &Containers,
    namespaces: &BTreeMap<PathBuf, i32>,
    other_ends: &BTreeMap<u32, [u8; 6]>,
    links: &Links,
) -> (Vec<Endpoint>, Vec<Unenforceable>) {
    let ports = ports_by_namespace(links);
    let starting_ports = ports_by_other_end(other_ends, links);
    let mut endpoints = Vec::new();
    let mut unenforceable = Vec::new();
    for container in containers.containers.values() {
        unenforceable.extend(obstacles(container, containers).into_iter().map(|obstacle| Unenforceable {
            container: container.name.clone(),
            project: container.project(),
            service: container.service(),
            labels: container.labels.clone(),
            obstacle,
        }));
        let namespace = container.sandbox.as_deref().and_then(|sandbox: &Path| namespaces.get(sandbox));
        for attachment in &container.attachments {
            let network = containers.networks.get(&attachment.network_id);
            let Some(bridge) = network.and_then(|network| network.bridge.as_ref()) else {
                continue;
            };
            // A container that is restarting is on the list without having an interface.
            if attachment.mac.is_none() && attachment.addresses.is_empty() {
                continue;
            }
            let port = match (&container.sandbox, namespace, attachment.mac) {
                (Some(_), Some(&namespace), _) => ports.get(&(namespace, bridge.as_str())),
                // Not running yet: nothing in its namespace can have forged the address.
                (None, _, Some(mac)) => starting_ports.get(&(mac, bridge.as_str())),
                _ => None,
            };
            let port = port.copied().flatten();
            endpoints.push(engine_endpoint(container, attachment, bridge, port.map(interface)));
        }
    }
    (endpoints, unenforceable)
}

/// What keeps a container, as a whole or with one of its networks, out of reach.
fn obstacles(container: &Container, containers: &Containers) -> Vec<Obstacle> {
    let NetworkMode::Container(named) = &container.network_mode else {
        return own_obstacles(container, containers);
    };
    let owner = containers
        .containers
        .get(named)
        .or_else(|| containers.containers.values().find(|other| other.name == *named));
    let Some(owner) = owner else {
        // An owner that has ended leaves its network to the others.
        return vec![Obstacle::SharedNetwork { owner_id: named.clone(), owner: named.clone() }];
    };
    // It is wherever its owner is.
    let mut obstacles = own_obstacles(owner, containers);
    if owner.network_mode == NetworkMode::Own {
        obstacles.push(Obstacle::SharedNetwork { owner_id: owner.id.clone(), owner: owner.name.clone() });
    }
    obstacles
}

fn own_obstacles(container: &Container, containers: &Containers) -> Vec<Obstacle> {
    if container.network_mode == NetworkMode::Host {
        return vec![Obstacle::HostNetwork];
    }
    let networks =
        container.attachments.iter().filter_map(|attachment| containers.networks.get(&attachment.network_id));
    networks
        .filter(|network| network.bridge.is_none())
        .filter_map(|network| {
            let name = network.name.clone();
            match network.driver.as_str() {
                "host" | "null" => None,
                "overlay" => Some(Obstacle::Swarm { network: name }),
                driver => Some(Obstacle::Driver { driver: driver.to_owned(), network: name }),
            }
        })
        .collect()
}

fn engine_endpoint(
    container: &Container,
    attachment: &super::containers::Attachment,
    bridge: &str,
    port: Option<Interface>,
) -> Endpoint {
    Endpoint {
        container_id: container.id.clone(),
        container: container.name.clone(),
        project: container.project(),
        service: container.service(),
        labels: container.labels.clone(),
        network: attachment.network_name.clone(),
        bridge: bridge.to_owned(),
        port,
        mac: attachment.mac,
        addresses: attachment.addresses.clone(),
        published: container.published.clone(),
        resolvers: container.resolvers.clone(),
    }
}

/// Ports by the namespace at their other end and the name of their bridge; `None` where two would fit, because
/// a guess could give one container the rights of another.
fn ports_by_namespace(links: &Links) -> BTreeMap<(i32, &str), Option<&Link>> {
    let mut ports = BTreeMap::new();
    for link in links.links.values() {
        let Some(namespace) = link.netns_id else { continue };
        let Some(bridge) = link.master.and_then(|master| links.links.get(&master)) else {
            continue;
        };
        ports.entry((namespace, bridge.name.as_str())).and_modify(|port| *port = None).or_insert(Some(link));
    }
    ports
}

/// Ports by the address at their other end and the name of their bridge; `None` where two would fit.
fn ports_by_other_end<'a>(
    other_ends: &BTreeMap<u32, [u8; 6]>,
    links: &'a Links,
) -> BTreeMap<([u8; 6], &'a str), Option<&'a Link>> {
    let mut ports = BTreeMap::new();
    for (ifindex, &mac) in other_ends {
        let Some(link) = links.links.get(ifindex) else {
            continue;
        };
        let Some(bridge) = link.master.and_then(|master| links.links.get(&master)) else {
            continue;
        };
        ports.entry((mac, bridge.name.as_str())).and_modify(|port| *port = None).or_insert(Some(link));
    }
    ports
}

fn file_bridges(listed: &[Listed], links: &Links) -> Vec<Bridge> {
    let masters: BTreeSet<u32> =
        listed.iter().filter_map(|endpoint| links.by_name(&endpoint.port)?.master).collect();
    let mut bridges: Vec<Bridge> = masters
        .into_iter()
        .filter_map(|ifindex| links.links.get(&ifindex))
        .filter(|link| link.kind == "bridge")
        .map(|link| Bridge {
            interface: interface(link),
            network: link.name.clone(),
            subnets: prefixes(link.ifindex, links),
        })
        .collect();
    bridges.sort_by(|a, b| a.interface.name.cmp(&b.interface.name));
    bridges
}

fn file_endpoints(listed: &[Listed], links: &Links) -> Vec<Endpoint> {
    listed
        .iter()
        .map(|endpoint| {
            let port = links.by_name(&endpoint.port);
            let bridge = port
                .and_then(|port| links.links.get(&port.master?))
                .filter(|bridge| bridge.kind == "bridge")
                .map(|bridge| bridge.name.clone());
            Endpoint {
                container_id: endpoint.port.clone(),
                container: endpoint.container.clone(),
                project: endpoint.project.clone(),
                service: endpoint.service.clone(),
                labels: endpoint.labels.clone(),
                network: bridge.clone().unwrap_or_default(),
                // An interface that is not a bridge's port is not one that can be enforced.
                port: bridge.is_some().then(|| port.map(interface)).flatten(),
                bridge: bridge.unwrap_or_default(),
                mac: endpoint.mac,
                addresses: endpoint.addresses.clone(),
                published: endpoint.published.clone(),
                resolvers: Vec::new(),
            }
        })
        .collect()
}

/// Whether packets of the world may come in here.
fn is_uplink(link: &Link, links: &Links, watched: &BTreeSet<u32>) -> bool {
    let is_port = |link: &Link| link.master.is_some_and(|master| watched.contains(&master));
    if link.loopback || watched.contains(&link.ifindex) || is_port(link) {
        return false;
    }
    // Older engines make a container's pair of veths here and then move one end away. A program attached to that
    // end would go with it, into the container. A pair that carries the world is up.
    if link.kind == "veth" && link.master.is_none() {
        let other_end_is_port =
            link.netns_id.is_none() && link.peer.and_then(|peer| links.links.get(&peer)).is_some_and(is_port);
        return link.up && !other_end_is_port;
    }
    true
}

/// The address that stands for all of an interface's subnet; a link between two ends has none.
fn broadcast(net: &IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(IpAddr::V4(net.broadcast())),
        _ => None,
    }
}

/// The subnets that an interface is in, link-local ones apart.
fn prefixes(ifindex: u32, links: &Links) -> Vec<IpNet> {
    let subnets: BTreeSet<IpNet> = links
        .addresses_of(ifindex)
        .filter(|address| match address {
            IpNet::V4(address) => !address.addr().is_link_local(),
            IpNet::V6(address) => !address.addr().is_unicast_link_local(),
        })
        .map(|address| address.trunc())
        .collect();
    subnets.into_iter().collect()
}

fn interface(link: &Link) -> Interface {
    Interface { ifindex: link.ifindex, name: link.name.clone() }
}

#[cfg(test)]
mod tests;
