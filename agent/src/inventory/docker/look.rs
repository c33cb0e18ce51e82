//! The whole engine, looked at once and in the engine's own words: what an audit reads.

use std::{collections::BTreeMap, time::Duration};

use bollard::query_parameters::{InspectContainerOptions, ListNetworksOptions};
use serde::Serialize;
use serde_json::Value;

use super::{Client, DockerError, found, limited};

/// A host has hundreds of containers at most; an engine that answers slowly is not waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// What the engine says, as its API prints it.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// `GET /containers/{id}/json` of all that run.
    pub containers: Vec<Value>,
    /// `GET /networks`.
    pub networks: Vec<Value>,
    /// The labels of images, by id.
    pub image_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// `GET /info`.
    pub info: Value,
}

/// Looks at the engine at `url`, else at `DOCKER_HOST`, else at the usual socket.
pub async fn look(url: Option<&str>) -> Result<Looked, DockerError> {
    tokio::time::timeout(LIMIT, look_patiently(url))
        .await
        .unwrap_or(Err(DockerError::TimedOut { what: "look at all containers" }))
}

async fn look_patiently(url: Option<&str>) -> Result<Looked, DockerError> {
    let client = Client::connect(url).await?;
    let docker = &client.docker;
    let mut looked = Looked {
        info: plain(&limited("ask the engine about itself", docker.info()).await?),
        ..Looked::default()
    };
    let networks = limited("list networks", docker.list_networks(None::<ListNetworksOptions>)).await?;
    looked.networks = networks.iter().map(plain).collect();
    for id in client.container_ids().await? {
        let request = docker.inspect_container(&id, None::<InspectContainerOptions>);
        // What has gone in the meantime does not run.
        let Some(container) = found(limited("inspect a container", request).await)? else { continue };
        if let Some(image) = &container.image {
            let labels = client.image_labels(image).await?;
            looked.image_labels.insert(image.clone(), BTreeMap::clone(&labels));
        }
        looked.containers.push(plain(&container));
    }
    Ok(looked)
}

/// The client's types print what they have read.
fn plain(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

/// What an engine has answered before and somebody wrote down, read by the client's types as if it were asked now.
#[cfg(test)]
pub(crate) fn recorded(
    containers: Vec<Value>,
    networks: Vec<Value>,
    image_labels: BTreeMap<String, BTreeMap<String, String>>,
    info: Value,
) -> Looked {
    fn through<T: Serialize + serde::de::DeserializeOwned>(answers: Vec<Value>) -> Vec<Value> {
        let typed = answers.into_iter().map(|answer| serde_json::from_value::<T>(answer).unwrap());
        typed.map(|answer| plain(&answer)).collect()
    }
    Looked {
        containers: through::<bollard::models::ContainerInspectResponse>(containers),
        networks: through::<bollard::models::Network>(networks),
        image_labels,
        info,
    }
}
