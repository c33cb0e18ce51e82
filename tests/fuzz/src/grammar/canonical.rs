//! What the policy allows, in the shapes that stacks send: each of these has to arrive, whatever is sent around it.

use super::{Production, Reach, production};
use crate::frame::Expected;
use crate::maker::Maker;
use crate::town::{ALLOWED, Points, Who};
use crate::wire::{self, BROADCAST};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("allowed tcp syn", 20, syn),
    production("allowed udp", 20, datagram),
    production("allowed echo", 20, echo),
    production("allowed header fields", 15, fields),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("allowed tcp syn", Reach::Answer),
    ("allowed udp", Reach::Answer),
    ("allowed echo", Reach::Answer),
    ("allowed header fields", Reach::Answer),
];

const ARRIVES: Expected = Expected { answered: true, ..Expected::exactly(Points::VICTIM) };

fn syn(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let tag = maker.tag();
    let segment = maker.syn(&ends, tag, ALLOWED);
    maker.frame(Maker::plain(Who::Victim, &ends, &(wire::TCP, segment)), ARRIVES);
}

fn datagram(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let message = maker.allowed_datagram(&ends);
    maker.frame(Maker::plain(Who::Victim, &ends, &message), ARRIVES);
}

fn echo(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let tag = maker.tag();
    let data = maker.data(tag);
    let message = ends.echo(true, maker.rng.short() & 0xff, maker.rng.short(), &data);
    maker.frame(Maker::plain(Who::Victim, &ends, &(ends.icmp_protocol(), message)), ARRIVES);
}

/// Fields that say nothing about who may talk to whom, and bytes behind the packet.
fn fields(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let (protocol, message) = maker.allowed(&ends);
    let mut packet = ends.packet(protocol, &message);
    if let Some(plain) = ends.ipv4(protocol) {
        let fragment = if maker.rng.percent(50) { 0x4000 } else { 0 };
        let ttl = maker.rng.pick(&[1, 2, 63, 128, 255]);
        let header = wire::Ipv4 { tos: maker.rng.byte(), id: maker.rng.short(), ttl, fragment, ..plain };
        packet = header.carrying(&message);
    } else {
        // Traffic class and flow label.
        packet[0] = 0x60 | (maker.rng.byte() & 0x0f);
        packet[1..4].copy_from_slice(&maker.rng.bytes(3));
        packet[7] = maker.rng.pick(&[1, 2, 63, 128, 255]);
    }
    if maker.rng.percent(40) {
        let padding = maker.rng.below(64);
        packet.extend(maker.rng.bytes(padding));
    }
    let frame = wire::ethernet(Who::Victim.mac(), Who::Hostile.mac(), ends.ethertype(), &packet);
    maker.frame(frame, ARRIVES);
}

/// For a frame to everybody's MAC.
pub(super) fn to_everybody(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    wire::ethernet(BROADCAST, Who::Hostile.mac(), ethertype, payload)
}
