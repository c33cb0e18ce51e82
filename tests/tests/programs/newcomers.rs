//! Who is there already does not reach those that nobody knows yet: their ports may have no programs.

use std::net::IpAddr;

use agent_common::verdict::DropReason::UnknownDestination;
use integration_tests::packet::{Arp, Ethernet, Ipv4, Ipv6};

use crate::bench::{Bench, Row};
use crate::rows::{outgoing, tcp, udp};
use crate::town::{
    BACKUP, BRIDGE_1, BRIDGE_MAC, ELSEWHERE, HOST_ADDRESS, LONER, NEW, POLICY, STRAY, WEB, four, gateway,
    mac, parsed, sent_by, six, v4, v6,
};

/// The link-local addresses that follow from the MACs of `NEW` and `WEB`.
const NEW_LINK: &str = "fe80::ff:fe00:16";
const WEB_LINK: &str = "fe80::ff:fe00:a";

#[test]
fn an_unmanaged_container_sends_only_to_known_ones_of_a_guarded_bridge() {
    let mut bench = Bench::start();
    let refused = |row: Row| row.dropped(UnknownDestination);
    bench.check_all(&[
        refused(outgoing(STRAY, v4(NEW), &tcp(80))),
        refused(outgoing(STRAY, v6(NEW), &udp(80))),
        refused(outgoing(STRAY, parsed("172.18.200.1"), &udp(80))),
        refused(outgoing(STRAY, parsed(NEW_LINK), &tcp(80))),
        refused(outgoing(BACKUP, parsed("172.19.200.1"), &tcp(80))),
        // Everybody else it reaches as before.
        outgoing(STRAY, v4(WEB), &tcp(80)),
        outgoing(STRAY, v6(LONER), &tcp(80)),
        outgoing(STRAY, parsed(WEB_LINK), &tcp(80)),
        outgoing(STRAY, gateway(BRIDGE_1, 0), &tcp(80)),
        outgoing(STRAY, parsed(HOST_ADDRESS[1]), &tcp(80)),
        outgoing(STRAY, parsed(ELSEWHERE[0]), &tcp(80)),
        // Routed, and judged where it arrives.
        outgoing(STRAY, parsed("172.19.200.1"), &tcp(80)),
        Row::from(STRAY, "asking for it", Arp::request(mac(STRAY), four(v4(STRAY)), four(v4(NEW))).frame()),
        // Nobody is covered there.
        outgoing(LONER, parsed("172.20.200.1"), &tcp(80)),
    ]);
}

#[test]
fn what_cannot_be_parsed_is_held_back_too() {
    let mut bench = Bench::start();
    let ethernet = Ethernet::new(mac(STRAY), BRIDGE_MAC);
    let packet = |to: IpAddr| Ipv4::new(four(v4(STRAY)), four(to));
    let packet_6 = |to: IpAddr| Ipv6::new(six(v6(STRAY)), six(to));
    let bytes = [0x22; 16];
    let mut rows = Vec::new();
    for (name, to_new, to_loner) in [
        ("a first fragment", packet(v4(NEW)).fragment(0, true), packet(v4(LONER)).fragment(0, true)),
        ("a later fragment", packet(v4(NEW)).fragment(1, false), packet(v4(LONER)).fragment(1, false)),
        ("options", packet(v4(NEW)).options(&[1; 4]), packet(v4(LONER)).options(&[1; 4])),
    ] {
        rows.push(
            Row::from(STRAY, name, ethernet.ip(&to_new.carrying(17, &bytes))).dropped(UnknownDestination),
        );
        rows.push(Row::from(STRAY, name, ethernet.ip(&to_loner.carrying(17, &bytes))));
    }
    for (name, to_new, to_loner) in [
        ("an IPv6 fragment", packet_6(v6(NEW)).fragment(0, true), packet_6(v6(LONER)).fragment(0, true)),
        ("IPv6 options", packet_6(v6(NEW)).destination_options(), packet_6(v6(LONER)).destination_options()),
    ] {
        rows.push(
            Row::from(STRAY, name, ethernet.ip(&to_new.carrying(17, &bytes))).dropped(UnknownDestination),
        );
        rows.push(Row::from(STRAY, name, ethernet.ip(&to_loner.carrying(17, &bytes))));
    }
    rows.push(
        Row::from(STRAY, "GRE", ethernet.ip(&packet(v4(NEW)).carrying(47, &bytes)))
            .dropped(UnknownDestination),
    );
    for row in &mut rows {
        row.told = None;
    }
    bench.check_all(&rows);
}

/// Their receivers cannot be told, and unmanaged containers are left alone among themselves.
#[test]
fn groups_are_left_to_unmanaged_containers() {
    let mut bench = Bench::start();
    bench.change(POLICY, |snapshot| snapshot.host_addresses.push(parsed("172.18.255.255")));
    bench.check_all(&[
        outgoing(STRAY, parsed("224.0.0.251"), &udp(5353)),
        outgoing(STRAY, parsed("255.255.255.255"), &udp(67)),
        outgoing(STRAY, parsed("172.18.255.255"), &udp(137)),
        outgoing(STRAY, parsed("ff02::fb"), &udp(5353)),
    ]);
}

#[test]
fn whose_port_is_not_known_any_more_is_nobody() {
    let mut bench = Bench::start();
    bench.forget_interface(WEB);
    bench.check_all(&[
        outgoing(STRAY, v4(WEB), &tcp(80)).dropped(UnknownDestination),
        outgoing(STRAY, parsed(WEB_LINK), &tcp(80)).dropped(UnknownDestination),
    ]);
}

#[test]
fn where_a_mac_is_not_known_link_local_addresses_are_left_alone() {
    let mut bench = Bench::start();
    bench.change(POLICY, |snapshot| {
        let web = snapshot.endpoints.iter_mut().find(|endpoint| endpoint.container_id == "id-10").unwrap();
        web.mac = None;
    });
    bench.check_all(&[
        outgoing(STRAY, parsed(NEW_LINK), &tcp(80)),
        outgoing(STRAY, v4(NEW), &tcp(80)).dropped(UnknownDestination),
        outgoing(BACKUP, parsed(NEW_LINK), &tcp(80)).dropped(UnknownDestination),
    ]);
}

#[test]
fn a_bridge_on_which_nobody_enforces_is_open() {
    let policy = POLICY
        .replace("profile: production", "profile: production\nmode: observe")
        .replace("    mode: observe\n", "");
    Bench::under(&policy).check_all(&[
        outgoing(STRAY, v4(NEW), &tcp(80)),
        Row::from(STRAY, "link-local", sent_by(STRAY, v6(STRAY), parsed(NEW_LINK), &tcp(80))),
    ]);
}
