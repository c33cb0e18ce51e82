//! One bridge with as many members as a test names, each with an address of both families, and on request a host
//! outside. Nothing listens here: tests bring their own sockets and frames.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lab::netns::Netns;
use lab::outside::Outside;
use lab::process::run;
use lab::scratch::Scratch;
use lab::tools;
use serde_json::Value;

use crate::daemon::{Daemon, Refusal};
use crate::packet::Mac;
use crate::{agent_binary, home, prepare};

/// The bridge.
pub const BRIDGE: &str = "lab0";
/// All members belong to it, but for those named `stray`.
const PROJECT: &str = "shop";

/// A namespace that stands for a container of the service of the same name.
#[derive(Debug)]
pub struct Member {
    pub name: &'static str,
    pub netns: Netns,
    /// The bridge's port.
    pub port: String,
    pub mac: Mac,
    pub addresses: [IpAddr; 2],
}

/// The lab; everything in it goes with it.
#[derive(Debug)]
pub struct DualLab {
    members: Vec<Member>,
    outside: Option<Outside>,
    scratch: Scratch,
    host: Netns,
}

impl DualLab {
    /// A lab for frames made by hand, in which nobody else says a word: addresses stand in the inventory only, and what
    /// gets to a member is not answered.
    pub fn quiet(members: &[&'static str], policy: &str) -> Result<Self> {
        Self::build(members, policy, true)
    }

    /// A lab of ordinary stacks.
    pub fn start(members: &[&'static str], policy: &str) -> Result<Self> {
        Self::build(members, policy, false)
    }

    fn build(names: &[&'static str], policy: &str, quiet: bool) -> Result<Self> {
        prepare()?;
        let scratch = Scratch::create()?;
        let host = Netns::create()?;
        host.sysctl("net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1")?;
        settle(&host, quiet)?;
        // Where the module is there, a new namespace's bridges hand their frames to iptables.
        if Path::new("/proc/sys/net/bridge").exists() {
            host.sysctl("net/bridge/bridge-nf-call-iptables=0 net/bridge/bridge-nf-call-ip6tables=0")?;
        }
        // A bridge that snoops joins a group, and says so.
        let snooping = u8::from(!quiet);
        host.ip_lines(&format!(
            "link add {BRIDGE} type bridge mcast_snooping {snooping}
             address add 198.18.7.1/24 dev {BRIDGE}"
        ))?;
        if !quiet {
            host.ip(&format!("address add 2001:db8:30:7::1/64 dev {BRIDGE} nodad"))?;
        }
        host.ip(&format!("link set {BRIDGE} up"))?;
        let mut lab = Self { members: Vec::new(), outside: None, scratch, host };
        for (name, number) in names.iter().zip(10_u8..) {
            lab.add(name, number, quiet)?;
        }
        let directory = lab.path();
        home::furnish(directory)?;
        fs::write(directory.join("policy/shop.yaml"), policy)?;
        fs::write(directory.join("inventory.yaml"), lab.inventory())?;
        Ok(lab)
    }

    fn add(&mut self, name: &'static str, number: u8, quiet: bool) -> Result<()> {
        let netns = Netns::create()?;
        settle(&netns, quiet)?;
        let port = format!("p-{name}");
        let mac = [2, 0, 0, 0, 7, number];
        let v4 = Ipv4Addr::new(198, 18, 7, number);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x30, 7, 0, 0, 0, number.into());
        self.host.plug(BRIDGE, &port, &shown(mac), &netns)?;
        netns.ip("link set eth0 up")?;
        if !quiet {
            netns.ip_lines(&format!(
                "address add {v4}/24 dev eth0
                 address add {v6}/64 dev eth0 nodad
                 route add default via 198.18.7.1
                 route add default via 2001:db8:30:7::1"
            ))?;
        }
        let bridge = tools::find("bridge").context("`bridge` is missing: it is part of iproute2")?;
        run(self.host.command(bridge).args([
            "fdb",
            "replace",
            &shown(mac),
            "dev",
            &port,
            "master",
            "static",
        ]))?;
        self.members.push(Member { name, netns, port, mac, addresses: [v4.into(), v6.into()] });
        Ok(())
    }

    /// Joins a host outside, which knows the way to every member.
    pub fn attach_outside(&mut self) -> Result<()> {
        self.outside = Some(Outside::attach(&self.host)?);
        Ok(())
    }

    /// The namespace of the host outside.
    pub fn outside(&self) -> Result<&Netns> {
        Ok(self.outside.as_ref().context("nobody is outside")?.netns())
    }

    /// The lab's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// The namespace of the bridge.
    #[must_use]
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// A member by name.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.iter().find(|member| member.name == name).with_context(|| format!("no member `{name}`"))
    }

    fn inventory(&self) -> String {
        let mut text = String::from("version: 1\nendpoints:\n");
        for Member { name, port, mac, addresses: [v4, v6], .. } in &self.members {
            let labels = if *name == "stray" {
                String::new()
            } else {
                format!("project: {PROJECT}, service: {name}, ")
            };
            text.push_str(&format!(
                "  - {{ port: {port}, {labels}container: {name}-1, mac: \"{}\", addresses: [\"{v4}\", \"{v6}\"] }}\n",
                shown(*mac)
            ));
        }
        text
    }

    /// Starts the agent, with these lines in its `agent.yaml` beside the lab's paths, and waits until it is ready.
    pub fn run(&self, settings: &str) -> Result<Daemon> {
        home::write_settings(self.path(), settings)?;
        let mut command = self.host.command(agent_binary()?);
        command.args(["run", "--config"]).arg(self.path().join("agent.yaml"));
        home::undisturbed(&mut command);
        let mut daemon = Daemon::spawn(&mut command, &self.host, &self.scratch)?;
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// What `portcullis status -o json` says.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(agent_binary()?);
        command.args(["status", "-o", "json", "--control"]).arg(self.path().join("control.sock"));
        serde_json::from_str(&Refusal::of(&mut command)?.data).context("`status` did not print JSON")
    }

    /// How many events have been written.
    #[must_use]
    pub fn events_written(&self) -> u64 {
        let text = fs::read(self.path().join("events.jsonl")).unwrap_or_default();
        text.iter().filter(|&&byte| byte == b'\n').count() as u64
    }
}

/// Stacks that do not wait before they use an address, or have no IPv6, which would say something unasked.
fn settle(netns: &Netns, quiet: bool) -> Result<()> {
    netns.sysctl(if quiet {
        "net/ipv6/conf/all/disable_ipv6=1 net/ipv6/conf/default/disable_ipv6=1"
    } else {
        "net/ipv6/conf/all/accept_dad=0 net/ipv6/conf/default/accept_dad=0"
    })
}

fn shown(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
