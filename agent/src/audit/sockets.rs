//! What listens on the host: the engine's proxies, the engine itself, `sshd`. Read from `/proc`, in the network namespace
//! that the audit runs in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{
    host::Host,
    http,
    ssh::{self, RootLogin},
};

/// How long whoever listens may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

fn failed(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("failed to read {what}: {error}")
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    pub proxies: BTreeSet<Proxy>,
    /// Where the engine listens on TCP, and what it says there.
    pub engine: BTreeMap<SocketAddr, Api>,
    /// Where `sshd` listens.
    pub ssh: BTreeSet<SocketAddr>,
    /// What each `sshd` says about root and passwords.
    pub root_logins: BTreeSet<Result<RootLogin, String>>,
    /// Where somebody listens whom this process may not look at.
    pub unseen: BTreeSet<SocketAddr>,
}

/// Where the engine and `sshd` listen as a rule, if nobody can be asked who it is.
const ENGINE_PORTS: [u16; 2] = [2375, 2376];
const SSH_PORT: u16 = 22;

/// A proxy of the engine, which listens on the host for a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    pub protocol: String,
    pub host: SocketAddr,
    pub container: SocketAddr,
}

/// What answers on a port of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// The API, to anybody.
    Open,
    /// Something that wants TLS.
    Tls,
    /// Nothing that speaks HTTP: ports of a swarm, metrics.
    Other,
}

/// Reads all of it.
pub fn read() -> Result<Sockets, String> {
    let own = fs::read_link("/proc/thread-self/ns/net").map_err(failed("the network namespace"))?;
    let listening = listening().map_err(failed("the listening sockets"))?;
    let mut sockets = Sockets::default();
    let processes = fs::read_dir("/proc").map_err(failed("`/proc`"))?.filter_map(Result::ok);
    for process in processes.map(|entry| entry.path()) {
        let Ok(name) = fs::read_to_string(process.join("comm")) else { continue };
        let name = name.trim();
        if !matches!(name, "docker-proxy" | "dockerd" | "sshd" | "systemd")
            || fs::read_link(process.join("ns/net")).ok().as_ref() != Some(&own)
        {
            continue;
        }
        if name == "docker-proxy" {
            sockets.proxies.extend(proxy(&process));
            continue;
        }
        let addresses: Vec<&SocketAddr> =
            inodes(&process).iter().filter_map(|inode| listening.get(inode)).collect();
        if name == "sshd" && !addresses.is_empty()
            || name == "systemd" && addresses.iter().any(|address| address.port() == SSH_PORT)
        {
            sockets.root_logins.insert(ssh::ask(&process, name == "sshd"));
        }
        for address in addresses {
            match name {
                "sshd" => _ = sockets.ssh.insert(*address),
                // It may hold the port of `sshd` for it.
                "systemd" if address.port() == SSH_PORT => _ = sockets.ssh.insert(*address),
                "dockerd" => _ = sockets.engine.insert(*address, Api::Other),
                _ => {}
            }
        }
    }
    if !sees_everybody() {
        sockets.guess(unseen(&listening));
    }
    for (address, api) in &mut sockets.engine {
        *api = ask(*address);
    }
    Ok(sockets)
}

impl Sockets {
    /// By their ports, what cannot be told by who holds them.
    fn guess(&mut self, unseen: BTreeSet<SocketAddr>) {
        for address in unseen {
            match address.port() {
                SSH_PORT => _ = self.ssh.insert(address),
                port if ENGINE_PORTS.contains(&port) => _ = self.engine.insert(address, Api::Other),
                _ => _ = self.unseen.insert(address),
            }
        }
    }
}

/// Whether this process may look at those of everybody: it needs root's rights over processes, and the host's view of
/// them. The agent has given up the former.
fn sees_everybody() -> bool {
    /// `PROC_PID_INIT_INO`: the namespace that the kernel starts with.
    const HOST: &str = "pid:[4026531836]";
    fs::read_link("/proc/1/ns/net").is_ok()
        && fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == HOST)
}

/// Listening sockets that no process has that can be looked at.
fn unseen(listening: &BTreeMap<u64, SocketAddr>) -> BTreeSet<SocketAddr> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let seen: BTreeSet<u64> = processes.flat_map(|process| inodes(&process.path())).collect();
    listening.iter().filter(|(inode, _)| !seen.contains(inode)).map(|(_, address)| *address).collect()
}

/// Asks as any client of the engine would.
fn ask(address: SocketAddr) -> Api {
    let to = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match http::get(SocketAddr::new(to, address.port()), "localhost", "/_ping", PATIENCE) {
        Ok(answer) if answer.header("api-version").is_some() => Api::Open,
        // What Go's server says to those who do not speak TLS.
        Ok(answer) if answer.status == 400 => Api::Tls,
        Ok(_) | Err(_) => Api::Other,
    }
}

fn proxy(process: &Path) -> Option<Proxy> {
    let line = fs::read(process.join("cmdline")).ok()?;
    parse_proxy(&String::from_utf8_lossy(&line))
}

/// `docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 80 -container-ip 172.18.0.2 -container-port 80`.
fn parse_proxy(line: &str) -> Option<Proxy> {
    let words: Vec<&str> = line.split('\0').collect();
    let value = |key: &str| {
        let at = words.iter().position(|word| word.trim_start_matches('-') == key)?;
        words.get(at + 1).copied()
    };
    let address = |ip: &str, port: &str| -> Option<SocketAddr> {
        Some(SocketAddr::new(value(ip)?.parse().ok()?, value(port)?.parse().ok()?))
    };
    Some(Proxy {
        protocol: value("proto")?.to_owned(),
        host: address("host-ip", "host-port")?,
        container: address("container-ip", "container-port")?,
    })
}

/// The sockets that a process holds.
fn inodes(process: &Path) -> BTreeSet<u64> {
    let links = fs::read_dir(process.join("fd")).into_iter().flatten().filter_map(Result::ok);
    links
        .filter_map(|link| {
            let target = fs::read_link(link.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Listening TCP sockets by inode.
fn listening() -> io::Result<BTreeMap<u64, SocketAddr>> {
    let mut all = parse_listening(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    // A kernel may be without IPv6.
    if let Ok(text) = fs::read_to_string("/proc/thread-self/net/tcp6") {
        all.extend(parse_listening(&text));
    }
    Ok(all)
}

fn parse_listening(text: &str) -> BTreeMap<u64, SocketAddr> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words.get(3) == Some(&LISTEN))
        .filter_map(|words| Some((words.get(9)?.parse().ok()?, parse_address(words.get(1)?)?)))
        .collect()
}

/// `0100007F:0050`: words of the machine's byte order, in hexadecimal.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for start in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes.as_slice()).ok()?.into(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The interfaces by which the world comes in: those of default routes, else every one that is not the engine's.
pub fn uplinks(host: Option<&Host>) -> Result<Vec<String>, String> {
    let read = |file: &str| {
        fs::read_to_string(Path::new("/proc/thread-self/net").join(file))
            .map_err(|error| format!("failed to read `/proc/net/{file}`: {error}"))
    };
    let mut uplinks: BTreeSet<String> = BTreeSet::new();
    for line in read("route")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000") {
            uplinks.extend(words.first().map(|&name| name.to_owned()));
        }
    }
    for line in read("ipv6_route").unwrap_or_default().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(1) == Some(&"00") && words.last() != Some(&"lo") {
            uplinks.extend(words.last().map(|&name| name.to_owned()));
        }
    }
    if uplinks.is_empty() {
        let bridges: BTreeSet<String> =
            host.iter().flat_map(|host| &host.networks).map(|network| network.bridge()).collect();
        let names = read("dev")?;
        let names = names.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        uplinks = names
            .filter(|name| name != "lo" && !name.starts_with("veth") && !bridges.contains(name))
            .collect();
    }
    Ok(uplinks.into_iter().collect())
}

/// The host's own addresses, without loopback and link-local ones.
pub fn addresses() -> Result<BTreeSet<IpAddr>, String> {
    let trie = fs::read_to_string("/proc/thread-self/net/fib_trie")
        .map_err(|error| format!("failed to read the host's addresses: {error}"))?;
    let mut addresses = BTreeSet::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.parse::<Ipv4Addr>().ok();
        } else if line.contains("host LOCAL") {
            addresses.extend(last.filter(|ip| !ip.is_loopback()).map(IpAddr::from));
        }
    }
    for line in fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default().lines() {
        let text = line.split_whitespace().next().unwrap_or_default();
        let number = u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from);
        let routable = |ip: &Ipv6Addr| !ip.is_loopback() && !ip.is_unicast_link_local();
        addresses.extend(number.filter(routable).map(IpAddr::from));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_as_the_kernel_prints_them() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        let found = parse_listening(text);
        assert_eq!(found, BTreeMap::from([(4711, "127.0.0.1:8080".parse().unwrap())]));
        let v6 = parse_address("00000000000000000000000001000000:0016");
        assert_eq!(v6, "[::1]:22".parse().ok());
    }

    #[test]
    fn whom_nobody_may_look_at_is_guessed_by_the_port() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut sockets = Sockets::default();
        sockets.guess(["0.0.0.0:22", "0.0.0.0:2375", "0.0.0.0:443"].map(address).into());
        assert_eq!(sockets.ssh, [address("0.0.0.0:22")].into());
        assert_eq!(sockets.engine, [(address("0.0.0.0:2375"), Api::Other)].into());
        assert_eq!(sockets.unseen, [address("0.0.0.0:443")].into());
    }

    #[test]
    fn what_this_process_listens_on_is_seen() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = own.local_addr().unwrap();
        let all = listening().unwrap();
        assert!(all.values().any(|listening| *listening == address));
        assert!(!unseen(&all).contains(&address));
        assert!(unseen(&BTreeMap::from([(u64::MAX, address)])).contains(&address));
    }

    #[test]
    fn proxies_as_the_engine_starts_them() {
        let words = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 80 -container-ip 172.18.0.2 -container-port 8080 -use-listen-fd";
        let proxy = parse_proxy(&words.replace(' ', "\0")).unwrap();
        assert_eq!(proxy.host, "0.0.0.0:80".parse().unwrap());
        assert_eq!(proxy.container, "172.18.0.2:8080".parse().unwrap());
        assert_eq!(parse_proxy("docker-proxy"), None);
    }
}
