//! A policy of 100,000 rules on a host with 5,000 endpoints: what it takes to resolve it, to write it and to put
//! another in its place, in processor time of the thread that does it. The kernel's maps are real, the interfaces are
//! not: what a swap costs does not depend on them.
//!
//! The limit that is asserted is one that a debug build on a busy machine keeps; `cargo xtask bench --scale` says what
//! an optimised one takes.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::MapData;
use integration_tests::bpffs::Bpffs;
use integration_tests::{prepare, scale, tell};
use portcullis::datapath::{Datapath, Options, maps::NAMES};
use portcullis::inventory::identity::IdentityRegistry;
use portcullis::policy::{self, Source, model::PolicySet, resolve::resolve};
use rustix::time::{ClockId, clock_gettime};

const ENDPOINTS: usize = 5_000;
const RULES: usize = 100_000;
/// Of all steps together.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// Runs a step and says what it took of the processor.
fn timed<T>(what: &str, total: &mut Duration, step: impl FnOnce() -> T) -> T {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = now();
    let result = step();
    let took = now() - before;
    *total += took;
    tell(&format!("scale: {what}: {:.0} ms", took.as_secs_f64() * 1000.0)).unwrap();
    result
}

/// Bytes that the kernel says each map takes, largest first; those that are filled as they are needed as they are now.
fn map_memory(pins: &Path) -> Vec<(&'static str, u64)> {
    let bytes = |name: &str| {
        let map = MapData::from_pin(pins.join("v1/maps").join(name)).unwrap();
        let descriptor = map.fd().as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let mut maps: Vec<_> = NAMES.map(|name| (name, bytes(name))).into();
    maps.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    maps
}

/// Kilobytes of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn parse(text: String) -> PolicySet {
    let source = Source { name: "large.yaml".to_owned(), text };
    policy::load(&[source], None).policies.unwrap()
}

#[test]
fn a_hundred_thousand_rules_are_swapped_on_a_host_with_five_thousand_endpoints() {
    prepare().unwrap();
    let services = RULES.div_ceil(scale::RULES_OF_A_SERVICE);
    let before = resident();
    let host = scale::host(ENDPOINTS, services);
    let bpffs = Bpffs::mount().unwrap();
    let mut datapath = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    let mut registry = IdentityRegistry::default();
    let (mut first, mut swap) = (Duration::ZERO, Duration::ZERO);

    let set = timed("read the policy", &mut first, || parse(scale::policy(services, 0)));
    let entries = timed("resolve", &mut first, || resolve(&set, &host, &mut registry).unwrap());
    assert!(entries.rules.len() >= RULES, "only {} rules", entries.rules.len());
    assert!(timed("write", &mut first, || datapath.apply(&host, &entries).unwrap()));

    let set = timed("read another", &mut swap, || parse(scale::policy(services, 1)));
    let entries = timed("resolve", &mut swap, || resolve(&set, &host, &mut registry).unwrap());
    assert!(timed("write, swap, remove the old", &mut swap, || datapath.apply(&host, &entries).unwrap()));
    assert!(!timed("nothing new", &mut swap, || datapath.apply(&host, &entries).unwrap()));
    tell(&format!(
        "scale: {} rules, {ENDPOINTS} endpoints: first {:.0} ms, swap {:.0} ms of CPU",
        entries.rules.len(),
        first.as_secs_f64() * 1000.0,
        swap.as_secs_f64() * 1000.0
    ))
    .unwrap();
    let maps = map_memory(&bpffs.pins());
    let largest: Vec<String> =
        maps.iter().take(6).map(|(name, bytes)| format!("{name} {:.1}", *bytes as f64 / 1e6)).collect();
    tell(&format!(
        "scale: {} MB more of this process, {:.0} MB of maps: {}",
        (resident() - before) / 1000,
        maps.iter().map(|(_, bytes)| bytes).sum::<u64>() as f64 / 1e6,
        largest.join(", ")
    ))
    .unwrap();
    assert!(swap < LIMIT, "a swap took {swap:?}");
}

/// The kernel needs one entry for each range of each service; finding out which rules hold for a range must not mean to
/// look at all others.
#[test]
fn services_that_share_a_group_of_many_ranges_are_resolved_quickly() {
    let set = parse(scale::policy_of_ranges(3, 22_000));
    let host = scale::host(3, 3);
    let mut took = Duration::ZERO;
    let entries = timed("resolve 22,000 ranges of three services", &mut took, || {
        resolve(&set, &host, &mut IdentityRegistry::default()).unwrap()
    });
    assert_eq!(entries.addresses.len(), 66_000);
    assert!(took < LIMIT / 3, "{took:?}");
}
