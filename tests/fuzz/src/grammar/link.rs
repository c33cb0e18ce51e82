//! Frames that lie about, or hide behind, what is in front of the IP header.

use super::canonical::to_everybody;
use super::{Production, Reach, production};
use crate::frame::Expected;
use crate::maker::Maker;
use crate::town::{Points, Who};
use crate::wire::{self, ARP, BROADCAST, Ends, IPV4, IPV6, Mac};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("priority tags", 25, priority_tags),
    production("vlan tags", 15, vlan_tags),
    production("802.3 and llc", 10, llc),
    production("unknown ethertype", 15, unknown_ethertype),
    production("wrong ethertype", 10, wrong_ethertype),
    production("source mac", 20, source_mac),
    production("group mac", 15, group_mac),
    production("another's mac", 12, anothers_mac),
    production("by way of the host", 15, by_the_host),
    production("cut off", 15, cut_off),
];

pub(super) const KNOWN: &[(&str, Reach)] = &[
    ("priority tags: 1 x 8100", Reach::Socket),
    ("priority tags: 2 x 8100", Reach::Socket),
    ("priority tags: 3 x 8100", Reach::Socket),
    ("priority tags: 6 x 8100", Reach::Socket),
    ("priority tags: 88a8 8100", Reach::Socket),
    ("vlan tags", Reach::Interface),
    ("802.3 and llc", Reach::Interface),
    ("unknown ethertype", Reach::Interface),
    ("source mac", Reach::Socket),
    ("group mac: allowed", Reach::Socket),
    ("group mac: forbidden", Reach::Socket),
    ("by way of the host: allowed", Reach::Socket),
    ("by way of the host: forbidden", Reach::Socket),
];

const TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];

/// A frame to `Victim` that would be answered, or to somebody who may not even be called.
fn inner(maker: &mut Maker) -> (Who, Ends, Vec<u8>) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let (protocol, message) = maker.message(&ends, to);
    (to, ends, ends.packet(protocol, &message))
}

fn frame(maker: &mut Maker) -> Vec<u8> {
    let (to, ends, packet) = inner(maker);
    maker.carry(to, &ends, &packet)
}

/// Receivers strip any number of these.
fn priority_tags(maker: &mut Maker) {
    let plain = frame(maker);
    let count = 1 + maker.rng.below(6);
    let tags: Vec<(u16, u16)> = match maker.rng.below(4) {
        0 | 1 => vec![(0x8100, 0); count],
        2 => vec![(0x88a8, 0), (0x8100, 0)],
        // Priority and eligibility bits do not matter.
        _ => (0..count).map(|_| (maker.rng.pick(&TAGS), maker.rng.short() & 0xf000)).collect(),
    };
    let kinds: Vec<String> = tags.iter().map(|(kind, _)| format!("{kind:x}")).collect();
    if tags.iter().all(|tag| *tag == (0x8100, 0)) {
        maker.variant(format!("{} x 8100", tags.len()));
    } else if tags.len() == 2 && kinds.join(" ") == "88a8 8100" {
        maker.variant(kinds.join(" "));
    } else {
        maker.variant("mixed");
    }
    maker.denied(wire::tagged(&plain, &tags));
}

fn vlan_tags(maker: &mut Maker) {
    let plain = frame(maker);
    let count = 1 + maker.rng.below(4);
    let mut tags: Vec<(u16, u16)> =
        (0..count).map(|_| (maker.rng.pick(&TAGS), maker.rng.pick(&[0, 1, 7, 4094, 4095]))).collect();
    let at = maker.rng.below(count);
    tags[at].1 = maker.rng.pick(&[1, 2, 7, 100, 4094, 4095]);
    maker.denied(wire::tagged(&plain, &tags));
}

/// A length instead of a type: other receivers translate SNAP, and spanning trees listen to LLC.
fn llc(maker: &mut Maker) {
    let (to, ends, packet) = inner(maker);
    let (head, destination) = match maker.rng.below(3) {
        0 => ([&[0xaa, 0xaa, 3, 0, 0, 0][..], &ends.ethertype().to_be_bytes()].concat(), maker.mac_for(to)),
        1 => (vec![0x42, 0x42, 3, 0, 0, 0, 0, 0], [1, 0x80, 0xc2, 0, 0, maker.rng.byte() & 0x0f]),
        _ => (maker.rng.bytes(4), maker.mac_for(to)),
    };
    let payload = [head, packet].concat();
    let length = if maker.rng.percent(80) { payload.len() as u16 } else { maker.rng.short() % 1536 };
    maker.denied(wire::ethernet(destination, Who::Hostile.mac(), length, &payload));
}

fn unknown_ethertype(maker: &mut Maker) {
    const NAMED: [u16; 20] = [
        0x8847, 0x8848, 0x8863, 0x8864, 0x888e, 0x88cc, 0x88f7, 0x88e5, 0x6558, 0x88b5, 0x8035, 0x809b,
        0x8137, 0x22f0, 0x8902, 0x890d, 0x893a, 0x9000, 0x86de, 0x0801,
    ];
    let (to, _, packet) = inner(maker);
    let mut kind = if maker.rng.percent(70) { maker.rng.pick(&NAMED) } else { maker.rng.short() };
    if [IPV4, IPV6, ARP].contains(&kind) || TAGS.contains(&kind) {
        kind = 0x88b6;
    }
    let destination = maker.mac_for(to);
    maker.denied(wire::ethernet(destination, Who::Hostile.mac(), kind, &packet));
}

fn wrong_ethertype(maker: &mut Maker) {
    let (to, ends, packet) = inner(maker);
    let kind = match (maker.rng.percent(50), ends.is_v6()) {
        (true, true) => IPV4,
        (true, false) => IPV6,
        _ => ARP,
    };
    let destination = maker.mac_for(to);
    maker.denied(wire::ethernet(destination, Who::Hostile.mac(), kind, &packet));
}

/// Somebody else's, nobody's or a group's.
fn source_mac(maker: &mut Maker) {
    let (to, ends, packet) = inner(maker);
    let mut near = Who::Hostile.mac();
    near[maker.rng.below(6)] ^= 1 << maker.rng.below(8);
    let source: Mac = match maker.rng.below(6) {
        0 => near,
        1 => [0; 6],
        2 => BROADCAST,
        _ => maker.rng.pick(&[Who::Victim, Who::Friend, Who::Stray, Who::Gateway]).mac(),
    };
    let destination = maker.mac_for(to);
    let kind = if maker.rng.percent(90) { ends.ethertype() } else { 0x88b5 };
    maker.denied(wire::ethernet(destination, source, kind, &packet));
}

/// Copied to every port, and up to the host, whose stack has no use for it.
fn group_mac(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let allowed = to == Who::Victim && maker.rng.percent(50);
    let (protocol, message) = if allowed { maker.allowed(&ends) } else { maker.forbidden(&ends, to) };
    let packet = ends.packet(protocol, &message);
    let bytes = match maker.rng.below(3) {
        0 => to_everybody(ends.ethertype(), &packet),
        1 => {
            let group = [1, 0, 0x5e, maker.rng.byte() & 0x7f, maker.rng.byte(), maker.rng.byte()];
            wire::ethernet(group, Who::Hostile.mac(), ends.ethertype(), &packet)
        }
        _ => {
            let group = [0x33, 0x33, maker.rng.byte(), 0, 0, maker.rng.byte()];
            wire::ethernet(group, Who::Hostile.mac(), ends.ethertype(), &packet)
        }
    };
    maker.variant(if allowed { "allowed" } else { "forbidden" });
    let may = match (allowed, to.is_covered()) {
        (true, _) => Points::VICTIM.and(Points::HOST),
        (false, true) => Points::HOST,
        (false, false) => Points::NONE,
    };
    maker.frame(bytes, Expected::at_most(may));
}

/// A MAC that is not the one of the address.
fn anothers_mac(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let (protocol, message) = maker.allowed(&ends);
    let packet = ends.packet(protocol, &message);
    if maker.rng.percent(70) {
        let other = maker.rng.pick(&[Who::Friend, Who::Stray]);
        maker.variant("known");
        maker.denied(wire::ethernet(other.mac(), Who::Hostile.mac(), ends.ethertype(), &packet));
    } else {
        let nobody = [2, 0x99, maker.rng.byte(), maker.rng.byte(), maker.rng.byte(), maker.rng.byte()];
        maker.variant("nobody's");
        // Flooded: among others the addressee gets it.
        maker.tolerated(wire::ethernet(nobody, Who::Hostile.mac(), ends.ethertype(), &packet));
    }
}

/// To the bridge's own MAC: the host routes it.
fn by_the_host(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let allowed = to == Who::Victim && maker.rng.percent(50);
    let (protocol, message) = if allowed { maker.allowed(&ends) } else { maker.forbidden(&ends, to) };
    let packet = ends.packet(protocol, &message);
    maker.variant(if allowed { "allowed" } else { "forbidden" });
    let may = match (allowed, to.is_covered()) {
        (true, _) => Points::VICTIM.and(Points::HOST),
        // The receiver's own hook denies it, behind the host.
        (false, true) => Points::HOST,
        (false, false) => Points::NONE,
    };
    let bytes = wire::ethernet(Who::Gateway.mac(), Who::Hostile.mac(), ends.ethertype(), &packet);
    maker.frame(bytes, Expected::at_most(may));
}

/// Less than the headers that it announces.
fn cut_off(maker: &mut Maker) {
    let to = maker.anybody();
    let ends = maker.ends(to);
    let (protocol, message) = maker.message(&ends, to);
    let packet = ends.packet(protocol, &message);
    let header = if ends.is_v6() { 40 } else { 20 };
    let whole = match protocol {
        wire::TCP => 20,
        _ => 8,
    };
    let keep = maker.rng.below(header + whole);
    maker.denied(wire::ethernet(to.next_hop().mac(), Who::Hostile.mac(), ends.ethertype(), &packet[..keep]));
}
