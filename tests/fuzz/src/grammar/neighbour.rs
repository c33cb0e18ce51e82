//! ARP, neighbour discovery and multicast listener messages: who claims which address, honestly and otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::canonical::to_everybody;
use super::{Production, Reach, production};
use crate::frame::Expected;
use crate::maker::Maker;
use crate::town::{Points, Who};
use crate::wire::{self, ARP, Arp, BROADCAST, Ends, ICMPV6, IPV6, Ipv6, Mac};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("allowed arp", 12, honest_arp),
    production("allowed discovery", 12, honest_discovery),
    production("arp claim", 20, arp_claim),
    production("arp form", 10, arp_form),
    production("discovery claim", 20, discovery_claim),
    production("discovery form", 20, discovery_form),
    production("hidden claim", 30, hidden_claim),
    production("router discovery", 20, router),
    production("listener messages", 10, listener),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("allowed arp", Reach::Interface),
    ("allowed discovery", Reach::Interface),
    ("arp claim", Reach::Interface),
    ("discovery claim", Reach::Interface),
    ("discovery form", Reach::Interface),
    ("hidden claim", Reach::Interface),
    ("router discovery", Reach::Socket),
];

const EVERYBODY: Expected = Expected { may: Points::BRIDGE, must: Points::VICTIM, answered: false };
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ARP message never fills the shortest Ethernet frame: the tag lies in what does.
fn padded(maker: &mut Maker, mut payload: Vec<u8>) -> Vec<u8> {
    payload.extend(maker.tag().bytes());
    payload
}

fn honest_arp(maker: &mut Maker) {
    let own = Who::Hostile;
    let (message, destination) = match maker.rng.below(4) {
        0 => (Arp::new(1, own.mac(), own.v4(), Who::Victim.v4()), BROADCAST),
        // Asks before it takes an address, and says that it has taken it.
        1 => (Arp::new(1, own.mac(), Ipv4Addr::UNSPECIFIED, own.v4()), BROADCAST),
        2 => (Arp::new(1, own.mac(), own.v4(), own.v4()), BROADCAST),
        _ => {
            let reply = Arp::new(2, own.mac(), own.v4(), Who::Victim.v4());
            (Arp { target_mac: Who::Victim.mac(), ..reply }, Who::Victim.mac())
        }
    };
    let payload = padded(maker, message.bytes());
    let expected = if destination == BROADCAST { EVERYBODY } else { Expected::exactly(Points::VICTIM) };
    maker.frame(wire::ethernet(destination, own.mac(), ARP, &payload), expected);
}

/// What other places a claim can be made for.
fn foreign_v4(maker: &mut Maker) -> Ipv4Addr {
    match maker.rng.below(10) {
        0 => Ipv4Addr::BROADCAST,
        1 => Ipv4Addr::new(198, 18, 40, maker.rng.between(20, 254) as u8),
        2 => Ipv4Addr::LOCALHOST,
        3 => Ipv4Addr::from(maker.rng.number() as u32 | 1),
        _ => maker.rng.pick(&[Who::Gateway, Who::Victim, Who::Friend, Who::Stray, Who::Far]).v4(),
    }
}

fn other_mac(maker: &mut Maker) -> Mac {
    maker.rng.pick(&[
        Who::Gateway.mac(),
        Who::Victim.mac(),
        Who::Friend.mac(),
        Who::Stray.mac(),
        BROADCAST,
        [0; 6],
    ])
}

fn arp_claim(maker: &mut Maker) {
    let own = Who::Hostile;
    let mut message = Arp::new(1 + maker.rng.below(2) as u16, own.mac(), own.v4(), Who::Victim.v4());
    let mut source = own.mac();
    match maker.rng.below(4) {
        0 | 1 => message.sender = foreign_v4(maker),
        2 => message.sender_mac = other_mac(maker),
        _ => {
            message.sender = foreign_v4(maker);
            message.sender_mac = other_mac(maker);
            source = message.sender_mac;
        }
    }
    if maker.rng.percent(30) {
        message.target = message.sender;
    }
    message.target_mac = other_mac(maker);
    let destination = maker.rng.pick(&[BROADCAST, Who::Victim.mac(), Who::Friend.mac(), Who::Gateway.mac()]);
    let payload = padded(maker, message.bytes());
    maker.denied(wire::ethernet(destination, source, ARP, &payload));
}

fn arp_form(maker: &mut Maker) {
    let own = Who::Hostile;
    let mut message = Arp::new(1, own.mac(), own.v4(), Who::Victim.v4());
    let mut kept = 28;
    match maker.rng.below(3) {
        0 => message.operation = maker.rng.pick(&[0, 3, 4, 5, 8, 9, 10, 25, 0x100, 0xffff]),
        1 => message.kinds[maker.rng.below(6)] ^= 1 << maker.rng.below(8),
        _ => kept = maker.rng.below(28),
    }
    let mut payload = message.bytes();
    payload.truncate(kept);
    let payload = if kept == 28 { padded(maker, payload) } else { payload };
    let destination = maker.rng.pick(&[BROADCAST, Who::Victim.mac()]);
    maker.denied(wire::ethernet(destination, own.mac(), ARP, &payload));
}

/// The group that those listen to who may have the address (RFC 4291), with its MAC.
fn solicited(address: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = address.octets();
    let pair = |high: u8, low: u8| u16::from(high) << 8 | u16::from(low);
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, pair(0xff, a), pair(b, c)), [0x33, 0x33, 0xff, a, b, c])
}

fn option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// A message of neighbour discovery: IPv6 header, message, and the tag behind it all.
fn discovery(maker: &mut Maker, hops: u8, ends: Ends, kind: u8, rest: &[u8]) -> Vec<u8> {
    let message = ends.icmp(kind, 0, rest);
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ends.source, ends.destination) else {
        return message;
    };
    let packet = Ipv6 { hops, ..Ipv6::new(source, destination, ICMPV6) }.carrying(&message);
    padded(maker, packet)
}

fn target(flags: u8, address: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0][..], &address.octets(), options].concat()
}

const fn ends(source: Ipv6Addr, destination: Ipv6Addr) -> Ends {
    Ends { source: IpAddr::V6(source), destination: IpAddr::V6(destination) }
}

fn honest_discovery(maker: &mut Maker) {
    let own = Who::Hostile;
    let sender = if maker.rng.percent(50) { own.v6() } else { own.link_local() };
    let victim = Who::Victim;
    let (group, mac) = solicited(victim.v6());
    match maker.rng.below(4) {
        0 => {
            let rest = target(0, victim.v6(), &option(1, own.mac()));
            let packet = discovery(maker, 255, ends(sender, group), SOLICITATION, &rest);
            maker.frame(wire::ethernet(mac, own.mac(), IPV6, &packet), EVERYBODY);
        }
        1 => {
            let rest = target(0, victim.v6(), &[]);
            let packet = discovery(maker, 255, ends(sender, victim.v6()), SOLICITATION, &rest);
            let frame = wire::ethernet(victim.mac(), own.mac(), IPV6, &packet);
            maker.frame(frame, Expected::exactly(Points::VICTIM));
        }
        2 => {
            // Duplicate address detection.
            let (group, mac) = solicited(own.v6());
            let rest = target(0, own.v6(), &[14, 1, 1, 2, 3, 4, 5, 6]);
            let packet = discovery(maker, 255, ends(Ipv6Addr::UNSPECIFIED, group), SOLICITATION, &rest);
            maker.frame(wire::ethernet(mac, own.mac(), IPV6, &packet), EVERYBODY);
        }
        _ => {
            let rest = target(0x60, sender, &option(2, own.mac()));
            let packet = discovery(maker, 255, ends(sender, victim.v6()), ADVERTISEMENT, &rest);
            let frame = wire::ethernet(victim.mac(), own.mac(), IPV6, &packet);
            maker.frame(frame, Expected::exactly(Points::VICTIM));
        }
    }
}

fn foreign_v6(maker: &mut Maker) -> Ipv6Addr {
    let who = maker.rng.pick(&[Who::Gateway, Who::Victim, Who::Friend, Who::Stray, Who::Far]);
    match maker.rng.below(8) {
        0 => Ipv6Addr::new(0x2001, 0xdb8, 0x40, 0, 0, 0, 0, 0x99),
        1 => Ipv6Addr::LOCALHOST,
        2 => who.v4().to_ipv6_mapped(),
        3 => who.link_local(),
        _ => who.v6(),
    }
}

/// An address or a MAC that is not the sender's.
fn discovery_claim(maker: &mut Maker) {
    let own = Who::Hostile;
    let mut mac = own.mac();
    let mut source_mac = own.mac();
    let advertises = maker.rng.percent(60);
    let mut sender = own.v6();
    let mut claimed = own.v6();
    match maker.rng.below(5) {
        0 | 1 if advertises => claimed = foreign_v6(maker),
        0 | 1 => sender = foreign_v6(maker),
        2 => mac = other_mac(maker),
        // In agreement with itself.
        3 => {
            sender = foreign_v6(maker);
            claimed = sender;
        }
        _ => {
            (sender, claimed) = (foreign_v6(maker), foreign_v6(maker));
            mac = other_mac(maker);
            source_mac = mac;
        }
    }
    let victim = Who::Victim;
    let packet = if advertises {
        let rest = target(maker.rng.pick(&[0x20, 0x60, 0xe0, 0xa0]), claimed, &option(2, mac));
        let to = if maker.rng.percent(70) { victim.v6() } else { ALL_NODES };
        discovery(maker, 255, ends(sender, to), ADVERTISEMENT, &rest)
    } else {
        let rest = target(0, victim.v6(), &option(1, mac));
        discovery(maker, 255, ends(sender, victim.v6()), SOLICITATION, &rest)
    };
    let destination = maker.rng.pick(&[victim.mac(), BROADCAST, [0x33, 0x33, 0, 0, 0, 1]]);
    maker.denied(wire::ethernet(destination, source_mac, IPV6, &packet));
}

/// Own addresses, in a form that no honest message has.
fn discovery_form(maker: &mut Maker) {
    let (own, victim) = (Who::Hostile, Who::Victim);
    let between = ends(own.v6(), victim.v6());
    let right = option(1, own.mac());
    let packet = match maker.rng.below(7) {
        0 => {
            let hops = maker.rng.pick(&[0, 1, 64, 254]);
            discovery(maker, hops, between, SOLICITATION, &target(0, victim.v6(), &right))
        }
        1 => discovery(
            maker,
            255,
            between,
            SOLICITATION,
            &target(0, victim.v6(), &[&right[..], &right].concat()),
        ),
        2 => {
            let mut wrong = right;
            wrong[0] = maker.rng.pick(&[0, 2, 3, 4, 5, 14, 25, 31, 255]);
            discovery(maker, 255, between, SOLICITATION, &target(0, victim.v6(), &wrong))
        }
        3 => {
            let mut wrong = right;
            wrong[1] = maker.rng.pick(&[0, 2, 8, 255]);
            discovery(maker, 255, between, SOLICITATION, &target(0, victim.v6(), &wrong))
        }
        4 => discovery(maker, 255, between, SOLICITATION, &target(0, ALL_NODES, &right)),
        // Behind an extension header (RFC 6980).
        5 => {
            let tag = maker.tag().bytes();
            let (first, header) = maker.rng.pick(&[
                (0, [ICMPV6, 0, 1, 4, 0, 0, 0, 0]),
                (60, [ICMPV6, 0, 1, 4, 0, 0, 0, 0]),
                (44, [ICMPV6, 0, 0, 0, 1, 2, 3, 4]),
            ]);
            let message = between.icmp(SOLICITATION, 0, &target(0, victim.v6(), &right));
            let header = Ipv6 { hops: 255, ..Ipv6::new(own.v6(), victim.v6(), first) }
                .carrying(&[&header[..], &message].concat());
            [header, tag].concat()
        }
        _ => {
            let code = 1 + maker.rng.byte() % 255;
            let message = between.icmp(SOLICITATION, code, &target(0, victim.v6(), &right));
            let packet = Ipv6 { hops: 255, ..Ipv6::new(own.v6(), victim.v6(), ICMPV6) }.carrying(&message);
            padded(maker, packet)
        }
    };
    maker.denied(wire::ethernet(victim.mac(), own.mac(), IPV6, &packet));
}

/// Who routes, and which way is better: nothing that a container has to say.
fn router(maker: &mut Maker) {
    let (own, victim) = (Who::Hostile, Who::Victim);
    let sender = match maker.rng.below(4) {
        0 => own.v6(),
        1 => own.link_local(),
        _ => foreign_v6(maker),
    };
    let tag = maker.tag().bytes();
    let (kind, rest) = match maker.rng.below(3) {
        0 => {
            let mut rest = vec![64, maker.rng.pick(&[0, 0x40, 0x80, 0xc0]), 7, 8];
            rest.extend([0; 8]);
            rest.extend(option(1, own.mac()));
            // A prefix, with the tag as a part of it.
            rest.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
            rest.extend(&tag);
            rest.extend([0; 8]);
            (134, rest)
        }
        1 => {
            let mut rest = vec![0; 4];
            rest.extend(own.link_local().octets());
            rest.extend(Who::Friend.v6().octets());
            rest.extend([2, 2]);
            rest.extend(own.mac());
            rest.extend(&tag);
            (137, rest)
        }
        _ => (133, [&[0; 4][..], &option(1, own.mac()), &tag].concat()),
    };
    let to = if maker.rng.percent(50) { ALL_NODES } else { victim.v6() };
    let hops = if maker.rng.percent(80) { 255 } else { maker.rng.byte() };
    let packet = discovery(maker, hops, ends(sender, to), kind, &rest);
    let destination = maker.rng.pick(&[victim.mac(), BROADCAST, [0x33, 0x33, 0, 0, 0, 1]]);
    maker.denied(wire::ethernet(destination, own.mac(), IPV6, &packet));
}

/// The bridge may know who listens to what; nobody else.
fn listener(maker: &mut Maker) {
    let own = Who::Hostile;
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let tag = maker.tag().bytes();
    let mut alert = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let mut record = vec![0, 0, 0, 1, 4, 0, 0, 0];
    record.extend([0xff, 2, 0, 0, 0, 0, 0, 0]);
    record.extend(&tag);
    let mut kind = 143;
    let mut may = Points::HOST;
    match maker.rng.below(4) {
        0 => {
            alert[maker.rng.pick(&[2, 3, 5, 6])] ^= 1;
            may = Points::NONE;
        }
        1 => {
            kind = maker.rng.pick(&[128, 129, 133, 134, 137, 144, 200]);
            may = Points::NONE;
        }
        2 => kind = maker.rng.pick(&[130, 131, 132]),
        _ => {}
    }
    let between = ends(own.link_local(), group);
    let payload = [&alert[..], &between.icmp(kind, 0, &record)].concat();
    let packet = Ipv6 { hops: 1, ..Ipv6::new(own.link_local(), group, 0) }.carrying(&payload);
    let destination = maker.rng.pick(&[[0x33, 0x33, 0, 0, 0, 0x16], Who::Victim.mac()]);
    maker.frame(wire::ethernet(destination, own.mac(), IPV6, &packet), Expected::at_most(may));
}

/// Another's address claimed where a reader may not look for it, but a receiver does.
fn hidden_claim(maker: &mut Maker) {
    let own = Who::Hostile.mac();
    let who = maker.rng.pick(&[Who::Victim, Who::Friend, Who::Stray, Who::Gateway]);
    let told = maker.rng.pick(&[Who::Gateway, Who::Gateway, Who::Victim, Who::Stray]);
    let destination = if maker.rng.percent(50) { BROADCAST } else { told.mac() };
    if maker.rng.percent(40) {
        let message = Arp::new(1 + maker.rng.below(2) as u16, own, who.v4(), told.v4());
        let payload = padded(maker, Arp { target_mac: told.mac(), ..message }.bytes());
        let plain = wire::ethernet(destination, own, ARP, &payload);
        let tags = vec![(maker.rng.pick(&[0x8100, 0x88a8]), 0); 1 + maker.rng.below(3)];
        maker.variant("arp, tagged");
        maker.denied(wire::tagged(&plain, &tags));
        return;
    }
    let (name, sender) = match maker.rng.below(3) {
        0 => ("mapped source", who.v4().to_ipv6_mapped()),
        1 => ("own source", Who::Hostile.v6()),
        _ => ("its source", who.v6()),
    };
    let solicits = name == "its source";
    let to = if solicits || maker.rng.percent(50) { told.v6() } else { ALL_NODES };
    let (kind, rest) = if solicits {
        (SOLICITATION, target(0, told.v6(), &option(1, own)))
    } else {
        (ADVERTISEMENT, target(maker.rng.pick(&[0x20, 0x60]), who.v6(), &option(2, own)))
    };
    let message = ends(sender, to).icmp(kind, 0, &rest);
    let options = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    let (name, first, payload) = match maker.rng.below(3) {
        // An option that receivers pass over, and one header more than they are asked to.
        0 => ("behind options", 60, [&options[..], &message].concat()),
        1 => ("behind hop-by-hop options", 0, [&options[..], &message].concat()),
        _ => (name, ICMPV6, message),
    };
    let packet = Ipv6 { hops: 255, ..Ipv6::new(sender, to, first) }.carrying(&payload);
    let payload = padded(maker, packet);
    let plain = wire::ethernet(destination, own, IPV6, &payload);
    if maker.rng.percent(30) {
        maker.variant("discovery, tagged");
        maker.denied(wire::tagged(&plain, &[(0x8100, 0)]));
    } else {
        maker.variant(name);
        maker.denied(plain);
    }
}

/// A gratuitous claim of somebody's address, for productions that build upon it.
pub(super) fn claim_of(maker: &mut Maker, who: Who) -> Vec<u8> {
    let message = Arp::new(2, Who::Hostile.mac(), who.v4(), who.v4());
    let payload = padded(maker, message.bytes());
    to_everybody(ARP, &payload)
}
