//! The productions: every kind of frame, how often it is made, and what Linux is known to do with it where nothing
//! stands in its way.

mod canonical;
mod icmp;
mod ipv4;
mod ipv6;
mod link;
mod mutation;
mod neighbour;
mod sources;
mod transport;

use crate::maker::Maker;
use crate::rng::Rng;

pub(crate) use ipv4::PROTOCOLS;

/// One kind of frame.
#[derive(Debug, Clone, Copy)]
pub struct Production {
    pub name: &'static str,
    /// How often, in relation to the others.
    pub share: usize,
    pub make: fn(&mut Maker),
}

const fn production(name: &'static str, share: usize, make: fn(&mut Maker)) -> Production {
    Production { name, share, make }
}

/// How far Linux is known to let a frame come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Over the bridge.
    Interface,
    /// To a socket.
    Socket,
    /// It is answered.
    Answer,
}

/// Every production.
pub fn productions() -> impl Iterator<Item = &'static Production> {
    [
        canonical::PRODUCTIONS,
        link::PRODUCTIONS,
        neighbour::PRODUCTIONS,
        sources::PRODUCTIONS,
        ipv4::PRODUCTIONS,
        ipv6::PRODUCTIONS,
        icmp::PRODUCTIONS,
        transport::PRODUCTIONS,
        mutation::PRODUCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// Labels or whole classes whose frames, some of them at least, must come that far without an agent: otherwise the test would be one
/// of frames that harm nobody.
pub fn known() -> impl Iterator<Item = &'static (&'static str, Reach)> {
    [
        canonical::KNOWN,
        link::KNOWN,
        neighbour::KNOWN,
        sources::KNOWN,
        ipv4::KNOWN,
        ipv6::KNOWN,
        icmp::KNOWN,
        transport::KNOWN,
    ]
    .into_iter()
    .flatten()
}

/// Chooses productions by their shares.
#[derive(Debug)]
pub struct Grammar {
    productions: Vec<&'static Production>,
    shares: usize,
}

impl Grammar {
    /// All productions.
    #[must_use]
    pub fn all() -> Self {
        Self::of(productions().collect())
    }

    fn of(productions: Vec<&'static Production>) -> Self {
        let shares = productions.iter().map(|production| production.share).sum();
        Self { productions, shares }
    }

    /// One of them.
    pub fn choose(&self, rng: &mut Rng) -> &'static Production {
        let mut at = rng.below(self.shares);
        let mut chosen = self.productions[0];
        for production in &self.productions {
            chosen = production;
            if at < production.share {
                break;
            }
            at -= production.share;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::frame::{Frame, numbers};
    use crate::town::Points;

    fn sample(seed: u64, rounds: usize) -> Vec<Frame> {
        let mut maker = Maker::new(seed);
        let grammar = Grammar::all();
        let mut frames = Vec::new();
        while frames.len() < rounds {
            let production = grammar.choose(&mut maker.rng);
            frames.extend(maker.run(production));
        }
        frames
    }

    #[test]
    fn a_seed_gives_the_same_frames() {
        assert_eq!(sample(1, 2000), sample(1, 2000));
        assert_ne!(sample(1, 100), sample(2, 100));
    }

    #[test]
    fn every_production_makes_frames_that_can_be_sent() {
        let mut maker = Maker::new(3);
        for production in productions() {
            for _ in 0..200 {
                let frames = maker.run(production);
                assert!(!frames.is_empty(), "{}", production.name);
                for frame in frames {
                    assert!((14..=1540).contains(&frame.bytes.len()), "{}", frame.label);
                    assert_eq!(frame.class(), production.name);
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_known_labels_are_made() {
        let names: Vec<&str> = productions().map(|production| production.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let frames = sample(4, 60_000);
        let labels: BTreeSet<&str> =
            frames.iter().flat_map(|frame| [frame.label.as_ref(), frame.class()]).collect();
        for (label, _) in known() {
            assert!(labels.contains(label), "`{label}` is never made");
        }
    }

    #[test]
    fn most_frames_can_be_told_apart_by_their_tags() {
        let frames = sample(5, 20_000);
        let tagged: Vec<u32> = frames
            .iter()
            .filter_map(|frame| numbers(&frame.bytes).next())
            .map(|(_, number)| number)
            .collect();
        assert!(tagged.len() * 100 > frames.len() * 80, "{} of {}", tagged.len(), frames.len());
        // A fragment may be sent twice.
        let different = tagged.iter().collect::<BTreeSet<_>>().len();
        assert!(different * 100 > tagged.len() * 98, "{different} of {}", tagged.len());
    }

    #[test]
    fn what_must_arrive_is_a_part_of_what_may() {
        for frame in sample(6, 20_000) {
            let Points(outside) = frame.expected.must.without(frame.expected.may);
            assert_eq!(outside, 0, "{}", frame.label);
        }
    }
}
