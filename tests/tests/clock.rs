//! The machine's clock jumps by a day and by a year, ahead and back, while connections are open and denied datagrams
//! come. What is in force goes by the time since boot, and does not notice; events carry the time that the clock says.
//!
//! It sets the clock of the machine that it runs on, and so does in a guest of `cargo xtask test --kernel` only.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use integration_tests::daemon::{Daemon, SOON};
use integration_tests::flood::Flood;
use integration_tests::small_lab::{SmallLab, answers, answers_within};
use integration_tests::tell;
use lab::interrupt::wait_for;
use lab::patience::patient;
use rustix::time::{ClockId, Timespec, clock_settime};

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;
/// Ahead of and behind the right time, one after the other: the last jump is one of two years back.
const JUMPS: [i64; 4] = [DAY, -DAY, YEAR, -YEAR];
/// After so long without a packet a connection is over, whatever the clock says.
const SILENCE: Duration = Duration::from_secs(40);
/// What the kernel of a guest is started with, and no other.
const GUEST: &str = "portcullis.guest";

/// The clock that can be set, and what it would say if nobody did.
struct Clock {
    wall: SystemTime,
    since: Instant,
}

impl Clock {
    fn of_a_guest() -> Self {
        let started_with = fs::read_to_string("/proc/cmdline").unwrap();
        assert!(
            started_with.split_whitespace().any(|word| word == GUEST),
            "this would set the clock of the machine, which is no guest"
        );
        Self { wall: SystemTime::now(), since: Instant::now() }
    }

    fn right(&self) -> i64 {
        let now = self.wall + self.since.elapsed();
        now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
    }

    fn set(&self, wrong_by: i64) {
        let time = Timespec { tv_sec: self.right() + wrong_by, tv_nsec: 0 };
        clock_settime(ClockId::Realtime, time).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Waits for an event of an attempt that was made after the clock was set, and returns its time.
fn time_of_an_event(lab: &SmallLab, agent: &Daemon) -> i64 {
    // Not of the flood, which had its events before.
    let attempts = || anyhow::Ok(agent.events()?.into_iter().filter(|event| event.protocol == "tcp"));
    let before = attempts().map(Iterator::count).unwrap();
    let event = wait_for("an event", SOON, || {
        // One that is told for sure: its flow is new.
        drop(lab.connect_within(Duration::from_millis(50), "web", "db", 5432));
        Ok(attempts()?.nth(before))
    });
    event.unwrap().time.parse::<jiff::Timestamp>().unwrap().as_second()
}

#[test]
fn in_guest_a_clock_that_jumps_ends_no_flow_and_keeps_none() {
    let clock = Clock::of_a_guest();
    let lab = SmallLab::start().unwrap();
    // Nothing is taken over as at a first start.
    let silence = SILENCE.as_secs();
    lab.settings(&format!("adopt: 0\ntimeouts: {{ tcp_established: {silence} }}\n")).unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    let flood = Flood::start(&lab).unwrap();
    let [mut used, mut silent] = [(); 2].map(|()| lab.connect("web", "api", 8000).unwrap().unwrap());
    assert!(answers(&mut silent));
    let since = Instant::now();
    for jump in JUMPS {
        clock.set(jump);
        assert!(answers(&mut used), "a jump of {jump} s ended a connection");
        let (time, now) = (time_of_an_event(&lab, &agent), clock.right() + jump);
        assert!((now - 60..=now).contains(&time), "an event of {time} at {now}, a jump of {jump} s");
        assert!(lab.reaches("web", "api", 8000).unwrap());
        assert!(!lab.reaches("web", "db", 5432).unwrap());
        assert_eq!(agent.get("/readyz").unwrap().0, 200);
        // The watchdog goes on as well: it looks every second.
        let pin = lab.pins().join("v1/maps/RULES");
        fs::remove_file(&pin).unwrap();
        wait_for("the pin", SOON, || Ok(pin.exists().then_some(()))).unwrap();
    }
    // A year ahead was not taken for silence, and two years back do not make it younger.
    while since.elapsed() < SILENCE + patient(Duration::from_secs(1)) {
        std::thread::sleep(Duration::from_secs(5));
        assert!(answers(&mut used));
    }
    assert!(!answers_within(&mut silent, Duration::from_secs(4)), "silence was forgotten with the clock");
    assert!(answers(&mut used));
    let sent = flood.stop();
    assert_eq!(lab.datagrams(), 0, "leaked, of {sent}");
    let labels = [("destination", "db"), ("protocol", "udp")];
    assert_eq!(agent.metric("portcullis_denied_packets_total", &labels).unwrap() as u64, sent);
    assert_eq!(agent.revision().unwrap(), revision);
    tell(&format!("clock: jumps of {JUMPS:?} s: 0 of {sent} denied datagrams leaked, all were counted"))
        .unwrap();
}
