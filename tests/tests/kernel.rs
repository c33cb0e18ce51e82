//! What the design leans on, asked of the kernel that these tests run on: here, and by `cargo xtask vm` on older ones.
//! In the order of their names, from what everything needs to what needs everything.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use integration_tests::attached;
use integration_tests::bridges::{Bridges, Sent};
use integration_tests::watch::{Watch, Way};
use integration_tests::{
    ATTEMPTS, agent_binary, assert_as_expected, assert_counts_exactly, prepare, report, verifier,
};
use lab::agent::{Agent, Inventory};
use lab::netns::within;
use lab::observed::sum;
use lab::plain_lab::PlainLab;

/// The kernel's own limit is a million; more than half of it leaves no room for a change.
const MOST_INSTRUCTIONS: u32 = 500_000;
const PROFILE: &str = "production";

#[test]
fn a_the_verifier_accepts_every_program() {
    prepare().unwrap();
    let programs = verifier::walk().unwrap();
    assert!(!programs.is_empty());
    for (program, instructions) in programs {
        report(&format!("program {program} {instructions}")).unwrap();
        assert!(instructions > 0 && instructions < MOST_INSTRUCTIONS, "{program}: {instructions}");
    }
}

/// Who sent a packet is told by the interface that it came in by, and by the mark once it is routed.
#[test]
fn b_a_port_is_told_where_a_packet_comes_from() {
    const MARK: u32 = 0x5a5a_0000;
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    watch.note(&bridges.host, "a2", Way::Egress).unwrap();
    watch.mark(&bridges.host, "a1", Way::Ingress, MARK | 1).unwrap();
    watch.mark(&bridges.host, "b1", Way::Ingress, MARK | 2).unwrap();
    let index = |name: &str| bridges.index(name).unwrap();
    for version in [4, 6] {
        let to = bridges.address("a2", version).unwrap();
        let cases = [
            ("a1", index("a1"), MARK | 1, "the same bridge: the sending port"),
            ("b1", index("lab-b"), MARK | 2, "routed: the bridge that it came from, and the mark survives"),
            ("host", 0, 0, "the host itself: none"),
        ];
        for (size, (from, ingress, mark, why)) in (100..).zip(cases) {
            let sent = Sent { to, size: size + 10 * version, mark: None };
            let said = bridges.send_until_noted(&watch, from, &sent).unwrap();
            assert_eq!((said[0], said[1]), (ingress, mark), "IPv{version} from {from}; {why}");
        }
    }
}

/// A mark that a container sets by itself must not reach the host's side of its port.
#[test]
fn c_a_containers_own_mark_ends_at_its_namespace() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    watch.note(&bridges.host, "a1", Way::Ingress).unwrap();
    let to = bridges.address("a2", 4).unwrap();
    let said = bridges.send_until_noted(&watch, "a1", &Sent { to, size: 300, mark: Some(0x7777) }).unwrap();
    assert_eq!(said[1], 0);
}

/// The outermost tag shows in the metadata only, the others only in the packet.
#[test]
fn d_a_vlan_tag_is_told() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    watch.note(&bridges.host, "a1", Way::Ingress).unwrap();
    let (ipv4, vlan) = (u32::from(0x0800_u16.to_be()), u32::from(0x8100_u16.to_be()));
    for (tags, size, protocol) in [(0, 400, ipv4), (1, 410, ipv4), (2, 420, vlan)] {
        let said = bridges.send_tagged_until_noted(&watch, "a1", tags, size).unwrap();
        assert_eq!((said[2], said[3]), (u32::from(tags > 0), protocol), "{tags} tags");
    }
}

/// The life of an agent: everything open, the documents enforced and counted exactly, an agent killed and another that
/// takes over without a gap, everything open again.
#[test]
fn e_the_agent_enforces_hands_over_and_detaches() {
    prepare().unwrap();
    let lab = PlainLab::start(&|_| {}).unwrap();
    let mut open = lab.matrix(PROFILE).unwrap();
    open.run_all_open(&|_| {}).unwrap();
    assert_as_expected(&open);

    let start = || {
        let inventory = Inventory::File(lab.inventory());
        let binary = agent_binary().unwrap();
        Agent::start(&binary, lab.host(), lab.scratch(), Path::new("policies"), &inventory, PROFILE).unwrap()
    };
    let mut agent = start();
    let mut matrix = lab.matrix(PROFILE).unwrap();
    assert_counts_exactly(&agent, &mut matrix);

    assert_reasons(&agent);
    let ways = attached::on(lab.host(), "port10").unwrap();
    report(&format!("attached {}", ways.join(", "))).unwrap();
    assert!(
        matches!(ways.as_slice(), [out, into] if out.ends_with("egress to_endpoint") && into.ends_with("ingress from_endpoint")),
        "{ways:?}"
    );

    let flood = Flood::start(&lab);
    agent.kill().unwrap();
    let mut agent = start();
    let (sent, leaked) = flood.stop();
    assert!(sent > 100, "only {sent} datagrams were sent");
    assert_eq!(leaked, 0, "of {sent} denied datagrams");
    assert_eq!(attached::on(lab.host(), "port10").unwrap(), ways, "replaced in place, not added");
    let mut matrix = lab.matrix(PROFILE).unwrap();
    assert_counts_exactly(&agent, &mut matrix);

    agent.stop();
    agent.detach().unwrap();
    assert!(attached::on(lab.host(), "port10").unwrap().is_empty());
    let mut open = lab.matrix(PROFILE).unwrap();
    open.run_all_open(&|_| {}).unwrap();
    assert_as_expected(&open);
    let flood = Flood::start(&lab);
    thread::sleep(Duration::from_millis(500));
    assert!(flood.stop().1 > 0, "datagrams do not arrive without an agent either");
}

/// Each kind of denial in the matrix goes by its own reason.
fn assert_reasons(agent: &Agent) {
    let samples = agent.metrics().unwrap();
    for reason in ["no_rule", "cross_instance", "host_denied", "not_exposed", "egress_denied"] {
        assert!(sum(&samples, ATTEMPTS, &[("reason", reason), ("verdict", "dropped")]) > 0.0, "{reason}");
    }
    assert!(sum(&samples, ATTEMPTS, &[("verdict", "observed")]) == 0.0);
}

/// Datagrams from one service to another that it may not call, sent and counted until it is stopped.
struct Flood {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    threads: [thread::JoinHandle<()>; 2],
}

impl Flood {
    const PORT: u16 = 7777;

    fn start(lab: &PlainLab) -> Self {
        let (ended, sent, arrived) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let to = SocketAddr::new(lab.address_of("myapp-dev", "db").unwrap(), Self::PORT);
        let receiver = within(&lab.netns_of("myapp-dev", "db").unwrap(), || bind(Self::PORT)).unwrap();
        let sender = within(&lab.netns_of("myapp-dev", "frontend").unwrap(), || bind(0)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let counting = thread::spawn({
            let (ended, arrived) = (Arc::clone(&ended), Arc::clone(&arrived));
            move || {
                while !ended.load(Ordering::Relaxed) {
                    if receiver.recv(&mut [0; 64]).is_ok() {
                        arrived.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let sending = thread::spawn({
            let (ended, sent) = (Arc::clone(&ended), Arc::clone(&sent));
            move || {
                while !ended.load(Ordering::Relaxed) {
                    if sender.send_to(b"let me in", to).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { ended, sent, arrived, threads: [counting, sending] }
    }

    /// How many were sent and how many arrived.
    fn stop(self) -> (u64, u64) {
        // What is under way arrives.
        thread::sleep(Duration::from_millis(200));
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (self.sent.load(Ordering::Relaxed), self.arrived.load(Ordering::Relaxed))
    }
}

fn bind(port: u16) -> UdpSocket {
    UdpSocket::bind(SocketAddr::new(IpAddr::from([0; 4]), port)).unwrap()
}
