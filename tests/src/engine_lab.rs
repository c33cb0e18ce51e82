//! An engine with one service to protect, an agent beside it, and containers that a test starts as it likes. Some send
//! from their first instruction on.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::compose::{self, Container};
use lab::docker_lab::netns_of;
use lab::engine::DockerHost;
use lab::image;
use lab::netns::Netns;
use lab::probe::attempts;
use lab::process::{output, run, shown};
use lab::tools::{Tools, repository};

use crate::daemon::Daemon;
use crate::{agent_binary, home, prepare};

/// The image of those who only send.
const SENDER: &str = "portcullis-lab/sender:latest";
/// Where `db` may be reached by TCP and UDP by those who are let, and a port of it where nobody listens or may reach.
pub const OPEN: u16 = 5432;
pub const OPEN_UDP: u16 = 6000;
pub const CLOSED_UDP: u16 = 9999;
/// `api`, and containers that are called `worker-…`, may call `db`.
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  web: {}
  api: {}
  worker:
    select: { container: \"worker-*\" }
  db:
    ports: [5432/tcp, 6000/udp]
    from: [api, worker]
";

/// The lab; everything in it goes with it.
#[derive(Debug)]
pub struct EngineLab {
    pub host: DockerHost,
}

impl EngineLab {
    /// Starts an engine with two networks, `front` and `back`, and nothing on them.
    pub fn start() -> Result<Self> {
        prepare()?;
        let host = DockerHost::start(Tools::locate()?)?;
        let lab = Self { host };
        lab.make_sender()?;
        lab.docker("network create --subnet 198.18.1.0/24 front")?;
        lab.docker("network create --subnet 198.18.2.0/24 back")?;
        lab.host.open_paths()?;
        let directory = lab.directory();
        home::furnish(&directory)?;
        fs::write(directory.join("policy/shop.yaml"), POLICY)?;
        Ok(lab)
    }

    fn make_sender(&self) -> Result<()> {
        let root = self.host.scratch().path().join("sender");
        fs::create_dir_all(&root)?;
        let source = repository().join("tests/scenarios/first/sender.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(rustc);
        command.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]);
        run(command.arg(root.join("sender")).arg(source)).context("failed to build the sender")?;
        let archive = self.host.scratch().path().join("sender.tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."))?;
        run(self.host.docker().arg("import").arg(archive).arg(SENDER))?;
        Ok(())
    }

    /// Where the policies, the pins and the sockets are.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.host.scratch().path().join("agent")
    }

    /// The pin directory.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.directory().join("bpf/portcullis")
    }

    /// Starts an agent that asks this engine, with more flags, and waits until it is ready.
    pub fn agent(&self, flags: &[&str]) -> Result<Daemon> {
        self.agent_of(&self.host.url(), flags)
    }

    /// The same for an engine at another address.
    pub fn agent_of(&self, url: &str, flags: &[&str]) -> Result<Daemon> {
        let directory = self.directory();
        let mut command = self.host.netns().command(agent_binary()?);
        command.args(["run", "--inventory", "docker", "--docker-host", url, "--policy"]);
        command.arg(directory.join("policy")).arg("--pin-dir").arg(self.pins());
        command.arg("--control").arg(directory.join("control.sock"));
        command.arg("--state-dir").arg(directory.join("state"));
        command.arg("--events").arg(directory.join("events.jsonl")).args(flags);
        home::undisturbed(&mut command);
        let mut agent = Daemon::spawn(&mut command, self.host.netns(), self.host.scratch())?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Runs `docker` with these words.
    pub fn docker(&self, words: &str) -> Result<String> {
        run(self.host.docker().args(words.split_whitespace()))
    }

    /// Starts a container that listens on TCP ports. A service of the project `shop`, or nobody's.
    pub fn stand_in(&self, name: &str, service: Option<&str>, options: &str, ports: &str) -> Result<()> {
        self.run(name, service, options, &format!("{} stand-in {name} {ports}", image::NAME))
    }

    /// Starts a container that sends its number to these addresses, and does nothing else.
    pub fn sender(
        &self,
        name: &str,
        service: Option<&str>,
        options: &str,
        number: u64,
        targets: &[SocketAddr],
    ) -> Result<()> {
        let targets: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
        self.run(name, service, options, &format!("{SENDER} /sender {number} {}", targets.join(" ")))
    }

    fn run(&self, name: &str, service: Option<&str>, options: &str, rest: &str) -> Result<()> {
        let labels = service.map_or_else(String::new, |service| {
            format!("--label com.docker.compose.project=shop --label com.docker.compose.service={service}")
        });
        let mut command = self.host.docker();
        command.args(format!("run --detach --name {name} {labels} {options} {rest}").split_whitespace());
        let said = output(&mut command)?;
        if !said.status.success() {
            bail!("`{}` failed: {}", shown(&command), String::from_utf8_lossy(&said.stderr));
        }
        Ok(())
    }

    /// A running container.
    pub fn container(&self, name: &str) -> Result<Container> {
        let all = compose::containers(&self.host)?;
        all.into_iter().find(|one| one.name == name).with_context(|| format!("`{name}` does not run"))
    }

    /// Whether a container reaches an address by TCP, and is answered.
    pub fn reaches(&self, from: &str, address: IpAddr, port: u16) -> Result<bool> {
        let place = netns_of(&self.container(from)?);
        let attempt = attempts(&place, vec![SocketAddr::new(address, port)])?.remove(0);
        Ok(attempt.outcome.is_open())
    }

    /// How many datagrams have come into a container for a port on which nobody listens.
    pub fn unheard(&self, container: &str) -> Result<u64> {
        unheard(self.container(container)?.pid)
    }

    /// The namespace of the engine.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        self.host.netns()
    }
}

/// The same by the process.
pub fn unheard(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("net/snmp"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, count) = pairs.find(|(name, _)| *name == "NoPorts").context("no `NoPorts`")?;
    Ok(count.parse()?)
}

/// The address of `db` on `front`.
pub const DB: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 100);
