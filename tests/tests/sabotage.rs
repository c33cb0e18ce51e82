//! Somebody with root's rights takes enforcement away: it is noticed within two seconds, repaired, and told in metrics,
//! log and status. By TCX and by clsact.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use integration_tests::daemon::{Daemon, Refusal, files_below};
use integration_tests::flood::Flood;
use integration_tests::has_tcx;
use integration_tests::sabotage::{self, NEXT, PASS, Way};
use integration_tests::small_lab::SmallLab;
use lab::patience::patient;

const INTACT: &str = "portcullis_enforcement_intact";
const FAULT: &str = "portcullis_enforcement_fault";
const REPAIRS: &str = "portcullis_enforcement_repairs_total";
const NOTICED_WITHIN: Duration = Duration::from_secs(2);
/// Reasons that an alert can be made for from the start.
const REASONS: [&str; 5] = ["gone", "shadowed", "exchanged", "pin_missing", "backstop"];

fn ifindex(lab: &SmallLab, port: &str) -> u32 {
    let said = lab.says("ip", &format!("-o link show dev {port}")).unwrap();
    said.split(':').next().unwrap().parse().unwrap()
}

fn link_of(lab: &SmallLab, port: &str, hook: &str) -> PathBuf {
    lab.pins().join(format!("v1/links/{}-{hook}", ifindex(lab, port)))
}

fn get_before(lab: &SmallLab, way: Way, returns: i32) -> OwnedFd {
    let program = sabotage::program(returns).unwrap();
    sabotage::get_before(lab.host(), ifindex(lab, "p-db"), way, &program).unwrap()
}

fn assert_intact(agent: &Daemon) {
    let samples = agent.metrics().unwrap();
    assert_eq!(agent.metric(INTACT, &[]).unwrap(), 1.0);
    for name in [FAULT, REPAIRS] {
        for reason in REASONS {
            let sample =
                samples.iter().find(|sample| sample.name == name && sample.labels["reason"] == reason);
            assert_eq!(sample.map(|sample| sample.value), Some(0.0), "{name} {reason}");
        }
    }
}

/// Waits for the fault, in time; and says that it was repaired this often.
fn wait_for(agent: &Daemon, since: Instant, reason: &str, repairs: f64) {
    let labels = [("reason", reason)];
    loop {
        let seen = agent.metric(FAULT, &labels).unwrap() == 1.0
            && agent.metric(REPAIRS, &labels).unwrap() >= repairs;
        let took = since.elapsed();
        if seen {
            eprintln!("{reason}: noticed after {took:?}");
            break;
        }
        assert!(took < patient(NOTICED_WITHIN), "{reason} not noticed:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(agent.metric(REPAIRS, &labels).unwrap(), repairs, "{}", agent.log());
    assert_eq!(agent.metric(INTACT, &[]).unwrap(), 0.0);
}

fn wait_until_logged(agent: &Daemon, words: &str) {
    let since = Instant::now();
    while agent.logged(words) == 0 {
        assert!(since.elapsed() < patient(NOTICED_WITHIN), "`{words}` is not in:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The policy holds, and the fault can still be seen.
fn assert_enforced(lab: &SmallLab, agent: &Daemon) {
    assert!(lab.reaches("api", "db", 5432).unwrap(), "{}", agent.log());
    // What opens takes a few milliseconds.
    let denied = lab.connect_within(Duration::from_millis(250), "web", "db", 5432).unwrap();
    assert!(denied.is_none(), "{}", agent.log());
    assert_eq!(agent.metric(INTACT, &[]).unwrap(), 0.0, "no alert can have seen it");
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
}

#[test]
fn a_program_that_gets_before_ours_loses_its_place() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_intact(&agent);
    let flood = Flood::start(&lab).unwrap();
    // While it leaves packets to the next one nothing leaks, not even as ours is moved.
    let since = Instant::now();
    let harmless = [get_before(&lab, Way::Egress, NEXT), get_before(&lab, Way::Ingress, NEXT)];
    wait_for(&agent, since, "shadowed", 2.0);
    assert_enforced(&lab, &agent);
    assert_eq!(lab.datagrams(), 0, "leaked while the programs were moved");
    drop(harmless);
    // One that ends the row opens the door until it is noticed.
    let since = Instant::now();
    let bypass = get_before(&lab, Way::Egress, PASS);
    wait_for(&agent, since, "shadowed", 3.0);
    let leaked = lab.datagrams();
    assert!(leaked > 0, "nothing leaked: the sabotage does not work");
    assert_enforced(&lab, &agent);
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked after the repair, of {sent}");
    drop(bypass);

    let status = lab.status(&[]).unwrap().data;
    assert!(status.contains("! somebody interfered with to_endpoint of p-db: program "), "{status}");
    assert!(status.contains("moved to the front"), "{status}");
    let json = lab.status(&["-o", "json"]).unwrap().data;
    assert!(json.contains("\"fault\": \"shadowed\""), "{json}");
    assert_eq!(agent.logged("somebody interfered with enforcement"), 3, "{}", agent.log());
    // The next agent takes over what was moved, and nothing is there twice.
    agent.stop().unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_eq!(files_below(&lab.pins().join("v1/links")).len(), 10, "four ports and the bridge");
    std::thread::sleep(NOTICED_WITHIN * 5 / 8);
    assert_intact(&agent);
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn whoever_insists_is_reported_and_not_fought_for_ever() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut theirs = Vec::new();
    for moved in 1..=3 {
        let since = Instant::now();
        theirs.push(get_before(&lab, Way::Egress, NEXT));
        wait_for(&agent, since, "shadowed", f64::from(moved));
    }
    theirs.push(get_before(&lab, Way::Egress, NEXT));
    wait_until_logged(&agent, "given up after 3 moves");
    // Time enough to fight on, or to say it again.
    std::thread::sleep(NOTICED_WITHIN * 5 / 8);
    assert_eq!(agent.metric(REPAIRS, &[("reason", "shadowed")]).unwrap(), 3.0, "{}", agent.log());
    assert_eq!(agent.logged("given up after 3 moves"), 1, "{}", agent.log());
    assert_enforced(&lab, &agent);
}

#[test]
fn links_taken_off_and_programs_exchanged_come_back() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let since = Instant::now();
    sabotage::take_off(&link_of(&lab, "p-db", "to_endpoint")).unwrap();
    sabotage::take_off(&link_of(&lab, "p-db", "from_endpoint")).unwrap();
    wait_for(&agent, since, "gone", 2.0);
    assert_enforced(&lab, &agent);

    let since = Instant::now();
    let link = link_of(&lab, "p-db", "to_endpoint");
    sabotage::exchange(&link, &sabotage::program(PASS).unwrap()).unwrap();
    wait_for(&agent, since, "exchanged", 1.0);
    assert_enforced(&lab, &agent);
    assert_eq!(agent.metric(FAULT, &[("reason", "pin_missing")]).unwrap(), 0.0, "{}", agent.log());
    // What was attached again is pinned: it outlives the agent.
    agent.kill().unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn pins_removed_come_back() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    let pinned = files_below(&lab.pins());
    let since = Instant::now();
    // Filters of clsact have no pins.
    let pin = if has_tcx() { link_of(&lab, "p-db", "to_endpoint") } else { lab.pins().join("v1/maps/FLOWS") };
    fs::remove_file(pin).unwrap();
    fs::remove_file(lab.pins().join("v1/maps/RULES")).unwrap();
    wait_for(&agent, since, "pin_missing", 2.0);
    let since = Instant::now();
    fs::remove_dir_all(lab.pins()).unwrap();
    wait_for(&agent, since, "pin_missing", 2.0 + pinned.len() as f64);
    let (mut now, mut before) = (files_below(&lab.pins()), pinned);
    now.sort();
    before.sort();
    assert_eq!(now, before);
    assert_enforced(&lab, &agent);
    // Still nobody else's: a second agent finds them in use.
    let (state, socket) = (lab.path().join("other"), lab.path().join("other.sock"));
    let mut second = lab.command(&["--listen", "127.0.0.1:10499"]);
    second.arg("--state-dir").arg(state).arg("--control").arg(socket);
    Refusal::of(&mut second).unwrap().assert_refused(&["another agent is running with the pins"]);
    // The next agent goes on where this one ended, with the same maps.
    agent.kill().unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_eq!(agent.revision().unwrap(), revision);
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn clsact_filters_come_back_and_come_first() {
    let lab = SmallLab::start().unwrap();
    lab.settings("attach: clsact\n").unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_intact(&agent);
    let since = Instant::now();
    lab.says("tc", "qdisc del dev p-db clsact").unwrap();
    wait_for(&agent, since, "gone", 2.0);
    assert_enforced(&lab, &agent);

    let pass = lab.path().join("bpf/pass");
    sabotage::pin(&sabotage::program(PASS).unwrap(), &pass).unwrap();
    let flood = Flood::start(&lab).unwrap();
    let since = Instant::now();
    let add = format!("filter add dev p-db egress pref 1 bpf da object-pinned {}", pass.display());
    lab.says("tc", &add).unwrap();
    wait_for(&agent, since, "shadowed", 1.0);
    let leaked = lab.datagrams();
    assert!(leaked > 0, "nothing leaked: the sabotage does not work");
    assert_enforced(&lab, &agent);
    flood.stop();
    assert_eq!(lab.datagrams(), leaked);
    let filters = lab.says("tc", "filter show dev p-db egress").unwrap();
    assert_eq!(filters.matches("to_endpoint direct-action").count(), 1, "{filters}");

    let since = Instant::now();
    let replace = format!(
        "filter replace dev p-db egress pref 1 handle 0x706f7274 bpf da object-pinned {}",
        pass.display()
    );
    lab.says("tc", &replace).unwrap();
    wait_for(&agent, since, "exchanged", 1.0);
    assert_enforced(&lab, &agent);

    if has_tcx() {
        // By TCX it would run before any filter: that cannot be repaired, only told.
        let _theirs = get_before(&lab, Way::Egress, NEXT);
        wait_until_logged(&agent, "TCX runs before clsact");
    }
}
