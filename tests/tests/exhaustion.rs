//! Floods of packets that the policy allows make state, floods of those that it does not make none: either way, what is
//! established lives on and others still connect.
//!
//! `PORTCULLIS_EXHAUSTION` is the number of SYNs, and that of datagrams, which each of two sources sends: 300,000 if it
//! is not set.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration_tests::connections::{Connections, time_to_open};
use integration_tests::daemon::{Daemon, SOON};
use integration_tests::dual_lab::DualLab;
use integration_tests::frames::{self, Template};
use integration_tests::packet::{Ethernet, Payload, Tcp, Udp};
use integration_tests::tell;
use lab::interrupt::wait_for;
use lab::netns::within;
use lab::process::run;
use lab::tools;

const PACKETS: &str = "portcullis_denied_packets_total";
const FLOWS: usize = 1000;
/// Where the floods go.
const SYN_PORT: u16 = 20_000;
const DATAGRAM_PORT: u16 = 30_000;
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
mode: enforce
services:
  web: {}
  worker: {}
  flooder: {}
  hostile: {}
  api:
    ports: [8000/tcp, 8001/tcp, 20000-29999/tcp, 30000-39999/udp, 5000/udp]
    from: [web, flooder]
  db:
    ports: [5432/tcp, 5433/tcp]
    from: [worker]
";

fn packets_of_each_kind() -> u64 {
    std::env::var("PORTCULLIS_EXHAUSTION").map_or(300_000, |packets| packets.parse().unwrap())
}

/// A flooder that never answers: neither a RST nor an error tells the other side to forget.
fn lab() -> DualLab {
    let lab = DualLab::start(&["web", "worker", "flooder", "hostile", "api", "db"], POLICY).unwrap();
    let api = lab.member("api").unwrap();
    for name in ["flooder", "hostile"] {
        let member = lab.member(name).unwrap();
        let mac = member.mac.map(|byte| format!("{byte:02x}")).join(":");
        for address in member.addresses {
            api.netns
                .ip(&format!("neighbour replace {address} lladdr {mac} dev eth0 nud permanent"))
                .unwrap();
        }
        let silence = "add table inet quiet; add chain inet quiet input \
                       { type filter hook prerouting priority -300; policy drop; }";
        run(member.netns.command(tools::find("nft").unwrap()).arg(silence)).unwrap();
    }
    lab
}

fn address(lab: &DualLab, name: &str, ipv6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(lab.member(name).unwrap().addresses[usize::from(ipv6)], port)
}

/// SYNs and datagrams to `api`, of both families in turn.
fn templates(lab: &DualLab, from: &str, payloads: &[Payload]) -> Vec<Template> {
    let (from, to) = (lab.member(from).unwrap(), lab.member("api").unwrap());
    let ethernet = &Ethernet::new(from.mac, to.mac);
    let families = from.addresses.into_iter().zip(to.addresses);
    families
        .flat_map(|(source, target)| {
            payloads.iter().map(move |payload| Template::numbered(ethernet, source, target, payload))
        })
        .collect()
}

fn send(lab: &DualLab, from: &str, templates: &[Template], numbers: Range<u64>) -> u64 {
    frames::send(&lab.member(from).unwrap().netns.path(), templates, numbers).unwrap()
}

fn denied(agent: &Daemon, labels: &[(&str, &str)]) -> u64 {
    agent.metric(PACKETS, labels).unwrap() as u64
}

/// Opens connections from `worker` to `db`, one after the other, until told to stop; how long each took.
fn keep_connecting(lab: &DualLab, stop: &AtomicBool) -> Vec<Duration> {
    let (from, db) = (lab.member("worker").unwrap().netns.path(), lab.member("db").unwrap().netns.path());
    let listeners = [false, true].map(|ipv6| {
        let target = address(lab, "db", ipv6, 5433);
        let listener = within(&db, move || TcpListener::bind(target)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for listener in &listeners {
            times.push(time_to_open(&from, listener.local_addr().unwrap()).unwrap());
            drop(listener.accept());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    times
}

#[test]
fn established_connections_survive_floods_and_others_still_connect() {
    let start = Instant::now();
    let lab = lab();
    let agent = lab.run("").unwrap();
    let place = |name: &str| lab.member(name).unwrap().netns.path();
    let mut connections = Connections::default();
    for (from, to, port) in [("web", "api", 8000), ("worker", "db", 5432)] {
        for ipv6 in [false, true] {
            let target = address(&lab, to, ipv6, port);
            connections.open(&place(from), &place(to), target, FLOWS / 4).unwrap();
        }
    }
    assert_eq!(connections.alive().unwrap(), FLOWS);

    // Some SYNs are answered by a listener and stay half-open, others are reset.
    let target = address(&lab, "api", false, SYN_PORT);
    let _listener = within(&place("api"), move || TcpListener::bind(target)).unwrap().unwrap();
    let payloads = [Payload::Tcp(Tcp::new(0, SYN_PORT)), Payload::Udp(Udp::new(0, DATAGRAM_PORT))];
    let stop = AtomicBool::new(false);
    let flood = Instant::now();
    let (sent, times) = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| keep_connecting(&lab, &stop));
        let floods = ["flooder", "hostile"].map(|from| {
            let (lab, templates) = (&lab, templates(&lab, from, &payloads));
            scope.spawn(move || send(lab, from, &templates, 0..packets_of_each_kind() / 2))
        });
        let sent = floods.map(|flood| flood.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        (sent, connecting.join().unwrap())
    });
    let flood = flood.elapsed();

    assert_eq!(connections.alive().unwrap(), FLOWS);
    assert!(!times.is_empty());
    let slow = times.iter().filter(|time| **time >= Duration::from_secs(1)).count();
    let hostile = denied(&agent, &[("source", "hostile"), ("destination", "api"), ("reason", "no_rule")]);
    assert_eq!(hostile, sent[1]);
    let full = denied(&agent, &[("reason", "table_full")]);
    let refused: u64 = ["tcp", "udp"]
        .map(|protocol| denied(&agent, &[("source", "flooder"), ("protocol", protocol)]))
        .into_iter()
        .sum();
    assert_eq!(refused, full, "packets of the flooder were denied for other reasons than room");
    tell(&format!(
        "exhaustion: {FLOWS} of {FLOWS} connections survive {} allowed and {} denied packets in {:.1} s; {} new \
         connections of others open meanwhile, {slow} of them after a second SYN, {full} packets found no room; {:.1} s in all",
        sent[0],
        sent[1],
        flood.as_secs_f64(),
        times.len(),
        start.elapsed().as_secs_f64(),
    ))
    .unwrap();
}

/// A server that answers datagrams; how many it has answered.
struct Echo {
    answered: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(place: &Path, address: SocketAddr) -> Self {
        let socket = within(place, move || UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (answered, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&answered), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !end.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(b"answer", from).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { answered, ended, thread: Some(thread) }
    }

    fn wait_for(&self, wanted: u64) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let waited = wait_for("the answers", SOON, || Ok((answered() >= wanted).then_some(())));
        waited.unwrap_or_else(|error| panic!("{error}: {} of {wanted}", answered()));
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Whether a new connection opens and carries bytes both ways.
fn connects(lab: &DualLab, from: &str, to: &str, port: u16) -> bool {
    let place = |name: &str| lab.member(name).unwrap().netns.path();
    let mut connections = Connections::default();
    let opened = connections.open(&place(from), &place(to), address(lab, to, false, port), 1);
    opened.is_ok() && connections.alive_within(Duration::from_millis(700)).is_ok_and(|alive| alive == 1)
}

/// Flows to one service fill what one service may have, and no more: others have room, and what is open stays open.
#[test]
fn a_flooded_service_leaves_room_for_the_others() {
    const PER_PORT: u64 = 500;
    const SENT: u64 = 3000;
    let lab = lab();
    let agent = lab
        .run(&format!(
            "sizes: {{ flows: 2000, flows_per_port: {PER_PORT} }}\ntimeouts: {{ udp_established: 2 }}\n"
        ))
        .unwrap();
    let place = |name: &str| lab.member(name).unwrap().netns.path();
    let mut open = Connections::default();
    open.open(&place("web"), &place("api"), address(&lab, "api", false, 8000), 100).unwrap();
    assert!(connects(&lab, "worker", "db", 5432));

    let echo = Echo::start(&place("api"), address(&lab, "api", false, DATAGRAM_PORT));
    let flood = templates(&lab, "flooder", &[Payload::Udp(Udp::new(0, DATAGRAM_PORT))]);
    // Nobody makes room meanwhile.
    agent.pause().unwrap();
    // In portions that the server's socket has room for.
    for sent in (0..SENT).step_by(100) {
        send(&lab, "flooder", &flood[..1], sent..sent + 100);
        echo.wait_for(sent + 100);
    }
    assert_eq!(open.alive().unwrap(), 100);
    assert!(!connects(&lab, "web", "api", 8001), "more than a service may have");
    assert!(connects(&lab, "worker", "db", 5432), "others have no room");
    agent.resume().unwrap();
    let start = Instant::now();
    // An answer that would take a place too many is dropped, and nothing else is.
    let full = denied(&agent, &[("source", "api"), ("protocol", "udp"), ("reason", "table_full")]);
    assert_eq!(full, SENT - (PER_PORT - 100));
    assert_eq!(denied(&agent, &[("protocol", "udp"), ("reason", "table_full")]), full);

    wait_for("room", Duration::from_secs(20), || Ok(connects(&lab, "web", "api", 8001).then_some(())))
        .unwrap();
    assert_eq!(open.alive().unwrap(), 100);
    tell(&format!(
        "exhaustion: of {SENT} answered datagrams {full} found one service full; others connect, and so does anybody \
         {:.1} s later",
        start.elapsed().as_secs_f64()
    ))
    .unwrap();
}

/// What is closed takes no place: a service may have any number of connections one after the other.
#[test]
fn connections_that_are_closed_make_room_at_once() {
    let lab = lab();
    let agent = lab.run("sizes: { flows_per_port: 20 }\n").unwrap();
    let place = |name: &str| lab.member(name).unwrap().netns.path();
    for _ in 0..30 {
        let mut connections = Connections::default();
        connections.open(&place("web"), &place("api"), address(&lab, "api", false, 8000), 10).unwrap();
        assert_eq!(connections.alive().unwrap(), 10);
    }
    assert_eq!(denied(&agent, &[("reason", "table_full")]), 0);
}
