//! IPv4 headers that lie, options, fragments, and protocols that nobody asked for.

use super::{Production, Reach, production};
use crate::maker::Maker;
use crate::town::{ALLOWED, Who};
use crate::wire::{self, ACK, Ends, Ipv4, SYN, TCP, Tcp, UDP};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("ipv4 options", 25, options),
    production("ipv4 lengths", 25, lengths),
    production("ipv4 version", 5, version),
    production("ipv4 evil bit", 8, evil),
    production("ipv4 fragments", 30, fragments),
    production("ipv4 overlapping fragments", 10, overlapping),
    production("ipv4 single fragment", 15, single_fragment),
    production("ipv4 ttl 0", 5, no_ttl),
    production("ipv4 bad checksum", 5, bad_checksum),
    production("protocols", 30, protocols),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("ipv4 options: no operation", Reach::Socket),
    ("ipv4 evil bit", Reach::Socket),
    ("ipv4 fragments: in order", Reach::Socket),
    ("ipv4 fragments: out of order", Reach::Socket),
    ("ipv4 fragments: tiny", Reach::Socket),
    ("ipv4 ttl 0", Reach::Socket),
    ("protocols: 47", Reach::Socket),
    ("protocols: 4", Reach::Socket),
    ("protocols: 132", Reach::Socket),
    ("protocols: 136", Reach::Socket),
];

/// Numbers that some receiver listens to.
pub(crate) const PROTOCOLS: [u8; 22] =
    [0, 2, 4, 33, 41, 43, 44, 46, 47, 50, 51, 60, 88, 89, 94, 97, 103, 108, 112, 115, 132, 136];

/// A header and a message to somebody, mostly one that would be allowed.
fn plain(maker: &mut Maker) -> (Who, Ends, Ipv4, Vec<u8>) {
    let to = maker.anybody();
    let ends = Maker::v4(to);
    let (protocol, message) = maker.message(&ends, to);
    let header = Ipv4 { id: maker.rng.short(), ..Ipv4::new(Who::Hostile.v4(), to.v4(), protocol) };
    (to, ends, header, message)
}

fn options(maker: &mut Maker) {
    let (to, ends, mut header, message) = plain(maker);
    let [a, b, c, d] = Who::Friend.v4().octets();
    let routed = |kind: u8| vec![kind, 7, 4, a, b, c, d, 0];
    let (name, options) = match maker.rng.below(8) {
        0 => ("no operation", vec![1; 4 * (1 + maker.rng.below(10))]),
        1 => ("loose source route", routed(131)),
        2 => ("strict source route", routed(137)),
        3 => ("record route", [&[7, 39, 4][..], &[0; 37]].concat()),
        4 => ("timestamp", [&[68, 12, 5, 0][..], &[0; 8]].concat()),
        5 => ("router alert", vec![148, 4, 0, 0]),
        6 => ("end", vec![0; 4]),
        _ => {
            let count = 4 * (1 + maker.rng.below(10));
            ("random", maker.rng.bytes(count))
        }
    };
    maker.variant(name);
    header.options = options;
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

fn lengths(maker: &mut Maker) {
    let (to, ends, mut header, message) = plain(maker);
    let whole = 20 + message.len();
    match maker.rng.below(4) {
        0 => header.words = Some(maker.rng.pick(&[0, 1, 2, 3, 4])),
        // Options that are really the message's first bytes.
        1 => header.words = Some(maker.rng.pick(&[6, 7, 10, 15])),
        2 => header.total = Some(maker.rng.between(0, 27)),
        _ => {
            let more = maker.rng.pick(&[1, 2, 8, 100, 1480, 40_000, 65_000]);
            header.total = Some((whole + more).min(65_535) as u16);
        }
    }
    let packet = header.carrying(&message);
    let frame = maker.carry(to, &ends, &packet);
    maker.denied(frame);
}

fn version(maker: &mut Maker) {
    let (to, ends, mut header, message) = plain(maker);
    header.version = maker.rng.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 15]);
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

fn evil(maker: &mut Maker) {
    let (to, ends, mut header, message) = plain(maker);
    header.fragment = maker.rng.pick(&[0x8000, 0xc000]);
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

/// One datagram in pieces, each with a tag of its own.
fn fragments(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v4(to);
    let name = maker.rng.pick(&["in order", "out of order", "tiny"]);
    maker.variant(name);
    let mut data = Vec::new();
    for _ in 0..6 + maker.rng.below(5) {
        data.extend(maker.tag().bytes());
        let more = if name == "tiny" { 0 } else { 8 * maker.rng.below(12) };
        data.extend(maker.rng.bytes(more));
    }
    let port = if to == Who::Victim { ALLOWED } else { maker.forbidden_port(&[53, 5353], to) };
    let message = ends.udp(maker.closed_port(), port, &data);
    let id = maker.rng.short();
    let step = if name == "tiny" { 8 } else { 8 * (2 + maker.rng.below(4)) };
    let mut pieces: Vec<(usize, &[u8])> = (0..).step_by(step).zip(message.chunks(step)).collect();
    if name == "out of order" {
        pieces.reverse();
    }
    for (at, piece) in pieces {
        let more = if at + piece.len() < message.len() { 0x2000 } else { 0 };
        let fragment = more | (at / 8) as u16;
        let header = Ipv4 { id, fragment, ..Ipv4::new(Who::Hostile.v4(), to.v4(), UDP) };
        let frame = wire::ethernet(
            to.next_hop().mac(),
            Who::Hostile.mac(),
            ends.ethertype(),
            &header.carrying(piece),
        );
        maker.denied(frame);
    }
}

/// Two pieces for the same place, or a second one that rewrites the flags of the first (RFC 3128).
fn overlapping(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = Maker::v4(to);
    let id = maker.rng.short();
    let (sequence, acknowledgement) = maker.tag().opening();
    let port = if to == Who::Victim { ALLOWED } else { 22 };
    let header = Tcp {
        source: maker.closed_port(),
        destination: port,
        sequence,
        acknowledgement,
        flags: ACK,
        ..Tcp::default()
    };
    let harmless = ends.tcp(&header, &[]);
    let data = maker.tag().bytes();
    let opening = ends.tcp(&Tcp { flags: SYN, ..header }, &data);
    let at = if maker.rng.percent(50) { 8 } else { 0 };
    for (offset, piece) in [(0, &harmless[..]), (at, &opening[at..])] {
        let more = if offset == 0 { 0x2000 } else { 0 };
        let fragment = more | (offset / 8) as u16;
        let header = Ipv4 { id, fragment, ..Ipv4::new(Who::Hostile.v4(), to.v4(), TCP) };
        let packet = header.carrying(piece);
        let frame = wire::ethernet(to.next_hop().mac(), Who::Hostile.mac(), ends.ethertype(), &packet);
        maker.denied(frame);
    }
}

/// Where ports would be stands what the sender likes.
fn single_fragment(maker: &mut Maker) {
    let (to, ends, mut header, message) = plain(maker);
    let offset = maker.rng.pick(&[0, 1, 2, 3, 100, 0x1fff, 0x1ff0]);
    let more = offset == 0 || maker.rng.percent(50);
    header.fragment = offset | if more { 0x2000 } else { 0 };
    let frame = maker.carry(to, &ends, &header.carrying(&message));
    maker.denied(frame);
}

fn no_ttl(maker: &mut Maker) {
    let ends = Maker::v4(Who::Victim);
    let (protocol, message) = maker.allowed(&ends);
    let header = Ipv4 { ttl: 0, ..Ipv4::new(Who::Hostile.v4(), Who::Victim.v4(), protocol) };
    let packet = header.carrying(&message);
    let frame = wire::ethernet(Who::Victim.mac(), Who::Hostile.mac(), ends.ethertype(), &packet);
    maker.tolerated(frame);
}

fn bad_checksum(maker: &mut Maker) {
    let ends = Maker::v4(Who::Victim);
    let (protocol, message) = maker.allowed(&ends);
    let wrong_checksum = 1 + maker.rng.short() % 0xfffe;
    let header = Ipv4 { wrong_checksum, ..Ipv4::new(Who::Hostile.v4(), Who::Victim.v4(), protocol) };
    let packet = header.carrying(&message);
    let frame = wire::ethernet(Who::Victim.mac(), Who::Hostile.mac(), ends.ethertype(), &packet);
    maker.tolerated(frame);
}

/// Neither TCP nor UDP nor ICMP, with a message of those inside, for whoever takes the ports for ports.
fn protocols(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let mut protocol = if maker.rng.percent(80) { maker.rng.pick(&PROTOCOLS) } else { maker.rng.byte() };
    if [TCP, UDP, ends.icmp_protocol()].contains(&protocol) {
        protocol = 253;
    }
    let (inner, message) = maker.message(&ends, to);
    let payload = match protocol {
        // A packet within the packet.
        4 => Maker::v4(to).packet(inner, &message),
        41 => Maker::v6(to).packet(inner, &message),
        47 => [&[0, 0][..], &ends.ethertype().to_be_bytes(), &ends.packet(inner, &message)].concat(),
        97 => [&[0x30, 0][..], &Maker::plain(to, &ends, &(inner, message))].concat(),
        // The length field of UDP is the coverage here; 0 is all of it.
        wire::UDP_LITE => {
            let mut datagram = ends.udp_of_length(1024, ALLOWED, 0, &message);
            datagram = ends.summed(
                protocol,
                {
                    datagram[6..8].fill(0);
                    datagram
                },
                6,
            );
            datagram
        }
        _ => message,
    };
    if !ends.is_v6() {
        maker.variant(protocol.to_string());
    }
    let packet = ends.packet(protocol, &payload);
    let frame = maker.carry(to, &ends, &packet);
    maker.denied(frame);
}
