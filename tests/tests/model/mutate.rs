//! Ways to spoil a packet.

use crate::random::Random;

/// Bytes that mean something in many places.
const STRIKING: [u8; 12] = [0, 1, 2, 4, 6, 17, 44, 0x3a, 0x45, 0x60, 0x7f, 0xff];

/// Spoils a packet in one or a few places; headers, which begin at `start`, rather than data.
pub(crate) fn mutate(bytes: &mut Vec<u8>, start: usize, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // The Ethernet header is seldom looked at, the headers behind it are.
        let from = if random.chance(1, 8) { 0 } else { start.min(bytes.len() - 1) };
        let place = from + random.below((bytes.len() - from).min(64));
        match random.below(8) {
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes[place] = random.byte(),
            2 | 3 => bytes[place] = *random.pick(&STRIKING),
            4 => bytes.truncate(place.max(14)),
            5 => bytes.resize(bytes.len() + random.below(24), 0),
            6 => bytes[place] = bytes[place].wrapping_add(1),
            _ => bytes[place] = bytes[place].wrapping_sub(1),
        }
    }
}
