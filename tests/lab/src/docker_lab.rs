//! The whole Docker lab of the demo and the tests: two instances of one application, one of another, two containers
//! that no policy knows, and an outside host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::beyond::{BEYOND, Beyond, wait_until_listening};
use crate::compose::{self, Container};
use crate::engine::{DockerHost, HOST_V4, HOST_V6};
use crate::expectation::{Expectation, Party};
use crate::image;
use crate::matrix::{Matrix, Source, Target, Way, direct};
use crate::outside::Outside;
use crate::process::run;
use crate::tools::{Tools, repository};

/// Containers without compose labels count as an instance of this name in the tables.
pub const UNMANAGED: &str = "unmanaged";

/// The compose projects: name, scenario, network number, port that the proxy is published on.
const PROJECTS: [(&str, &str, u8, &str); 3] =
    [("myapp-dev", "app", 1, "80"), ("myapp-test", "app", 2, "8081"), ("qerds", "qerds", 3, "-")];

/// Everything that runs in the lab.
#[derive(Debug)]
pub struct DockerLab {
    // Dropped first: its end of the uplink goes with it.
    pub outside: Outside,
    beyond: Beyond,
    pub host: DockerHost,
    pub containers: Vec<Container>,
}

impl DockerLab {
    /// Starts all of it, opens every path that Docker's own filters would close, and waits until every stand-in
    /// answers. `step` hears what is being done.
    pub fn start(step: &dyn Fn(&str)) -> Result<Self> {
        step("starting a Docker Engine in a network namespace of its own");
        let lab = Self::fill(DockerHost::start(Tools::locate()?)?, step)?;
        lab.host.open_paths()?;
        Ok(lab)
    }

    /// The same with further arguments for the engine, and with Docker's own filters as they are.
    pub fn start_closed(engine: &[&str], step: &dyn Fn(&str)) -> Result<Self> {
        step("starting a Docker Engine in a network namespace of its own");
        Self::fill(DockerHost::start_closed(Tools::locate()?, engine)?, step)
    }

    fn fill(host: DockerHost, step: &dyn Fn(&str)) -> Result<Self> {
        step(&format!("it is Docker Engine {}", host.description()?));
        let outside = Outside::attach(host.netns())?;
        for (project, scenario, number, port) in PROJECTS {
            step(&format!("bringing up `{project}`"));
            let file = repository().join("tests/scenarios").join(scenario).join("compose.yaml");
            compose::up(&host, &file, project, number, &[("PROXY_PORT", port)])?;
        }
        step("starting two containers that no policy covers");
        run(host.docker().args([
            "network",
            "create",
            "--ipv6",
            "--subnet",
            "198.18.9.0/24",
            "--subnet",
            "2001:db8:30:9::/64",
            "loners",
        ]))?;
        for (name, network) in [("stray", "myapp-dev-network"), ("loner", "loners")] {
            run(host.docker().args([
                "run",
                "--detach",
                "--name",
                name,
                "--network",
                network,
                image::NAME,
                "stand-in",
                name,
                "9999",
            ]))?;
        }
        let containers = compose::containers(&host)?;
        let beyond = Beyond::start(host.netns(), outside.netns(), host.scratch())?;
        let lab = Self { outside, beyond, host, containers };
        step("waiting until every stand-in answers");
        lab.wait_until_listening()?;
        Ok(lab)
    }

    /// The stand-ins' own loopback answers: asked inside each container, so that no packet crosses a bridge.
    fn wait_until_listening(&self) -> Result<()> {
        let expectation = Self::expectation("production")?;
        for container in &self.containers {
            let (instance, service) = names(container);
            for port in expectation.ports(&instance, &service) {
                wait_until_listening(&netns_of(container), &container.name, port)?;
            }
        }
        Ok(())
    }

    /// The tables for the whole lab.
    pub fn expectation(profile: &str) -> Result<Expectation> {
        Expectation::load(&["app", "qerds", UNMANAGED, BEYOND], profile)
    }

    /// Every source against every service and port, for the profile in force.
    pub fn matrix(&self, profile: &str) -> Result<Matrix> {
        let expectation = Self::expectation(profile)?;
        let mut sources = Vec::new();
        let mut targets = Vec::new();
        for container in &self.containers {
            let (instance, service) = names(container);
            let ports = expectation.ports(&instance, &service);
            targets.extend(direct(&instance, &service, &ports, &container.addresses));
            for (address, outer, inner) in &container.published {
                targets.extend(published(&instance, &service, *address, *outer, *inner));
            }
            sources.push(Source { party: Party::Service { instance, service }, netns: netns_of(container) });
        }
        sources.push(Source { party: Party::Host, netns: self.host.netns().path() });
        sources.push(Source { party: Party::Outside, netns: self.outside.netns().path() });
        targets.extend(Beyond::targets());
        targets.sort_by(|a, b| {
            (&a.instance, &a.service, a.port, a.way).cmp(&(&b.instance, &b.service, b.port, b.way))
        });
        Ok(Matrix::new(sources, targets, &expectation))
    }

    /// A container by project and service.
    pub fn container(&self, project: &str, service: &str) -> Result<&Container> {
        self.containers
            .iter()
            .find(|container| names(container) == (project.to_owned(), service.to_owned()))
            .with_context(|| format!("no container `{project}/{service}`"))
    }

    /// Leaves everything up when the value goes.
    pub fn keep(&mut self) -> Result<()> {
        self.outside.keep();
        self.beyond.keep();
        self.host.keep()
    }
}

fn names(container: &Container) -> (String, String) {
    match (&container.project, &container.service) {
        (Some(project), Some(service)) => (project.clone(), service.clone()),
        _ => (UNMANAGED.to_owned(), container.name.clone()),
    }
}

/// The namespace that a container lives in.
#[must_use]
pub fn netns_of(container: &Container) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", container.pid))
}

/// Where a binding can be called: any address stands for the host's address of that family.
fn published(instance: &str, service: &str, bound: IpAddr, outer: u16, inner: u16) -> Option<Target> {
    let (address, way) = match bound {
        IpAddr::V4(bound) if bound.is_unspecified() => (IpAddr::V4(HOST_V4), Way::Published),
        IpAddr::V6(bound) if bound.is_unspecified() => (IpAddr::V6(HOST_V6), Way::Published),
        bound if bound.is_loopback() => (bound, Way::Loopback),
        _ => return None,
    };
    Some(Target {
        instance: instance.to_owned(),
        service: service.to_owned(),
        port: inner,
        address: SocketAddr::new(address, outer),
        way,
    })
}
