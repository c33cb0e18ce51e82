//! A Docker host with every path that goes round a rule from port to port: published ports, docker-proxy, neighbours
//! who route to containers, containers on two networks and with no network of their own.

mod calls;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::compose::{Container, containers};
use lab::docker_lab::netns_of;
use lab::engine::{DockerHost, HOST_V4};
use lab::netns::within;
use lab::outside::{OUTSIDE_V4, Outside, UPLINK};
use lab::process::run;
use lab::tools::Tools;
use lab::{expectation::Party, image};

pub use self::calls::{Answer, Call, Transport, make};

/// The compose project of all containers that the policy covers.
pub const PROJECT: &str = "detours";
/// What every container with a published port listens on: TCP, and UDP beside it.
pub const WEB: u16 = 80;
/// See [`WEB`].
pub const NAMES: u16 = 53;

/// A network with both families.
pub const DUAL: &str = "dual";
/// A network that has only IPv4: only docker-proxy carries IPv6 to its containers.
pub const FOUR: &str = "four";
/// A network that no covered container is on.
pub const ASIDE: &str = "aside";

/// A container of the lab.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    pub name: &'static str,
    network: &'static str,
    covered: bool,
    /// Published on all addresses of the host, for TCP and for UDP.
    pub published: Option<u16>,
    /// Published for TCP on the host's loopback address.
    pub loopback: Option<u16>,
}

impl Role {
    const fn new(name: &'static str, network: &'static str) -> Self {
        Self { name, network, covered: true, published: None, loopback: None }
    }

    const fn publishes(self, published: u16) -> Self {
        Self { published: Some(published), ..self }
    }

    const fn on_loopback(self, loopback: u16) -> Self {
        Self { loopback: Some(loopback), ..self }
    }

    const fn unmanaged(self) -> Self {
        Self { covered: false, ..self }
    }

    /// The arguments of `docker run`.
    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["run", "--detach", "--name", self.name, "--network", self.network].map(str::to_owned).into();
        if self.covered {
            words.extend(labels(self.name));
        }
        for (port, protocol) in [(WEB, "tcp"), (NAMES, "udp")] {
            words.extend(self.published.map(|outer| format!("--publish={outer}:{port}/{protocol}")));
        }
        words.extend(self.loopback.map(|outer| format!("--publish=127.0.0.1:{outer}:{WEB}/tcp")));
        words.extend([image::NAME, "stand-in", self.name].map(str::to_owned));
        words
    }
}

/// The labels that compose gives a service's container.
#[must_use]
pub fn labels(service: &str) -> [String; 2] {
    [
        format!("--label=com.docker.compose.project={PROJECT}"),
        format!("--label=com.docker.compose.service={service}"),
    ]
}

/// All containers that have a network.
pub const ROLES: [Role; 13] = [
    Role::new("open", DUAL).publishes(8001).on_loopback(8101),
    Role::new("inner", DUAL).publishes(8002).on_loopback(8102),
    Role::new("local", DUAL).publishes(8003).on_loopback(8103),
    Role::new("open4", FOUR).publishes(8011),
    Role::new("inner4", FOUR).publishes(8012),
    Role::new("local4", FOUR).publishes(8013),
    // On both networks.
    Role::new("both", DUAL).publishes(8020),
    Role::new("near", DUAL),
    Role::new("mute", DUAL),
    Role::new("far", FOUR),
    Role::new("guest", DUAL),
    Role::new("stray", DUAL).unmanaged(),
    Role::new("loner", ASIDE).unmanaged().publishes(8030),
];

/// The engine, its containers, and a neighbour on the same LAN.
#[derive(Debug)]
pub struct Detours {
    // Dropped first: their sockets hold the containers' namespaces.
    _responders: Vec<Responder>,
    pub outside: Outside,
    pub host: DockerHost,
    containers: BTreeMap<String, Container>,
}

impl Detours {
    /// Starts everything, and opens every path that Docker's own filters would close.
    pub fn start(engine: &[&str]) -> Result<Self> {
        let host = DockerHost::start_with(Tools::locate()?, engine)?;
        let outside = Outside::attach(host.netns())?;
        for (name, four, six) in [(DUAL, 21, Some(21)), (FOUR, 22, None), (ASIDE, 23, Some(23))] {
            let mut command = host.docker();
            command.args(["network", "create", "--subnet", &format!("198.18.{four}.0/24")]);
            command.args(["--opt", &format!("com.docker.network.bridge.name=br-{name}")]);
            if let Some(six) = six {
                command.args(["--ipv6", "--subnet", &format!("2001:db8:30:{six}::/64")]);
            }
            run(command.arg(name))?;
        }
        run_all(&host, ROLES.iter().map(Role::arguments))?;
        run(host.docker().args(["network", "connect", FOUR, "both"]))?;
        host.open_paths()?;
        let containers: BTreeMap<String, Container> =
            containers(&host)?.into_iter().map(|container| (container.name.clone(), container)).collect();
        let mut responders = Vec::new();
        for container in containers.values() {
            responders.push(Responder::start(container)?);
        }
        let lab = Self { _responders: responders, outside, host, containers };
        lab.let_loopback_out()?;
        Ok(lab)
    }

    /// The neighbour sends packets for 127.0.0.1 to the host, which takes them: with `route_localnet` nothing else
    /// keeps them out. Docker sets it by itself where it runs without its proxy.
    fn let_loopback_out(&self) -> Result<()> {
        self.host.netns().sysctl(&format!("net/ipv4/conf/{UPLINK}/route_localnet=1"))?;
        let outside = self.outside.netns();
        outside.sysctl("net/ipv4/conf/lan0/route_localnet=1")?;
        outside.ip_lines(&format!(
            "address del 127.0.0.1/8 dev lo
             route add 127.0.0.1 via {HOST_V4} dev lan0 src {OUTSIDE_V4}"
        ))
    }

    /// The link-local address of one of the host's interfaces, as `from` calls it by its own interface `through`.
    pub fn link_local(&self, interface: &str, from: &Party, through: &str) -> Result<SocketAddrV6> {
        let (address, _) = link_local(&self.host.netns().path(), interface)?;
        let (_, scope) = link_local(&self.place(from)?, through)?;
        Ok(SocketAddrV6::new(address, 0, 0, scope))
    }

    /// A container by its name.
    pub fn container(&self, name: &str) -> Result<&Container> {
        self.containers.get(name).with_context(|| format!("no container `{name}`"))
    }

    /// The addresses of a container on one network, or on all.
    pub fn addresses(&self, name: &str) -> Result<&[IpAddr]> {
        Ok(&self.container(name)?.addresses)
    }

    /// Where a party's sockets are.
    pub fn place(&self, party: &Party) -> Result<PathBuf> {
        Ok(match party {
            Party::Service { service, .. } => netns_of(self.container(service)?),
            Party::Host => self.host.netns().path(),
            Party::Outside => self.outside.netns().path(),
        })
    }
}

/// The link-local address and the number of an interface.
fn link_local(place: &Path, interface: &str) -> Result<(Ipv6Addr, u32)> {
    let table = within(place, || std::fs::read_to_string("/proc/thread-self/net/if_inet6"))??;
    let found = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, number, .., name] = words.as_slice() else { return None };
        let address = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?);
        let number = u32::from_str_radix(number, 16).ok()?;
        (*name == interface && address.is_unicast_link_local()).then_some((address, number))
    });
    found.with_context(|| format!("`{interface}` has no link-local address"))
}

/// Runs several `docker` commands side by side: each waits for the engine most of its time.
pub fn run_all(host: &DockerHost, commands: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let children: Vec<_> = commands
        .map(|arguments| {
            let mut command = host.docker();
            command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            Ok((arguments, command.spawn()?))
        })
        .collect::<Result<_>>()?;
    for (arguments, child) in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("`docker {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

/// Answers in a container with its name, and datagrams also with the address that they came from. From in here, because
/// the stand-ins' web servers make a process for each connection, and docker-proxy gives them many at once.
#[derive(Debug)]
struct Responder {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    fn start(container: &Container) -> Result<Self> {
        // One socket for each address: a socket for all would answer by the address that the route back prefers.
        let addresses = container.addresses.clone();
        let (listener, sockets) = within(&netns_of(container), move || -> Result<_> {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, WEB))?;
            listener.set_nonblocking(true)?;
            let bound = addresses.into_iter().map(|address| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((address, NAMES))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            Ok((listener, bound.collect::<Result<Vec<_>>>()?))
        })??;
        let ended = Arc::new(AtomicBool::new(false));
        let (name, until) = (container.name.clone(), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                answer(&name, &listener, &sockets);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self { ended, thread: Some(thread) })
    }
}

/// Answers everything that has come in. Who asks may be gone by then, which is no matter here.
fn answer(name: &str, listener: &TcpListener, sockets: &[UdpSocket]) {
    let mut buffer = [0_u8; 256];
    for socket in sockets {
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _gone = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
        }
    }
    while let Ok((mut stream, _)) = listener.accept() {
        let _slow = stream.set_read_timeout(Some(Duration::from_millis(200)));
        if stream.read(&mut buffer).is_ok_and(|read| read > 0) {
            let _gone = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{name}\n").as_bytes());
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
