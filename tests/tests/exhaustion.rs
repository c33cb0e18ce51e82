//! Floods of packets that the policy allows make state, floods of those that it does not make none: either way, what is
//! established lives on and others still connect.
//!
//! `PORTCULLIS_EXHAUSTION` is the number of SYNs, and that of datagrams, which each of two sources sends: 300,000 if it
//! is not set.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration_tests::connections::{Connections, time_to_open};
use integration_tests::daemon::Daemon;
use integration_tests::dual_lab::DualLab;
use integration_tests::flood::{self, Template};
use integration_tests::packet::{Ethernet, Payload, Tcp, Udp};
use integration_tests::tell;
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
    flood::send(&lab.member(from).unwrap().netns.path(), templates, numbers).unwrap()
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
