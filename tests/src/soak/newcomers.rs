//! Namespaces that come to the bridge of a lab that is running, and send from before they are on it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::interrupt::wait_for;
use lab::netns::{Netns, within};
use lab::tools;

use crate::small_lab::SmallLab;

/// Where `api` may send to, and nobody else.
pub const OPEN_UDP: u16 = 6000;
/// Among those who come and go.
pub const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  web: {}
  api: {}
  db:
    ports: [5432/tcp, 6000/udp]
    from: [api]
";
/// Where newcomers hear each other.
pub const HEARD: u16 = 9998;
/// How long the kernel may take to remove a namespace.
const GONE: Duration = Duration::from_secs(20);
/// Between two rounds of datagrams.
const PACE: Duration = Duration::from_millis(2);

/// What stands for a container that is about to be on the bridge.
#[derive(Debug)]
pub struct Newcomer {
    pub port: String,
    pub address: Ipv4Addr,
    pub mac: String,
    /// Of the port.
    pub ifindex: u32,
    netns: Netns,
    ears: UdpSocket,
}

impl Newcomer {
    /// Its namespace, address and pair of veths; the one in the host is no port yet. `number` tells it from others that
    /// live at the same time.
    pub fn prepare(lab: &SmallLab, port: &str, address: Ipv4Addr, number: u16) -> Result<Self> {
        let netns = Netns::create()?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6=1")?;
        let mac = Self::mac(number);
        let inside = netns.name();
        batch(
            lab.host(),
            &format!("link add {port} type veth peer name eth0 address {mac} netns {inside}\n"),
        )?;
        batch(&netns, &format!("address add {address}/15 dev eth0\nlink set eth0 up\n"))?;
        let ears = within(&netns.path(), move || UdpSocket::bind(SocketAddr::from((address, HEARD))))??;
        ears.set_nonblocking(true)?;
        let ifindex = ifindex(lab.host(), port)?;
        Ok(Self { port: port.to_owned(), address, mac, ifindex, netns, ears })
    }

    /// The MAC address of the one with this number.
    #[must_use]
    pub fn mac(number: u16) -> String {
        let [high, low] = number.to_be_bytes();
        format!("02:00:00:01:{high:02x}:{low:02x}")
    }

    /// Makes it a port of a bridge, as engines do: first the bridge, then up.
    pub fn join(&self, lab: &SmallLab, bridge: &str) -> Result<()> {
        join(lab, bridge, std::slice::from_ref(self))
    }

    /// Lets it know others without asking: by address and MAC.
    pub fn introduce(&self, others: &[(IpAddr, &str)]) -> Result<()> {
        introduce(&self.netns, others)
    }

    /// Datagrams that it has heard, each counts once: the first byte, and when it was sent.
    pub fn heard(&self) -> Vec<(u8, Duration)> {
        let mut datagram = [0; 9];
        let mut heard = Vec::new();
        while let Ok(length) = self.ears.recv(&mut datagram) {
            if length == datagram.len() {
                let [first, sent @ ..] = datagram;
                heard.push((first, Duration::from_nanos(u64::from_be_bytes(sent))));
            }
        }
        heard
    }

    /// A socket inside.
    pub fn socket(&self) -> Result<UdpSocket> {
        let address = self.address;
        Ok(within(&self.netns.path(), move || UdpSocket::bind(SocketAddr::from((address, 0))))??)
    }

    /// Its end: returns once the kernel has taken its port away, which holds others up that want to change interfaces.
    pub fn leave(self, lab: &SmallLab) -> Result<()> {
        let Self { port, netns, ears, .. } = self;
        // A socket keeps its namespace.
        drop((ears, netns));
        wait_for("the end of a port", GONE, || Ok(ifindex(lab.host(), &port).is_err().then_some(())))
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// Makes ports of several at once.
pub fn join(lab: &SmallLab, bridge: &str, newcomers: &[Newcomer]) -> Result<()> {
    let lines: String = newcomers
        .iter()
        .map(|one| format!("link set {0} master {bridge}\nlink set {0} up\n", one.port))
        .collect();
    batch(lab.host(), &lines)
}

/// The number of an interface.
pub fn ifindex(netns: &Netns, name: &str) -> Result<u32> {
    let name = name.to_owned();
    let found = within(&netns.path(), move || -> Result<u32> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        Ok(rustix::net::netdevice::name_to_index(&socket, &name)?)
    })?;
    found.context("no such interface")
}

/// Lets a namespace know others without asking.
pub fn introduce(netns: &Netns, others: &[(IpAddr, &str)]) -> Result<()> {
    let lines: String = others
        .iter()
        .map(|(address, mac)| format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n"))
        .collect();
    batch(netns, &lines)
}

/// Runs several commands of `ip` in one process.
pub fn batch(netns: &Netns, lines: &str) -> Result<()> {
    use std::io::Write;
    let ip = tools::find("ip").context("`ip` is missing: it is part of iproute2")?;
    let mut command = Command::new(ip);
    command.args(["-n", netns.name(), "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("failed to run `ip`")?;
    child.stdin.take().context("no way to `ip`")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}{lines}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The clock that senders write into their datagrams.
#[must_use]
pub fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Sends the same datagrams for as long as it lives, each with the time behind it; whoever cannot send yet goes on
/// trying.
#[derive(Debug)]
pub struct Sender {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts to send.
    pub fn start(socket: UdpSocket, datagrams: Vec<(SocketAddr, Vec<u8>)>) -> Self {
        let (ended, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let told = (Arc::clone(&ended), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let (ended, sent) = told;
            let start = Instant::now();
            while !ended.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(600) {
                for (target, datagram) in &datagrams {
                    let datagram = [datagram.as_slice(), &(now().as_nanos() as u64).to_be_bytes()].concat();
                    sent.fetch_add(u64::from(socket.send_to(&datagram, target).is_ok()), Ordering::Relaxed);
                }
                std::thread::sleep(PACE);
            }
        });
        Self { ended, sent, thread: Some(thread) }
    }

    /// Ends it; how many datagrams were sent.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end();
    }
}
