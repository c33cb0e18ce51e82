//! IPv6 headers that lie, and extension headers: any number, any order, with right and wrong lengths.

use std::net::IpAddr;

use super::{Production, Reach, production};
use crate::maker::Maker;
use crate::town::{ALLOWED, Who};
use crate::wire::{self, Ends, IPV6, Ipv6};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("destination options", 30, destination_options),
    production("extension headers", 30, chain),
    production("atomic fragment", 15, atomic),
    production("ipv6 fragments", 20, fragments),
    production("routing header", 15, routing),
    production("ipv6 lengths", 20, lengths),
    production("jumbogram", 8, jumbogram),
    production("ipv6 version", 5, version),
    production("ipv6 hop limit 0", 5, no_hops),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("destination options: 1", Reach::Socket),
    ("destination options: 4", Reach::Socket),
    ("destination options: 8", Reach::Socket),
    ("destination options: 40", Reach::Socket),
    ("extension headers: hop-by-hop first", Reach::Socket),
    ("extension headers: hop-by-hop, options, fragment, options", Reach::Socket),
    ("atomic fragment", Reach::Socket),
    ("ipv6 fragments", Reach::Socket),
];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const NOTHING: u8 = 59;
const OPTIONS: u8 = 60;

/// Headers in front of a message: the first one's number, and the bytes of all of them and the message.
fn chained(headers: &[(u8, Vec<u8>)], protocol: u8, message: &[u8]) -> (u8, Vec<u8>) {
    let mut next = protocol;
    let mut bytes = message.to_vec();
    for (kind, header) in headers.iter().rev() {
        let mut header = header.clone();
        header[0] = next;
        bytes = [header, bytes].concat();
        next = *kind;
    }
    (next, bytes)
}

/// An options header of `units` times eight bytes, all padding.
fn padding(units: usize) -> Vec<u8> {
    let mut header = vec![0, (units - 1) as u8];
    let mut left = units * 8 - 2;
    // One padding option holds 257 bytes at most.
    while left > 0 {
        let length = left.min(200);
        header.extend(if length == 1 {
            vec![0]
        } else {
            [&[1, (length - 2) as u8][..], &vec![0; length - 2]].concat()
        });
        left -= length;
    }
    header
}

fn fragment_header(offset: u16, more: bool, id: u32) -> Vec<u8> {
    let field = (offset << 3) | u16::from(more);
    [&[0, 0][..], &field.to_be_bytes(), &id.to_be_bytes()].concat()
}

fn send(maker: &mut Maker, to: Who, headers: &[(u8, Vec<u8>)]) {
    let ends = Maker::v6(to);
    let (protocol, message) = maker.message(&ends, to);
    let (next, payload) = chained(headers, protocol, &message);
    let packet = Ipv6::new(Who::Hostile.v6(), to.v6(), next).carrying(&payload);
    let frame = maker.carry(to, &ends, &packet);
    maker.denied(frame);
}

fn destination_options(maker: &mut Maker) {
    let count = maker.rng.pick(&[1, 1, 2, 3, 4, 5, 8, 16, 40]);
    maker.variant(count.to_string());
    let to = maker.anybody();
    send(maker, to, &vec![(OPTIONS, padding(1)); count]);
}

fn chain(maker: &mut Maker) {
    let to = maker.anybody();
    let id = maker.rng.number() as u32;
    let (name, headers) = match maker.rng.below(8) {
        0 => ("hop-by-hop first", vec![(HOP_BY_HOP, padding(1))]),
        1 => ("hop-by-hop second", vec![(OPTIONS, padding(1)), (HOP_BY_HOP, padding(1))]),
        2 => (
            "hop-by-hop, options, fragment, options",
            vec![
                (HOP_BY_HOP, padding(1)),
                (OPTIONS, padding(1)),
                (FRAGMENT, fragment_header(0, false, id)),
                (OPTIONS, padding(1)),
            ],
        ),
        // Its length counts words, not pairs of them.
        3 => ("authentication", vec![(AH, [&[0, 4][..], &[0; 22]].concat())]),
        4 => ("encapsulated", vec![(ESP, maker.rng.bytes(16))]),
        5 => ("long", vec![(OPTIONS, padding(1 + maker.rng.below(100)))]),
        6 => {
            // A length that ends elsewhere, inside the message or behind it.
            let mut header = padding(2);
            header[1] = maker.rng.pick(&[0, 2, 3, 5, 32, 255]);
            (if header[1] == 0 { "short length" } else { "long length" }, vec![(OPTIONS, header)])
        }
        _ => {
            let kinds = [HOP_BY_HOP, ROUTING, FRAGMENT, AH, OPTIONS, 135, 139, 140, 253, 254];
            let headers = (0..1 + maker.rng.below(6))
                .map(|_| (maker.rng.pick(&kinds), padding(1 + maker.rng.below(3))))
                .collect();
            ("random", headers)
        }
    };
    maker.variant(name);
    send(maker, to, &headers);
}

fn atomic(maker: &mut Maker) {
    let to = maker.anybody();
    let mut headers = vec![(FRAGMENT, fragment_header(0, false, maker.rng.number() as u32))];
    if maker.rng.percent(30) {
        headers.push((OPTIONS, padding(1)));
    }
    if maker.rng.percent(10) {
        headers.push((FRAGMENT, fragment_header(0, false, maker.rng.number() as u32)));
    }
    send(maker, to, &headers);
}

fn fragments(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v6(to);
    let id = maker.rng.number() as u32;
    let mut data = Vec::new();
    for _ in 0..3 {
        data.extend(maker.tag().bytes());
        data.extend(maker.rng.bytes(24));
    }
    let port = if to == Who::Victim { ALLOWED } else { 53 };
    let (first, message) = if maker.rng.percent(80) {
        (wire::UDP, ends.udp(maker.closed_port(), port, &data))
    } else {
        // The upper header comes only with the second piece (RFC 7112).
        let (first, bytes) =
            chained(&[(OPTIONS, padding(4))], wire::UDP, &ends.udp(maker.closed_port(), port, &data));
        maker.variant("late header");
        (first, bytes)
    };
    let mut pieces: Vec<(usize, &[u8])> = (0..).step_by(32).zip(message.chunks(32)).collect();
    if maker.rng.percent(30) {
        pieces.reverse();
    }
    if maker.rng.percent(15) {
        let (at, piece) = pieces[0];
        pieces.push((at, piece));
        maker.variant("twice");
    }
    for (at, piece) in pieces {
        let header = fragment_header((at / 8) as u16, at + piece.len() < message.len(), id);
        let (next, payload) = chained(&[(FRAGMENT, header)], first, piece);
        let packet = Ipv6::new(Who::Hostile.v6(), to.v6(), next).carrying(&payload);
        let mac = to.next_hop().mac();
        maker.denied(wire::ethernet(mac, Who::Hostile.mac(), IPV6, &packet));
    }
}

fn routing(maker: &mut Maker) {
    let to = maker.anybody();
    let kind = maker.rng.pick(&[0, 1, 2, 3, 4, 5, 253]);
    let left = maker.rng.pick(&[0, 0, 1, 2]);
    let header = if maker.rng.percent(30) {
        vec![0, 0, kind, left, 0, 0, 0, 0]
    } else {
        [&[0, 2, kind, left, 0, 0, 0, 0][..], &Who::Friend.v6().octets()].concat()
    };
    send(maker, to, &[(ROUTING, header)]);
}

fn lengths(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v6(to);
    let (protocol, message) = maker.message(&ends, to);
    let length = match maker.rng.below(3) {
        0 => 0,
        1 => maker.rng.between(1, 7),
        _ => (message.len() + maker.rng.pick(&[1, 8, 100, 1400, 60_000])).min(65_535) as u16,
    };
    let mut header = Ipv6::new(Who::Hostile.v6(), to.v6(), protocol);
    header.length = Some(length);
    if maker.rng.percent(10) {
        header.next = NOTHING;
    }
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

fn jumbogram(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v6(to);
    let (protocol, message) = maker.message(&ends, to);
    let length = if maker.rng.percent(50) { message.len() as u32 + 8 } else { 70_000 };
    let option = [&[0, 0, 0xc2, 4][..], &length.to_be_bytes()].concat();
    let (next, payload) = chained(&[(HOP_BY_HOP, option)], protocol, &message);
    let header = Ipv6 { length: Some(0), ..Ipv6::new(Who::Hostile.v6(), to.v6(), next) };
    let frame = maker.carry(to, &ends, &header.carrying(&payload));
    maker.denied(frame);
}

fn version(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v6(to);
    let (protocol, message) = maker.message(&ends, to);
    let mut header = Ipv6::new(Who::Hostile.v6(), to.v6(), protocol);
    header.version = maker.rng.pick(&[0, 1, 4, 5, 7, 15]);
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

fn no_hops(maker: &mut Maker) {
    let ends = Ends { source: IpAddr::V6(Who::Hostile.v6()), destination: IpAddr::V6(Who::Victim.v6()) };
    let (protocol, message) = maker.allowed(&ends);
    let header = Ipv6 { hops: 0, ..Ipv6::new(Who::Hostile.v6(), Who::Victim.v6(), protocol) };
    let frame = wire::ethernet(Who::Victim.mac(), Who::Hostile.mac(), IPV6, &header.carrying(&message));
    maker.tolerated(frame);
}
