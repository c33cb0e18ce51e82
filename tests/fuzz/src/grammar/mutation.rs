//! Frames that nobody designed: bits turned over, several faults in one frame, frames cut and lengthened. What they
//! come to is unknown, but not who may get them.

use super::neighbour::claim_of;
use super::{Production, ipv4, ipv6, link, production, sources, transport};
use crate::frame::{Expected, numbers};
use crate::maker::Maker;
use crate::town::{Points, Who};
use crate::wire::{self, ETHERNET};

pub(super) const PRODUCTIONS: &[Production] = &[
    production("mutated, to the forbidden", 60, to_friend),
    production("mutated, to the allowed", 40, to_victim),
    production("stacked", 30, stacked),
    production("trailing", 10, trailing),
];

/// Turns bits over anywhere but in the destination MAC, the tag, and the source port or the identifier of an echo: a
/// flow from a port of [`crate::town::CLOSED`] would make other frames a part of it.
fn mutate(maker: &mut Maker, bytes: &mut [u8]) {
    let port = if bytes[12..14] == wire::IPV6.to_be_bytes() { ETHERNET + 40 } else { ETHERNET + 20 };
    let tag = numbers(bytes).next().map_or(0, |(at, _)| at);
    for _ in 0..1 + maker.rng.below(4) {
        // Headers are more rewarding than what they carry.
        let reach = if maker.rng.percent(80) { bytes.len().min(80) } else { bytes.len() };
        let at = 6 + maker.rng.below(reach - 6);
        if [tag..tag + 8, port..port + 2, port + 4..port + 6].iter().any(|kept| kept.contains(&at)) {
            continue;
        }
        bytes[at] = match maker.rng.below(4) {
            0 => maker.rng.byte(),
            1 => maker.rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            _ => bytes[at] ^ 1 << maker.rng.below(8),
        };
    }
}

/// Nothing that `Hostile` sends may reach `Friend`, whatever it is turned into.
fn to_friend(maker: &mut Maker) {
    let ends = maker.ends(Who::Friend);
    let message = maker.forbidden(&ends, Who::Friend);
    let mut bytes = Maker::plain(Who::Friend, &ends, &message);
    mutate(maker, &mut bytes);
    maker.denied(bytes);
}

/// Some of these are still allowed; nobody else may get them.
fn to_victim(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let message = maker.allowed(&ends);
    let mut bytes = Maker::plain(Who::Victim, &ends, &message);
    mutate(maker, &mut bytes);
    maker.tolerated(bytes);
}

/// A fault on top of another.
fn stacked(maker: &mut Maker) {
    let faulty = [
        link::PRODUCTIONS,
        sources::PRODUCTIONS,
        ipv4::PRODUCTIONS,
        ipv6::PRODUCTIONS,
        transport::PRODUCTIONS,
    ];
    let family = maker.rng.pick(&faulty);
    let production = maker.rng.pick(family);
    (production.make)(maker);
    maker.variant("tagged");
    for frame in maker.taken() {
        let kind = maker.rng.pick(&[0x8100, 0x88a8]);
        let tags = vec![(kind, 0); 1 + maker.rng.below(3)];
        maker.denied(wire::tagged(&frame.bytes, &tags));
    }
    if maker.rng.percent(10) {
        let claim = claim_of(maker, Who::Victim);
        maker.denied(claim);
    }
}

/// A second packet behind the end of the first: whoever looks at the frame's length finds it.
fn trailing(maker: &mut Maker) {
    let ends = maker.ends(Who::Victim);
    let hidden = maker.forbidden(&ends, Who::Victim);
    let shown = maker.allowed(&ends);
    let mut bytes = Maker::plain(Who::Victim, &ends, &shown);
    let behind = Maker::plain(Who::Victim, &ends, &hidden);
    bytes.extend(&behind[ETHERNET..]);
    bytes.truncate(1514);
    maker.frame(bytes, Expected::at_most(Points::VICTIM));
}
