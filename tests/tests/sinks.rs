//! A sink that takes nothing, and a scan of every port at once: enforcement, metrics and policies go on as ever, every
//! attempt is counted, every event that is not written is counted as lost, and the metrics do not grow with the ports.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::daemon::{Daemon, SOON};
use integration_tests::small_lab::{POLICY, SmallLab};
use integration_tests::{ATTEMPTS, tell};
use lab::interrupt::wait_for;
use lab::netns::within;
use lab::process::run;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

const LOST: &str = "portcullis_events_lost_total";
const SUPPRESSED: &str = "portcullis_events_suppressed_total";
/// Every TCP port there is.
const PORTS: u16 = 65_535;
/// What may wait for a sink: the queue, what the thread holds, and a pipe of 64 KiB.
const WAITING: f64 = 4_096.0 + 1.0 + 200.0;
/// How long a scrape may take meanwhile.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One SYN to every port: a socket that is closed sends no second one.
fn scan(from: &Path, to: IpAddr) {
    let refused = within(from, move || {
        (1..=PORTS)
            .filter(|&port| {
                let socket =
                    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)
                        .unwrap();
                connect(&socket, &SocketAddr::new(to, port)) != Err(Errno::INPROGRESS)
            })
            .count()
    });
    assert_eq!(refused.unwrap(), 0);
}

/// An agent whose standard output is a pipe that nobody reads, and the end that keeps it open.
fn with_a_dead_sink(lab: &SmallLab) -> (Daemon, File) {
    let pipe = lab.path().join("nobody-reads");
    run(Command::new("mkfifo").arg(&pipe)).unwrap();
    let end = File::options().read(true).write(true).open(&pipe).unwrap();
    let into = format!("exec \"$0\" \"$@\" >'{}'", pipe.display());
    let mut agent = lab.spawn(&mut lab.command_behind(&["sh", "-c", &into], &["--events", "-"])).unwrap();
    agent.wait_until_ready().unwrap();
    (agent, end)
}

fn series(agent: &Daemon) -> usize {
    agent.metrics().unwrap().iter().filter(|sample| sample.name.starts_with("portcullis_")).count()
}

#[test]
fn a_dead_sink_and_a_scan_of_every_port_hold_up_nothing() {
    let lab = SmallLab::start().unwrap();
    let (agent, _end) = with_a_dead_sink(&lab);
    let before = series(&agent);
    let denied = [("source", "web"), ("destination", "db")];
    assert_eq!(agent.metric(ATTEMPTS, &denied).unwrap(), 0.0);

    scan(&lab.place("web").unwrap(), lab.address("db").unwrap());
    let lost = wait_for("all that was lost to be counted", SOON, || {
        let told = agent.metric(LOST, &[])? + agent.metric(SUPPRESSED, &[])?;
        Ok((told >= f64::from(PORTS) - WAITING).then_some(told))
    })
    .unwrap();
    assert!(lost <= f64::from(PORTS), "{lost} lost");
    assert_eq!(agent.metric(ATTEMPTS, &denied).unwrap(), f64::from(PORTS), "counters are never sampled");
    let grown = series(&agent) - before;
    tell(&format!(
        "{PORTS} ports scanned, nobody read: {lost} events not written, {before} series and {grown} more"
    ))
    .unwrap();
    // Who scans, what and whom; the ports share one label.
    assert!(grown <= 8, "{grown} more series");

    // The sink stands still, nothing else does.
    let start = Instant::now();
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert!(lab.reaches("web", "api", 8000).unwrap() && !lab.reaches("web", "db", 5432).unwrap());
    for (text, opened) in
        [(POLICY.replace("from: [api]", "from: [api, web]"), true), (POLICY.to_owned(), false)]
    {
        lab.write_policy(&text).unwrap();
        wait_for("the policy", SOON, || Ok((lab.reaches("web", "db", 5432)? == opened).then_some(())))
            .unwrap();
    }
    assert!(agent.stop().unwrap().success());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}
