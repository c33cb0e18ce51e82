//! What a running agent tells: status, health, exact counts, one event an attempt, the service manager, diagnostics.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use integration_tests::daemon::{Daemon, SOON};
use integration_tests::small_lab::{CLOSED_UDP, POLICY, SmallLab, answers};
use integration_tests::{ATTEMPTS, has_tcx};
use lab::interrupt::wait_for;
use lab::observed::sum;
use serde_json::Value;

const PACKETS: &str = "portcullis_denied_packets_total";

fn events_at(agent: &Daemon, port: u16) -> usize {
    agent.events().unwrap().iter().filter(|event| event.destination.port == Some(port)).count()
}

fn wait_for_events(agent: &Daemon, port: u16, wanted: usize) {
    let waited = wait_for("the events", SOON, || Ok((events_at(agent, port) >= wanted).then_some(())));
    waited.unwrap_or_else(|error| panic!("{error}: {} of {wanted}", events_at(agent, port)));
    // None may follow either.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(events_at(agent, port), wanted);
}

#[test]
fn every_denied_connection_is_one_attempt_and_one_event() {
    const TRIED: usize = 25;
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let labels = [("source", "web"), ("destination", "db"), ("port", "5432"), ("severity", "critical")];
    for _ in 0..TRIED {
        assert!(lab.connect("web", "db", 5432).unwrap().is_none());
    }
    let samples = agent.metrics().unwrap();
    assert_eq!(sum(&samples, ATTEMPTS, &labels), TRIED as f64);
    assert_eq!(sum(&samples, PACKETS, &labels), TRIED as f64);
    wait_for_events(&agent, 5432, TRIED);
    assert_eq!(sum(&samples, "portcullis_events_lost_total", &[]), 0.0);
}

#[test]
fn a_repeated_syn_is_a_packet_and_no_attempt() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let labels = [("source", "web"), ("destination", "db"), ("port", "5432")];
    assert!(lab.connect_within(Duration::from_millis(2600), "web", "db", 5432).unwrap().is_none());
    let samples = agent.metrics().unwrap();
    assert_eq!(sum(&samples, ATTEMPTS, &labels), 1.0);
    let packets = sum(&samples, PACKETS, &labels);
    assert!((2.0..=3.0).contains(&packets), "{packets} packets in 2.6 s");
    wait_for_events(&agent, 5432, 1);
    // Every denied packet was told or counted as suppressed; also what stacks send by themselves, at any moment.
    let reconciled = wait_for("the numbers to agree", Duration::from_secs(5), || {
        let told = agent.events()?.len() as f64;
        let samples = agent.metrics()?;
        let suppressed = sum(&samples, "portcullis_events_suppressed_total", &[]);
        Ok((sum(&samples, PACKETS, &[]) == told + suppressed && suppressed >= packets - 1.0).then_some(()))
    });
    reconciled.unwrap();
}

#[test]
fn datagrams_of_one_tuple_are_one_attempt() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let target = SocketAddr::new(lab.address("db").unwrap(), CLOSED_UDP);
    for sent in [40, 2] {
        let socket = lab.datagram_socket("web").unwrap();
        for _ in 0..sent {
            socket.send_to(b"x", target).unwrap();
        }
    }
    let labels = [("source", "web"), ("destination", "db"), ("protocol", "udp")];
    let samples = agent.metrics().unwrap();
    assert_eq!(sum(&samples, ATTEMPTS, &labels), 2.0);
    assert_eq!(sum(&samples, PACKETS, &labels), 42.0);
    wait_for_events(&agent, CLOSED_UDP, 2);
    assert_eq!(lab.datagrams(), 0);
}

/// Packets that the bridge's ports have received and sent, as the kernel counts them: a packet that a hook drops on
/// its way out was not sent.
fn at_ports(lab: &SmallLab) -> (u64, u64) {
    let table = lab.says("cat", "/proc/thread-self/net/dev").unwrap();
    let ports = table.lines().filter(|line| line.trim_start().starts_with("p-"));
    ports.fold((0, 0), |(received, sent), line| {
        let numbers: Vec<u64> = line
            .rsplit_once(':')
            .unwrap()
            .1
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        (received + numbers[1], sent + numbers[9])
    })
}

fn status(lab: &SmallLab) -> Value {
    let status = lab.status(&["-o", "json"]).unwrap();
    assert_eq!(status.code, Some(0), "{}", status.said);
    serde_json::from_str(&status.data).unwrap()
}

fn total(status: &Value, kind: &str, hook: &str) -> u64 {
    status["counters"][kind][hook].as_u64().unwrap()
}

/// Per hook: what came in is what was forwarded and what was dropped, to the packet.
#[test]
fn totals_agree_with_the_kernels_own_counters() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    // Late packets of what happened before.
    std::thread::sleep(Duration::from_millis(500));
    let (before, ports_before) = (status(&lab), at_ports(&lab));
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    for _ in 0..200 {
        assert!(answers(&mut open));
    }
    drop(open);
    for _ in 0..10 {
        assert!(lab.reaches("api", "db", 5432).unwrap());
        assert!(lab.connect("stray", "db", 5432).unwrap().is_none());
    }
    let socket = lab.datagram_socket("stray").unwrap();
    for _ in 0..300 {
        socket.send_to(b"x", SocketAddr::new(lab.address("db").unwrap(), CLOSED_UDP)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    let (after, ports_after) = (status(&lab), at_ports(&lab));
    let rose = |kind: &str, hook: &str| total(&after, kind, hook) - total(&before, kind, hook);
    assert_eq!(
        rose("forwarded", "from_endpoint") + rose("dropped", "from_endpoint"),
        ports_after.0 - ports_before.0
    );
    assert_eq!(rose("forwarded", "to_endpoint"), ports_after.1 - ports_before.1);
    // More than these: what stacks send by themselves at any moment is dropped too.
    let refused = |status: &Value| -> u64 {
        let rows = status["counters"]["denied"].as_array().unwrap().iter();
        rows.filter(|row| row["reason"] == "no_rule").map(|row| row["packets"].as_u64().unwrap()).sum()
    };
    assert_eq!(refused(&after) - refused(&before), 310);
    assert!(rose("dropped", "to_endpoint") >= 310);
    let scraped = agent.metric("portcullis_forwarded_packets_total", &[("hook", "to_endpoint")]).unwrap();
    assert_eq!(scraped, total(&after, "forwarded", "to_endpoint") as f64);
    let denied: u64 = after["counters"]["denied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["packets"].as_u64().unwrap())
        .sum();
    let dropped = after["counters"]["dropped"].as_object().unwrap().values();
    assert_eq!(denied, dropped.map(|count| count.as_u64().unwrap()).sum::<u64>());
}

#[test]
fn status_and_health_say_what_runs() {
    let via = if has_tcx() { "tcx" } else { "clsact" };
    let lab = SmallLab::start().unwrap();
    lab.status(&[]).unwrap().assert_refused(&["not running", "control.sock", "hint:"]);
    let agent = lab.run(&[]).unwrap();
    assert_eq!(agent.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(agent.get("/readyz").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(agent.get("/nothing").unwrap().0, 404);
    assert!(lab.connect("web", "db", 5432).unwrap().is_none());

    let status = status(&lab);
    assert_eq!(status["schema"], "portcullis.status/v1");
    assert_eq!(status["ready"], true);
    assert_eq!(status["revision"], 1);
    assert_eq!(status["inventory"]["source"], "file");
    assert_eq!(status["inventory"]["connected"], true);
    assert_eq!(status["reload"]["successful"], true);
    assert_eq!(status["policies"][0]["name"], "shop");
    assert_eq!(status["policies"][0]["mode"], "enforce");
    assert_eq!(status["bridges"][0]["name"], "lab0");
    let ports = status["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 4);
    assert!(
        ports.iter().all(|port| port["attached"] == true && port["state"] == "ready" && port["via"] == via)
    );
    let endpoint = |name: &str| {
        let all = status["endpoints"].as_array().unwrap();
        all.iter().find(|endpoint| endpoint["container"] == name).unwrap().clone()
    };
    assert_eq!(endpoint("db-1")["state"], "enforced");
    assert_eq!(endpoint("db-1")["service"], "db");
    assert_eq!(endpoint("stray-1")["state"], "unmanaged");
    // Beside it may stand what stacks send by themselves.
    let denied = status["counters"]["denied"].as_array().unwrap();
    let row = denied.iter().find(|row| row["reason"] == "no_rule").unwrap();
    assert_eq!((row["attempts"].as_u64(), row["verdict"].as_str()), (Some(1), Some("dropped")));

    let text = lab.status(&[]).unwrap();
    assert_eq!(text.code, Some(0), "{}", text.said);
    for words in
        ["ready", "revision 1", "3 enforced", "shop/db", "p-db", "lab0", "4 of 4 ready", via, "no_rule"]
    {
        assert!(text.data.contains(words), "`{words}` is not in:\n{}", text.data);
    }
    assert_eq!(text.said, "");
    agent.stop().unwrap();
    lab.status(&["-o", "json"]).unwrap().assert_refused(&["not running", "hint:"]);
}

/// What stands in for systemd: a datagram socket in `NOTIFY_SOCKET`.
#[test]
fn the_service_manager_is_told() {
    let lab = SmallLab::start().unwrap();
    let path = lab.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let told = || {
        let mut buffer = [0_u8; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut agent = lab.spawn(lab.command(&[]).env("NOTIFY_SOCKET", &path)).unwrap();
    assert!(told().lines().any(|line| line == "READY=1"));
    // Said once, and when it is true.
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    agent.wait_until_ready().unwrap();
    lab.write_policy(&POLICY.replace("from: [api]", "from: [api, web]")).unwrap();
    let reloading = told();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(told().contains("READY=1"));
    assert!(lab.reaches("web", "db", 5432).unwrap());
    agent.stop().unwrap();
    assert!(told().contains("STOPPING=1"));
}

/// A manager that watches hears from the loop every second, and is told so only if it asks.
#[test]
fn a_watching_service_manager_hears_from_the_loop() {
    let lab = SmallLab::start().unwrap();
    let path = lab.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut command = lab.command(&[]);
    let agent = lab.spawn(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "30000000")).unwrap();
    let mut alive = 0;
    for _ in 0..10 {
        let mut buffer = [0_u8; 512];
        let length = socket.recv(&mut buffer).unwrap();
        alive += usize::from(buffer[..length].trim_ascii() == b"WATCHDOG=1");
        if alive == 3 {
            break;
        }
    }
    assert_eq!(alive, 3);
    // A loop that hangs says nothing.
    agent.pause().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0_u8; 512]).is_ok() {}
    std::thread::sleep(Duration::from_millis(2500));
    assert!(socket.recv(&mut [0_u8; 512]).is_err());
    agent.resume().unwrap();
}

/// Started by root with every right there is, each thread keeps three and can get no other.
#[test]
fn the_agent_keeps_three_capabilities() {
    /// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF, see capabilities(7).
    const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let threads = agent.threads().unwrap();
    assert!(threads.len() > 2, "{threads:?}");
    for thread in threads {
        let field = |name: &str| thread.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let set = |name| u64::from_str_radix(field(name), 16).unwrap();
        for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(set(name), KEPT, "{name} {thread}");
        }
        assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0), "{thread}");
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    agent.stop().unwrap();
}

/// The programs' own log: nothing unless asked for, then rare events of the datapath.
#[test]
fn diagnostics_are_logged_when_asked_for() {
    const WORDS: &str = "belongs to a flow that the policy does not allow any more";
    for (settings, wanted) in [("", false), ("datapath_log: true\n", true)] {
        let lab = SmallLab::start().unwrap();
        lab.settings(settings).unwrap();
        let agent = lab.run(&[]).unwrap();
        let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
        assert!(answers(&mut open));
        let revision = agent.revision().unwrap();
        lab.write_policy(&POLICY.replace("    from: [web]\n", "")).unwrap();
        agent.wait_for_another_revision(revision).unwrap();
        assert!(!answers(&mut open));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(agent.logged(WORDS) > 0, wanted, "{}", agent.log());
        assert_eq!(agent.logged("portcullis_ebpf") > 0, wanted, "{}", agent.log());
    }
}
