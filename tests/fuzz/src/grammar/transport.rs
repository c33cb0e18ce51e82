//! TCP and UDP: every combination of flags, lengths that lie, and packets that pretend to belong to a flow.

use super::{Production, Reach, production};
use crate::frame::Expected;
use crate::maker::Maker;
use crate::town::{
    ALLOWED, CLOSED, DATABASE, EPHEMERAL, FRIENDLY, Points, SERVED, TCP_PORTS, UDP_PORTS, Who,
};
use crate::wire::{self, ACK, CWR, ECE, Ends, FIN, NS, PSH, RST, SYN, TCP, Tcp, UDP, URG};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("tcp flags", 60, flags),
    production("tcp opening flags", 20, opening_flags),
    production("tcp header length", 15, header_length),
    production("tcp reserved bits", 5, reserved),
    production("tcp port 0", 5, port_zero),
    production("tcp from a served port", 15, served_port),
    production("tcp injection", 20, injection),
    production("udp lengths", 15, udp_lengths),
    production("udp pretended reply", 15, pretended_reply),
    production("udp port 0", 5, udp_port_zero),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("tcp flags: SYN", Reach::Answer),
    ("tcp flags: SYN PSH", Reach::Answer),
    ("tcp flags: SYN URG", Reach::Answer),
    ("tcp flags: SYN ECE CWR", Reach::Answer),
    ("tcp flags: SYN NS", Reach::Answer),
    ("tcp flags: SYN ACK", Reach::Answer),
    ("tcp flags: ACK", Reach::Answer),
    ("tcp opening flags", Reach::Answer),
    ("tcp injection", Reach::Socket),
    ("udp pretended reply", Reach::Socket),
    ("tcp from a served port", Reach::Socket),
];

const NAMES: [(u16, &str); 9] = [
    (SYN, "SYN"),
    (ACK, "ACK"),
    (FIN, "FIN"),
    (RST, "RST"),
    (PSH, "PSH"),
    (URG, "URG"),
    (ECE, "ECE"),
    (CWR, "CWR"),
    (NS, "NS"),
];

fn named(flags: u16) -> String {
    let names: Vec<&str> =
        NAMES.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// Only SYN of these four: Linux opens a connection for it whatever else is set.
const fn opens(flags: u16) -> bool {
    flags & (SYN | ACK | FIN | RST) == SYN
}

/// A segment with a tag in its numbers.
fn numbered(maker: &mut Maker, flags: u16) -> Tcp {
    let tag = maker.tag();
    let (sequence, acknowledgement) = if flags & ACK == 0 { tag.opening() } else { tag.acknowledging() };
    Tcp { sequence, acknowledgement, flags, ..Tcp::default() }
}

/// To a port that may not be opened, or without a flow that it could belong to.
fn flags(maker: &mut Maker) {
    const LIKELY: [u16; 11] =
        [SYN, SYN | PSH, SYN | URG, SYN | ECE | CWR, SYN | NS, SYN | ACK, ACK, ACK | PSH, RST, FIN | ACK, 0];
    let flags = if maker.rng.percent(50) { maker.rng.pick(&LIKELY) } else { maker.rng.short() & 0x1ff };
    maker.variant(named(flags));
    let to = maker.anybody();
    let ends = maker.ends(to);
    let mut header = numbered(maker, flags);
    header.source = maker.closed_port();
    header.destination = if opens(flags) || to != Who::Victim {
        maker.forbidden_port(&TCP_PORTS, to)
    } else {
        maker.rng.pick(&[ALLOWED, ALLOWED, DATABASE, 80, 1])
    };
    header.urgent = if maker.rng.percent(20) { maker.rng.short() } else { 0 };
    let length = if maker.rng.percent(20) { maker.rng.below(64) } else { 0 };
    let data = maker.rng.bytes(length);
    let message = (TCP, ends.tcp(&header, &data));
    // An opening is the receiver's to deny, behind the host if it has to route.
    let may = if to == Who::Far && opens(flags) { Points::HOST } else { Points::NONE };
    maker.frame(Maker::plain(to, &ends, &message), Expected::at_most(may));
}

/// To the port that may be opened.
fn opening_flags(maker: &mut Maker) {
    let flags = SYN | (maker.rng.short() & (PSH | URG | ECE | CWR | NS));
    let ends = maker.ends(Who::Victim);
    let mut header = numbered(maker, flags);
    header.source = maker.opening_port();
    header.destination = ALLOWED;
    let mut data = Vec::new();
    if maker.rng.percent(30) {
        // Fast open, with a cookie that nobody has given out.
        header.options = vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        data = maker.rng.bytes(32);
    }
    maker.variant(named(flags));
    maker.tolerated(Maker::plain(Who::Victim, &ends, &(TCP, ends.tcp(&header, &data))));
}

fn header_length(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let flags = maker.rng.pick(&[SYN, SYN, ACK]);
    let mut header = numbered(maker, flags);
    header.source = maker.closed_port();
    header.destination = ALLOWED;
    header.words = Some(maker.rng.pick(&[0, 1, 4, 6, 10, 15]));
    let message = (TCP, ends.tcp(&header, &[]));
    maker.denied(Maker::plain(to, &ends, &message));
}

fn reserved(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let mut header = numbered(maker, SYN);
    header.source = maker.opening_port();
    header.destination = ALLOWED;
    header.reserved = 1 + maker.rng.byte() % 7;
    maker.tolerated(Maker::plain(Who::Victim, &ends, &(TCP, ends.tcp(&header, &[]))));
}

fn port_zero(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let mut header = numbered(maker, SYN);
    header.source = if maker.rng.percent(50) { 0 } else { maker.closed_port() };
    header.destination = if header.source == 0 { ALLOWED } else { 0 };
    let message = (TCP, ends.tcp(&header, &[]));
    maker.denied(Maker::plain(to, &ends, &message));
}

/// Whoever is called answers with a call: a simultaneous open, or a connection in the other direction.
fn served_port(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let flags = SYN | maker.rng.pick(&[0, 0, PSH, ECE | CWR]);
    let mut header = numbered(maker, flags);
    header.source = SERVED;
    header.destination = maker.rng.between(EPHEMERAL.0, EPHEMERAL.1);
    maker.denied(Maker::plain(Who::Victim, &ends, &(TCP, ends.tcp(&header, &[]))));
}

/// Into connections of others that are open all the while, under the address of one of them or the own.
fn injection(maker: &mut Maker) {
    let v6 = maker.rng.percent(50);
    let (from, to, source, destination) = if maker.rng.percent(50) {
        (Who::Friend, Who::Victim, maker.rng.between(EPHEMERAL.0, EPHEMERAL.1), DATABASE)
    } else {
        (Who::Victim, Who::Friend, DATABASE, maker.rng.between(EPHEMERAL.0, EPHEMERAL.1))
    };
    let forged = maker.rng.percent(70);
    let sender = if forged { from } else { Who::Hostile };
    let ends = Ends { source: sender.address(v6), destination: to.address(v6) };
    let flags = maker.rng.pick(&[RST, RST | ACK, FIN | ACK, ACK, PSH | ACK, SYN | ACK]);
    let mut header = numbered(maker, flags);
    header.source = source;
    header.destination = destination;
    let length = maker.rng.below(20);
    let data = maker.rng.bytes(length);
    let packet = ends.packet(TCP, &ends.tcp(&header, &data));
    let source_mac = if forged && maker.rng.percent(30) { from.mac() } else { Who::Hostile.mac() };
    maker.denied(wire::ethernet(to.mac(), source_mac, ends.ethertype(), &packet));
}

fn udp_lengths(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag();
    let data = maker.data(tag);
    let whole = 8 + data.len() as u16;
    let length = match maker.rng.below(3) {
        0 => maker.rng.between(0, 7),
        1 => whole + maker.rng.between(1, 100),
        _ => maker.rng.pick(&[0xffff, 0x8000, 9000]),
    };
    let message = (UDP, ends.udp_of_length(maker.closed_port(), ALLOWED, length, &data));
    maker.denied(Maker::plain(to, &ends, &message));
}

/// From a port that answers come from, to one that questions come from.
fn pretended_reply(maker: &mut Maker) {
    let to = maker.rng.pick(&[Who::Victim, Who::Friend, Who::Stray]);
    let ends = maker.ends(to);
    let tag = maker.tag();
    let data = maker.data(tag);
    let source = maker.rng.pick(&[53, 67, 123, 443, SERVED, ALLOWED]);
    let destination = match maker.rng.below(3) {
        0 => maker.rng.between(EPHEMERAL.0, EPHEMERAL.1),
        1 => maker.forbidden_port(&UDP_PORTS, to),
        _ => maker.rng.between(CLOSED.0, CLOSED.1),
    };
    // What `Victim` asks of the served port has an answer from there.
    let source = if source == SERVED && destination >= EPHEMERAL.0 { 53 } else { source };
    let destination = if to == Who::Victim && destination == ALLOWED { FRIENDLY } else { destination };
    let message = (UDP, ends.udp(source, destination, &data));
    maker.denied(Maker::plain(to, &ends, &message));
}

fn udp_port_zero(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let tag = maker.tag();
    let data = maker.data(tag);
    let message = (UDP, ends.udp(maker.closed_port(), 0, &data));
    maker.denied(Maker::plain(to, &ends, &message));
}
