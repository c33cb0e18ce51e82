//! The lab of one measurement: a client and a server on one bridge, in namespaces of their own without a way out. A
//! fresh one for each measurement, so that what one configuration leaves in the kernel is not measured by the next.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use lab::agent::{Agent, Inventory};
use lab::netns::{Netns, join};
use lab::process::shown;
use lab::scratch::Scratch;

use super::policy::neighbour;

/// The compose project that the inventory file makes of the lab.
pub(super) const PROJECT: &str = "bench";
/// Endpoints that a policy names and nobody speaks to.
pub(super) const NEIGHBOURS: usize = 8;

const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 2), Ipv6Addr::new(0x2001, 0xdb8, 0xbe, 0, 0, 0, 0, 2));
const SERVER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 3), Ipv6Addr::new(0x2001, 0xdb8, 0xbe, 0, 0, 0, 0, 3));

/// Which of the two protocols carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// The client's and the server's.
    pub(super) fn addresses(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 => (CLIENT.0.into(), SERVER.0.into()),
            Self::V6 => (CLIENT.1.into(), SERVER.1.into()),
        }
    }

    pub(super) fn iptables_restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// The name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Whether bridged packets can be made to pass the IP firewall here.
pub(super) fn bridge_netfilter_is_there() -> bool {
    Path::new(BRIDGE_NETFILTER).exists()
}

/// The lab. Its agent goes first and its directory last, where the agent's pins are mounted.
#[derive(Debug)]
pub(super) struct Stage {
    family: Family,
    agent: Option<Agent>,
    client: Netns,
    server: Netns,
    _neighbours: Netns,
    host: Netns,
    scratch: Scratch,
}

impl Stage {
    /// Builds it, with nothing enforced.
    pub(super) fn build(family: Family) -> Result<Self> {
        let scratch = Scratch::create()?;
        let (host, client, server) = (Netns::create()?, Netns::create()?, Netns::create()?);
        let neighbours = Netns::create()?;
        host.ip_lines("link add br0 type bridge\nlink set br0 up")?;
        for (netns, port, number, (v4, v6)) in [(&client, "p2", 2, CLIENT), (&server, "p3", 3, SERVER)] {
            netns.sysctl("net/ipv6/conf/default/accept_dad=0")?;
            host.ip(&format!(
                "link add {port} type veth peer name eth0 address {} netns {}",
                mac(number),
                netns.name()
            ))?;
            host.ip(&format!("link set {port} master br0 up"))?;
            netns.ip_lines(&format!(
                "address add {v4}/24 dev eth0
                 address add {v6}/64 dev eth0 nodad
                 link set eth0 up"
            ))?;
        }
        for number in 0..NEIGHBOURS {
            join(&host, &format!("n{number}"), &neighbours, &format!("n{number}"))?;
            host.ip(&format!("link set n{number} master br0"))?;
        }
        let stage = Self { family, agent: None, client, server, _neighbours: neighbours, host, scratch };
        // A new namespace has it on where the module is there.
        stage.bridge_netfilter(false)?;
        Ok(stage)
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn client(&self) -> &Netns {
        &self.client
    }

    pub(super) fn server(&self) -> &Netns {
        &self.server
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(super) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Whether bridged packets pass the IP firewall of the host's namespace.
    pub(super) fn bridge_netfilter(&self, on: bool) -> Result<()> {
        if !bridge_netfilter_is_there() {
            return Ok(());
        }
        let value = u8::from(on);
        self.host.sysctl(&format!(
            "net/bridge/bridge-nf-call-iptables={value} net/bridge/bridge-nf-call-ip6tables={value} net/bridge/bridge-nf-call-arptables=0"
        ))
    }

    /// Runs a command in the host's namespace with `text` for input.
    pub(super) fn feed(&self, command_line: &[&str], text: &str) -> Result<()> {
        let (program, arguments) = command_line.split_first().context("no command")?;
        let mut command = self.host.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("failed to run `{}`", shown(&command)))?;
        let written = child.stdin.take().context("no input")?.write_all(text.as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("`{}` failed: {}", shown(&command), String::from_utf8_lossy(&output.stderr).trim());
        }
        written.context("the rules were not read")
    }

    /// Starts the agent and waits until it enforces.
    pub(super) fn start_agent(&mut self, binary: &Path, policy: &str, more: &[&str]) -> Result<()> {
        let policy_file = self.scratch.path().join("policy.yaml");
        let inventory = self.scratch.path().join("inventory.yaml");
        fs::write(&policy_file, policy)?;
        fs::write(&inventory, inventory_text())?;
        self.agent = Some(Agent::start_with(
            binary,
            &self.host,
            &self.scratch,
            &policy_file,
            &Inventory::File(inventory),
            "bench",
            more,
        )?);
        Ok(())
    }
}

fn mac(number: usize) -> String {
    format!("02:00:00:00:be:{number:02x}")
}

/// Both ends and the neighbours, as the agent is told of them.
fn inventory_text() -> String {
    let mut text = String::from("version: 1\nendpoints:\n");
    let mut endpoint = |port: &str, service: &str, number: usize, addresses: &str| {
        text.push_str(&format!(
            "  - {{ port: {port}, project: {PROJECT}, service: {service}, container: {service}-1, mac: \"{}\", addresses: [{addresses}] }}\n",
            mac(number)
        ));
    };
    for (port, service, number, (v4, v6)) in [("p2", "client", 2, CLIENT), ("p3", "server", 3, SERVER)] {
        endpoint(port, service, number, &format!("\"{v4}\", \"{v6}\""));
    }
    for number in 0..NEIGHBOURS {
        let last = 0x10 + number;
        let addresses = format!("\"198.51.100.{last}\", \"2001:db8:be::{last:x}\"");
        endpoint(&format!("n{number}"), &neighbour(number), last, &addresses);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inventory_names_both_ends_and_every_neighbour() {
        let text = inventory_text();
        assert_eq!(text.matches("port: ").count(), 2 + NEIGHBOURS);
        assert!(text.contains("port: p3, project: bench, service: server, container: server-1, mac: \"02:00:00:00:be:03\", addresses: [\"198.51.100.3\", \"2001:db8:be::3\"]"));
        assert!(text.contains("service: neighbour-7"));
    }
}
