//! The programs against a model of them that shares no code: random hosts, policies and packets, every verdict,
//! counter and event compared.
//!
//! `PORTCULLIS_MODEL_PACKETS` says how many packets, `PORTCULLIS_MODEL_SESSION` how many of them are a session, which a
//! slow machine cannot play in time, `PORTCULLIS_MODEL_SEED` with which numbers.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod expected;
mod kernel;
mod mutate;
mod packets;
mod random;
mod session;
mod text;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datapath_model::Model;
use datapath_model::verdict::Reason;
use integration_tests::{prepare, report};
use rustix::time::{ClockId, clock_gettime};

use crate::kernel::Kernel;
use crate::random::Random;
use crate::session::{Played, Session, Tally};

/// What a run without wishes of its own comes to.
const PACKETS: u64 = 1_000_000;
const SESSION: u64 = 500;
/// Each has maps of its own.
const MOST_WORKERS: usize = 4;

fn wish(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("`{name}` is `{text}`: {error}")))
}

#[test]
fn the_programs_do_what_the_model_says() {
    prepare().unwrap();
    let packets = wish("PORTCULLIS_MODEL_PACKETS").unwrap_or(PACKETS);
    let session = wish("PORTCULLIS_MODEL_SESSION").unwrap_or(SESSION);
    let seed = wish("PORTCULLIS_MODEL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap()
    });
    eprintln!("seed {seed}, {packets} packets");
    wait_until_old_enough();
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_WORKERS));
    let next = AtomicU64::new(0);
    let shares: Vec<Share> = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..workers).map(|_| scope.spawn(|| work(seed, &next, [packets / session, session]))).collect();
        all.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut all = Share::default();
    for share in &shares {
        all.tally.add(&share.tally);
        all.sessions += share.sessions;
        all.too_slow += share.too_slow;
    }
    let seconds = began.elapsed().as_secs_f64();
    tell(&all.tally);
    assert!(all.too_slow * 20 <= all.sessions, "{} of {} sessions were too slow", all.too_slow, all.sessions);
    assert_worth_it(&all.tally);
    let line = format!(
        "model: {} packets in {} sessions, seed {seed}, {seconds:.1} s, 0 mismatches",
        all.tally.packets, all.sessions
    );
    eprintln!("{line}");
    report(&line).unwrap();
}

/// The clock is moved by making flows older than they are, and nothing is older than the machine.
fn wait_until_old_enough() {
    let up = u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap();
    std::thread::sleep(Duration::from_secs((session::JUMPS + session::TICK).saturating_sub(up)));
}

/// What one worker has done.
#[derive(Debug, Default)]
struct Share {
    tally: Tally,
    sessions: u64,
    /// Sessions that had to be left out because the machine was too slow.
    too_slow: u64,
}

/// Plays sessions until enough are played, on programs and maps of its own.
fn work(seed: u64, next: &AtomicU64, [sessions, packets]: [u64; 2]) -> Share {
    let packets = usize::try_from(packets).unwrap();
    let mut kernel = Kernel::start();
    let mut share = Share::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= sessions {
            return share;
        }
        let mut random = Random::new(seed.wrapping_add(number.wrapping_mul(0x2545_f491_4f6c_dd1d)));
        let session = Session::random(&mut kernel, &mut random, packets);
        match session.play(&mut kernel, false) {
            Played::Agreed(more) => {
                share.tally.add(&more);
                share.sessions += 1;
            }
            Played::TooSlow => share.too_slow += 1,
            Played::Differs { how, .. } => {
                let smallest = session.shrink(&mut kernel);
                panic!("seed {seed}, session {number}: {how}\n{}", smallest.describe(&mut kernel));
            }
        }
    }
}

fn tell(tally: &Tally) {
    eprintln!("{} forwarded", tally.forwarded);
    for ((reason, observed), count) in &tally.denied {
        eprintln!("{count} {} for {reason:?}", if *observed { "observed" } else { "dropped" });
    }
    for (what, count) in &tally.met {
        eprintln!("{count} {what}");
    }
}

/// Agreement about packets that never get anywhere would mean nothing.
fn assert_worth_it(tally: &Tally) {
    if tally.packets < 100_000 {
        return;
    }
    assert!(tally.forwarded * 3 > tally.packets, "{} of {} forwarded", tally.forwarded, tally.packets);
    for reason in Reason::ALL {
        assert!(tally.denied.contains_key(&(reason, false)), "nothing was dropped for {reason:?}");
        let can_be_observed = reason != Reason::Revoked;
        assert_eq!(tally.denied.contains_key(&(reason, true)), can_be_observed, "observed for {reason:?}");
    }
    for what in Model::MEETS {
        assert!(tally.met.contains_key(what), "no packet {what}");
    }
}
