//! What an agent finds at its start: state that is half there, exchanged while nobody looked, of devices that are gone, of
//! a newer version, or not ours at all.

use std::fs;
use std::os::fd::OwnedFd;

use aya::maps::{HashMap, MapData};
use integration_tests::daemon::{Daemon, files_below};
use integration_tests::flood::Flood;
use integration_tests::sabotage::{self, PASS, Way};
use integration_tests::small_lab::{SmallLab, answers};

use crate::{
    CLSACT, NO_ADOPTION, REPAIRS, assert_enforced, assert_monotone, assert_settled, denied, exists, link_of,
    names, wait_until,
};

const INTACT: &str = "portcullis_enforcement_intact";

/// Runs an agent, ends it, does something to what it left, and runs another, under a flood of which nothing may get
/// through from when the second agent is ready.
fn between_two_agents(lab: &SmallLab, change: impl FnOnce()) -> (Daemon, f64) {
    let agent = lab.run(&[]).unwrap();
    assert_enforced(lab);
    let before = agent.metrics().unwrap();
    let revision = agent.revision().unwrap();
    agent.stop().unwrap();
    change();
    let agent = lab.run(&[]).unwrap();
    assert_eq!(agent.revision().unwrap(), revision, "{}", agent.log());
    assert_monotone(&before, &agent.metrics().unwrap());
    let leaked = lab.datagrams();
    let flood = Flood::start(lab).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(flood.stop() > 100);
    assert_eq!(lab.datagrams(), leaked, "leaked after the start: {}", agent.log());
    assert_enforced(lab);
    let denied = denied(&agent);
    (agent, denied)
}

/// Datagrams that nobody may receive arrive: what was done has an effect.
fn assert_leaks(lab: &SmallLab) {
    let before = lab.datagrams();
    let flood = Flood::start(lab).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(flood);
    assert!(lab.datagrams() > before, "the sabotage does not work");
}

fn assert_told(agent: &Daemon, lab: &SmallLab, reason: &str, words: &str) {
    wait_until(words, || agent.logged(words) > 0);
    assert!(agent.metric(REPAIRS, &[("reason", reason)]).unwrap() >= 1.0, "{}", agent.log());
    assert_eq!(agent.metric(INTACT, &[]).unwrap(), 0.0);
    let status = lab.status(&[]).unwrap().data;
    assert!(status.contains("! somebody interfered with"), "{status}");
}

#[test]
fn maps_whose_pins_are_gone_are_found_by_the_programs_that_use_them() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let first = lab.run(&[]).unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    first.stop().unwrap();
    let (agent, _) = between_two_agents(&lab, || fs::remove_dir_all(lab.pins().join("v1/maps")).unwrap());
    assert!(answers(&mut stream), "the flow was lost: {}", agent.log());
    assert_told(&agent, &lab, "pin_missing", "was missing at the start");
}

#[test]
fn a_map_that_is_not_ours_is_moved_away_and_ours_comes_back() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let rules = lab.pins().join("v1/maps/RULES");
    let flows = lab.pins().join("v1/maps/FLOWS");
    let theirs = || HashMap::<MapData, u32, u64>::create(16, 0).unwrap();
    let (agent, _) = between_two_agents(&lab, || {
        fs::remove_file(&rules).unwrap();
        theirs().pin(&rules).unwrap();
        // Of no kind that a map has.
        fs::remove_file(&flows).unwrap();
        sabotage::pin(&sabotage::program(PASS).unwrap(), &flows).unwrap();
    });
    assert_told(&agent, &lab, "exchanged", "is a map that no program of ours uses as that");
    assert_told(&agent, &lab, "exchanged", "is no map of ours");
    for name in ["foreign-1-RULES", "foreign-1-FLOWS"] {
        assert!(exists(&lab.pins().join("v1/maps").join(name)), "{:?}", names(&lab, "v1/maps"));
    }
    agent.stop().unwrap();
    // They are not ours to remove.
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    assert!(detached.said.contains("foreign-1-RULES: it is not ours"), "{}", detached.said);
    assert_eq!(files_below(&lab.pins()).len(), 2);
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn programs_exchanged_while_no_agent_ran_are_told_and_exchanged_back() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let (agent, _) = between_two_agents(&lab, || {
        let link = link_of(&lab, "p-db", "to_endpoint");
        sabotage::exchange(&link, &sabotage::program(PASS).unwrap()).unwrap();
        assert_leaks(&lab);
    });
    assert_told(&agent, &lab, "exchanged", "since the last agent ended the link holds program");
}

#[test]
fn filters_exchanged_while_no_agent_ran_are_told_and_exchanged_back() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    let (agent, _) = between_two_agents(&lab, || {
        let pass = lab.path().join("bpf/pass");
        sabotage::pin(&sabotage::program(PASS).unwrap(), &pass).unwrap();
        let pass = pass.display();
        let replace =
            format!("filter replace dev p-db egress pref 1 handle 0x706f7274 bpf da object-pinned {pass}");
        lab.says("tc", &replace).unwrap();
        assert_leaks(&lab);
    });
    assert_told(&agent, &lab, "exchanged", "since the last agent ended the filter holds program");
}

/// Another link under the name of ours, on another interface: ours is attached anew, and the other left alone.
#[test]
fn a_link_that_is_not_on_its_hook_is_replaced() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let (link, elsewhere) = (link_of(&lab, "p-db", "to_endpoint"), crate::ifindex(&lab, "p-api"));
    let mut theirs: Option<OwnedFd> = None;
    let (agent, _) = between_two_agents(&lab, || {
        fs::remove_file(&link).unwrap();
        assert_leaks(&lab);
        let program = sabotage::program(sabotage::NEXT).unwrap();
        let other = sabotage::get_before(lab.host(), elsewhere, Way::Ingress, &program).unwrap();
        sabotage::pin(&other, &link).unwrap();
        theirs = Some(other);
    });
    assert_told(&agent, &lab, "exchanged", "is a link of another interface");
    drop(theirs);
    assert!(exists(&link), "{}", agent.log());
    assert_settled(&lab);
}

#[test]
fn what_an_agent_left_half_done_is_put_in_order() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let (agent, _) = between_two_agents(&lab, || {
        let (maps, links) = (lab.pins().join("v1/maps"), lab.pins().join("v1/links"));
        // Begun and never used.
        HashMap::<MapData, u32, u64>::create(16, 0).unwrap().pin(maps.join("aside-FLOWS")).unwrap();
        fs::rename(link_of(&lab, "p-db", "to_endpoint"), links.join("aside-1-to_endpoint")).unwrap();
        let set = lab.pins().join("v1/programs/99");
        fs::create_dir(&set).unwrap();
        sabotage::pin(&sabotage::program(PASS).unwrap(), &set.join("to_endpoint")).unwrap();
        // Looks retired and is in use.
        fs::rename(maps.join("DENIED"), maps.join("old-1-v1-DENIED")).unwrap();
    });
    assert_settled(&lab);
    let links = names(&lab, "v1/links");
    assert!(links.len() == 10 && links.iter().all(|name| !name.starts_with("aside-")), "{links:?}");
    agent.stop().unwrap();
}

#[test]
fn without_links_the_programs_are_attached_anew() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let (agent, _) = between_two_agents(&lab, || fs::remove_dir_all(lab.pins().join("v1/links")).unwrap());
    assert_eq!(names(&lab, "v1/links").len(), 10, "{}", agent.log());
}

#[test]
fn without_known_programs_maps_and_links_are_taken_over_by_their_looks() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    let first = lab.run(&[]).unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    first.stop().unwrap();
    let (agent, _) = between_two_agents(&lab, || fs::remove_dir_all(lab.pins().join("v1/programs")).unwrap());
    assert!(answers(&mut stream), "{}", agent.log());
    assert_settled(&lab);
}

/// The pins of devices that are gone go; a device that got the number of one is attached to like any other.
#[test]
fn pins_of_devices_that_are_gone_go_with_them() {
    let lab = SmallLab::start().unwrap();
    lab.settings(NO_ADOPTION).unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    let number = crate::ifindex(&lab, "p-stray");
    lab.host().ip("link delete p-stray").unwrap();
    let stale = lab.pins().join(format!("v1/links/{number}-to_endpoint"));
    assert!(exists(&stale), "nobody ran who could have removed it");
    lab.host().ip(&format!("link add p-new index {number} type veth peer name far")).unwrap();
    lab.host().ip("link set p-new master lab0 up").unwrap();
    let agent = lab.run(&[]).unwrap();
    assert_eq!(names(&lab, "v1/links").len(), 10, "{}", agent.log());
    assert_enforced(&lab);
    assert_eq!(agent.metric(REPAIRS, &[]).unwrap(), 0.0, "that is nobody's fault: {}", agent.log());
    lab.host().ip("link delete p-new").unwrap();
    wait_until("the pins are gone", || names(&lab, "v1/links").len() == 8);
}

/// A newer version's state: its links are taken over without a gap, what its maps mean nobody can know.
#[test]
fn what_a_newer_version_left_is_replaced_without_a_gap() {
    let lab = SmallLab::start().unwrap();
    let flood = Flood::start(&lab).unwrap();
    let agent = lab.run(&[]).unwrap();
    let leaked = lab.datagrams();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    agent.stop().unwrap();
    fs::rename(lab.pins().join("v1"), lab.pins().join("v2")).unwrap();
    let agent = lab.run(&[]).unwrap();
    assert!(agent.logged("cannot be converted") > 0, "{}", agent.log());
    assert_enforced(&lab);
    // Taken over as at a first start.
    assert!(answers(&mut stream), "{}", agent.log());
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
    assert_eq!(names(&lab, ""), ["v1"]);
    assert_settled(&lab);
    assert_eq!(names(&lab, "v1/links").len(), 10);
}

/// What the kernel's tables held is unknown and Docker does not answer: the earlier programs go on with what they know.
#[test]
fn programs_that_know_the_policy_stay_until_the_new_ones_do() {
    let lab = SmallLab::start().unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    let mut stream = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut stream));
    fs::rename(lab.pins().join("v1"), lab.pins().join("v2")).unwrap();
    let good = lab.inventory_text();
    fs::write(lab.inventory(), "version: 1\nendpoints: nonsense\n").unwrap();
    let flood = Flood::start(&lab).unwrap();
    let leaked = lab.datagrams();
    let agent = lab.run(&[]).unwrap();
    for _ in 0..2 {
        assert_enforced(&lab);
        assert!(answers(&mut stream), "{}", agent.log());
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
    fs::write(lab.inventory(), good).unwrap();
    agent.wait_for_metric("portcullis_inventory_connected", 1.0).unwrap();
    wait_until("all has been taken over", || names(&lab, "") == ["v1"]);
    assert_enforced(&lab);
    assert!(answers(&mut stream), "{}", agent.log());
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), leaked, "leaked, of {sent}");
    assert_settled(&lab);
}

#[test]
fn what_is_not_ours_is_told_and_left_alone() {
    let lab = SmallLab::start().unwrap();
    let (theirs, pinned) = (lab.pins().join("v1/maps/THEIRS"), lab.pins().join("v1/links/7-nothing"));
    let (agent, _) = between_two_agents(&lab, || {
        HashMap::<MapData, u32, u64>::create(16, 0).unwrap().pin(&theirs).unwrap();
        sabotage::pin(&sabotage::program(PASS).unwrap(), &pinned).unwrap();
    });
    for path in [&theirs, &pinned] {
        let name = path.display().to_string();
        assert_eq!(agent.logged(&name), 1, "{}", agent.log());
        let status = lab.status(&[]).unwrap().data;
        assert!(status.contains(&format!("! `{name}` in the pin directory is not ours")), "{status}");
    }
    agent.stop().unwrap();
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    let mut left = files_below(&lab.pins());
    left.sort();
    assert_eq!(left, [pinned, theirs]);
}
