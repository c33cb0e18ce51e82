//! Hostile frames of every kind against the kernel alone and against the agent. Bounded: `cargo xtask fuzz` sends as
//! many as there is time for.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use frame_fuzz::corpus::Corpus;
use frame_fuzz::run::{Extent, enforce, fresh_seed, survey};
use integration_tests::{agent_binary, prepare};

const SURVEYED: u64 = 40_000;
const ENFORCED: u64 = 200_000;

#[test]
fn what_linux_delivers_the_agent_keeps_from_everybody_and_nothing_else() {
    prepare().unwrap();
    let seed = fresh_seed().unwrap();
    eprintln!("seed {seed}: `cargo xtask fuzz --seed {seed}` makes the same frames");
    let folder = tempfile::tempdir().unwrap();
    let (mut corpus, _) = Corpus::open(folder.path()).unwrap();

    let surveyed = survey(seed, Extent::Frames(SURVEYED), &mut corpus, &[]).unwrap();
    eprintln!("without the agent\n{surveyed}");
    let harmless = surveyed.harmless();
    assert!(harmless.is_empty(), "Linux delivers none of these any more:\n{}", harmless.join("\n"));

    let (corpus, kept) = Corpus::open(folder.path()).unwrap();
    assert!(kept.len() > 100, "only {} frames are worth sending first", kept.len());
    let extent = Extent::Frames(ENFORCED);
    let enforced =
        enforce(&agent_binary().unwrap(), seed, extent, &corpus, &kept, &mut |_| {}).unwrap();
    eprintln!("with the agent\n{}{}\n{:?}", enforced.report, enforced.summary(), enforced.reconciled);
    enforced.check().unwrap();
}
