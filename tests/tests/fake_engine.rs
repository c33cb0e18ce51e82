//! An engine that misbehaves while the agent runs: what was in force stays in force, what appears is denied, and as soon
//! as the engine is itself again so is the agent, without anybody's hand.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::time::{Duration, Instant};

use integration_tests::daemon::Daemon;
use integration_tests::fake_engine::{FakeEngine, Mood};
use integration_tests::small_lab::{SmallLab, answers};
use integration_tests::tell;
use lab::interrupt::wait_for;

const CONNECTED: &str = "portcullis_inventory_connected";
/// A silent engine is asked every five seconds whether it is there, and has five to answer.
const NOTICED_WITHIN: Duration = Duration::from_secs(12);
/// Every five seconds at most it is tried again.
const BACK_WITHIN: Duration = Duration::from_secs(12);
/// All containers are listed again every thirty seconds.
const REPAIRED_WITHIN: Duration = Duration::from_secs(36);

struct Host {
    // The agent goes first.
    agent: Daemon,
    engine: FakeEngine,
    lab: SmallLab,
}

impl Host {
    fn start() -> Self {
        let lab = SmallLab::start().unwrap();
        let engine = FakeEngine::start(&lab).unwrap();
        for member in ["web", "api", "db"] {
            engine.run(&lab, member, Some(member)).unwrap();
        }
        engine.run(&lab, "stray", None).unwrap();
        let agent = lab.run(&["--inventory", "docker", "--docker-host", engine.url()]).unwrap();
        agent.wait_for_metric("portcullis_endpoints", 4.0).unwrap();
        Self { agent, engine, lab }
    }

    fn assert_enforced(&self) {
        let log = || self.agent.log();
        assert!(self.lab.reaches("web", "api", 8000).unwrap(), "{}", log());
        assert!(self.lab.reaches("api", "db", 5432).unwrap(), "{}", log());
        for (from, to, port) in [("web", "db", 5432), ("stray", "db", 5432)] {
            let opened = self.lab.connect_within(Duration::from_millis(250), from, to, port).unwrap();
            assert!(opened.is_none(), "{from} reaches {to}:\n{}", log());
        }
        assert_eq!(self.agent.get("/readyz").unwrap().0, 200);
    }

    fn wait_until_connected(&self, wanted: f64, limit: Duration) -> Duration {
        let since = Instant::now();
        wait_for(&format!("`{CONNECTED}` {wanted}"), limit, || {
            Ok((self.agent.metric(CONNECTED, &[])? == wanted).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}:\n{}", self.agent.log()));
        since.elapsed()
    }
}

#[test]
fn an_engine_that_misbehaves_changes_nothing_and_is_waited_for() {
    std::thread::scope(|scope| {
        // It takes half a minute until everything is listed again.
        let repaired = scope.spawn(what_was_never_told_is_found_out);
        misbehaviour();
        repaired.join().unwrap();
    });
}

fn misbehaviour() {
    let host = Host::start();
    let revision = host.agent.revision().unwrap();
    let mut open = host.lab.connect("web", "api", 8000).unwrap().unwrap();
    host.assert_enforced();
    for mood in [Mood::Silent, Mood::Half, Mood::Mad, Mood::Slow] {
        host.engine.become_of(mood);
        let noticed = host.wait_until_connected(0.0, NOTICED_WITHIN);
        host.assert_enforced();
        assert!(answers(&mut open));
        // A container that appears meanwhile has a port that nothing is known of.
        let newcomer = host.lab.newcomer().unwrap();
        assert!(!newcomer.reaches(&host.lab, "api", 8000).unwrap(), "{mood:?}:\n{}", host.agent.log());
        let status = host.lab.status(&[]).unwrap().data;
        assert!(status.contains("cannot be reached"), "{status}");
        host.engine.become_of(Mood::Honest);
        let back = host.wait_until_connected(1.0, BACK_WITHIN);
        host.assert_enforced();
        tell(&format!(
            "engine: {mood:?} for a while: told after {:.1} s, connected again after {:.1} s",
            noticed.as_secs_f64(),
            back.as_secs_f64()
        ))
        .unwrap();
    }
    assert!(answers(&mut open));
    assert_eq!(host.agent.revision().unwrap(), revision);
    // Each time once, but for causes that differ from attempt to attempt.
    let told = host.agent.logged("docker unreachable");
    assert!((4..=8).contains(&told), "told {told} times:\n{}", host.agent.log());
}

/// Events get lost: whoever took the place of another gets its rights, and no others, at the next list at the latest.
fn what_was_never_told_is_found_out() {
    let host = Host::start();
    host.engine.become_of(Mood::Discreet);
    host.engine.run(&host.lab, "stray", Some("web")).unwrap();
    host.engine.run(&host.lab, "api", None).unwrap();
    let since = Instant::now();
    wait_for("the list", REPAIRED_WITHIN, || Ok((!host.lab.reaches("api", "db", 5432)?).then_some(())))
        .unwrap_or_else(|error| panic!("{error}:\n{}", host.agent.log()));
    let took = since.elapsed();
    assert_eq!(host.agent.metric(CONNECTED, &[]).unwrap(), 1.0);
    assert!(!host.lab.reaches("stray", "db", 5432).unwrap());
    tell(&format!("engine: events lost: repaired after {:.1} s", took.as_secs_f64())).unwrap();
}
