//! The lab without Docker: the same instances as plain namespaces on plain bridges, described by an inventory file.
//! Nothing is published here, since only an engine publishes.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::beyond::{BEYOND, Beyond, listener, wait_until_listening};
use crate::docker_lab::UNMANAGED;
use crate::expectation::{Expectation, Party};
use crate::matrix::{Matrix, Source, Target, direct};
use crate::netns::Netns;
use crate::outside::Outside;
use crate::process::stop_child;
use crate::scratch::Scratch;

/// Instance, and the number of its bridge and networks.
const INSTANCES: [(&str, u8); 3] = [("myapp-dev", 1), ("myapp-test", 2), ("qerds", 3)];
/// The containers that no policy covers: one on an instance's bridge, one on its own.
const STRAYS: [(&str, u8); 2] = [("stray", 1), ("loner", 9)];

/// A namespace that stands for a container.
#[derive(Debug)]
struct Member {
    netns: Netns,
    instance: String,
    service: String,
    port: String,
    mac: String,
    addresses: [IpAddr; 2],
}

/// Everything that runs in the lab.
#[derive(Debug)]
pub struct PlainLab {
    /// The stand-ins' processes.
    children: Vec<Child>,
    beyond: Option<Beyond>,
    kept: bool,
    scratch: Scratch,
    members: Vec<Member>,
    outside: Outside,
    host: Netns,
}

impl PlainLab {
    /// Builds all of it and waits until every stand-in answers.
    pub fn start(step: &dyn Fn(&str)) -> Result<Self> {
        let expectation = expectation("production")?;
        let scratch = Scratch::create()?;
        let host = Netns::create()?;
        host.sysctl(
            "net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1 net/ipv6/conf/default/accept_dad=0",
        )?;
        let outside = Outside::attach(&host)?;
        let mut lab = Self {
            children: Vec::new(),
            beyond: None,
            kept: false,
            scratch,
            members: Vec::new(),
            outside,
            host,
        };
        for number in [1, 2, 3, 9_u8] {
            lab.host.ip_lines(&format!(
                "link add lab{number} type bridge
                 address add 198.18.{number}.1/24 dev lab{number}
                 address add 2001:db8:30:{number}::1/64 dev lab{number} nodad
                 link set lab{number} up"
            ))?;
        }
        for (instance, number) in INSTANCES {
            step(&format!("starting the namespaces of `{instance}`"));
            for service in expectation.services(instance) {
                lab.add(instance, &service, number)?;
            }
        }
        for (name, number) in STRAYS {
            lab.add(UNMANAGED, name, number)?;
        }
        step("starting the stand-ins");
        lab.listen(&expectation)?;
        fs::write(lab.inventory(), lab.inventory_text()?)?;
        Ok(lab)
    }

    fn add(&mut self, instance: &str, service: &str, bridge: u8) -> Result<()> {
        let netns = Netns::create()?;
        netns.sysctl("net/ipv6/conf/default/accept_dad=0")?;
        let number = u8::try_from(self.members.len() + 10).context("too many members")?;
        let port = format!("port{number}");
        let mac = format!("02:00:00:00:{bridge:02x}:{number:02x}");
        let v4 = Ipv4Addr::new(198, 18, bridge, number);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x30, bridge.into(), 0, 0, 0, number.into());
        self.host.plug(&format!("lab{bridge}"), &port, &mac, &netns)?;
        netns.ip_lines(&format!(
            "address add {v4}/24 dev eth0
             address add {v6}/64 dev eth0 nodad
             link set eth0 up
             route add default via 198.18.{bridge}.1
             route add default via 2001:db8:30:{bridge}::1"
        ))?;
        self.members.push(Member {
            netns,
            instance: instance.to_owned(),
            service: service.to_owned(),
            port,
            mac,
            addresses: [IpAddr::V4(v4), IpAddr::V6(v6)],
        });
        Ok(())
    }

    /// One busybox web server for each service and port; it answers with the service's name.
    fn listen(&mut self, expectation: &Expectation) -> Result<()> {
        for member in &self.members {
            for port in expectation.ports(&member.instance, &member.service) {
                self.children.push(listener(&member.netns, &self.scratch, &member.service, port)?);
            }
        }
        for member in &self.members {
            for port in expectation.ports(&member.instance, &member.service) {
                wait_until_listening(&member.netns.path(), &member.service, port)?;
            }
        }
        self.beyond = Some(Beyond::start(&self.host, self.outside.netns(), &self.scratch)?);
        Ok(())
    }

    /// The inventory file that describes the lab to the agent.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.scratch.path().join("inventory.yaml")
    }

    fn inventory_text(&self) -> Result<String> {
        let mut text = String::from("version: 1\nendpoints:\n");
        for member in &self.members {
            let [v4, v6] = member.addresses;
            let Member { port, mac, service, instance, .. } = member;
            let labels = if instance == UNMANAGED {
                String::new()
            } else {
                format!("project: {instance}, service: {service}, ")
            };
            writeln!(
                text,
                "  - {{ port: {port}, {labels}container: {service}-1, mac: \"{mac}\", addresses: [\"{v4}\", \"{v6}\"] }}"
            )?;
        }
        Ok(text)
    }

    /// Every source against every service and port, for the profile in force.
    pub fn matrix(&self, profile: &str) -> Result<Matrix> {
        let expectation = expectation(profile)?;
        let mut sources = Vec::new();
        let mut targets: Vec<Target> = Vec::new();
        for member in &self.members {
            let party = Party::Service { instance: member.instance.clone(), service: member.service.clone() };
            sources.push(Source { party, netns: member.netns.path() });
            let ports = expectation.ports(&member.instance, &member.service);
            targets.extend(direct(&member.instance, &member.service, &ports, &member.addresses));
        }
        targets.extend(Beyond::targets());
        sources.push(Source { party: Party::Host, netns: self.host.path() });
        sources.push(Source { party: Party::Outside, netns: self.outside.netns().path() });
        Ok(Matrix::new(sources, targets, &expectation))
    }

    /// The namespace that the bridges and the agent live in.
    #[must_use]
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// A host outside, which comes in by the uplink.
    #[must_use]
    pub fn outside(&self) -> &Netns {
        self.outside.netns()
    }

    /// The directory of the lab.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Where a service runs.
    pub fn netns_of(&self, instance: &str, service: &str) -> Result<PathBuf> {
        Ok(self.member(instance, service)?.netns.path())
    }

    /// A service's IPv4 address.
    pub fn address_of(&self, instance: &str, service: &str) -> Result<IpAddr> {
        Ok(self.member(instance, service)?.addresses[0])
    }

    fn member(&self, instance: &str, service: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.instance == instance && member.service == service)
            .with_context(|| format!("no namespace for `{instance}/{service}`"))
    }

    /// Leaves everything up when the value goes.
    pub fn keep(&mut self) -> Result<()> {
        self.kept = true;
        if let Some(beyond) = &mut self.beyond {
            beyond.keep();
        }
        for member in &mut self.members {
            member.netns.keep();
        }
        self.outside.keep();
        self.host.keep();
        self.scratch.keep()
    }
}

impl Drop for PlainLab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for child in &mut self.children {
            stop_child(child, Duration::from_secs(1));
        }
    }
}

fn expectation(profile: &str) -> Result<Expectation> {
    Expectation::load(&["app", "qerds", UNMANAGED, BEYOND], profile)
}
