//! Maps of other sizes: what flows and counters hold goes over into them, under a flood, with connections open, and also
//! if the agent is killed on the way.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use integration_tests::daemon::Daemon;
use integration_tests::flood::Flood;
use integration_tests::small_lab::{SmallLab, answers};
use lab::patience::patient;

use crate::{CLSACT, DENIED, NO_ADOPTION, assert_enforced, assert_monotone, assert_settled, denied, names};

/// `flows` and `denied`, and all that stands in the settings.
const SIZES: [(f64, f64, &str); 4] = [
    (4096.0, 512.0, "sizes: { flows: 4096, flows_opening: 1024, event_buffer: 65536, denied: 512 }\n"),
    (8192.0, 512.0, "sizes: { flows: 8192, flows_opening: 2048, denied: 512 }\n"),
    (4096.0, 65_536.0, "sizes: { flows: 4096 }\n"),
    (262_144.0, 65_536.0, ""),
];

fn open(lab: &SmallLab) -> TcpStream {
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    stream
}

/// Makes the neighbours known, so that each datagram of the flood that counts gets as far as to the hook.
fn warm_up(lab: &SmallLab) {
    let flood = Flood::start(lab).unwrap();
    std::thread::sleep(patient(Duration::from_millis(150)));
    flood.stop();
}

/// Opens one connection after the other, until it is told to end; how many opened, and how many did not.
fn open_on_and_on(lab: &SmallLab, ended: &AtomicBool, opened: &AtomicU64, failed: &AtomicU64) {
    while !ended.load(Ordering::Relaxed) {
        // A handshake that begins in the moment of the exchange may need its repetitions.
        let stream = lab.connect_within(patient(Duration::from_secs(4)), "api", "db", 5432).unwrap();
        let count = if stream.is_some_and(|mut stream| answers(&mut stream)) { opened } else { failed };
        count.fetch_add(1, Ordering::Relaxed);
        // Many would be all that a slow machine does.
        std::thread::sleep(patient(Duration::from_millis(1)));
    }
}

fn sizes_change(settings: &str) {
    let lab = SmallLab::start().unwrap();
    warm_up(&lab);
    lab.settings(settings).unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut connections = vec![open(&lab)];
    let revision = agent.revision().unwrap();
    let (leaked, denied_before) = (lab.datagrams(), denied(&agent));
    let mut counters = agent.metrics().unwrap();
    let flood = Flood::start(&lab).unwrap();
    let (ended, opened, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let agent = std::thread::scope(|scope| {
        scope.spawn(|| open_on_and_on(&lab, &ended, &opened, &failed));
        let mut agent = agent;
        for (number, (flows, labels, sizes)) in SIZES.into_iter().enumerate() {
            if number % 2 == 0 {
                agent.stop().unwrap()
            } else {
                agent.kill().unwrap()
            };
            // Known to the programs of the agent that has ended, and to nobody else.
            connections.push(open(&lab));
            lab.settings(&format!("{settings}{sizes}")).unwrap();
            agent = lab.run(&[]).unwrap();
            for (map, capacity) in [("FLOWS", flows), ("DENIED", labels)] {
                let found = agent.metric("portcullis_map_capacity", &[("map", map)]).unwrap();
                assert_eq!(found, capacity, "{map}: {}", agent.log());
            }
            let alive = connections.iter_mut().filter_map(|stream| answers(stream).then_some(())).count();
            assert_eq!(alive, connections.len(), "cut by change {number}: {}", agent.log());
            let now = agent.metrics().unwrap();
            assert_monotone(&counters, &now);
            counters = now;
            assert_settled(&lab);
            assert_eq!(agent.logged("cannot be converted"), 0, "{}", agent.log());
        }
        ended.store(true, Ordering::Relaxed);
        agent
    });
    let sent = flood.stop();
    std::thread::sleep(patient(Duration::from_millis(100)));
    assert_eq!(denied(&agent) - denied_before, sent as f64, "each datagram counts once: {}", agent.log());
    assert_eq!(lab.datagrams(), leaked, "datagrams leaked, of {sent}");
    assert_eq!(agent.revision().unwrap(), revision, "nothing changed, so the revision may not move");
    let (opened, failed) = (opened.into_inner(), failed.into_inner());
    eprintln!("{sent} datagrams denied and counted, {opened} connections opened meanwhile, {failed} did not");
    assert!(opened > 20 && failed == 0, "{opened} opened, {failed} did not");
    assert_enforced(&lab);
}

#[test]
fn other_sizes_lose_no_flow_and_no_count() {
    sizes_change(NO_ADOPTION);
}

#[test]
fn other_sizes_lose_no_flow_and_no_count_by_clsact() {
    sizes_change(CLSACT);
}

/// Killed at any moment of it, the change is finished by the next agent.
#[test]
fn a_change_that_is_cut_short_is_finished_by_the_next_agent() {
    let lab = SmallLab::start().unwrap();
    warm_up(&lab);
    lab.settings(NO_ADOPTION).unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut stream = open(&lab);
    let (leaked, denied_before) = (lab.datagrams(), denied(&agent));
    let counters = agent.metrics().unwrap();
    let flood = Flood::start(&lab).unwrap();
    agent.kill().unwrap();
    let mut begun = 0;
    for step in 0..12 {
        let (_, _, sizes) = SIZES[step % SIZES.len()];
        lab.settings(&format!("{NO_ADOPTION}{sizes}")).unwrap();
        let agent = lab.spawn(&mut lab.command(&[])).unwrap();
        std::thread::sleep(Duration::from_millis(60 + 20 * step as u64));
        agent.kill().unwrap();
        begun += usize::from(names(&lab, "v1/maps").iter().any(|name| name.starts_with("old-")));
        assert!(answers(&mut stream), "cut in step {step}");
    }
    let agent: Daemon = lab.run(&[]).unwrap();
    let sent = flood.stop();
    std::thread::sleep(patient(Duration::from_millis(100)));
    eprintln!("{begun} of 12 agents were killed in the middle of the change");
    assert!(answers(&mut stream), "{}", agent.log());
    assert_monotone(&counters, &agent.metrics().unwrap());
    assert_eq!(denied(&agent) - denied_before, sent as f64, "each datagram counts once: {}", agent.log());
    assert_eq!(lab.datagrams(), leaked, "datagrams leaked, of {sent}");
    assert_settled(&lab);
}

/// A table that is too small takes what it can hold, says so, and keeps the rest of the state.
#[test]
fn what_has_no_room_is_dropped_and_told() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut connections: Vec<_> = (0..6).map(|_| open(&lab)).collect();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    let counters = agent.metrics().unwrap();
    assert!(agent.metric(DENIED, &[]).unwrap() > 0.0);
    agent.stop().unwrap();
    // Each connection has two entries: one for each end.
    lab.settings(&format!("{NO_ADOPTION}sizes: {{ flows: 4, flows_per_port: 4 }}\n")).unwrap();
    let agent = lab.run(&[]).unwrap();
    assert!(agent.logged("there was no room for all") > 0, "{}", agent.log());
    let alive = connections.iter_mut().filter_map(|stream| answers(stream).then_some(())).count();
    assert!(alive <= 2, "{alive} connections by four entries");
    assert_monotone(&counters, &agent.metrics().unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert_settled(&lab);
}

/// The numbers of ports move within the mark, and nobody takes one port's packets for another's.
#[test]
fn another_mark_mask_cuts_nothing_and_opens_nothing() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let mut agent = lab.run(&[]).unwrap();
    let mut stream = open(&lab);
    let leaked = lab.datagrams();
    let flood = Flood::start(&lab).unwrap();
    for mask in ["0xff000000", "0x0000ff00", "0xffff0000"] {
        agent.stop().unwrap();
        lab.settings(&format!("{NO_ADOPTION}mark_mask: {mask}\n")).unwrap();
        agent = lab.run(&[]).unwrap();
        assert_eq!(agent.logged("the mark mask has changed"), 1, "{}", agent.log());
        assert!(answers(&mut stream), "cut by {mask}: {}", agent.log());
        assert_enforced(&lab);
    }
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "datagrams leaked, of {sent}");
}
