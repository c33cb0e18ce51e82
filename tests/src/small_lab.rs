//! The smallest host that a policy can be tried on: one bridge, four namespaces, the file inventory. What listens
//! there and what connects are sockets of the test itself, so that a connection can be kept open as long as it takes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::netns::{Netns, within};
use lab::patience::patient;
use lab::process::{output, run};
use lab::scratch::Scratch;

use crate::daemon::{Daemon, Refusal};
use crate::{agent_binary, home, prepare};

/// The stand-in's name for the host itself, wherever a member is asked for.
pub const HOST: &str = "host";
/// The UDP port of `db` that nobody may reach.
pub const CLOSED_UDP: u16 = 9999;
/// Name, project (none: unmanaged) and TCP ports.
const MEMBERS: [(&str, Option<&str>, &[u16]); 4] = [
    ("web", Some("shop"), &[80]),
    ("api", Some("shop"), &[8000]),
    ("db", Some("shop"), &[5432]),
    ("stray", None, &[7000]),
];
/// One SYN: the kernel repeats it after a second.
const CONNECT_LIMIT: Duration = Duration::from_millis(700);
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// `web` may call `api`, `api` may call `db`, nobody anything else.
pub const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  web:
    ports: [80/tcp]
  api:
    ports: [8000/tcp]
    from: [web]
  db:
    severity: critical
    ports: [5432/tcp]
    from: [api]
";

#[derive(Debug)]
struct Member {
    netns: Netns,
    port: String,
    address: IpAddr,
}

/// The lab; everything in it goes with it.
#[derive(Debug)]
pub struct SmallLab {
    listeners: Listeners,
    datagrams: Arc<AtomicU64>,
    members: BTreeMap<&'static str, Member>,
    scratch: Scratch,
    host: Netns,
    binary: PathBuf,
}

impl SmallLab {
    /// Builds it and writes the policy, the inventory and `agent.yaml`; no agent runs yet.
    pub fn start() -> Result<Self> {
        prepare()?;
        let binary = agent_binary()?;
        let scratch = Scratch::create()?;
        let host = Netns::create()?;
        host.sysctl("net/ipv6/conf/default/disable_ipv6=1")?;
        host.ip_lines(
            "link add lab0 type bridge
             address add 198.18.7.1/24 dev lab0
             link set lab0 up",
        )?;
        let mut lab = Self {
            listeners: Listeners::default(),
            datagrams: Arc::default(),
            members: BTreeMap::new(),
            scratch,
            host,
            binary,
        };
        for ((name, _, ports), number) in MEMBERS.into_iter().zip(10_u8..) {
            lab.add(name, number, ports)?;
        }
        lab.count_datagrams()?;
        home::furnish(lab.path())?;
        lab.write_policy(POLICY)?;
        fs::write(lab.inventory(), lab.inventory_text())?;
        lab.settings("")?;
        Ok(lab)
    }

    fn add(&mut self, name: &'static str, number: u8, ports: &[u16]) -> Result<()> {
        let netns = Netns::create()?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6=1")?;
        let (port, address) = (format!("p-{name}"), IpAddr::V4(Ipv4Addr::new(198, 18, 7, number)));
        self.host.plug("lab0", &port, &mac(number), &netns)?;
        netns.ip_lines(&format!(
            "address add {address}/24 dev eth0
             link set eth0 up
             route add default via 198.18.7.1"
        ))?;
        for &port in ports {
            let bound = within(&netns.path(), move || TcpListener::bind(SocketAddr::new(address, port)))??;
            self.listeners.answer(bound)?;
        }
        self.members.insert(name, Member { netns, port, address });
        Ok(())
    }

    fn count_datagrams(&mut self) -> Result<()> {
        let (path, address) = (self.place("db")?, SocketAddr::new(self.address("db")?, CLOSED_UDP));
        let socket = within(&path, move || UdpSocket::bind(address))??;
        self.listeners.count(socket, Arc::clone(&self.datagrams))
    }

    /// How many datagrams have reached `db` on [`CLOSED_UDP`].
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
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

    /// The bridge's port of a member.
    pub fn port(&self, name: &str) -> Result<&str> {
        Ok(&self.members.get(name).with_context(|| format!("no member `{name}`"))?.port)
    }

    /// A member's address.
    pub fn address(&self, name: &str) -> Result<IpAddr> {
        Ok(self.members.get(name).with_context(|| format!("no member `{name}`"))?.address)
    }

    /// A member's MAC address.
    pub fn mac(&self, name: &str) -> Result<String> {
        let mut members = MEMBERS.into_iter().zip(10_u8..);
        let (_, number) =
            members.find(|(member, _)| member.0 == name).with_context(|| format!("no member `{name}`"))?;
        Ok(mac(number))
    }

    /// A member's namespace.
    pub fn netns(&self, name: &str) -> Result<&Netns> {
        Ok(&self.members.get(name).with_context(|| format!("no member `{name}`"))?.netns)
    }

    /// Where a member's sockets are made.
    pub fn place(&self, name: &str) -> Result<PathBuf> {
        if name == HOST {
            return Ok(self.host.path());
        }
        Ok(self.members.get(name).with_context(|| format!("no member `{name}`"))?.netns.path())
    }

    /// The policy file.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.path().join("policy/shop.yaml")
    }

    /// Replaces the policy file as editors do.
    pub fn write_policy(&self, text: &str) -> Result<()> {
        let new = self.path().join("policy/.shop.new");
        fs::write(&new, text)?;
        fs::rename(&new, self.policy()).context("failed to replace the policy")
    }

    /// The inventory file.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.path().join("inventory.yaml")
    }

    /// What the inventory file says about all members.
    #[must_use]
    pub fn inventory_text(&self) -> String {
        let mut text = String::from("version: 1\nendpoints:\n");
        for ((name, project, _), number) in MEMBERS.into_iter().zip(10_u8..) {
            let labels =
                project.map(|project| format!("project: {project}, service: {name}, ")).unwrap_or_default();
            text.push_str(&format!(
                "  - {{ port: p-{name}, {labels}container: {name}-1, mac: \"{}\", addresses: [198.18.7.{number}] }}\n",
                mac(number)
            ));
        }
        text
    }

    /// Writes `agent.yaml`: the lab's paths, and what else is to stand there.
    pub fn settings(&self, more: &str) -> Result<()> {
        home::write_settings(self.path(), more)
    }

    /// `portcullis run` with the lab's settings, inside its host; a flag may take the place of a setting.
    #[must_use]
    pub fn command(&self, flags: &[&str]) -> Command {
        self.command_behind(&[], flags)
    }

    /// The same of another build of the agent.
    #[must_use]
    pub fn command_of(&self, build: &Path, flags: &[&str]) -> Command {
        self.prepared(self.host.command(build), flags)
    }

    /// The same behind another program that runs it: `setpriv`, `unshare`.
    #[must_use]
    pub fn command_behind(&self, wrapper: &[&str], flags: &[&str]) -> Command {
        let command = match wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = self.host.command(program);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => self.host.command(&self.binary),
        };
        self.prepared(command, flags)
    }

    fn prepared(&self, mut command: Command, flags: &[&str]) -> Command {
        command.args(["run", "--config"]).arg(self.path().join("agent.yaml")).args(flags);
        home::undisturbed(&mut command);
        command
    }

    /// Starts the agent and waits until it is ready.
    pub fn run(&self, flags: &[&str]) -> Result<Daemon> {
        let mut daemon = self.spawn(&mut self.command(flags))?;
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Starts the agent and does not wait.
    pub fn spawn(&self, command: &mut Command) -> Result<Daemon> {
        Daemon::spawn(command, &self.host, &self.scratch)
    }

    /// Runs an agent that has to give up by itself.
    pub fn refusal(&self, flags: &[&str]) -> Result<Refusal> {
        Refusal::of(&mut self.command(flags))
    }

    /// `portcullis detach` on the lab's pins.
    pub fn detach(&self) -> Result<Refusal> {
        let mut command = self.host.command(&self.binary);
        command.arg("detach").arg("--pin-dir").arg(self.pins());
        command.arg("--state-dir").arg(self.path().join("state"));
        command.arg("--control").arg(self.path().join("control.sock"));
        Refusal::of(&mut command)
    }

    /// `portcullis status` with these flags.
    pub fn status(&self, flags: &[&str]) -> Result<Refusal> {
        let mut command = Command::new(&self.binary);
        command.arg("status").args(flags).arg("--control").arg(self.path().join("control.sock"));
        Refusal::of(&mut command)
    }

    /// The pin directory.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.path().join("bpf/portcullis")
    }

    /// A file of `/sys/class/net` or the like, as the host's namespace shows it: the output of `ip` or `tc`.
    pub fn says(&self, program: &str, arguments: &str) -> Result<String> {
        let said = output(self.host.command(program).args(arguments.split_whitespace()))?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// One attempt to connect; one SYN, if it stays unanswered.
    pub fn connect(&self, from: &str, to: &str, port: u16) -> Result<Option<TcpStream>> {
        self.connect_within(CONNECT_LIMIT, from, to, port)
    }

    /// The same with another limit.
    pub fn connect_within(
        &self,
        limit: Duration,
        from: &str,
        to: &str,
        port: u16,
    ) -> Result<Option<TcpStream>> {
        let address = SocketAddr::new(self.address(to)?, port);
        let stream = within(&self.place(from)?, move || TcpStream::connect_timeout(&address, limit))?;
        Ok(stream.ok())
    }

    /// Whether a new connection opens and is answered.
    pub fn reaches(&self, from: &str, to: &str, port: u16) -> Result<bool> {
        Ok(self.connect(from, to, port)?.is_some_and(|mut stream| answers(&mut stream)))
    }

    /// A datagram socket in a member's namespace.
    pub fn datagram_socket(&self, from: &str) -> Result<UdpSocket> {
        let address = SocketAddr::new(self.address(from)?, 0);
        Ok(within(&self.place(from)?, move || UdpSocket::bind(address))??)
    }
}

/// A container that nobody has been told of: a port of the bridge, a namespace, an address. It goes with the value.
#[derive(Debug)]
pub struct Newcomer {
    netns: Netns,
    host: String,
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        // At once: the kernel takes its time with what goes along with a namespace.
        drop(run(Command::new("ip").args(["-n", &self.host, "link", "delete", "p-new"])));
    }
}

impl SmallLab {
    /// Plugs in a container that nobody is told of.
    pub fn newcomer(&self) -> Result<Newcomer> {
        const NUMBER: u8 = 99;
        let netns = Netns::create()?;
        self.host.plug("lab0", "p-new", &mac(NUMBER), &netns)?;
        netns.ip_lines(&format!(
            "address add 198.18.7.{NUMBER}/24 dev eth0
             link set eth0 up"
        ))?;
        Ok(Newcomer { netns, host: self.host.name().to_owned() })
    }
}

impl Newcomer {
    /// Whether it can open a connection.
    pub fn reaches(&self, lab: &SmallLab, to: &str, port: u16) -> Result<bool> {
        let address = SocketAddr::new(lab.address(to)?, port);
        Ok(within(&self.netns.path(), move || TcpStream::connect_timeout(&address, CONNECT_LIMIT))?.is_ok())
    }
}

/// Whether an open connection still carries bytes both ways.
pub fn answers(stream: &mut TcpStream) -> bool {
    answers_within(stream, patient(ANSWER_LIMIT))
}

/// The same with another limit.
pub fn answers_within(stream: &mut TcpStream, limit: Duration) -> bool {
    let mut answer = [0_u8; 1];
    stream.set_read_timeout(Some(limit)).is_ok()
        && stream.write_all(b"x").is_ok()
        && stream.read_exact(&mut answer).is_ok()
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:07:{number:02x}")
}

/// Threads that answer; they end when this goes.
#[derive(Debug, Default)]
struct Listeners {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listeners {
    /// Sends back whatever comes in.
    fn answer(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let ended = Arc::clone(&self.ended);
        self.threads.push(std::thread::spawn(move || {
            let mut streams: Vec<TcpStream> = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        streams.push(stream);
                    }
                }
                streams.retain_mut(echo);
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
        Ok(())
    }

    fn count(&mut self, socket: UdpSocket, count: Arc<AtomicU64>) -> Result<()> {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let ended = Arc::clone(&self.ended);
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = [0_u8; 64];
            while !ended.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        Ok(())
    }
}

/// Whether the stream is still open.
fn echo(stream: &mut TcpStream) -> bool {
    let mut buffer = [0_u8; 256];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(read) => stream.write_all(&buffer[..read]).is_ok(),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}
