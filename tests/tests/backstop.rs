//! `--backstop nft`: two ports that both have no program exchange nothing on a covered bridge, and everything else goes
//! on as before. Whoever takes it away is noticed within two seconds.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use integration_tests::daemon::{Daemon, Refusal};
use integration_tests::small_lab::SmallLab;
use lab::interrupt::wait_for;
use lab::netns::{Netns, within};
use lab::patience::patient;

const NFT: [&str; 2] = ["--backstop", "nft"];
const DROPPED: &str = "portcullis_backstop_dropped_packets_total";
const FAULT: &str = "portcullis_enforcement_fault";
const REPAIRS: &str = "portcullis_enforcement_repairs_total";
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// Two containers on one bridge, with a listener in the second.
struct Pair {
    from: Netns,
    listener: TcpListener,
    _to: Netns,
}

impl Pair {
    /// Adds them to a bridge; `number` makes names and addresses of their own.
    fn join(lab: &SmallLab, bridge: &str, number: u8) -> Self {
        let join = |last: u8| {
            let netns = Netns::create().unwrap();
            let port = format!("new{number}-{last}");
            lab.host()
                .ip(&format!("link add {port} type veth peer name eth0 netns {}", netns.name()))
                .unwrap();
            netns
                .ip_lines(&format!("address add 198.18.{number}.{last}/24 dev eth0\nlink set eth0 up"))
                .unwrap();
            lab.host().ip(&format!("link set {port} master {bridge} up")).unwrap();
            netns
        };
        let (from, to) = (join(101), join(102));
        // Links come up a moment later; until then a bridge forwards nothing.
        wait_for("the new ports", NOTICED_WITHIN, || {
            let said = |last| lab.says("bridge", &format!("link show dev new{number}-{last}"));
            Ok([said(101)?, said(102)?].iter().all(|said| said.contains("forwarding")).then_some(()))
        })
        .unwrap();
        let address = SocketAddr::from(([198, 18, number, 102], 80));
        let listener = within(&to.path(), move || TcpListener::bind(address)).unwrap().unwrap();
        Self { from, listener, _to: to }
    }

    fn connects(&self) -> bool {
        let address = self.listener.local_addr().unwrap();
        // What opens takes a few milliseconds.
        let limit = Duration::from_millis(400);
        within(&self.from.path(), move || TcpStream::connect_timeout(&address, limit)).unwrap().is_ok()
    }
}

fn other_bridge(lab: &SmallLab) {
    lab.host().ip_lines("link add other0 type bridge\nlink set other0 up").unwrap();
}

fn tables(lab: &SmallLab) -> String {
    lab.says("nft", "list tables").unwrap()
}

fn nft(lab: &SmallLab, arguments: &str) {
    lab::process::run(lab.host().command("nft").args(arguments.split_whitespace())).unwrap();
}

fn assert_policy_holds(lab: &SmallLab) {
    assert!(lab.reaches("web", "api", 8000).unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn two_new_ports_exchange_nothing_and_all_else_goes_on() {
    let lab = SmallLab::start().unwrap();
    other_bridge(&lab);
    let elsewhere = Pair::join(&lab, "other0", 8);
    // The hole: nobody puts programs onto ports that come while the agent is away.
    lab.run(&[]).unwrap().stop().unwrap();
    let hole = Pair::join(&lab, "lab0", 9);
    assert!(hole.connects());
    assert_policy_holds(&lab);
    drop(hole);

    let agent = lab.run(&NFT).unwrap();
    assert!(tables(&lab).contains("table bridge portcullis_"), "{}", tables(&lab));
    assert_eq!(agent.metric(DROPPED, &[]).unwrap(), 0.0);
    assert_policy_holds(&lab);
    assert!(elsewhere.connects());
    let later = Pair::join(&lab, "other0", 10);
    std::thread::sleep(Duration::from_millis(500));
    assert!(later.connects(), "{}", agent.log());
    assert_eq!(agent.metric(DROPPED, &[]).unwrap(), 0.0);
    agent.stop().unwrap();
    let hole = Pair::join(&lab, "lab0", 9);
    assert!(!hole.connects());
    assert_policy_holds(&lab);
    assert!(elsewhere.connects());
    // The next agent counts on.
    let agent = lab.run(&NFT).unwrap();
    assert!(agent.metric(DROPPED, &[]).unwrap() > 0.0);
    agent.stop().unwrap();
    // What is kept for the boot is enough by itself.
    nft(&lab, "flush ruleset");
    let hole_again = Pair::join(&lab, "lab0", 11);
    assert!(hole_again.connects());
    nft(&lab, &format!("-f {}", lab.path().join("state/backstop.nft").display()));
    assert!(!hole_again.connects());
    assert_policy_holds(&lab);
    assert!(elsewhere.connects());

    // An agent that is not asked for it takes it away.
    lab.run(&[]).unwrap().stop().unwrap();
    assert_eq!(tables(&lab), "");
    assert!(!lab.path().join("state/backstop.nft").exists());
    let hole = Pair::join(&lab, "lab0", 12);
    assert!(hole.connects());
}

fn assert_restored(lab: &SmallLab, agent: &Daemon, sabotage: &str, repairs: f64) {
    let before = lab.says("nft", "-s list ruleset").unwrap();
    let since = Instant::now();
    nft(lab, sabotage);
    assert_ne!(lab.says("nft", "-s list ruleset").unwrap(), before);
    while agent.metric(REPAIRS, &[("reason", "backstop")]).unwrap() < repairs {
        assert!(since.elapsed() < patient(NOTICED_WITHIN), "`{sabotage}` not noticed:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("`{sabotage}`: noticed after {:?}", since.elapsed());
    assert_eq!(lab.says("nft", "-s list ruleset").unwrap(), before, "after `{sabotage}`");
    assert_eq!(agent.metric(FAULT, &[("reason", "backstop")]).unwrap(), 1.0);
    assert_eq!(agent.metric("portcullis_enforcement_intact", &[]).unwrap(), 0.0);
}

#[test]
fn whoever_takes_it_away_is_noticed() {
    let lab = SmallLab::start().unwrap();
    // Something to name, however the kernel tells bridges apart.
    other_bridge(&lab);
    let _elsewhere = Pair::join(&lab, "other0", 8);
    lab.settings("backstop: nft\n").unwrap();
    let agent = lab.run(&[]).unwrap();
    let listed = tables(&lab);
    let table = listed.trim().strip_prefix("table ").unwrap();
    // Other people's tables are none of its business.
    nft(&lab, "add table inet theirs");
    // One look and a bit.
    std::thread::sleep(NOTICED_WITHIN * 5 / 8);
    assert_eq!(agent.metric("portcullis_enforcement_intact", &[]).unwrap(), 1.0, "{}", agent.log());
    nft(&lab, "delete table inet theirs");
    assert_restored(&lab, &agent, "flush ruleset", 1.0);
    assert_restored(&lab, &agent, &format!("insert rule {table} forward accept"), 2.0);
    assert_restored(&lab, &agent, &format!("flush set {table} names"), 3.0);
    assert_policy_holds(&lab);
    let status = lab.status(&[]).unwrap().data;
    assert!(status.contains("! somebody interfered with backstop: the table is gone; restored"), "{status}");
    // Nothing of it is left by `detach`, which also ends the agent that would restore it.
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    assert!(detached.data.contains("and the backstop"), "{}", detached.data);
    assert_eq!(tables(&lab), "");
    assert!(!lab.path().join("state/backstop.nft").exists());
}

#[test]
fn detach_removes_it_after_the_agent() {
    let lab = SmallLab::start().unwrap();
    lab.run(&NFT).unwrap().stop().unwrap();
    assert_ne!(tables(&lab), "");
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert_eq!(tables(&lab), "");
    assert_eq!(lab.detach().unwrap().data.trim(), "nothing was attached");
}

#[test]
fn where_nobody_enforces_there_is_none() {
    let lab = SmallLab::start().unwrap();
    let enforcing = integration_tests::small_lab::POLICY;
    lab.write_policy(&enforcing.replace("mode: enforce", "mode: observe")).unwrap();
    let agent = lab.run(&NFT).unwrap();
    assert_eq!(tables(&lab), "");
    let revision = agent.revision().unwrap();
    lab.write_policy(enforcing).unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    assert_ne!(tables(&lab), "", "{}", agent.log());
}

#[test]
fn without_nft_the_agent_does_not_start() {
    let lab = SmallLab::start().unwrap();
    let hidden = "mount --bind /dev/null \"$(command -v nft)\" && exec \"$@\"";
    let mut command = lab.command_behind(&["unshare", "-m", "sh", "-c", hidden, "sh"], &NFT);
    Refusal::of(&mut command).unwrap().assert_refused(&[
        "needs the program `nft`",
        "hint:",
        "--backstop off",
    ]);
}
