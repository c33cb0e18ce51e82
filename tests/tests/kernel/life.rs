//! The life of an agent on this kernel.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use integration_tests::{
    ATTEMPTS, agent_binary, assert_as_expected, assert_counts_exactly, attached, prepare, report,
};
use lab::agent::{Agent, Inventory};
use lab::netns::within;
use lab::observed::sum;
use lab::plain_lab::PlainLab;

const PROFILE: &str = "production";

/// The life of an agent: the documents enforced and counted exactly, an agent killed and another that takes over without a
/// gap, everything open once it is detached.
#[test]
fn an_agent_enforces_hands_over_and_detaches() {
    prepare().unwrap();
    let lab = PlainLab::start(&|_| {}).unwrap();
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
