//! Two bridges with three containers' worth of namespaces, routed by one host: the smallest place in which a packet can
//! come from a neighbour, another bridge or the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::netns::{Netns, within};
use rustix::net::SendFlags;

use crate::frames::packet_socket;
use crate::watch::Watch;

/// What is sent: a datagram with a size that no other has.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub to: IpAddr,
    /// Bytes of data, which tell the packet from all others.
    pub size: u32,
    /// `SO_MARK` of the sender.
    pub mark: Option<u32>,
}

/// Name, bridge and number of each container.
const MEMBERS: [(&str, &str, u8); 3] = [("a1", "lab-a", 11), ("a2", "lab-a", 12), ("b1", "lab-b", 13)];
const BRIDGES: [(&str, u8); 2] = [("lab-a", 1), ("lab-b", 2)];
/// Ethernet, IPv4, IPv6 and UDP headers.
const HEADERS: [u32; 4] = [14, 20, 40, 8];

/// The lab.
#[derive(Debug)]
pub struct Bridges {
    pub host: Netns,
    members: Vec<Netns>,
}

impl Bridges {
    /// Builds it.
    pub fn build() -> Result<Self> {
        let host = Netns::create()?;
        host.sysctl("net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1")?;
        for (bridge, number) in BRIDGES {
            host.ip_lines(&format!(
                "link add {bridge} type bridge
                 address add 198.18.{number}.1/24 dev {bridge}
                 address add 2001:db8:30:{number}::1/64 dev {bridge} nodad
                 link set {bridge} up"
            ))?;
        }
        let mut members = Vec::new();
        for (name, bridge, number) in MEMBERS {
            let netns = Netns::create()?;
            let net = net_of(bridge);
            let mac = mac(number).map(|byte| format!("{byte:02x}")).join(":");
            host.ip(&format!(
                "link add {name} type veth peer name eth0 address {mac} netns {}",
                netns.name()
            ))?;
            host.ip(&format!("link set {name} master {bridge} up"))?;
            netns.ip_lines(&format!(
                "address add 198.18.{net}.{number}/24 dev eth0
                 address add 2001:db8:30:{net}::{number:x}/64 dev eth0 nodad
                 link set eth0 up
                 route add default via 198.18.{net}.1
                 route add default via 2001:db8:30:{net}::1"
            ))?;
            members.push(netns);
        }
        Ok(Self { host, members })
    }

    /// The number of an interface of the host.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let text = self.host.ip(&format!("-o link show dev {interface}"))?;
        text.split(':').next().and_then(|number| number.trim().parse().ok()).context("no interface index")
    }

    /// An address of a container.
    pub fn address(&self, name: &str, version: u32) -> Result<IpAddr> {
        let (_, bridge, number) =
            MEMBERS.iter().find(|member| member.0 == name).context("no such container")?;
        let net = net_of(bridge);
        Ok(if version == 4 {
            Ipv4Addr::new(198, 18, net, *number).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0x30, net.into(), 0, 0, 0, u16::from(*number)).into()
        })
    }

    fn place(&self, name: &str) -> &Netns {
        MEMBERS.iter().position(|member| member.0 == name).map_or(&self.host, |at| &self.members[at])
    }

    /// Sends a datagram from a container or `host`, until it is noted.
    pub fn send_until_noted(&self, watch: &Watch, from: &str, sent: &Sent) -> Result<[u32; 4]> {
        let Sent { to, size, mark } = *sent;
        let [ethernet, ipv4, ipv6, udp] = HEADERS;
        let length = ethernet + if to.is_ipv4() { ipv4 } else { ipv6 } + udp + size;
        self.until_noted(watch, from, length, move || {
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            if let Some(mark) = mark {
                set_mark(&socket, mark)?;
            }
            socket.send_to(&vec![0; usize::try_from(size)?], SocketAddr::new(to, 9999))?;
            Ok(())
        })
    }

    /// Sends a hand-made IPv4 datagram with this many priority tags from a container, until it is noted.
    pub fn send_tagged_until_noted(
        &self,
        watch: &Watch,
        from: &str,
        tags: u32,
        size: u32,
    ) -> Result<[u32; 4]> {
        let [ethernet, ipv4, _, udp] = HEADERS;
        // The kernel takes the outermost tag off.
        let length = ethernet + tags.saturating_sub(1) * 4 + ipv4 + udp + size;
        let frame = tagged_frame(tags, size)?;
        self.until_noted(watch, from, length, move || send_frame(&frame))
    }

    fn until_noted(
        &self,
        watch: &Watch,
        from: &str,
        length: u32,
        send: impl Fn() -> Result<()> + Clone + Send + 'static,
    ) -> Result<[u32; 4]> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            within(&self.place(from).path(), send.clone())??;
            std::thread::sleep(Duration::from_millis(50));
            if let Some(said) = watch.said()?.get(&length) {
                return Ok(*said);
            }
        }
        bail!("no packet of {length} bytes from {from} was seen")
    }
}

/// `SO_MARK`, which rustix does not have.
fn set_mark(socket: &UdpSocket, mark: u32) -> Result<()> {
    let size = u32::try_from(size_of_val(&mark))?;
    // SAFETY: the mark lives until the call returns, and its size is told.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, (&raw const mark).cast(), size)
    };
    if result != 0 {
        bail!("failed to mark a socket: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

fn net_of(bridge: &str) -> u8 {
    BRIDGES.iter().find(|known| known.0 == bridge).map_or(0, |known| known.1)
}

const fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// From a1 to a2.
fn tagged_frame(tags: u32, size: u32) -> Result<Vec<u8>> {
    let mut frame = [mac(12), mac(11)].concat();
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 0]);
    }
    let data = usize::try_from(size)?;
    let total = u16::try_from(28 + data)?.to_be_bytes();
    let length = u16::try_from(8 + data)?.to_be_bytes();
    frame.extend([0x08, 0x00, 0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([198, 18, 1, 11, 198, 18, 1, 12]);
    frame.extend([0x27, 0x0f, 0x27, 0x0f, length[0], length[1], 0, 0]);
    frame.resize(frame.len() + data, 0);
    Ok(frame)
}

/// Puts a frame onto `eth0` of the namespace that the caller is in.
fn send_frame(frame: &[u8]) -> Result<()> {
    let sent = rustix::net::send(packet_socket("eth0")?, frame, SendFlags::empty());
    sent.context("failed to send a frame").map(drop)
}
