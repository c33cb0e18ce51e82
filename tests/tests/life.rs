//! The agent's life under fire: killed at any moment, late for whoever starts, with addresses that change hands and
//! policies that take each other's place. `cargo xtask soak` runs the same for as long as one likes.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::time::Duration;

use integration_tests::attached;
use integration_tests::daemon::SOON;
use integration_tests::small_lab::{SmallLab, answers};
use integration_tests::soak::{Extent, bridges, churn, kill, race, swap};
use integration_tests::tell;
use lab::interrupt::wait_for;
use lab::patience::patient;

fn killed_at_any_moment(name: &'static str, settings: &str) {
    let figures = kill::run(name, Extent::or(50).unwrap(), settings).unwrap();
    tell(&format!("{name}: {figures}")).unwrap();
    assert!(figures.denied > 200 * figures.kills as u64, "only {} datagrams were sent", figures.denied);
    assert_eq!((figures.leaked, figures.opened), (0, 0), "something leaked");
    assert_eq!(figures.counted, figures.denied, "not every denied datagram was counted once");
    let talk = &figures.conversations;
    assert_eq!(
        (talk.broken, figures.refused),
        (0, 0),
        "an allowed connection broke, or was refused a packet"
    );
    // A machine that is emulated stands still at times for longer than TCP waits before it sends again.
    if patient(SOON) == SOON {
        assert_eq!(talk.repeated, 0, "an allowed connection lost a packet");
    }
    assert_eq!(figures.fallen, Vec::<String>::new());
}

#[test]
fn kill_tcx_leaks_nothing_and_cuts_nothing() {
    killed_at_any_moment("kill-tcx", "");
}

#[test]
fn kill_clsact_leaks_nothing_and_cuts_nothing() {
    killed_at_any_moment("kill-clsact", "attach: clsact\n");
}

#[test]
fn swap_lets_nothing_pass_that_both_policies_forbid() {
    let figures = swap::run(Extent::or(400).unwrap()).unwrap();
    tell(&format!("swap: {figures}")).unwrap();
    assert!(figures.arrived > 1000, "only {} datagrams arrived", figures.arrived);
    assert_eq!((figures.leaked, figures.late), (0, 0), "something leaked");
    assert_eq!(figures.uncut, 0, "a connection was not cut");
    // Some stay for less than a busy machine takes to send anything.
    assert!(figures.barren * 20 < figures.swaps, "nothing arrived in {} stays", figures.barren);
}

fn race(name: &'static str, flags: &[&str]) -> race::Figures {
    let extent = Extent::or(120).unwrap();
    let figures = race::run(name, extent, flags).unwrap();
    tell(&format!("{name}: {figures}")).unwrap();
    assert_eq!(figures.leaked, 0, "something arrived before the policy did");
    assert_eq!(figures.from_covered, 0, "a covered container reached one that nobody knew yet");
    assert_eq!(figures.from_unmanaged, 0, "an unmanaged container reached one that nobody knew yet");
    assert_eq!(figures.never, 0, "what is allowed did not arrive");
    // A machine that also does other things may open a port late; guarded it is all the same.
    let alone = &figures.alone;
    assert!(alone.percentile(50) < Duration::from_millis(100), "{alone}");
    assert!(alone.percentile(99) < Duration::from_secs(1), "{alone}");
    let open = &figures.open;
    assert!(open.percentile(50) < Duration::from_millis(100), "new ports stay open for {open}");
    if extent.is_long {
        let measured = figures.measured;
        assert!(measured.within_20_ms > 50.0 && measured.within_200_ms > 99.0, "{measured}");
    }
    figures
}

#[test]
fn race_nothing_arrives_before_the_policy() {
    race("race", &[]);
}

#[test]
fn race_with_the_backstop_newcomers_do_not_reach_each_other() {
    let figures = race("race-backstop", &["--backstop", "nft"]);
    assert_eq!(figures.between, 0, "two that are too new reached each other");
}

/// Filters of clsact guard a new port until its links do, and go then, with the qdisc that they were on.
#[test]
fn a_new_port_is_left_with_links_alone() {
    const LINKS: [&str; 2] = ["tcx egress to_endpoint", "tcx ingress from_endpoint"];
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let guarded = || agent.metric("portcullis_enforce_delay_seconds_count", &[]);
    let before = guarded().unwrap();
    for turn in 1..=5 {
        let newcomer = lab.newcomer().unwrap();
        wait_for("links and nothing else", SOON, || {
            let has_qdisc = lab.says("tc", "qdisc show dev p-new")?.contains("clsact");
            let is_alone = attached::on(lab.host(), "p-new")? == LINKS && !has_qdisc;
            // Measured once, when the filters are there.
            Ok((is_alone && guarded()? == before + f64::from(turn)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", attached::on(lab.host(), "p-new")));
        drop(newcomer);
    }
    assert_eq!(agent.logged("WARN"), 0, "{}", agent.log());
}

#[test]
fn churn_leaves_no_rights_and_no_entries_behind() {
    let extent = Extent::or(80).unwrap();
    let figures = churn::run(extent).unwrap();
    tell(&format!("churn: {figures}")).unwrap();
    assert!(figures.entitled > 20, "only {} had rights", figures.entitled);
    assert_eq!((figures.leaked, figures.refused), (0, 0), "wrong verdicts");
    assert_eq!(figures.leftovers, Vec::<String>::new());
    let [[before, after], [files_before, files_after]] =
        [figures.memory, figures.files.map(|count| count as u64)];
    assert!(after < before + before / 10, "memory grew from {before} to {after} KiB");
    assert!(files_after <= files_before, "open files grew from {files_before} to {files_after}");
}

#[test]
fn bridges_are_made_again_and_ports_come_back() {
    let figures = bridges::run(Extent::or(25).unwrap()).unwrap();
    tell(&format!("bridges: {figures}")).unwrap();
    assert_eq!((figures.leaked, figures.refused), (0, 0), "wrong verdicts");
}

/// The same interface is somebody else's from one moment to the next: a container that is renamed, a file that is
/// corrected. What it had opened it had opened as another.
#[test]
fn a_port_that_changes_sides_loses_its_connections() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    let mut other = lab.connect("api", "db", 5432).unwrap().unwrap();
    assert!(answers(&mut open) && answers(&mut other));
    // The same services as before, so that no entry of the policy changes.
    let swapped = lab
        .inventory_text()
        .replace("p-web, project: shop, service: web", "p-web")
        .replace("p-stray", "p-stray, project: shop, service: web");
    fs::write(lab.inventory(), swapped).unwrap();
    wait_for("the other name", SOON, || Ok((agent.logged("inventory read") > 1).then_some(()))).unwrap();
    // As long as the agent may take to act on it, many times over.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!answers(&mut open), "a connection outlives the rights under which it was opened");
    assert!(answers(&mut other), "somebody else's connection was cut");
    assert!(!lab.reaches("web", "api", 8000).unwrap());
}
