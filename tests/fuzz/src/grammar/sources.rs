//! Packets under addresses that are not the sender's, and to addresses that are nobody's or everybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Production, Reach, production};
use crate::frame::Expected;
use crate::maker::Maker;
use crate::town::{Points, UDP_PORTS, Who};
use crate::wire::{self, BROADCAST, Ends, Mac};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("foreign source", 40, foreign_source),
    production("impossible source", 30, impossible_source),
    production("group destination", 30, group_destination),
    production("odd destination", 20, odd_destination),
    production("link-local destination", 15, link_local_destination),
    production("forbidden", 40, forbidden),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("foreign source: gateway", Reach::Socket),
    ("foreign source: friend", Reach::Socket),
    ("foreign source: world", Reach::Socket),
    ("impossible source: mapped", Reach::Socket),
    ("group destination: 255.255.255.255", Reach::Socket),
    ("group destination: all nodes", Reach::Socket),
    ("group destination: subnet", Reach::Socket),
    ("link-local destination", Reach::Socket),
    ("forbidden: victim", Reach::Answer),
    ("forbidden: friend", Reach::Answer),
    ("forbidden: stray", Reach::Answer),
    ("forbidden: far", Reach::Answer),
    ("forbidden: gateway", Reach::Answer),
];

fn foreign_source(maker: &mut Maker) {
    let to = maker.anybody();
    let (name, v4, v6) = match maker.rng.below(5) {
        0 => ("world", Ipv4Addr::new(8, 8, 8, 8), Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)),
        1 => (
            "neighbour",
            Ipv4Addr::new(198, 18, 40, maker.rng.between(20, 254) as u8),
            Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, maker.rng.between(0x20, 0xff)),
        ),
        _ => {
            let who = maker.rng.pick(&[Who::Gateway, Who::Friend, Who::Victim, Who::Stray, Who::Far]);
            (who.name(), who.v4(), who.v6())
        }
    };
    let destination = to.address(maker.rng.percent(50));
    let source = if destination.is_ipv6() { IpAddr::V6(v6) } else { IpAddr::V4(v4) };
    maker.variant(name);
    under(maker, to, Ends { source, destination });
}

fn impossible_source(maker: &mut Maker) {
    let mapped = Who::Friend.v4().to_ipv6_mapped();
    let choices: [(&str, IpAddr); 17] = [
        ("loopback", IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ("none", IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        ("network 0", IpAddr::V4(Ipv4Addr::new(0, 1, 2, 3))),
        ("multicast", IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1))),
        ("class e", IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1))),
        ("broadcast", IpAddr::V4(Ipv4Addr::BROADCAST)),
        ("subnet broadcast", IpAddr::V4(Ipv4Addr::new(198, 18, 40, 255))),
        ("mapped", IpAddr::V6(mapped)),
        ("mapped own", IpAddr::V6(Who::Hostile.v4().to_ipv6_mapped())),
        ("compatible", IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0xc612, 0x280c))),
        ("none", IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        ("loopback", IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ("nat64", IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc612, 0x280c))),
        ("multicast", IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))),
        ("another's link-local", IpAddr::V6(Who::Friend.link_local())),
        ("nobody's link-local", IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 4))),
        ("site-local", IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 1))),
    ];
    let (name, source) = maker.rng.pick(&choices);
    let to = maker.anybody();
    maker.variant(name);
    under(maker, to, Ends { source, destination: to.address(source.is_ipv6()) });
}

/// What would be allowed under the own address, under another.
fn under(maker: &mut Maker, to: Who, ends: Ends) {
    let message = maker.message(&ends, to);
    let packet = ends.packet(message.0, &message.1);
    let frame = maker.carry(to, &ends, &packet);
    maker.denied(frame);
}

fn group_destination(maker: &mut Maker) {
    let group = |a: u16, b: u16| IpAddr::V6(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, b));
    let choices: [(&str, IpAddr); 13] = [
        ("255.255.255.255", IpAddr::V4(Ipv4Addr::BROADCAST)),
        ("255.255.255.255", IpAddr::V4(Ipv4Addr::BROADCAST)),
        ("subnet", IpAddr::V4(Ipv4Addr::new(198, 18, 40, 255))),
        ("subnet 0", IpAddr::V4(Ipv4Addr::new(198, 18, 40, 0))),
        ("all hosts", IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1))),
        ("mdns", IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251))),
        ("llmnr", IpAddr::V4(Ipv4Addr::new(224, 0, 0, 252))),
        ("ssdp", IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250))),
        ("all nodes", group(0xff02, 1)),
        ("all nodes of the interface", group(0xff01, 1)),
        ("all routers", group(0xff02, 2)),
        ("mdns", group(0xff02, 0xfb)),
        ("dhcp", IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2))),
    ];
    let (name, destination) = maker.rng.pick(&choices);
    maker.variant(name);
    let ends = Ends { source: Who::Hostile.address(destination.is_ipv6()), destination };
    let tag = maker.tag();
    let data = maker.data(tag);
    let message = if maker.rng.percent(80) {
        let port = maker.rng.pick(&UDP_PORTS);
        let source = if maker.rng.percent(50) { port } else { maker.closed_port() };
        (wire::UDP, ends.udp(source, port, &data))
    } else {
        (ends.icmp_protocol(), ends.echo(true, 1, 1, &data))
    };
    let packet = ends.packet(message.0, &message.1);
    let mac = if maker.rng.percent(20) { Who::Victim.mac() } else { group_mac(destination) };
    maker.denied(wire::ethernet(mac, Who::Hostile.mac(), ends.ethertype(), &packet));
}

fn group_mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [224..=239, b, c, d] => [1, 0, 0x5e, b & 0x7f, c, d],
            _ => BROADCAST,
        },
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Addresses that no packet may be sent to, and the rest of the world.
fn odd_destination(maker: &mut Maker) {
    let choices: [IpAddr; 12] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(198, 18, 40, 200)),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(Who::Victim.v4().to_ipv6_mapped()),
        IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0xc612, 0x280b)),
        IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc612, 0x280b)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 0x77)),
    ];
    let destination = maker.rng.pick(&choices);
    let ends = Ends { source: Who::Hostile.address(destination.is_ipv6()), destination };
    let message = maker.allowed(&ends);
    let packet = ends.packet(message.0, &message.1);
    let mac = maker.rng.pick(&[Who::Victim.mac(), Who::Friend.mac(), Who::Gateway.mac(), BROADCAST]);
    maker.denied(wire::ethernet(mac, Who::Hostile.mac(), ends.ethertype(), &packet));
}

/// Every interface has such an address, whatever networks it is meant to be on.
fn link_local_destination(maker: &mut Maker) {
    let to = maker.rng.pick(&[Who::Victim, Who::Victim, Who::Friend, Who::Stray, Who::Gateway]);
    let source = if maker.rng.percent(50) { Who::Hostile.v6() } else { Who::Hostile.link_local() };
    let ends = Ends { source: IpAddr::V6(source), destination: IpAddr::V6(to.link_local()) };
    under(maker, to, ends);
}

/// Nothing odd about them: new connections that no rule allows. The host may be handed those that it has to route;
/// who they are for denies them.
fn forbidden(maker: &mut Maker) {
    let to = if maker.rng.percent(40) { Who::Victim } else { maker.other() };
    let ends = maker.ends(to);
    maker.variant(to.name());
    let message = maker.forbidden(&ends, to);
    let may = if to == Who::Far { Points::HOST } else { Points::NONE };
    maker.frame(Maker::plain(to, &ends, &message), Expected::at_most(may));
}
