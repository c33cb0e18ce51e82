//! Reads bytes as each of the engine's answers, and goes on with those that make sense: for `tests/inputs`.

use bollard::models::ImageInspect;

use super::*;
use crate::inventory::{
    containers::Containers,
    links::{Links, Moment},
    merge::{Known, merge},
};

/// Reads bytes as whatever they can be, and merges what that comes to.
pub(crate) fn read_anything(bytes: &[u8]) {
    let mut known = Containers { networks_listed: Some(Moment(1)), ..Containers::default() };
    let image = serde_json::from_slice::<ImageInspect>(bytes).ok().and_then(|image| image.config?.labels);
    let image: BTreeMap<String, String> = image.unwrap_or_default().into_iter().collect();
    let resolvers = || vec![IpAddr::from([192, 0, 2, 53])];
    let mut containers: Vec<Container> = Vec::new();
    if let Ok(response) = serde_json::from_slice::<ContainerInspectResponse>(bytes) {
        containers.extend(container_of(response, &image, std::str::from_utf8(bytes).ok(), resolvers));
    }
    let attachment = serde_json::from_slice::<NetworkInspect>(bytes).ok().and_then(|network| {
        let container = network.containers.as_ref()?.keys().next()?.clone();
        attachment_of(network, &container)
    });
    if let Ok(summary) = serde_json::from_slice::<ContainerSummary>(bytes) {
        containers.extend(starting_of(summary, attachment.into_iter().collect(), &image, resolvers));
    }
    if let Ok(networks) = serde_json::from_slice::<Vec<NetworkModel>>(bytes) {
        known.networks = networks.into_iter().filter_map(network_of).collect();
    }
    if let Ok(event) = serde_json::from_slice::<EventMessage>(bytes) {
        drop(event_of(event));
    }
    known.containers =
        containers.into_iter().map(|container| (container.id.clone(), Arc::new(container))).collect();
    let known = Known::Engine {
        containers: &known,
        namespaces: &BTreeMap::default(),
        other_ends: &BTreeMap::default(),
    };
    drop(merge(known, &Links::default()));
}
