//! A BPF file system that goes away, cannot be written to, or is open to others. It has no limit of its own that it could
//! reach: to be full means that the kernel has no memory left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use integration_tests::daemon::files_below;
use integration_tests::flood::Flood;
use integration_tests::small_lab::{SmallLab, answers};
use lab::process::run;

use crate::{NO_ADOPTION, REPAIRS, assert_enforced, denied, names, wait_until};

fn bpf(lab: &SmallLab) -> PathBuf {
    lab.path().join("bpf")
}

fn mount(lab: &SmallLab, arguments: &[&str]) {
    run(Command::new("mount").args(arguments).arg(bpf(lab))).unwrap();
}

#[test]
fn unmounted_below_a_running_agent_nothing_ends_and_all_comes_back() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    let pins = files_below(&lab.pins()).len();
    let leaked = lab.datagrams();
    let flood = Flood::start(&lab).unwrap();
    run(Command::new("umount").arg("-l").arg(bpf(&lab))).unwrap();
    wait_until("it is told", || agent.logged("is not on a BPF file system") > 0);
    assert_eq!(agent.metric("portcullis_enforcement_intact", &[]).unwrap(), 0.0);
    let status = lab.status(&[]).unwrap().data;
    assert!(status.contains("is not on a BPF file system"), "{status}");
    let before = denied(&agent);
    assert_enforced(&lab);
    assert!(answers(&mut stream));
    // What appears now is denied too.
    lab.host().ip("link add p-late type veth peer name far").unwrap();
    lab.host().ip("link set p-late master lab0 up").unwrap();
    mount(&lab, &["-t", "bpf", "bpf"]);
    // Two links more: those of the port that came meanwhile.
    wait_until("all is pinned again", || files_below(&lab.pins()).len() == pins + 2);
    assert!(agent.metric(REPAIRS, &[("reason", "pin_missing")]).unwrap() >= pins as f64, "{}", agent.log());
    assert!(denied(&agent) > before, "nothing was counted meanwhile");
    // And outlives the agent again.
    agent.kill().unwrap();
    assert_enforced(&lab);
    assert!(answers(&mut stream));
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

/// The kernel opens nothing on it, so an agent that starts could take over nothing: it says so and leaves it in force.
#[test]
fn read_only_an_agent_does_not_start_and_one_that_runs_goes_on() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    agent.stop().unwrap();
    let leaked = lab.datagrams();
    let flood = Flood::start(&lab).unwrap();
    mount(&lab, &["-o", "remount,ro"]);
    lab.refusal(&[]).unwrap().assert_refused(&["is mounted read-only", "hint:"]);
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(2), "{}", detached.said);
    assert!(detached.said.contains("v1/maps/FLOWS: Read-only file system"), "{}", detached.said);
    assert!(answers(&mut stream), "who did not start has cut a connection");
    assert_enforced(&lab);
    mount(&lab, &["-o", "remount,rw"]);
    let agent = lab.run(&[]).unwrap();
    mount(&lab, &["-o", "remount,ro"]);
    wait_until("it is told", || agent.logged("Read-only file system") > 0);
    lab.host().ip("link add p-late type veth peer name far").unwrap();
    lab.host().ip("link set p-late master lab0 up").unwrap();
    wait_until("the new port is attached", || agent.logged("link not pinned") > 1);
    assert_enforced(&lab);
    assert!(answers(&mut stream), "{}", agent.log());
    mount(&lab, &["-o", "remount,rw"]);
    wait_until("all is pinned", || names(&lab, "v1/links").len() == 12);
    agent.kill().unwrap();
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
    assert_enforced(&lab);
}

#[test]
fn directories_are_roots_alone() {
    let lab = SmallLab::start().unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    let maps = lab.pins().join("v1/maps");
    fs::set_permissions(&maps, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_eq!(agent.logged("others could enter: closed"), 1, "{}", agent.log());
    for directory in ["", "v1", "v1/maps", "v1/links", "v1/programs", "v1/filters"] {
        let data = fs::metadata(lab.pins().join(directory)).unwrap();
        assert_eq!(data.permissions().mode() & 0o777, 0o700, "{directory}");
    }
    agent.stop().unwrap();
    chown(&maps, Some(4711), None).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["belongs to user 4711, not to root", "hint:"]);
    assert_enforced(&lab);
    chown(&maps, Some(0), None).unwrap();
    let links = lab.pins().join("v1/links");
    let moved = lab.pins().join("v1/moved");
    fs::rename(&links, &moved).unwrap();
    symlink(&moved, &links).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["is no directory", "hint:"]);
    assert_enforced(&lab);
    fs::remove_file(&links).unwrap();
    fs::rename(&moved, &links).unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_enforced(&lab);
    agent.stop().unwrap();
}
