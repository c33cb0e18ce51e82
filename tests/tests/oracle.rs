//! Hostile frames of every kind against the kernel alone and against the agent. Bounded: `cargo xtask fuzz` sends as
//! many as there is time for, and `PORTCULLIS_ORACLE_SHARE` is how much of the usual number is sent here, in percent.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::io::{Write, stderr};

use frame_fuzz::attacker::Attacker;
use frame_fuzz::corpus::Corpus;
use frame_fuzz::run::{Extent, enforce, fresh_seed, survey};
use integration_tests::{agent_binary, prepare};
use tempfile::TempDir;

const SURVEYED: u64 = 40_000;

/// How many kinds may not have been delivered, where fewer frames are sent than usual: some are rare.
const RARE: usize = 4;

fn percent() -> u64 {
    std::env::var("PORTCULLIS_ORACLE_SHARE").map_or(100, |share| share.parse().unwrap())
}

/// As many of these frames as are wanted.
fn share(frames: u64) -> u64 {
    frames * percent() / 100
}

/// Past the test harness, which shows what is printed only if the test fails.
fn say(line: &str) {
    stderr().write_all(format!("oracle: {line}\n").as_bytes()).unwrap();
}

fn seed() -> u64 {
    prepare().unwrap();
    let seed = fresh_seed().unwrap();
    say(&format!("`cargo xtask fuzz --seed {seed}` makes these frames"));
    seed
}

/// What Linux lets through in the absence of an agent, some of each kind.
fn corpus(seed: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut corpus, _) = Corpus::open(folder.path()).unwrap();
    let surveyed = survey(seed, Extent::Frames(share(SURVEYED)), &mut corpus, &[]).unwrap();
    eprintln!("without the agent\n{surveyed}");
    let harmless = surveyed.harmless();
    let rare = if percent() < 100 { RARE } else { 0 };
    assert!(harmless.len() <= rare, "Linux delivers none of these any more:\n{}", harmless.join("\n"));
    let total = surveyed.total();
    say(&format!(
        "without the agent, of {} frames {} reach an interface, {} a socket",
        total.sent, total.interface, total.socket
    ));
    folder
}

fn with_the_agent(attacker: Attacker, frames: u64) {
    let seed = seed();
    let folder = corpus(seed);
    let (corpus, kept) = Corpus::open(folder.path()).unwrap();
    assert!(kept.len() > 100, "only {} frames are worth sending first", kept.len());
    let binary = agent_binary().unwrap();
    let enforced =
        enforce(&binary, attacker, seed, Extent::Frames(frames), &corpus, &kept, &mut |_| {}).unwrap();
    eprintln!("with the agent\n{}{}", enforced.report, enforced.reconciled);
    say(&format!("with the agent, {}", enforced.summary()));
    enforced.check().unwrap();
    assert!(enforced.exchanged.connections > 0, "nothing that is allowed was tried");
}

#[test]
fn of_what_a_covered_container_sends_only_the_allowed_gets_anywhere() {
    with_the_agent(Attacker::Covered, share(300_000));
}

#[test]
fn of_what_an_unmanaged_container_sends_nothing_reaches_a_covered_one() {
    with_the_agent(Attacker::Unmanaged, share(200_000));
}
