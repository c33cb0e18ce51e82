//! The end of an agent and the start of the next one: enforcement goes on in between, nothing leaks, nothing that is
//! allowed is cut, and only `detach` takes it away. By TCX and by clsact alike.
//!
//! `PORTCULLIS_RESTARTS` is the number of restarts, 20 if it is not set.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;
use std::{fs, io};

use integration_tests::ATTEMPTS;
use integration_tests::daemon::{Daemon, SOON, files_below};
use integration_tests::flood::Flood;
use integration_tests::small_lab::{HOST, SmallLab, answers};
use lab::interrupt::wait_for;
use lab::netns::{Netns, within};
use lab::observed::{Sample, sum};

const CLSACT: &str = "attach: clsact\n";

fn restarts() -> usize {
    std::env::var("PORTCULLIS_RESTARTS").map_or(20, |restarts| restarts.parse().unwrap())
}

/// Counters of the first scrape are nowhere higher than those of the second, but for those of the process itself.
fn assert_monotone(before: &[Sample], after: &[Sample]) {
    let counters = before.iter().filter(|sample| sample.name.ends_with("_total"));
    for old in counters.filter(|sample| !sample.name.starts_with("process_")) {
        let new = after.iter().find(|new| new.name == old.name && new.labels == old.labels);
        assert!(new.is_some_and(|new| new.value >= old.value), "{} fell: {new:?}", old.line);
    }
}

fn restarts_without_a_gap(lab: &SmallLab) {
    let flood = Flood::start(lab).unwrap();
    // Without an agent nothing holds it back.
    wait_for("the flood", SOON, || Ok((lab.datagrams() > 0).then_some(()))).unwrap();
    drop(flood);

    let agent = lab.run(&[]).unwrap();
    let before_flood = lab.datagrams();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut open));
    let revision = agent.revision().unwrap();
    let mut counters = agent.metrics().unwrap();
    let flood = Flood::start(lab).unwrap();
    let mut agent = Some(agent);
    for number in 0..restarts() {
        let old = agent.take().unwrap();
        if number % 2 == 0 {
            assert!(old.stop().unwrap().success());
        } else {
            assert!(!old.kill().unwrap().success());
        }
        assert!(answers(&mut open), "an allowed connection was cut by stop {number}");
        let new = lab.run(&[]).unwrap();
        assert!(answers(&mut open), "an allowed connection was cut by start {number}");
        let now = new.metrics().unwrap();
        assert_monotone(&counters, &now);
        counters = now;
        agent = Some(new);
    }
    let sent = flood.stop();
    assert!(sent > 1000, "only {sent} datagrams were sent");
    assert_eq!(lab.datagrams() - before_flood, 0, "datagrams leaked, of {sent}");
    let agent: Daemon = agent.unwrap();
    assert_eq!(agent.revision().unwrap(), revision, "nothing changed, so the revision may not move");
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert!(lab.reaches("api", "db", 5432).unwrap());
}

#[test]
fn many_restarts_leak_nothing_and_cut_nothing() {
    restarts_without_a_gap(&SmallLab::start().unwrap());
}

#[test]
fn many_restarts_by_clsact_leak_nothing_and_cut_nothing() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    restarts_without_a_gap(&lab);
    // One filter a direction: each agent took over what the one before had left.
    for direction in ["ingress", "egress"] {
        let filters = lab.says("tc", &format!("filter show dev p-db {direction}")).unwrap();
        assert_eq!(filters.matches("bpf chain 0 handle").count(), 1, "{filters}");
    }
}

fn detach_opens_everything(lab: &SmallLab, running: bool) {
    let mut agent = Some(lab.run(&[]).unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    if !running {
        agent.take().unwrap().stop().unwrap();
        assert!(!lab.reaches("web", "db", 5432).unwrap(), "enforcement ended with the agent");
    }
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    assert!(detached.data.contains("nothing is enforced any more"), "{}", detached.data);
    if let Some(mut agent) = agent {
        assert!(agent.wait().unwrap().success(), "a detached agent ends: {}", agent.log());
    }
    assert_eq!(files_below(&lab.pins()).len(), 0);
    assert!(!lab.pins().exists());
    for (from, to, port) in [("web", "db", 5432), ("stray", "db", 5432), ("stray", "api", 8000)] {
        assert!(lab.reaches(from, to, port).unwrap(), "{from} does not reach {to} after `detach`");
    }
    for member in ["web", "api", "db", "stray"] {
        let port = lab.port(member).unwrap();
        for direction in ["ingress", "egress"] {
            let filters = lab.says("tc", &format!("filter show dev {port} {direction}")).unwrap();
            assert!(!filters.contains("endpoint"), "{filters}");
        }
    }
    lab.status(&[]).unwrap().assert_refused(&["not running", "hint:"]);
    let again = lab.detach().unwrap();
    assert_eq!((again.code, again.data.trim()), (Some(0), "nothing was attached"), "{}", again.said);
}

#[test]
fn detach_removes_everything_after_the_agent() {
    detach_opens_everything(&SmallLab::start().unwrap(), false);
}

#[test]
fn detach_removes_everything_and_ends_a_running_agent() {
    detach_opens_everything(&SmallLab::start().unwrap(), true);
}

#[test]
fn detach_removes_clsact_filters_after_the_agent() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    detach_opens_everything(&lab, false);
}

#[test]
fn detach_removes_clsact_filters_and_ends_a_running_agent() {
    let lab = SmallLab::start().unwrap();
    lab.settings(CLSACT).unwrap();
    detach_opens_everything(&lab, true);
}

#[test]
fn detach_leaves_what_is_not_ours() {
    let lab = SmallLab::start().unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    // A BPF file system holds directories and pins only.
    for theirs in ["theirs", "v1/theirs", "v1/links/theirs", "v1/maps/theirs"] {
        fs::create_dir(lab.pins().join(theirs)).unwrap();
    }
    let detached = lab.detach().unwrap();
    assert_eq!(detached.code, Some(0), "{}", detached.said);
    assert_eq!(files_below(&lab.pins()).len(), 0);
    for theirs in ["theirs", "v1/theirs", "v1/links/theirs", "v1/maps/theirs"] {
        assert!(lab.pins().join(theirs).is_dir(), "`{theirs}` is gone");
    }
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

/// Changing the way of attachment leaves one pair of programs on a port, and never none.
#[test]
fn a_change_between_tcx_and_clsact_counts_once_and_leaks_nothing() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    agent.stop().unwrap();
    let flood = Flood::start(&lab).unwrap();
    let before_flood = lab.datagrams();
    for settings in [CLSACT, "", CLSACT] {
        lab.settings(settings).unwrap();
        let agent = lab.run(&[]).unwrap();
        let before = sum(&agent.metrics().unwrap(), ATTEMPTS, &[("protocol", "tcp")]);
        let packets = "portcullis_denied_packets_total";
        let packets_before = sum(&agent.metrics().unwrap(), packets, &[("protocol", "tcp")]);
        assert!(lab.reaches("web", "api", 8000).unwrap());
        assert!(!lab.reaches("web", "db", 5432).unwrap());
        let after = agent.metrics().unwrap();
        assert_eq!(sum(&after, ATTEMPTS, &[("protocol", "tcp")]) - before, 1.0, "with {settings:?}");
        assert_eq!(sum(&after, packets, &[("protocol", "tcp")]) - packets_before, 1.0, "with {settings:?}");
        let filters = lab.says("tc", "filter show dev p-db egress").unwrap();
        assert_eq!(filters.contains("to_endpoint"), settings == CLSACT, "{filters}");
        let links = files_below(&lab.pins().join("v1/links")).len();
        // Four ports and the bridge, two programs each.
        assert_eq!(links, if settings == CLSACT { 0 } else { 10 }, "with {settings:?}");
        agent.stop().unwrap();
    }
    flood.stop();
    assert_eq!(lab.datagrams() - before_flood, 0, "datagrams leaked");
    assert_eq!(lab.detach().unwrap().code, Some(0));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

/// A container that is started anew while nobody looks gets its old address and a port that has no programs. What is known
/// of the address is old then, and nobody may be let through to it.
#[test]
fn an_address_is_nobodys_once_its_port_has_gone_while_the_agent_is_away() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    assert!(lab.reaches("api", "db", 5432).unwrap());
    assert!(agent.stop().unwrap().success());
    let address = SocketAddr::new(lab.address("db").unwrap(), 5432);
    lab.host().ip("link delete p-db").unwrap();
    let next = Netns::create().unwrap();
    next.sysctl("net/ipv6/conf/default/disable_ipv6=1").unwrap();
    lab.host().plug("lab0", "p-next", &lab.mac("db").unwrap(), &next).unwrap();
    next.ip_lines(&format!("address add {}/24 dev eth0\nlink set eth0 up", address.ip())).unwrap();
    let (_listener, datagrams) = within(&next.path(), move || {
        Ok::<_, io::Error>((TcpListener::bind(address)?, UdpSocket::bind(address)?))
    })
    .unwrap()
    .unwrap();
    datagrams.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let arrives = |from: &str| {
        lab.datagram_socket(from).unwrap().send_to(from.as_bytes(), address).unwrap();
        let mut buffer = [0; 8];
        datagrams.recv(&mut buffer).is_ok()
    };
    wait_for("the new port", SOON, || {
        Ok(lab.says("bridge", "link show dev p-next")?.contains("forwarding").then_some(()))
    })
    .unwrap();
    for from in ["web", "api", "stray", HOST] {
        assert!(lab.connect(from, "db", 5432).unwrap().is_none(), "`{from}` reaches who has the address now");
    }
    for from in ["web", "api", "stray"] {
        assert!(!arrives(from), "a datagram of `{from}` gets to who has the address now");
    }
    // It was ours that held them back.
    assert_eq!(lab.detach().unwrap().code, Some(0));
    for from in ["web", "api", "stray", HOST] {
        assert!(lab.connect(from, "db", 5432).unwrap().is_some(), "`{from}` does not reach it");
    }
    assert!(["web", "api", "stray"].into_iter().all(arrives));
}
