//! The world around the agent fails: it is stopped, told too much to hear, its disk is full, firewalls are flushed and
//! rebuilt. What was in force stays in force, what is unknown is denied, and recovery needs no
//! hand.
//!
//! `PORTCULLIS_STOPPED` is for how many seconds the agent is stopped: 3 if it is not set.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::daemon::{Daemon, SOON};
use integration_tests::flood::Flood;
use integration_tests::small_lab::{POLICY, SmallLab, answers};
use integration_tests::tell;
use lab::interrupt::wait_for;
use lab::process::run;
use lab::tools;

const RELOADED: &str = "portcullis_config_last_reload_successful";
const LOST: &str = "portcullis_events_lost_total";
const PACKETS: &str = "portcullis_denied_packets_total";

/// An allowed connection, and datagrams that nobody may receive.
struct Traffic<'l> {
    lab: &'l SmallLab,
    open: TcpStream,
    flood: Flood,
}

impl<'l> Traffic<'l> {
    fn start(lab: &'l SmallLab) -> Self {
        let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
        assert!(answers(&mut open));
        Self { lab, open, flood: Flood::start(lab).unwrap() }
    }

    fn assert_unharmed(&mut self) {
        assert!(answers(&mut self.open));
        assert_eq!(self.lab.datagrams(), 0, "leaked");
    }

    fn stop(mut self) -> u64 {
        self.assert_unharmed();
        let (lab, sent) = (self.lab, self.flood.stop());
        assert!(sent > 100, "only {sent} sent");
        assert_eq!(lab.datagrams(), 0, "leaked, of {sent}");
        sent
    }
}

fn wait_until(what: &str, agent: &Daemon, mut condition: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    wait_for(what, SOON, || Ok(condition().then_some(())))
        .unwrap_or_else(|error| panic!("{error}:\n{}", agent.log()));
    since.elapsed()
}

fn stopped_for() -> Duration {
    let seconds = std::env::var("PORTCULLIS_STOPPED").map_or(3, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Stopped, and deaf afterwards: more happens to interfaces than its socket has room for, so that the kernel tells it
/// only that it has lost something (ENOBUFS).
#[test]
fn a_stopped_agent_enforces_and_learns_afterwards_what_it_has_missed() {
    const EVENTS: usize = 30_000;
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut traffic = Traffic::start(&lab);
    let since = Instant::now();
    agent.pause().unwrap();
    lab.host().ip("link add noise type veth peer name echo").unwrap();
    let storm: String =
        (0..EVENTS / 2).map(|turn| format!("link set noise mtu {}\n", 1400 + turn % 2)).collect();
    let batch = lab.path().join("storm");
    fs::write(&batch, storm).unwrap();
    run(lab.host().command("ip").arg("-batch").arg(&batch)).unwrap();
    // One whose place in the inventory nobody has read yet.
    let newcomer = lab.newcomer().unwrap();
    let line =
        "  - { port: p-new, project: shop, service: web, container: web-2, addresses: [198.18.7.99] }\n";
    fs::write(lab.inventory(), lab.inventory_text() + line).unwrap();
    assert!(!newcomer.reaches(&lab, "api", 8000).unwrap(), "a container that nobody knows yet");
    traffic.assert_unharmed();
    std::thread::sleep(stopped_for().saturating_sub(since.elapsed()));
    traffic.assert_unharmed();
    let stopped = since.elapsed();
    agent.resume().unwrap();
    let took = wait_until("the newcomer", &agent, || newcomer.reaches(&lab, "api", 8000).unwrap());
    assert!(agent.logged("interface notifications were lost") >= 1, "nothing was lost:\n{}", agent.log());
    assert!(!newcomer.reaches(&lab, "db", 5432).unwrap());
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    let sent = traffic.stop();
    let denied = agent.metric(PACKETS, &[("destination", "db"), ("protocol", "udp")]).unwrap() as u64;
    assert_eq!(denied, sent, "not every denied datagram was counted");
    tell(&format!(
        "world: stopped for {:.1} s with {EVENTS} link events: 0 of {sent} denied datagrams leaked; a new container is \
         served {:.1} s later",
        stopped.as_secs_f64(),
        took.as_secs_f64()
    ))
    .unwrap();
}

/// Neither events nor numbers can be written. Enforcement goes on, denials are counted, a policy that needs a new number
/// waits; with room again everything is made up for.
#[test]
fn a_full_disk_costs_events_and_holds_up_what_needs_a_new_number() {
    let lab = SmallLab::start().unwrap();
    let small = lab.path().join("small");
    fs::create_dir(&small).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&small)).unwrap();
    let (events, state) = (small.join("events.jsonl"), small.join("state"));
    let (events, state) = (events.to_str().unwrap(), state.to_str().unwrap());
    let agent = lab.run(&["--events", events, "--state-dir", state]).unwrap();
    let revision = agent.revision().unwrap();
    let mut traffic = Traffic::start(&lab);

    let filler = small.join("filler");
    drop(fs::write(&filler, vec![0; 300 * 1024]));
    assert!(!lab.reaches("stray", "db", 5432).unwrap());
    wait_until("a lost event", &agent, || {
        // One that is told for sure: its flow is new.
        drop(lab.connect_within(Duration::from_millis(50), "web", "db", 5432));
        agent.metric(LOST, &[]).unwrap() > 0.0
    });
    assert_eq!(agent.logged("cannot write events, they are counted as lost"), 1, "{}", agent.log());
    traffic.assert_unharmed();

    let wider = POLICY.replace("from: [api]", "from: [api, reports]") + "  reports: {}\n";
    lab.write_policy(&wider).unwrap();
    agent.wait_for_metric(RELOADED, 0.0).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(agent.logged("state not applied, the old one stays in force"), 1, "{}", agent.log());
    let status = lab.status(&[]).unwrap().data;
    assert!(status.contains("identities.json"), "{status}");
    assert_eq!(agent.revision().unwrap(), revision);
    assert!(lab.reaches("web", "api", 8000).unwrap());
    traffic.assert_unharmed();

    fs::remove_file(&filler).unwrap();
    let took = wait_until("the policy", &agent, || agent.metric(RELOADED, &[]).unwrap() == 1.0);
    assert_ne!(agent.revision().unwrap(), revision);
    wait_until("an event", &agent, || {
        drop(lab.connect_within(Duration::from_millis(50), "web", "db", 5432));
        agent.logged("events are written again") == 1
    });
    traffic.stop();
    tell(&format!(
        "world: disk full: the policy was in force {:.1} s after there was room",
        took.as_secs_f64()
    ))
    .unwrap();
}

/// What firewalld does when it is reloaded, and what administrators do by hand. Containers of older engines were open to
/// each other for that long (CVE-2025-54410); the programs do not stand in any of these tables.
#[test]
fn firewalls_that_are_flushed_and_rebuilt_open_nothing() {
    const RULES: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut traffic = Traffic::start(&lab);
    let rules = lab.path().join("rules");
    fs::write(&rules, RULES).unwrap();
    let nft = tools::find("nft").unwrap();
    let restore = tools::find("iptables-restore").unwrap();
    for _ in 0..20 {
        run(lab.host().command(&nft).args(["flush", "ruleset"])).unwrap();
        run(lab.host().command(&restore).arg(&rules)).unwrap();
        let table = "add table bridge theirs; add chain bridge theirs forward { type filter hook forward priority 0; policy accept; }";
        run(lab.host().command(&nft).arg(table)).unwrap();
        let denied = lab.connect_within(Duration::from_millis(30), "web", "db", 5432).unwrap();
        assert!(denied.is_none(), "{}", agent.log());
        traffic.assert_unharmed();
    }
    let sent = traffic.stop();
    tell(&format!("world: 20 reloads of the firewall: 0 of {sent} denied datagrams leaked")).unwrap();
}
