//! What `run` is given and cannot use: one message that names it, a hint, exit code 2, and nothing in the kernel.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use integration_tests::agent_binary;
use integration_tests::daemon::{Refusal, files_below};
use integration_tests::small_lab::{POLICY, SmallLab};
use lab::agent::LISTEN;
use lab::netns::within;

/// The refusal of a policy with this text.
fn refused_policy(lab: &SmallLab, text: &str) -> Refusal {
    lab.write_policy(text).unwrap();
    let refusal = lab.refusal(&[]).unwrap();
    assert_eq!(files_below(&lab.pins()), Vec::<PathBuf>::new(), "something was pinned");
    refusal
}

/// Each mistake alone, with what the message has to say.
#[test]
fn a_policy_with_a_mistake_does_not_start_an_agent() {
    let lab = SmallLab::start().unwrap();
    let line = |wanted: &str| POLICY.lines().position(|line| line.contains(wanted)).unwrap() + 1;
    let cases: [(String, Vec<String>); 4] = [
        (
            POLICY.replace("severity: critical", "severitty: critical"),
            vec![
                "`severitty`".into(),
                format!("policy/shop.yaml:{}:", line("severity")),
                "hint:".into(),
                "`severity`".into(),
            ],
        ),
        (
            POLICY.replace("from: [web]", "from: [wbe]"),
            vec![
                "`wbe`".into(),
                format!("policy/shop.yaml:{}:", line("[web]")),
                "hint:".into(),
                "`web`".into(),
            ],
        ),
        (
            POLICY.replace("from: [web]", "from: [192.0.2.0/33]"),
            vec!["`192.0.2.0/33`".into(), format!("policy/shop.yaml:{}:", line("[web]")), "hint:".into()],
        ),
        (String::new(), vec!["policy/shop.yaml".into(), "holds no policy".into(), "hint:".into()]),
    ];
    for (text, words) in cases {
        let refusal = refused_policy(&lab, &text);
        refusal.assert_refused(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(refusal.said.matches("error").count(), 1, "{}", refusal.said);
    }
}

#[test]
fn two_policies_of_one_name_do_not_start_an_agent() {
    let lab = SmallLab::start().unwrap();
    fs::write(lab.path().join("policy/twin.yaml"), POLICY).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["`shop`", "policy/twin.yaml:2:", "policy/shop.yaml"]);
}

#[test]
fn a_yaml_bomb_is_refused_quickly() {
    let lab = SmallLab::start().unwrap();
    let mut bomb = String::from("version: 1\npolicy: bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    let start = std::time::Instant::now();
    refused_policy(&lab, &bomb).assert_refused(&["policy/shop.yaml"]);
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
}

#[test]
fn policies_that_cannot_be_read_do_not_start_an_agent() {
    let lab = SmallLab::start().unwrap();
    fs::remove_file(lab.policy()).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["holds no policies", "/policy`", "hint:", "`.yaml`"]);

    symlink(lab.path().join("nowhere"), lab.policy()).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["failed to read", "shop.yaml", "hint:"]);

    let missing = lab.path().join("missing.yaml");
    lab.refusal(&["--policy", &missing.display().to_string()]).unwrap().assert_refused(&[
        "failed to read",
        "missing.yaml",
        "hint:",
    ]);
    // What the file system will not give, root cannot read either.
    lab.refusal(&["--policy", "/proc/self/mem"])
        .unwrap()
        .assert_refused(&["failed to read", "/proc/self/mem"]);
}

#[test]
fn a_profile_that_no_policy_uses_is_refused() {
    let lab = SmallLab::start().unwrap();
    lab.refusal(&["--profile", "produktion"]).unwrap().assert_refused(&["`produktion`"]);
}

#[test]
fn settings_with_a_mistake_are_refused_with_their_place() {
    let lab = SmallLab::start().unwrap();
    lab.settings("lissten: 127.0.0.1:10477\n").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["agent.yaml", "`lissten`", "7:1"]);
    lab.settings("attach: xdp\n").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["agent.yaml", "xdp", "clsact", "7"]);
    lab.settings("mark_mask: 0xff00ff00\n").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["0xff00ff00", "contiguous", "hint:"]);
    fs::remove_file(lab.path().join("agent.yaml")).unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["failed to read", "agent.yaml"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let lab = SmallLab::start().unwrap();
    let _taken = within(&lab.host().path(), || TcpListener::bind(std::net::SocketAddr::from(LISTEN)))
        .unwrap()
        .unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["127.0.0.1:10477", "hint:", "--listen"]);
}

#[test]
fn a_second_agent_in_the_place_of_a_living_one_is_refused_and_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let other_port = ["--listen", "127.0.0.1:10478"];
    let [state, socket] =
        ["other-state", "other.sock"].map(|name| lab.path().join(name).display().to_string());
    // What they share is named, one thing after the other.
    lab.refusal(&other_port).unwrap().assert_refused(&["another agent", "/state`", "hint:"]);
    let flags = [&other_port[..], &["--state-dir", &state]].concat();
    lab.refusal(&flags).unwrap().assert_refused(&["another agent", "control.sock", "hint:"]);
    let flags = [&flags[..], &["--control", &socket]].concat();
    lab.refusal(&flags).unwrap().assert_refused(&["another agent", "/bpf/portcullis`", "hint:"]);
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert!(lab.reaches("web", "api", 8000).unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn something_else_in_the_place_of_the_control_socket_stays() {
    let lab = SmallLab::start().unwrap();
    let path = lab.path().join("control.sock");
    fs::write(&path, "mine").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["control.sock", "not a socket", "hint:"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_state_directory_that_is_damaged_or_cannot_be_written_is_refused() {
    let lab = SmallLab::start().unwrap();
    let file = lab.path().join("state/identities.json");
    fs::write(&file, "{\"next\":").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["identities.json", "damaged", "hint:", "detach"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"next\":");
    fs::remove_file(&file).unwrap();

    lab.refusal(&["--state-dir", "/proc/portcullis"]).unwrap().assert_refused(&[
        "/proc/portcullis",
        "hint:",
        "--state-dir",
    ]);
    // Root may write everywhere but on a file system that nobody may write to.
    lab.refusal(&["--state-dir", "/sys/kernel"]).unwrap().assert_refused(&[
        "/sys/kernel",
        "hint:",
        "--state-dir",
    ]);
    assert_eq!(files_below(&lab.pins()), Vec::<PathBuf>::new());
}

#[test]
fn an_events_file_that_cannot_be_written_is_refused() {
    let lab = SmallLab::start().unwrap();
    for path in ["/proc/portcullis.jsonl", "/proc"] {
        lab.refusal(&["--events", path]).unwrap().assert_refused(&["events", path, "hint:"]);
    }
}

/// Runs the agent behind `setpriv`, which takes rights away.
fn without_rights(lab: &SmallLab, setpriv: &[&str]) -> Refusal {
    let wrapper = [&["setpriv"], setpriv].concat();
    Refusal::of(&mut lab.command_behind(&wrapper, &[])).unwrap()
}

#[test]
fn missing_capabilities_are_named() {
    let lab = SmallLab::start().unwrap();
    without_rights(&lab, &["--bounding-set=-all", "--inh-caps=-all"]).assert_refused(&[
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
        "hint:",
        "root",
    ]);
    let refusal = without_rights(&lab, &["--bounding-set=-net_admin", "--inh-caps=-all"]);
    refusal.assert_refused(&["missing CAP_NET_ADMIN", "hint:"]);
    assert!(!refusal.said.contains("missing CAP_BPF"), "{}", refusal.said);
    assert_eq!(files_below(&lab.pins()), Vec::<PathBuf>::new());
}

/// Another user cannot read the lab's files either: rights are the first thing to be looked at.
#[test]
fn another_user_is_told_that_rights_are_missing() {
    let lab = SmallLab::start().unwrap();
    let binary = lab.path().join("portcullis");
    fs::copy(agent_binary().unwrap(), &binary).unwrap();
    let mut command = lab.host().command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary).args(["run"]);
    Refusal::of(&mut command).unwrap().assert_refused(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "hint:"]);
}

#[test]
fn a_pin_directory_outside_of_a_bpf_file_system_is_refused() {
    let lab = SmallLab::start().unwrap();
    let elsewhere = lab.path().join("state/pins");
    lab.refusal(&["--pin-dir", &elsewhere.display().to_string()]).unwrap().assert_refused(&[
        "state/pins",
        "BPF file system",
        "hint:",
        "mount -t bpf",
    ]);
    assert!(!elsewhere.exists());
    // The default's own place, with something else mounted on it where only this process sees it.
    let script = "mount -t tmpfs tmpfs /sys/fs/bpf && exec \"$0\" \"$@\"";
    let mut command = lab.command_behind(
        &["unshare", "--mount", "sh", "-c", script],
        &["--pin-dir", "/sys/fs/bpf/portcullis"],
    );
    Refusal::of(&mut command).unwrap().assert_refused(&[
        "/sys/fs/bpf/portcullis",
        "BPF file system",
        "hint:",
        "mount -t bpf bpf /sys/fs/bpf",
    ]);
}

/// An agent that cannot start takes nothing away from what an earlier one left in force.
#[test]
fn what_was_enforced_stays_when_a_new_agent_cannot_start() {
    let lab = SmallLab::start().unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    lab.write_policy("version: 1\nno_such_key: 1\n").unwrap();
    lab.refusal(&[]).unwrap().assert_refused(&["`no_such_key`"]);
    assert!(lab.reaches("web", "api", 8000).unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}
