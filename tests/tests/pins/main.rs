//! What is pinned and who takes it over: maps that change their layout, state that is half there or not ours, a BPF file
//! system that fails, and `detach`. By TCX and by clsact.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod bpffs;
mod carried;
mod converted;
mod detached;
mod found;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::daemon::Daemon;
use integration_tests::small_lab::SmallLab;
use lab::observed::Sample;
use lab::patience::patient;

/// No connection is taken over by other means than by carrying its flow over.
const NO_ADOPTION: &str = "adopt: 0\n";
const CLSACT: &str = "adopt: 0\nattach: clsact\n";
const DENIED: &str = "portcullis_denied_packets_total";
const REPAIRS: &str = "portcullis_enforcement_repairs_total";
const SOON: Duration = Duration::from_secs(4);

/// Counters of the first scrape are nowhere higher than those of the second.
fn assert_monotone(before: &[Sample], after: &[Sample]) {
    for old in before.iter().filter(|sample| sample.name.ends_with("_total")) {
        // Of the process, not of the kernel: these begin with each agent.
        if old.name.starts_with("process_") || old.name == REPAIRS {
            continue;
        }
        let new = after.iter().find(|new| new.name == old.name && new.labels == old.labels);
        assert!(new.is_some_and(|new| new.value >= old.value), "{} fell: {new:?}", old.line);
    }
}

/// Denied datagrams, whoever sent them.
fn denied(agent: &Daemon) -> f64 {
    agent.metric(DENIED, &[("protocol", "udp")]).unwrap()
}

/// The names in a directory of the pins.
fn names(lab: &SmallLab, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(lab.pins().join(directory)).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Nothing of an earlier agent or of a layout change is left.
fn assert_settled(lab: &SmallLab) {
    let maps = names(lab, "v1/maps");
    let passing = |name: &&String| name.starts_with("old-") || name.starts_with("aside-");
    assert_eq!(maps.iter().filter(passing).count(), 0, "{maps:?}");
    assert_eq!(names(lab, "v1/programs").len(), 1, "{:?}", names(lab, "v1/programs"));
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < patient(SOON), "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ifindex(lab: &SmallLab, port: &str) -> u32 {
    let said = lab.says("ip", &format!("-o link show dev {port}")).unwrap();
    said.split(':').next().unwrap().parse().unwrap()
}

fn link_of(lab: &SmallLab, port: &str, hook: &str) -> PathBuf {
    lab.pins().join(format!("v1/links/{}-{hook}", ifindex(lab, port)))
}

/// The policy holds for connections that are new.
fn assert_enforced(lab: &SmallLab) {
    assert!(lab.reaches("web", "api", 8000).unwrap());
    // What opens takes a few milliseconds.
    let denied = lab.connect_within(Duration::from_millis(200), "web", "db", 5432).unwrap();
    assert!(denied.is_none());
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
