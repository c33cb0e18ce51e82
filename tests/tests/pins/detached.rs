//! `detach` takes out all of ours, wherever it is, and nothing else; and it names what stays.

use std::fs;

use integration_tests::agent_binary;
use integration_tests::daemon::{Refusal, files_below};
use integration_tests::sabotage::{self, NEXT, PASS, Way};
use integration_tests::small_lab::SmallLab;
use lab::netns::Netns;

use crate::{CLSACT, NO_ADOPTION, assert_enforced, exists, ifindex};

/// `detach`, run in some network namespace, with the lab's settings file.
fn detach_by_settings(lab: &SmallLab, from: &Netns) -> Refusal {
    let mut command = from.command(agent_binary().unwrap());
    command.arg("detach").arg("--config").arg(lab.path().join("agent.yaml"));
    Refusal::of(command.env_remove("PORTCULLIS_CONTROL")).unwrap()
}

fn filters(lab: &SmallLab, port: &str) -> usize {
    let shown = |way| lab.says("tc", &format!("filter show dev {port} {way}")).unwrap();
    let lines = [shown("ingress"), shown("egress")].concat();
    lines.lines().filter(|line| line.contains("handle 0x706f7274")).count()
}

fn qdiscs(lab: &SmallLab, port: &str) -> usize {
    lab.says("tc", &format!("qdisc show dev {port}")).unwrap().matches("clsact").count()
}

#[test]
fn the_settings_say_where_everything_is() {
    let lab = SmallLab::start().unwrap();
    let mut agent = lab.run(&[]).unwrap();
    assert_enforced(&lab);
    let detached = detach_by_settings(&lab, lab.host());
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    assert!(detached.data.contains("nothing is enforced any more"), "{}", detached.data);
    assert!(agent.wait().unwrap().success(), "a detached agent ends: {}", agent.log());
    assert!(!exists(&lab.pins()) && lab.reaches("web", "db", 5432).unwrap());
    // Settings that nobody can read need not be read.
    lab.run(&[]).unwrap().stop().unwrap();
    fs::write(lab.path().join("agent.yaml"), "nonsense: true\n").unwrap();
    detach_by_settings(&lab, lab.host()).assert_refused(&["agent.yaml", "hint: name `--pin-dir`"]);
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn what_others_attached_stays() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    // One was there before, one is used by somebody else as well, the rest are the agent's alone.
    lab.says("tc", "qdisc add dev p-web clsact").unwrap();
    let agent = lab.run(&[]).unwrap();
    let pass = lab.path().join("bpf/pass");
    sabotage::pin(&sabotage::program(PASS).unwrap(), &pass).unwrap();
    let add = format!("filter add dev p-db egress pref 5 bpf da object-pinned {}", pass.display());
    lab.says("tc", &add).unwrap();
    let program = sabotage::program(NEXT).unwrap();
    let _theirs = sabotage::get_before(lab.host(), ifindex(&lab, "p-api"), Way::Egress, &program).unwrap();
    assert_eq!(["p-web", "p-api", "p-db", "p-stray"].map(|port| filters(&lab, port)), [2; 4]);
    agent.stop().unwrap();
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    // Four ports and the bridge.
    assert!(detached.data.contains("filters of 5 interfaces"), "{}", detached.data);
    assert_eq!(["p-web", "p-api", "p-db", "p-stray", "lab0"].map(|port| filters(&lab, port)), [0; 5]);
    assert_eq!(["p-web", "p-api", "p-db", "p-stray", "lab0"].map(|port| qdiscs(&lab, port)), [1, 0, 1, 0, 0]);
    let shown = lab.says("tc", "filter show dev p-db egress").unwrap();
    assert_eq!(shown.matches("pref 5 bpf chain 0 handle").count(), 1, "{shown}");
    assert!(!exists(&lab.pins()) && lab.reaches("web", "db", 5432).unwrap());
}

fn two_agents(settings: &str) {
    let (ours, other) = (SmallLab::start().unwrap(), SmallLab::start().unwrap());
    for lab in [&ours, &other] {
        lab.settings(settings).unwrap();
    }
    ours.run(&[]).unwrap().stop().unwrap();
    let agent = other.run(&[]).unwrap();
    let pins = files_below(&other.pins()).len();
    let attached = filters(&other, "p-db");
    // From a namespace in which nothing is, and from that of another agent.
    let nowhere = Netns::create().unwrap();
    for from in [&nowhere, other.host()] {
        let detached = detach_by_settings(&ours, from);
        assert_eq!(detached.code, Some(0), "{}", detached.said);
        assert!(detached.data.contains("nothing is enforced any more"), "{}", detached.data);
        assert_eq!(filters(&ours, "p-db") + qdiscs(&ours, "p-db"), 0);
        assert!(!exists(&ours.pins()) && ours.reaches("web", "db", 5432).unwrap());
        assert_enforced(&other);
        assert_eq!((files_below(&other.pins()).len(), filters(&other, "p-db")), (pins, attached));
        ours.run(&[]).unwrap().stop().unwrap();
        assert_enforced(&ours);
    }
    assert_eq!(agent.metric("portcullis_enforcement_intact", &[]).unwrap(), 1.0, "{}", agent.log());
}

#[test]
fn one_of_two_agents_is_detached_from_another_namespace() {
    two_agents(NO_ADOPTION);
}

#[test]
fn one_of_two_agents_is_detached_by_clsact_from_another_namespace() {
    two_agents(CLSACT);
}

/// Filters whose pins are gone may be anybody's: they are named, and the next agent takes them over.
#[test]
fn filters_without_pins_are_named() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    fs::remove_dir_all(lab.pins()).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap(), "filters need no pins");
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(2), "{}", detached.said);
    for words in ["`p-db`", "tc filter del dev p-db egress pref 1 handle 0x706f7274 bpf"] {
        assert!(detached.said.contains(words), "{}", detached.said);
    }
    assert!(!lab.reaches("web", "db", 5432).unwrap(), "they were removed all the same");
    let agent = lab.run(&[]).unwrap();
    assert_eq!(filters(&lab, "p-db"), 2);
    assert_enforced(&lab);
    agent.stop().unwrap();
    let detached = lab.detach().unwrap();
    assert_eq!((detached.code, detached.said.as_str()), (Some(0), ""));
    assert_eq!(filters(&lab, "p-db"), 0);
    assert!(lab.reaches("web", "db", 5432).unwrap());
}
