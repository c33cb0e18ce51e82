//! ICMP and ICMPv6: messages that no container has to send, replies that nobody asked for, and errors about packets
//! that nobody sent.

use super::{Production, Reach, production};
use crate::maker::Maker;
use crate::town::{ALLOWED, DATABASE, EPHEMERAL, FRIENDLY, SERVED, Who};
use crate::wire::{self, ACK, Ends, Tcp};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("icmp types", 25, types),
    production("echo reply", 10, reply),
    production("echo code", 5, code),
    production("icmp error", 30, error),
    production("icmp error form", 20, error_form),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("icmp types", Reach::Socket),
    ("echo reply", Reach::Socket),
    ("echo code", Reach::Socket),
    ("icmp error", Reach::Socket),
];

fn send(maker: &mut Maker, to: Who, ends: &Ends, message: Vec<u8>) {
    let packet = ends.packet(ends.icmp_protocol(), &message);
    let frame = maker.carry(to, ends, &packet);
    maker.denied(frame);
}

/// Redirects, routers, timestamps, masks, information: all but echo and errors.
fn types(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag().bytes();
    let kind = if ends.is_v6() {
        maker
            .rng
            .pick(&[0, 5, 100, 101, 127, 133, 134, 137, 138, 139, 140, 141, 142, 144, 151, 155, 200, 255])
    } else {
        maker.rng.pick(&[1, 2, 4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 19, 30, 37, 40, 42, 43, 255])
    };
    let mut rest = match (ends.is_v6(), kind) {
        (false, 5) => Who::Hostile.v4().octets().to_vec(),
        _ => maker.rng.bytes(4),
    };
    if kind == 5 {
        let quoted = quote(maker, &ends.back());
        rest.extend(quoted);
    }
    rest.extend(tag);
    rest.extend([0; 12]);
    let code = if maker.rng.percent(80) { 0 } else { maker.rng.byte() };
    send(maker, to, &ends, ends.icmp(kind, code, &rest));
}

fn reply(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag();
    let data = maker.data(tag);
    // Not one of the identifiers that replies are expected for.
    let id = maker.rng.short() | 0x100;
    send(maker, to, &ends, ends.echo(false, id, maker.rng.clone().short(), &data));
}

fn code(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag();
    let data = maker.data(tag);
    let kind = if ends.is_v6() { 128 } else { 8 };
    let code = 1 + maker.rng.byte() % 255;
    send(maker, to, &ends, ends.icmp(kind, code, &[&[0, 1, 0, 1][..], &data].concat()));
}

/// A packet that could be quoted: of a flow that `Hostile` has no part in, or of none.
fn quote(maker: &mut Maker, ends: &Ends) -> Vec<u8> {
    let (source, destination) = match maker.rng.below(3) {
        0 => (ALLOWED, maker.closed_port()),
        1 => (maker.closed_port(), SERVED),
        _ => (maker.rng.between(EPHEMERAL.0, EPHEMERAL.1), maker.rng.pick(&[FRIENDLY, DATABASE])),
    };
    let (protocol, message) = match maker.rng.below(3) {
        0 => {
            let header = Tcp {
                source,
                destination,
                sequence: maker.rng.number() as u32,
                acknowledgement: 1,
                flags: ACK,
                ..Tcp::default()
            };
            (wire::TCP, ends.tcp(&header, &[]))
        }
        1 => (wire::UDP, ends.udp(source, destination, &[0; 16])),
        _ => {
            (ends.icmp_protocol(), ends.echo(maker.rng.percent(50), maker.closed_port() | 0x100, 1, &[0; 16]))
        }
    };
    ends.packet(protocol, &message)
}

fn error_kind(maker: &mut Maker, ends: &Ends) -> (u8, u8) {
    if ends.is_v6() {
        maker.rng.pick(&[(1, 0), (1, 1), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)])
    } else {
        maker.rng.pick(&[(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)])
    }
}

/// About a packet of the receiver's, to somebody else or of a flow that does not exist.
fn error(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag().bytes();
    let far_end = maker.rng.pick(&[Who::Hostile, Who::Friend, Who::Gateway, Who::Far]);
    let quoted_ends = Ends { source: to.address(ends.is_v6()), destination: far_end.address(ends.is_v6()) };
    let quoted = quote(maker, &quoted_ends);
    let (kind, code) = error_kind(maker, &ends);
    let mtu = u32::from(maker.rng.pick(&[0, 68, 576, 1280, 1500_u16])).to_be_bytes();
    send(maker, to, &ends, ends.icmp(kind, code, &[&mtu[..], &quoted, &tag].concat()));
}

/// Quotations that are cut off, another's, nested, or not of that family.
fn error_form(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag().bytes();
    let v6 = ends.is_v6();
    let receiver = to.address(v6);
    let back = Ends { source: receiver, destination: Who::Hostile.address(v6) };
    let mut quoted = match maker.rng.below(5) {
        // Sent by somebody else than who gets the error.
        0 => {
            let other = if to == Who::Friend { Who::Victim } else { Who::Friend };
            quote(maker, &Ends { source: other.address(v6), ..back })
        }
        1 => quote(maker, &Ends { source: Who::Hostile.address(v6), destination: receiver }),
        2 => {
            let whole = quote(maker, &back);
            let header = if v6 { 40 } else { 20 };
            // Not within a port or an identifier: with bytes of the tag it could be one of a living flow.
            let keep = maker.rng.below(header + 8);
            let keep = if (header + 1..header + 6).contains(&keep) { header } else { keep };
            whole[..keep].to_vec()
        }
        3 => {
            let inner = quote(maker, &back);
            let error = back.icmp(if v6 { 1 } else { 3 }, 0, &[&[0; 4][..], &inner].concat());
            back.packet(back.icmp_protocol(), &error)
        }
        _ => {
            let other = if v6 { Maker::v4(to).back() } else { Maker::v6(to).back() };
            quote(maker, &other)
        }
    };
    if maker.rng.percent(20) {
        // A later fragment, options, no length: what a quotation may not have.
        let at = maker.rng.below(8).min(quoted.len().saturating_sub(1));
        if let Some(byte) = quoted.get_mut(at) {
            *byte ^= 1 << maker.rng.below(8);
        }
    }
    let (kind, code) = error_kind(maker, &ends);
    send(maker, to, &ends, ends.icmp(kind, code, &[&[0; 4][..], &quoted, &tag].concat()));
}
