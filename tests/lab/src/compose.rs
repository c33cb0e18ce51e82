//! Compose projects on a lab's engine, and what the engine says about the containers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::engine::DockerHost;
use crate::interrupt;
use crate::process::run;
use crate::tools::Compose;

/// A running container as the engine describes it.
#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub pid: u32,
    pub project: Option<String>,
    pub service: Option<String>,
    pub addresses: Vec<IpAddr>,
    /// Host address and port, container port.
    pub published: Vec<(IpAddr, u16, u16)>,
}

impl Container {
    /// Its first IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }
}

/// Brings a project up. `number` picks its networks: 198.18.N.0/24 and 2001:db8:30:N::/64.
pub fn up(
    host: &DockerHost,
    file: &Path,
    project: &str,
    number: u8,
    settings: &[(&str, &str)],
) -> Result<()> {
    interrupt::check()?;
    let mut command = command(host, file, project);
    command.args(["up", "--detach"]).env("LAB_NETWORK", number.to_string()).envs(settings.iter().copied());
    run(&mut command).with_context(|| format!("failed to bring up `{project}`"))?;
    Ok(())
}

/// Brings a project up with so many replicas of each of these services.
pub fn scale(host: &DockerHost, file: &Path, project: &str, replicas: &[(&str, usize)]) -> Result<()> {
    interrupt::check()?;
    let mut command = command(host, file, project);
    command.args(["up", "--detach"]);
    for (service, count) in replicas {
        command.arg("--scale").arg(format!("{service}={count}"));
    }
    run(&mut command).with_context(|| format!("failed to scale `{project}`"))?;
    Ok(())
}

fn command(host: &DockerHost, file: &Path, project: &str) -> Command {
    let tools = host.tools();
    let mut command = match &tools.compose {
        Compose::Program(program) => Command::new(program),
        Compose::Plugin => {
            let mut command = Command::new(&tools.docker);
            command.arg("compose");
            command
        }
    };
    command
        .arg("--project-name")
        .arg(project)
        .arg("--file")
        .arg(file)
        .env("PATH", &tools.path)
        .env("DOCKER_HOST", host.url())
        .env("COMPOSE_PROJECT_NAME", project)
        .env_remove("DOCKER_CONTEXT");
    command
}

/// Every running container of the engine.
pub fn containers(host: &DockerHost) -> Result<Vec<Container>> {
    let ids = run(host.docker().args(["ps", "--quiet", "--no-trunc"]))?;
    if ids.trim().is_empty() {
        return Ok(Vec::new());
    }
    let text = run(host.docker().arg("inspect").args(ids.split_whitespace()))?;
    let inspected: Vec<Inspected> = serde_json::from_str(&text).context("failed to read `docker inspect`")?;
    let mut containers: Vec<Container> = inspected.into_iter().map(Container::from).collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(containers)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    state: State,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
    networks: BTreeMap<String, Network>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    host_ip: String,
    host_port: String,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "IPAddress")]
    v4: String,
    #[serde(rename = "GlobalIPv6Address")]
    v6: String,
}

impl From<Inspected> for Container {
    fn from(inspected: Inspected) -> Self {
        let label = |key: &str| inspected.config.labels.as_ref()?.get(key).cloned();
        let mut addresses = Vec::new();
        for network in inspected.network_settings.networks.values() {
            // The engine writes an empty text for a family that the network does not have.
            addresses.extend(network.v4.parse::<Ipv4Addr>().map(IpAddr::V4));
            addresses.extend(network.v6.parse::<Ipv6Addr>().map(IpAddr::V6));
        }
        let mut published = Vec::new();
        for (port, bindings) in inspected.network_settings.ports.iter().flatten() {
            let inner = port.split('/').next().and_then(|number| number.parse().ok());
            for binding in bindings.iter().flatten() {
                if let (Ok(address), Ok(outer), Some(inner)) =
                    (binding.host_ip.parse(), binding.host_port.parse(), inner)
                {
                    published.push((address, outer, inner));
                }
            }
        }
        Self {
            project: label("com.docker.compose.project"),
            service: label("com.docker.compose.service"),
            id: inspected.id,
            name: inspected.name.trim_start_matches('/').to_owned(),
            pid: inspected.state.pid,
            addresses,
            published,
        }
    }
}
