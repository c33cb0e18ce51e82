//! The agent's life under fire: killed at any moment, late for whoever starts, with addresses that change hands and
//! policies that take each other's place. `cargo xtask soak` runs the same for as long as one likes.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use integration_tests::soak::{Extent, kill, swap};
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
