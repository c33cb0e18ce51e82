//! A real scanner in a container and on a host outside sees nothing but what the policy exposes to it, whatever kind of
//! packet it tries, and every scan shows in the metrics. Without the agent it sees everything.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration_tests::daemon::Daemon;
use integration_tests::dual_lab::DualLab;
use integration_tests::scan::{HostReport, nmap};
use integration_tests::tell;
use lab::netns::{Netns, within};

const PACKETS: &str = "portcullis_denied_packets_total";
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  web:
    exposure: public
    ports: [80/tcp, 53/udp, { port: 8080/tcp, from: [friend], exposure: internal }]
  vault:
    ports: [5432/tcp]
    from: [web]
  friend: {}
  hostile: {}
";
const SOURCES: [&str; 3] = ["friend", "hostile", "outside"];
const TARGETS: [&str; 2] = ["web", "vault"];
/// Something listens on all but the last.
const TCP: [u16; 6] = [22, 80, 443, 5432, 8080, 81];
const UDP: [u16; 4] = [53, 123, 161, 162];

/// What each source may open.
fn exposed(source: &str, target: &str) -> &'static [&'static str] {
    match (source, target) {
        ("friend", "web") => &["8080/tcp"],
        ("outside", "web") => &["80/tcp", "53/udp"],
        _ => &[],
    }
}

/// A kind of scan.
#[derive(Clone, Copy, Debug)]
struct Scan {
    flags: &'static str,
    udp: bool,
    /// It opens connections as any client does, so it sees what is exposed.
    opens: bool,
    /// What nmap says about a port with a listener and one without, if nothing is in between.
    unprotected: [&'static str; 2],
    /// The reasons for which its packets are dropped.
    reasons: &'static [&'static str],
    ipv6: bool,
}

const OPENING: Scan = Scan {
    flags: "-sS",
    udp: false,
    opens: true,
    unprotected: ["open", "closed"],
    reasons: &["no_rule", "not_exposed"],
    ipv6: true,
};
const STEALTHY: Scan =
    Scan { opens: false, unprotected: ["open|filtered", "closed"], reasons: &["invalid_packet"], ..OPENING };
const SCANS: [Scan; 9] = [
    OPENING,
    Scan { flags: "-sT", ..OPENING },
    Scan { flags: "-sS -g 53", ..OPENING },
    Scan { flags: "-sU", udp: true, ..OPENING },
    Scan { flags: "-sA", unprotected: ["unfiltered"; 2], reasons: &["not_tracked"], ..STEALTHY },
    Scan { flags: "-sF", ..STEALTHY },
    Scan { flags: "-sN", ..STEALTHY },
    Scan { flags: "-sX", ..STEALTHY },
    // nmap has no fragments for IPv6. Not even what is exposed is reached by them.
    Scan { flags: "-sS -f", opens: false, reasons: &["fragment"], ipv6: false, ..OPENING },
];
/// Echo requests, SYN, ACK and UDP: whatever answers is up.
const SWEEP: &str = "-sn -PE -PS22,5432 -PA22 -PU161";
const SWEEP_PROBES: u64 = 5;

impl Scan {
    fn ports(self) -> Vec<String> {
        let (ports, protocol) = if self.udp { (&UDP[..], "udp") } else { (&TCP[..], "tcp") };
        ports.iter().map(|port| format!("{port}/{protocol}")).collect()
    }

    fn run(self, lab: &DualLab, source: &str, ipv6: bool) -> BTreeMap<&'static str, HostReport> {
        let ports: Vec<String> =
            if self.udp { &UDP[..] } else { &TCP[..] }.iter().map(u16::to_string).collect();
        report(lab, source, &format!("{} -Pn -p {}", self.flags, ports.join(",")), ipv6)
    }
}

/// What nmap says about each target.
fn report(lab: &DualLab, source: &str, flags: &str, ipv6: bool) -> BTreeMap<&'static str, HostReport> {
    let addresses =
        TARGETS.map(|target| lab.member(target).unwrap().addresses[usize::from(ipv6)].to_string());
    let family = if ipv6 { "-6" } else { "" };
    let mut hosts = nmap(place(lab, source), &format!("{flags} {family} {}", addresses.join(" "))).unwrap();
    // A sweep leaves out who is down.
    TARGETS
        .into_iter()
        .zip(addresses)
        .map(|(target, address)| (target, hosts.remove(&address).unwrap_or_default()))
        .collect()
}

fn place<'a>(lab: &'a DualLab, source: &str) -> &'a Netns {
    if source == "outside" { lab.outside().unwrap() } else { &lab.member(source).unwrap().netns }
}

/// Listeners in the targets; they end when this goes.
#[derive(Default)]
struct Listeners {
    tcp: Vec<TcpListener>,
    ended: Arc<AtomicBool>,
    echo: Option<JoinHandle<()>>,
}

impl Listeners {
    fn start(lab: &DualLab) -> Self {
        let mut listeners = Self::default();
        let mut sockets = Vec::new();
        for target in TARGETS {
            let member = lab.member(target).unwrap();
            // Refusals are limited to one a second otherwise, and nmap takes silence for a filter.
            member.netns.sysctl("net/ipv4/icmp_ratelimit=0 net/ipv6/icmp/ratelimit=0").unwrap();
            let addresses = member.addresses;
            let (tcp, udp) = within(&member.netns.path(), move || bind(addresses)).unwrap().unwrap();
            listeners.tcp.extend(tcp);
            sockets.extend(udp);
        }
        let ended = Arc::clone(&listeners.ended);
        listeners.echo = Some(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                sockets.iter().for_each(answer);
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
        listeners
    }
}

type Sockets = (Vec<TcpListener>, Vec<UdpSocket>);

/// On every port but the last of each protocol.
fn bind(addresses: [IpAddr; 2]) -> std::io::Result<Sockets> {
    let (mut tcp, mut udp) = Sockets::default();
    for address in addresses {
        for port in &TCP[..TCP.len() - 1] {
            tcp.push(TcpListener::bind(SocketAddr::new(address, *port))?);
        }
        for port in &UDP[..UDP.len() - 1] {
            let socket = UdpSocket::bind(SocketAddr::new(address, *port))?;
            socket.set_nonblocking(true)?;
            udp.push(socket);
        }
    }
    Ok((tcp, udp))
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) => drop(socket.send_to(b"answer", from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // What an earlier answer came to.
            Err(_) => {}
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(echo) = self.echo.take() {
            drop(echo.join());
        }
    }
}

/// Denied packets from a source, by destination and reason; to nobody known counts for every target.
fn denied(agent: &Daemon, source: &str, target: &str, protocols: &[&str], reasons: &[&str]) -> u64 {
    let source = if source == "outside" { "world" } else { source };
    let samples = agent.metrics().unwrap();
    let of = |sample: &lab::observed::Sample, label: &str, among: &[&str]| {
        sample.labels.get(label).is_some_and(|value| among.contains(&value.as_str()))
    };
    samples
        .iter()
        .filter(|sample| sample.name == PACKETS && of(sample, "source", &[source]))
        .filter(|sample| of(sample, "destination", &[target, "unknown"]))
        .filter(|sample| of(sample, "protocol", protocols) && of(sample, "reason", reasons))
        .map(|sample| sample.value as u64)
        .sum()
}

/// Runs `scan` for every source at once, and for both families one after the other.
fn from_everywhere(scan: impl Fn(&str, bool) + Sync) {
    std::thread::scope(|scope| {
        for source in SOURCES {
            let scan = &scan;
            scope.spawn(move || [false, true].into_iter().for_each(|ipv6| scan(source, ipv6)));
        }
    });
}

/// Without the agent: each scan tells listeners from closed ports.
fn everything_shows(lab: &DualLab, source: &str, ipv6: bool) {
    for scan in SCANS.into_iter().filter(|scan| scan.ipv6 || !ipv6) {
        for (target, found) in scan.run(lab, source, ipv6) {
            let ports = scan.ports();
            let expected: BTreeMap<String, String> = ports
                .iter()
                .map(|port| {
                    let state = scan.unprotected[usize::from(Some(port) == ports.last())];
                    (port.clone(), state.to_owned())
                })
                .collect();
            assert_eq!(found.ports, expected, "{} from {source} to {target}, IPv6: {ipv6}", scan.flags);
        }
    }
    for (target, found) in report(lab, source, SWEEP, ipv6) {
        assert!(found.up, "{target} from {source}, IPv6: {ipv6}");
    }
}

/// With the agent: only what is exposed to this source, and the counters tell of the rest.
fn only_the_exposed_shows(lab: &DualLab, agent: &Daemon, source: &str, ipv6: bool) {
    for scan in SCANS.into_iter().filter(|scan| scan.ipv6 || !ipv6) {
        let protocols = [if scan.udp { "udp" } else { "tcp" }];
        let counted = || TARGETS.map(|target| denied(agent, source, target, &protocols, scan.reasons));
        let before = counted();
        let reports = scan.run(lab, source, ipv6);
        let after = counted();
        for (at, target) in TARGETS.into_iter().enumerate() {
            let what = format!("{} from {source} to {target}, IPv6: {ipv6}", scan.flags);
            let exposed = if scan.opens { exposed(source, target) } else { &[] };
            let found = &reports[target].ports;
            let shown: BTreeSet<&str> = found
                .iter()
                .filter(|(_, state)| ["open", "closed", "unfiltered"].contains(&state.as_str()))
                .map(|(port, _)| port.as_str())
                .collect();
            let ports = scan.ports();
            assert_eq!(found.len(), ports.len(), "{what}: {found:?}");
            let expected: BTreeSet<&str> =
                exposed.iter().copied().filter(|port| ports.iter().any(|known| known == port)).collect();
            assert_eq!(shown, expected, "{what}: {found:?}");
            let counted = after[at] - before[at];
            let silent = (ports.len() - expected.len()) as u64;
            assert!(counted >= silent, "{what}: {counted} packets denied, {silent} ports probed");
        }
    }
    let any = ["no_rule", "not_exposed", "not_tracked"];
    let counted = || TARGETS.map(|target| denied(agent, source, target, &["tcp", "udp", "icmp"], &any));
    let before = counted();
    let reports = report(lab, source, SWEEP, ipv6);
    let after = counted();
    for (at, target) in TARGETS.into_iter().enumerate() {
        let what = format!("sweep from {source} to {target}, IPv6: {ipv6}");
        // Who may open a port may ping.
        let up = !exposed(source, target).is_empty();
        assert_eq!(reports[target].up, up, "{what}");
        assert!(up || after[at] - before[at] >= SWEEP_PROBES, "{what}: {} denied", after[at] - before[at]);
    }
}

#[test]
fn a_scanner_sees_what_is_exposed_to_it_and_nothing_else() {
    let start = Instant::now();
    let mut lab = DualLab::start(&["friend", "hostile", "web", "vault"], POLICY).unwrap();
    lab.attach_outside().unwrap();
    let _listeners = Listeners::start(&lab);
    from_everywhere(|source, ipv6| everything_shows(&lab, source, ipv6));
    let unprotected = start.elapsed();
    let agent = lab.run("adopt: 0\n").unwrap();
    from_everywhere(|source, ipv6| only_the_exposed_shows(&lab, &agent, source, ipv6));
    let scans = SOURCES.len() * (2 * SCANS.len() - 1 + 2);
    tell(&format!(
        "scanners: {scans} scans of {} hosts twice, {:.1} s without the agent, {:.1} s with it, {} packets denied",
        TARGETS.len(),
        unprotected.as_secs_f64(),
        (start.elapsed() - unprotected).as_secs_f64(),
        agent.metric(PACKETS, &[]).unwrap(),
    ))
    .unwrap();
}
