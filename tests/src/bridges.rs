//! Two bridges with three containers' worth of namespaces, routed by one host: the smallest place in which a packet can
//! come from a neighbour, another bridge or the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::interrupt::wait_for;
use lab::netns::{Netns, within};
use lab::process::run;
use rustix::net::SendFlags;

use crate::flood::Flood;
use crate::frames::{fold, packet_socket, sum};
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
/// The way to the world, which has no bridge: name and number of its network.
const UPLINK: (&str, u8) = ("wan", 3);
/// Ethernet, IPv4, IPv6 and UDP headers.
const HEADERS: [u32; 4] = [14, 20, 40, 8];

/// The lab.
#[derive(Debug)]
pub struct Bridges {
    pub host: Netns,
    members: Vec<Netns>,
    world: Netns,
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
            host.plug(bridge, name, &mac, &netns)?;
            netns.ip_lines(&format!(
                "address add 198.18.{net}.{number}/24 dev eth0
                 address add 2001:db8:30:{net}::{number:x}/64 dev eth0 nodad
                 link set eth0 up
                 route add default via 198.18.{net}.1
                 route add default via 2001:db8:30:{net}::1"
            ))?;
            members.push(netns);
        }
        let (world, (uplink, net)) = (Netns::create()?, UPLINK);
        host.ip_lines(&format!(
            "link add {uplink} type veth peer name eth0 netns {}
             address add 198.18.{net}.1/24 dev {uplink}
             address add 2001:db8:30:{net}::1/64 dev {uplink} nodad
             link set {uplink} up",
            world.name()
        ))?;
        world.ip_lines(&format!(
            "address add 198.18.{net}.2/24 dev eth0
             address add 2001:db8:30:{net}::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 198.18.{net}.1
             route add default via 2001:db8:30:{net}::1"
        ))?;
        Ok(Self { host, members, world })
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
        if name == UPLINK.0 {
            return &self.world;
        }
        MEMBERS.iter().position(|member| member.0 == name).map_or(&self.host, |at| &self.members[at])
    }

    /// Where the sockets of a container, of `host` or of what is behind the uplink are made.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.place(name).path()
    }

    /// What the bridges know of addresses.
    pub fn forwarding_table(&self) -> Result<String> {
        run(self.host.command("bridge").args(["fdb", "show"]))
    }

    /// Length of the packet that this makes, Ethernet header included.
    #[must_use]
    pub const fn length(&self, sent: &Sent) -> u32 {
        let [ethernet, ipv4, ipv6, udp] = HEADERS;
        ethernet + if sent.to.is_ipv4() { ipv4 } else { ipv6 } + udp + sent.size
    }

    /// Sends a datagram from a container, `host` or the uplink.
    pub fn send(&self, from: &str, sent: &Sent) -> Result<()> {
        let sent = *sent;
        within(&self.path(from), move || send_datagram(&sent))?
    }

    /// The same until it is noted.
    pub fn send_until_noted(&self, watch: &Watch, from: &str, sent: &Sent) -> Result<[u32; 4]> {
        self.until(watch, self.length(sent), || self.send(from, sent))
    }

    /// Sends datagrams from a container until that is ended.
    pub fn flood(&self, from: &str, to: SocketAddr) -> Result<Flood> {
        let socket = within(&self.path(from), || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        Ok(Flood::from(vec![socket], to))
    }

    /// Sends a hand-made datagram from a container with somebody else's hardware address, ending in `number`.
    pub fn send_forged(&self, from: &str, number: u8, size: u32) -> Result<()> {
        let mut frame = tagged_frame(0, size)?;
        frame[6..12].copy_from_slice(&mac(number));
        within(&self.path(from), move || send_frame("eth0", &frame, false))?
    }

    /// Sends a hand-made datagram to a2 out of an interface of the host, past the hooks of its egress, until it is
    /// noted.
    pub fn send_past_the_hook_until_noted(
        &self,
        watch: &Watch,
        interface: &'static str,
        size: u32,
    ) -> Result<[u32; 4]> {
        let frame = tagged_frame(0, size)?;
        let [ethernet, ipv4, _, udp] = HEADERS;
        self.until(watch, ethernet + ipv4 + udp + size, || {
            let frame = frame.clone();
            within(&self.host.path(), move || send_frame(interface, &frame, true))?
        })
    }

    /// A hand-made IPv4 datagram from a1 to a2 with this many priority tags.
    pub fn frame(&self, tags: u32, size: u32) -> Result<Vec<u8>> {
        tagged_frame(tags, size)
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
        self.until(watch, length, || {
            let frame = frame.clone();
            within(&self.path(from), move || send_frame("eth0", &frame, false))?
        })
    }

    /// Sends until a packet of a length is noted.
    pub fn until(
        &self,
        watch: &Watch,
        length: u32,
        mut send: impl FnMut() -> Result<()>,
    ) -> Result<[u32; 4]> {
        wait_for(&format!("a packet of {length} bytes"), Duration::from_secs(10), || {
            send()?;
            std::thread::sleep(Duration::from_millis(50));
            Ok(watch.said()?.get(&length).copied())
        })
    }
}

fn send_datagram(sent: &Sent) -> Result<()> {
    let Sent { to, size, mark } = *sent;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    if let Some(mark) = mark {
        set_mark(&socket, mark)?;
    }
    socket.send_to(&vec![0; usize::try_from(size)?], SocketAddr::new(to, 9999))?;
    Ok(())
}

/// `SO_MARK`, which rustix does not have.
fn set_mark(socket: &UdpSocket, mark: u32) -> Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_MARK, mark).context("failed to mark a socket")
}

fn set(socket: &impl AsRawFd, level: i32, option: i32, value: u32) -> std::io::Result<()> {
    // SAFETY: the value lives until the call returns, and its size is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
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
    let mut header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 1, 11, 198, 18, 1, 12];
    // A bridge that asks netfilter drops headers without it.
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0x08, 0x00]);
    frame.extend(header);
    frame.extend([0x27, 0x0f, 0x27, 0x0f, length[0], length[1], 0, 0]);
    frame.resize(frame.len() + data, 0);
    Ok(frame)
}

/// Puts a frame onto an interface of the namespace that the caller is in, past the hooks of its egress if wanted.
fn send_frame(interface: &str, frame: &[u8], past_the_hook: bool) -> Result<()> {
    let socket = packet_socket(interface)?;
    if past_the_hook {
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    }
    rustix::net::send(socket, frame, SendFlags::empty()).context("failed to send a frame").map(drop)
}
