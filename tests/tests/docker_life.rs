//! The life of containers on a real engine: their start, and everything that changes under them while others probe.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::time::Duration;

use integration_tests::soak::{Extent, containers};
use integration_tests::tell;

#[test]
fn docker_race_nothing_arrives_before_the_policy() {
    let extent = Extent::or(16).unwrap();
    let figures = containers::run("containers", extent, &[]).unwrap();
    tell(&format!("containers: {figures}")).unwrap();
    assert_eq!((figures.leaked, figures.without_rights), (0, 0), "something arrived before the policy did");
    assert_eq!(figures.never, 0, "what is allowed did not arrive");
    // A machine that also does other things may be late; the long form is for one that does not.
    let most = if extent.is_long { 200 } else { 2000 };
    assert!(figures.opened.percentile(99) < Duration::from_millis(most), "{}", figures.opened);
}
