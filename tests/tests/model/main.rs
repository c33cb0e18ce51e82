//! The programs against a model of them that shares no code: random hosts, policies and packets, every verdict,
//! counter and event compared.
//!
//! `PORTCULLIS_MODEL_PACKETS` says how many packets, `PORTCULLIS_MODEL_SEED` with which numbers.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod expected;
mod kernel;
mod mutate;
mod packets;
mod random;
mod session;
mod text;
mod world;

use std::time::Instant;

use integration_tests::{prepare, report};

use crate::kernel::Kernel;
use crate::random::Random;
use crate::session::{Played, Session, Tally};

/// What a run without wishes of its own comes to.
const PACKETS: u64 = 1_000_000;
const SESSION: usize = 400;
/// Sessions that had to be left out because the machine was too slow, of a hundred.
const LEFT_OUT: u64 = 5;

fn wish(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("`{name}` is `{text}`: {error}")))
}

#[test]
fn the_programs_do_what_the_model_says() {
    prepare().unwrap();
    let packets = wish("PORTCULLIS_MODEL_PACKETS").unwrap_or(PACKETS);
    let seed = wish("PORTCULLIS_MODEL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap()
    });
    eprintln!("seed {seed}, {packets} packets");
    let began = Instant::now();
    let mut kernel = Kernel::start();
    let mut seeds = Random::new(seed);
    let (mut tally, mut sessions, mut left_out) = (Tally::default(), 0_u64, 0_u64);
    while tally.packets < packets {
        let own = seeds.next();
        let session = Session::random(&mut kernel, &mut Random::new(own), SESSION);
        sessions += 1;
        match session.play(&mut kernel, false) {
            Played::Agreed(more) => tally.add(&more),
            Played::TooSlow => left_out += 1,
            Played::Differs { how, .. } => {
                let smallest = session.shrink(&mut kernel);
                panic!("seed {seed}, session {own:#x}: {how}\n{}", smallest.describe(&mut kernel));
            }
        }
        assert!(left_out * 100 <= (sessions + 100) * LEFT_OUT, "{left_out} of {sessions} sessions were too slow");
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{} forwarded", tally.forwarded);
    for ((reason, observed), count) in &tally.denied {
        eprintln!("{count} {} for {reason}", if *observed { "observed" } else { "dropped" });
    }
    let line = format!(
        "model: {} packets in {sessions} sessions, seed {seed}, {seconds:.1} s, 0 mismatches",
        tally.packets
    );
    eprintln!("{line}");
    report(&line).unwrap();
}
