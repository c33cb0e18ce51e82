//! The agent's life under fire: killed at any moment, late for whoever starts, with addresses that change hands and
//! policies that take each other's place. `cargo xtask soak` runs the same for as long as one likes.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::time::Duration;

use integration_tests::soak::{Extent, kill, race, swap};
use integration_tests::tell;

fn killed_at_any_moment(name: &'static str, settings: &str) {
    let figures = kill::run(name, Extent::or(50).unwrap(), settings).unwrap();
    tell(&format!("{name}: {figures}")).unwrap();
    assert!(figures.denied > 10_000, "only {} datagrams were sent", figures.denied);
    assert_eq!((figures.leaked, figures.opened), (0, 0), "something leaked");
    assert_eq!(figures.conversations.broken, 0, "an allowed connection broke");
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
}

fn race(name: &'static str, flags: &[&str]) -> race::Figures {
    let extent = Extent::or(120).unwrap();
    let figures = race::run(name, extent, flags).unwrap();
    tell(&format!("{name}: {figures}")).unwrap();
    assert_eq!(figures.leaked, 0, "something arrived before the policy did");
    assert_eq!(figures.never, 0, "what is allowed did not arrive");
    // A machine that also does other things may be late; the long form is for one that does not.
    let (median, most) = if extent.is_long { (50, 200) } else { (100, 1000) };
    assert!(figures.alone.percentile(50) < Duration::from_millis(median), "{}", figures.alone);
    assert!(figures.alone.percentile(99) < Duration::from_millis(most), "{}", figures.alone);
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
