//! A port sends only from its own addresses, whether by IP, ARP or neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_common::packet::ETHERTYPE_ARP;
use agent_common::verdict::DropReason::{
    Fragment, InvalidPacket, SpoofedSource, UnknownDestination, UnsupportedProtocol,
};
use integration_tests::packet::{
    Arp, BROADCAST, Ethernet, HOP_BY_HOP, Ipv4, Ipv6, Mac, Payload, Tcp, icmp, ip, link_layer, neighbour,
};

use crate::bench::{Bench, Row};
use crate::town::{
    API, API_2, BRIDGE_1, BRIDGE_2, BRIDGE_MAC, ELSEWHERE, HOST_ADDRESS, LONER, POLICY, STRAY, WEB, four,
    gateway, mac, parsed, sent_by, six, v4, v6,
};

fn syn() -> Payload {
    Payload::Tcp(Tcp::new(40_000, 443))
}

#[test]
fn ip_packets_carry_the_ports_own_addresses() {
    let mut bench = Bench::start();
    let packet = |from, to| ip(from, to, &syn());
    let forged = |name: &str, source: Mac, packet: &[u8]| {
        Row::from(WEB, name, Ethernet::new(source, BRIDGE_MAC).ip(packet))
    };
    let world = ELSEWHERE.map(parsed);
    bench.check_all(&[
        Row::from(WEB, "its own", sent_by(WEB, v4(WEB), world[0], &syn())),
        Row::from(WEB, "another's address", sent_by(WEB, v4(API), world[0], &syn())).dropped(SpoofedSource),
        Row::from(WEB, "the gateway's address", sent_by(WEB, gateway(BRIDGE_1, 0), v4(API), &syn()))
            .dropped(SpoofedSource),
        Row::from(WEB, "an address of the world", sent_by(WEB, parsed("8.8.8.8"), v4(API), &syn()))
            .dropped(SpoofedSource),
        Row::from(WEB, "another's IPv6 address", sent_by(WEB, v6(API), world[1], &syn()))
            .dropped(SpoofedSource),
        forged("another's MAC", mac(API), &packet(v4(WEB), world[0])).dropped(SpoofedSource).perhaps_told(),
        forged("the bridge's MAC", BRIDGE_MAC, &packet(v6(WEB), world[1])).dropped(SpoofedSource),
        forged("a group as MAC", BROADCAST, &packet(v4(WEB), v4(API))).dropped(SpoofedSource),
        // The first reason that applies wins.
        forged(
            "another's MAC on a fragment",
            mac(API),
            &Ipv6::new(six(v6(WEB)), six(v6(API))).fragment(0, true).carrying(6, &[0; 8]),
        )
        .dropped(Fragment),
    ]);
}

#[test]
fn unmanaged_neighbours_of_covered_ones_are_checked_too() {
    let mut bench = Bench::start();
    let forged = |port, source| sent_by(port, source, v4(API), &syn());
    bench.check_all(&[
        Row::from(STRAY, "its own", forged(STRAY, v4(STRAY))),
        Row::from(STRAY, "a covered one's address", forged(STRAY, v4(WEB))).dropped(SpoofedSource),
        Row::from(STRAY, "a covered one's MAC", forged(WEB, v4(STRAY))).dropped(SpoofedSource),
        Row::from(
            STRAY,
            "a claim to a covered one's address",
            Arp::request(mac(STRAY), four(v4(WEB)), four(v4(API))).frame(),
        )
        .dropped(SpoofedSource),
        // On a bridge without covered endpoints nobody is.
        Row::from(LONER, "somebody's address", forged(LONER, v4(WEB))),
        Row::from(LONER, "somebody's MAC", forged(WEB, v4(LONER))),
        Row::from(
            LONER,
            "a claim to somebody's address",
            Arp::request(mac(WEB), four(v4(WEB)), four(v4(API))).frame(),
        ),
    ]);
}

/// What cannot be parsed of an unmanaged container's is left alone, unless the host or another container could parse it:
/// each of the dropped ones changed the host's list of neighbours, and drew a covered container's traffic away.
#[test]
fn unmanaged_containers_hide_no_claim_in_what_cannot_be_parsed() {
    let mut bench = Bench::start();
    let (own, victim, gate) = (six(v6(STRAY)), six(v6(WEB)), six(gateway(BRIDGE_1, 1)));
    let arp = Arp::request(mac(STRAY), four(v4(WEB)), four(gateway(BRIDGE_1, 0)));
    let mut other_hardware = arp.bytes();
    other_hardware[1] = 6;
    let told = neighbour(ADVERTISEMENT, victim, &link_layer(2, mac(STRAY)));
    let asked = neighbour(SOLICITATION, gate, &link_layer(1, mac(STRAY)));
    let routed = icmp(133, 0, [0; 4], &link_layer(1, mac(STRAY)));
    let ethernet = || Ethernet::new(mac(STRAY), BRIDGE_MAC);
    let packet = |source, hops| Ipv6::new(source, gate).hop_limit(hops);
    let mapped = four(v4(STRAY)).to_ipv6_mapped();
    let refused = |name: &str, frame| Row::from(STRAY, name, frame).dropped(SpoofedSource).perhaps_told();
    let left_alone = |name: &str, frame| Row::from(STRAY, name, frame);
    bench.check_all(&[
        refused("a tagged claim", ethernet().tag(0x8100, 0).carrying(ETHERTYPE_ARP, &arp.bytes())),
        refused("a claim for other hardware", ethernet().carrying(ETHERTYPE_ARP, &other_hardware)),
        refused("behind options", ethernet().ip(&packet(own, 255).destination_options().carrying(58, &told))),
        refused(
            "behind options, another's",
            ethernet().ip(&packet(victim, 255).destination_options().carrying(58, &asked)),
        ),
        refused("from a mapped address", ethernet().ip(&packet(mapped, 255).carrying(58, &told))),
        refused(
            "a router solicitation of another's",
            ethernet().ip(&packet(victim, 255).carrying(58, &routed)),
        ),
        refused("a redirect", ethernet().ip(&packet(own, 255).carrying(58, &icmp(137, 0, [0; 4], &[0; 32])))),
        refused(
            "another's fragment",
            ethernet().ip(&Ipv4::new(four(v4(WEB)), four(gateway(BRIDGE_1, 0)))
                .fragment(0, true)
                .carrying(17, &[0; 16])),
        ),
        left_alone("its own router solicitation", ethernet().ip(&packet(own, 255).carrying(58, &routed))),
        left_alone("an option", ethernet().ip(&packet(own, 64).destination_options().carrying(17, &[0; 16]))),
        left_alone(
            "a fragment",
            ethernet().ip(&Ipv4::new(four(v4(STRAY)), four(gateway(BRIDGE_1, 0)))
                .fragment(0, true)
                .carrying(17, &[0; 16])),
        ),
        left_alone("another ethertype", ethernet().carrying(0x88b5, &[0; 46])),
    ]);
}

#[test]
fn arp_claims_the_ports_own_address() {
    let mut bench = Bench::start();
    let (own, gate) = (four(v4(WEB)), four(gateway(BRIDGE_1, 0)));
    let request = Arp::request(mac(WEB), own, gate);
    let claim = |name: &str, arp: Arp| Row::from(WEB, name, arp.frame());
    let raw = |name: &str, change: fn(&mut Vec<u8>)| {
        let mut message = request.bytes();
        change(&mut message);
        Row::from(WEB, name, Ethernet::new(mac(WEB), BROADCAST).carrying(ETHERTYPE_ARP, &message))
    };
    let foreign = Ethernet::new(mac(API), BROADCAST).carrying(ETHERTYPE_ARP, &request.bytes());
    bench.check_all(&[
        claim("a request", request),
        claim("a reply", Arp { operation: 2, ..request }),
        claim("an announcement", Arp { target: own, ..request }),
        claim("a probe", Arp { sender: Ipv4Addr::UNSPECIFIED, target: own, ..request }),
        claim("a probe for another's", Arp { sender: Ipv4Addr::UNSPECIFIED, ..request }),
        claim("another's address", Arp { sender: four(v4(API)), ..request }).dropped(SpoofedSource),
        claim("the gateway's address", Arp { operation: 2, sender: gate, ..request }).dropped(SpoofedSource),
        claim("another's MAC", Arp { sender_mac: mac(API), ..request }).dropped(SpoofedSource),
        Row::from(WEB, "another's MAC outside", foreign).dropped(SpoofedSource).untold(),
        Row::from(WEB, "another's MAC inside", {
            let message = Arp { sender_mac: mac(API), ..request }.bytes();
            Ethernet::new(mac(WEB), BROADCAST).carrying(ETHERTYPE_ARP, &message)
        })
        .dropped(SpoofedSource)
        .untold(),
        claim("a reverse request", Arp { operation: 3, ..request }).dropped(InvalidPacket),
        claim("no operation", Arp { operation: 0, ..request }).dropped(InvalidPacket).untold(),
        raw("another hardware", |message| message[1] = 6).dropped(InvalidPacket).untold(),
        raw("another protocol", |message| message[2] = 0x86).dropped(InvalidPacket).untold(),
        raw("longer hardware addresses", |message| message[4] = 8).dropped(InvalidPacket).untold(),
        raw("longer protocol addresses", |message| message[5] = 16).dropped(InvalidPacket).untold(),
        raw("cut short", |message| message.truncate(27)).dropped(InvalidPacket).untold(),
        // Checked where it was sent.
        Row::to(API, "arriving", request.frame()).by(WEB),
        Row::to(API, "from the host", Arp::request(BRIDGE_MAC, gate, four(v4(API))).frame()).by(0),
    ]);
}

/// A neighbour message from a port's own MAC.
fn message(source: Ipv6Addr, hops: u8, payload: &[u8]) -> Vec<u8> {
    let group = "ff02::1:ff00:1".parse().unwrap();
    Ethernet::new(mac(WEB), [0x33, 0x33, 0xff, 0, 0, 1])
        .ip(&Ipv6::new(source, group).hop_limit(hops).carrying(58, payload))
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const NONCE: [u8; 8] = [14, 1, 9, 9, 9, 9, 9, 9];
/// The link-local address that follows from the MAC.
const LINK_LOCAL: &str = "fe80::ff:fe00:a";

#[test]
fn neighbour_messages_claim_the_ports_own_addresses() {
    let mut bench = Bench::start();
    let (own, other) = (six(v6(WEB)), six(v6(API)));
    let own_link: Ipv6Addr = LINK_LOCAL.parse().unwrap();
    let stable: Ipv6Addr = "fe80::1234:5678:9abc:def0".parse().unwrap();
    let (gates, their_link): (Ipv6Addr, Ipv6Addr) =
        ("fe80::1".parse().unwrap(), "fe80::ff:fe00:b".parse().unwrap());
    let none = Ipv6Addr::UNSPECIFIED;
    let row = |name: &str, source, payload: &[u8]| {
        Row::from(WEB, name, message(source, 255, payload)).perhaps_told()
    };
    let ask = |target, options: &[u8]| neighbour(SOLICITATION, target, options);
    let tell = |target, options: &[u8]| neighbour(ADVERTISEMENT, target, options);
    let (my, their) = (link_layer(1, mac(WEB)), link_layer(1, mac(API)));
    let (my_target, their_target) = (link_layer(2, mac(WEB)), link_layer(2, mac(API)));
    bench.check_all(&[
        row("a solicitation", own, &ask(other, &my)),
        row("without an option", own, &ask(other, &[])),
        row("from the link-local address", own_link, &ask(other, &my)),
        // One that does not follow from the MAC could be anybody's: it would take the gateway's place for all others.
        row("from the gateway's link-local address", gates, &ask(other, &my)).dropped(SpoofedSource),
        row("from another's link-local address", their_link, &ask(other, &my)).dropped(SpoofedSource),
        row("from a link-local address of unknown origin", stable, &ask(other, &my)).dropped(SpoofedSource),
        row("for one that nobody is known to have", own, &ask("2001:db8:12::ffff".parse().unwrap(), &my)),
        row("for the gateway", own, &ask(six(gateway(BRIDGE_1, 1)), &my)),
        row("for a link-local address", own_link, &ask(gates, &my)),
        row("for an address of the host's", own, &ask(six(parsed(HOST_ADDRESS[1])), &my)),
        row("for one on another bridge", own, &ask(six(v6(API_2)), &my)).dropped(UnknownDestination),
        row("for another bridge's gateway", own, &ask(six(gateway(BRIDGE_2, 1)), &my))
            .dropped(UnknownDestination),
        row("for one of another bridge's", own, &ask("2001:db8:13::ffff".parse().unwrap(), &my))
            .dropped(UnknownDestination),
        row("for one out in the world", own, &ask(six(parsed(ELSEWHERE[1])), &my))
            .dropped(UnknownDestination),
        row("duplicate detection for the world's", none, &ask(six(parsed(ELSEWHERE[1])), &[]))
            .dropped(UnknownDestination),
        row("for nobody", own, &ask(none, &my)).dropped(UnknownDestination),
        // The first reason that applies wins.
        row("for one out in the world, from another's address", other, &ask(six(parsed(ELSEWHERE[1])), &my))
            .dropped(SpoofedSource),
        row("duplicate detection", none, &ask(own, &[])),
        row("duplicate detection with a nonce", none, &ask(own, &NONCE)),
        row("an advertisement", own, &tell(own, &my_target)),
        row("an advertisement without an option", own, &tell(own, &[])),
        row("of the link-local address", own_link, &tell(own_link, &my_target)),
        row("of a global one from the link-local one", own_link, &tell(own, &my_target)),
        row("of the gateway's link-local address, from it", gates, &tell(gates, &my_target))
            .dropped(SpoofedSource),
        row("of another's link-local address, from it", their_link, &tell(their_link, &my_target))
            .dropped(SpoofedSource),
        row("of a link-local address of unknown origin", stable, &tell(stable, &my_target))
            .dropped(SpoofedSource),
        row("from another's address", other, &ask(own, &my)).dropped(SpoofedSource),
        row("with another's MAC", own, &ask(other, &their)).dropped(SpoofedSource),
        row("an advertisement of another's address", own, &tell(other, &my_target)).dropped(SpoofedSource),
        row("an advertisement from another's address", other, &tell(own, &my_target)).dropped(SpoofedSource),
        row("an advertisement from no address", none, &tell(own, &my_target)).dropped(SpoofedSource),
        row("of the gateway's address", own, &tell(six(gateway(BRIDGE_1, 1)), &my_target))
            .dropped(SpoofedSource),
        row("of the gateway's link-local address", own, &tell("fe80::1".parse().unwrap(), &my_target))
            .dropped(SpoofedSource),
        row("of its own address at another's MAC", own, &tell(own, &their_target)).dropped(SpoofedSource),
        row("duplicate detection that names a MAC", none, &ask(own, &my)).dropped(InvalidPacket),
        row("the wrong option", own, &ask(other, &my_target)).dropped(InvalidPacket),
        row("a nonce with a sender", own, &ask(other, &NONCE)).dropped(InvalidPacket),
        row("two options", own, &ask(other, &[my.clone(), their].concat())).dropped(InvalidPacket),
        row("half an option", own, &ask(other, &my[..4])).dropped(InvalidPacket),
        row("an option that says to be longer", own, &ask(other, &[1, 2, 2, 0, 0, 0, 0, 10]))
            .dropped(InvalidPacket),
        row("for a group", own, &ask("ff02::1".parse().unwrap(), &my)).dropped(InvalidPacket),
        row("cut short", own, &ask(other, &[])[..20]).dropped(InvalidPacket),
        row("with a code", own, &[&[SOLICITATION, 1], &ask(other, &my)[2..]].concat()).dropped(InvalidPacket),
        Row::from(WEB, "from beyond a router", message(own, 254, &ask(other, &my)))
            .dropped(InvalidPacket)
            .perhaps_told(),
        row("a router advertisement", own_link, &icmp(134, 0, [64, 0, 7, 8], &[0; 8]))
            .dropped(UnsupportedProtocol),
        // What every stack sends by itself is a packet, but no attempt.
        row("a router solicitation", own_link, &icmp(133, 0, [0; 4], &my))
            .dropped(UnsupportedProtocol)
            .again(),
        row("a redirect", own_link, &icmp(137, 0, [0; 4], &[0; 32])).dropped(UnsupportedProtocol),
        Row::from(WEB, "another's MAC outside", {
            Ethernet::new(mac(API), BRIDGE_MAC)
                .ip(&Ipv6::new(own, other).hop_limit(255).carrying(58, &ask(other, &my)))
        })
        .dropped(SpoofedSource)
        .perhaps_told(),
        Row::from(WEB, "behind an extension header", {
            let packet = Ipv6::new(own, other).hop_limit(255).destination_options();
            Ethernet::new(mac(WEB), BRIDGE_MAC).ip(&packet.carrying(58, &ask(other, &my)))
        })
        .dropped(UnsupportedProtocol)
        .perhaps_told(),
        Row::from(WEB, "in a fragment", {
            let packet = Ipv6::new(own, other).hop_limit(255).fragment(0, false);
            Ethernet::new(mac(WEB), BRIDGE_MAC).ip(&packet.carrying(58, &ask(other, &my)))
        })
        .dropped(Fragment)
        .perhaps_told(),
        // Checked where they were sent.
        Row::to(API, "arriving", message(own, 255, &ask(other, &my))).by(WEB),
    ]);
}

#[test]
fn listener_messages_are_for_the_bridge_only() {
    let mut bench = Bench::start();
    let report = icmp(143, 0, [0, 0, 0, 1], &[4, 0, 0, 0]);
    let all_routers = "ff02::16".parse().unwrap();
    let from = |source: &str| Ipv6::new(source.parse().unwrap(), all_routers).hop_limit(1);
    let frame = |packet: &[u8]| Ethernet::new(mac(WEB), [0x33, 0x33, 0, 0, 0, 0x16]).ip(packet);
    let good = frame(&from(LINK_LOCAL).router_alert().carrying(58, &report));
    let row = |name: &str, packet: &[u8]| Row::from(WEB, name, frame(packet)).perhaps_told();
    bench.check_all(&[
        Row::from(WEB, "a report", good.clone()),
        row("a report before there is an address", &from("::").router_alert().carrying(58, &report)),
        row("an old report", &from(LINK_LOCAL).router_alert().carrying(58, &icmp(131, 0, [0; 4], &[0; 16]))),
        row("without a router alert", &from(LINK_LOCAL).carrying(58, &report)).dropped(UnsupportedProtocol),
        row("cut short", &from(LINK_LOCAL).router_alert().carrying(58, &report[..7])).dropped(InvalidPacket),
        row(
            "another alert",
            &from(LINK_LOCAL).extension(HOP_BY_HOP, &[0, 5, 2, 0, 1, 1, 0]).carrying(58, &report),
        )
        .dropped(UnsupportedProtocol),
        row(
            "another message behind the alert",
            &from(LINK_LOCAL).router_alert().carrying(58, &icmp(134, 0, [0; 4], &[0; 16])),
        )
        .dropped(UnsupportedProtocol),
        row(
            "an echo behind the alert",
            &from(LINK_LOCAL).router_alert().carrying(58, &icmp(128, 0, [0; 4], &[0; 16])),
        )
        .dropped(UnsupportedProtocol),
        Row::from(API, "with another's MAC", good.clone()).dropped(SpoofedSource),
        Row::to(API, "into a container", good).by(WEB).dropped(UnsupportedProtocol).again(),
    ]);
}

#[test]
fn a_container_whose_mac_is_unknown_has_to_agree_with_itself() {
    let mut bench = Bench::start();
    bench.change(POLICY, |snapshot| {
        let web = snapshot.endpoints.iter_mut().find(|endpoint| endpoint.container_id == "id-10").unwrap();
        web.mac = None;
    });
    let any = [2, 9, 9, 9, 9, 9];
    let own = four(v4(WEB));
    let request = Arp::request(any, own, four(v4(API)));
    let packet = |from| ip(from, parsed(ELSEWHERE[0]), &syn());
    bench.check_all(&[
        Row::from(WEB, "any MAC", Ethernet::new(any, BRIDGE_MAC).ip(&packet(v4(WEB)))),
        Row::from(WEB, "another's address", Ethernet::new(any, BRIDGE_MAC).ip(&packet(v4(API))))
            .dropped(SpoofedSource),
        Row::from(WEB, "a claim with one MAC", request.frame()),
        Row::from(
            WEB,
            "a claim with two",
            Ethernet::new(mac(WEB), BROADCAST).carrying(ETHERTYPE_ARP, &request.bytes()),
        )
        .dropped(SpoofedSource),
    ]);
}
