//! What a program's verdict does, who is asked first, and what an exchange of programs lets through.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use integration_tests::bridges::{Bridges, Sent};
use integration_tests::sabotage::{self, Way as Hook};
use integration_tests::watch::{Watch, Way};
use integration_tests::{bpf, has_tcx, prepare};
use lab::netns::within;

const NEXT: i32 = -1;
const PASS: i32 = 0;
const DROP: i32 = 2;
const PORT: u16 = 9999;
/// How often a program takes the place of another.
const FILTERS: usize = 20;
const LINKS: usize = 500;

/// Where datagrams for a2 arrive.
fn receiver(bridges: &Bridges) -> UdpSocket {
    let address = SocketAddr::new(bridges.address("a2", 4).unwrap(), PORT);
    let socket = within(&bridges.path("a2"), move || UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

/// Sends some datagrams of a size from a1 to a2, and says whether the next program was asked and whether they arrived.
fn outcome(bridges: &Bridges, watch: &Watch, receiver: &UdpSocket, size: u32) -> (bool, bool) {
    let sent = Sent { to: bridges.address("a2", 4).unwrap(), size, mark: None };
    // The first one may have to wait for the neighbour's address.
    for _ in 0..3 {
        bridges.send("a1", &sent).unwrap();
    }
    let mut buffer = [0; 2048];
    let arrived = std::iter::from_fn(|| receiver.recv(&mut buffer).ok())
        .filter(|length| *length == usize::try_from(size).unwrap())
        .count();
    (watch.said().unwrap().contains_key(&bridges.length(&sent)), arrived > 0)
}

/// -1 leaves a packet to the next program, 2 drops it, and 0 lets it past all others, which is why it is never ours. A
/// filter of priority 1 is asked first.
#[test]
fn the_first_filter_asks_the_next_or_decides() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    let receiver = receiver(&bridges);
    watch.note(&bridges.host, "a2", Way::Egress).unwrap();
    for (size, (returns, asked, arrives)) in
        (600..).step_by(10).zip([(NEXT, true, true), (DROP, false, false), (PASS, false, true)])
    {
        watch.first(&bridges.host, "a2", Way::Egress, returns).unwrap();
        assert_eq!(outcome(&bridges, &watch, &receiver, size), (asked, arrives), "{returns}");
    }
}

/// TCX came with 6.6, and its programs are asked before every filter. Before that it is refused.
#[test]
fn tcx_is_asked_before_filters_or_is_not_there() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let index = bridges.index("a2").unwrap();
    let attach =
        |returns| sabotage::get_before(&bridges.host, index, Hook::Egress, &bpf::returning(returns).unwrap());
    if !has_tcx() {
        assert!(attach(NEXT).is_err(), "TCX is there: `kernel::probe` should know");
        return;
    }
    let watch = Watch::new().unwrap();
    let receiver = receiver(&bridges);
    // A filter of the first priority that would let everything past the noting one.
    watch.note(&bridges.host, "a2", Way::Egress).unwrap();
    for (size, (returns, asked, arrives)) in (640..).step_by(10).zip([
        (NEXT, true, true),
        (DROP, false, false),
        (PASS, false, true),
        (3, true, true),
        (100, true, true),
    ]) {
        let _link = attach(returns).unwrap();
        assert_eq!(outcome(&bridges, &watch, &receiver, size), (asked, arrives), "{returns}");
    }
    // Who comes later and asks to be first is first.
    let (_drop, pass) = (attach(DROP).unwrap(), attach(PASS).unwrap());
    assert_eq!(outcome(&bridges, &watch, &receiver, 700), (false, true), "the later one passes it");
    drop(pass);
    assert_eq!(outcome(&bridges, &watch, &receiver, 710), (false, false), "the earlier one drops it");
}

/// No packet slips through while one program takes the place of another.
#[test]
fn an_exchange_of_programs_leaves_no_gap() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    let receiver = receiver(&bridges);
    let to = bridges.address("a2", 4).unwrap();
    // So that a1 knows where a2 is.
    assert!(outcome(&bridges, &watch, &receiver, 720).1);
    watch.first(&bridges.host, "a2", Way::Egress, DROP).unwrap();
    let flood = bridges.flood("a1", SocketAddr::new(to, PORT)).unwrap();
    for _ in 0..FILTERS {
        watch.first(&bridges.host, "a2", Way::Egress, DROP).unwrap();
    }
    let link = has_tcx().then(|| {
        let index = bridges.index("a2").unwrap();
        let program = bpf::returning(DROP).unwrap();
        let link = sabotage::get_before(&bridges.host, index, Hook::Egress, &program).unwrap();
        // From here on only the link holds them back.
        watch.first(&bridges.host, "a2", Way::Egress, NEXT).unwrap();
        for _ in 0..LINKS {
            sabotage::exchange_in(&link, &bpf::returning(DROP).unwrap()).unwrap();
        }
        link
    });
    let sent = flood.stop();
    assert!(sent > 100, "only {sent} datagrams were sent");
    assert!(receiver.recv(&mut [0; 2048]).is_err(), "one of {sent} datagrams arrived");
    // Nothing else held them back.
    drop(link);
    watch.first(&bridges.host, "a2", Way::Egress, NEXT).unwrap();
    assert!(outcome(&bridges, &watch, &receiver, 730).1);
}

/// The link of an interface that is gone says so when its program is to be exchanged.
#[test]
fn a_link_of_a_dead_interface_is_severed() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    bridges.host.ip("link add dead type veth peer name end").unwrap();
    let index = bridges.index("dead").unwrap();
    let link =
        sabotage::get_before(&bridges.host, index, Hook::Egress, &bpf::returning(DROP).unwrap()).unwrap();
    bridges.host.ip("link delete dead").unwrap();
    let error = sabotage::exchange_in(&link, &bpf::returning(DROP).unwrap()).unwrap_err();
    let cause = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    assert_eq!(cause, Some(libc::ENOLINK), "{error:#}");
}
