//! What the kernel says of a packet, and which hooks a packet meets.

use std::time::Duration;

use frame_fuzz::frame::{Expected, Frame, Way as Sending};
use frame_fuzz::packet_socket::Sender;
use integration_tests::bridges::{Bridges, Sent};
use integration_tests::prepare;
use integration_tests::watch::{Watch, Way};
use lab::interrupt::wait_for;

const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Who sent a packet is told by the interface that it came in by, and by the mark once it is routed.
#[test]
fn a_port_is_told_where_a_packet_comes_from() {
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
            ("wan", index("wan"), 0, "the world: the uplink"),
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
fn a_containers_own_mark_ends_at_its_namespace() {
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
fn a_vlan_tag_is_told() {
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

/// Frames between two ports do not meet the hooks of their bridge, which is why every port has hooks of its own.
#[test]
fn neighbours_do_not_meet_the_hooks_of_their_bridge() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let (port, bridge) = (Watch::new().unwrap(), Watch::new().unwrap());
    port.note(&bridges.host, "a2", Way::Egress).unwrap();
    for way in [Way::Egress, Way::Ingress] {
        bridge.note(&bridges.host, "lab-a", way).unwrap();
    }
    let sent = Sent { to: bridges.address("a2", 4).unwrap(), size: 500, mark: None };
    bridges.send_until_noted(&port, "a1", &sent).unwrap();
    assert_eq!(bridge.said().unwrap().get(&bridges.length(&sent)), None);
    // The host's own do.
    let sent = Sent { size: 510, ..sent };
    bridges.send_until_noted(&bridge, "host", &sent).unwrap();
}

/// A process of the host can send past the hook of the bridge, but not past that of the port.
#[test]
fn a_frame_sent_past_the_bridges_hook_meets_the_ports() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let (port, bridge) = (Watch::new().unwrap(), Watch::new().unwrap());
    port.note(&bridges.host, "a2", Way::Egress).unwrap();
    bridge.note(&bridges.host, "lab-a", Way::Egress).unwrap();
    let said = bridges.send_past_the_hook_until_noted(&port, "lab-a", 520).unwrap();
    assert_eq!(said[0], 0, "it came in by no interface");
    assert_eq!(bridge.said().unwrap().get(&(14 + 28 + 520)), None);
}

/// What is dropped at a port's ingress does not teach the bridge where an address is.
#[test]
fn a_dropped_frame_moves_no_address() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    watch.note(&bridges.host, "a2", Way::Egress).unwrap();
    // From here on the ports forward.
    let sent = Sent { to: bridges.address("a2", 4).unwrap(), size: 525, mark: None };
    bridges.send_until_noted(&watch, "a1", &sent).unwrap();
    let forged = "02:00:00:00:00:63";
    let known = || bridges.forwarding_table().unwrap().contains(forged);
    watch.first(&bridges.host, "a1", Way::Ingress, DROP).unwrap();
    for _ in 0..3 {
        bridges.send_forged("a1", 0x63, 530).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(!known(), "learned from a dropped frame");
    watch.first(&bridges.host, "a1", Way::Ingress, NEXT).unwrap();
    wait_for("the forged address", Duration::from_secs(5), || {
        bridges.send_forged("a1", 0x63, 530)?;
        Ok(known().then_some(()))
    })
    .unwrap();
}

/// Of a frame sent out of a ring only the Ethernet header may lie in the first piece of memory; what comes behind it
/// is read all the same.
#[test]
fn what_lies_elsewhere_in_memory_is_read() {
    prepare().unwrap();
    let bridges = Bridges::build().unwrap();
    let watch = Watch::new().unwrap();
    watch.measure(&bridges.host, "a1", Way::Ingress).unwrap();
    let mut sender = Sender::open(&bridges.path("a1"), "eth0").unwrap();
    for (way, size, linear) in [(Sending::Message, 540_u32, 14 + 28 + 540), (Sending::Ring, 550, 14)] {
        let bytes = bridges.frame(0, size).unwrap();
        let total = u16::try_from(28 + size).unwrap().to_be_bytes();
        let frame = Frame { bytes, label: "".into(), expected: Expected::DENIED, way };
        let frames = [frame];
        let said = bridges.until(&watch, 14 + 28 + size, || sender.send(&frames)).unwrap();
        assert_eq!(said[0], linear, "{way:?}: first piece of memory");
        assert_eq!(said[1], 0, "{way:?}: result of reading");
        assert_eq!(said[2].to_ne_bytes(), [0x45, 0, total[0], total[1]], "{way:?}: bytes read");
    }
}
