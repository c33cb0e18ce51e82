//! The frames of one round and where they have turned up so far.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::frame::{Frame, numbers};
use crate::town::Points;

/// Frames, and what is known of each.
#[derive(Debug, Default)]
pub struct Registry {
    pub frames: Vec<Frame>,
    by_number: HashMap<u32, usize>,
    /// Those without room for a number, by all of their bytes.
    by_bytes: HashMap<u64, usize>,
    seen: Vec<AtomicU8>,
    delivered: Vec<AtomicU8>,
    answered: Vec<AtomicU8>,
    /// Numbers that are no frame's of this round.
    strangers: AtomicU64,
    sightings: AtomicU64,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn none(count: usize) -> Vec<AtomicU8> {
    (0..count).map(|_| AtomicU8::new(0)).collect()
}

impl Registry {
    /// For a round of frames.
    #[must_use]
    pub fn new(frames: Vec<Frame>) -> Self {
        let (mut by_number, mut by_bytes) = (HashMap::new(), HashMap::new());
        for (index, frame) in frames.iter().enumerate() {
            let mut tagged = false;
            for (_, number) in numbers(&frame.bytes) {
                by_number.insert(number, index);
                tagged = true;
            }
            if !tagged {
                by_bytes.insert(hash(&frame.bytes), index);
            }
        }
        let count = frames.len();
        Self {
            frames,
            by_number,
            by_bytes,
            seen: none(count),
            delivered: none(count),
            answered: none(count),
            ..Self::default()
        }
    }

    /// How many tags are no frame's of this round.
    fn known(&self, bytes: &[u8], mut note: impl FnMut(usize)) -> u64 {
        let mut note = |index| {
            self.sightings.fetch_add(1, Ordering::Relaxed);
            note(index);
        };
        let (mut tagged, mut strange) = (false, 0);
        for (_, number) in numbers(bytes) {
            tagged = true;
            match self.by_number.get(&number) {
                Some(&index) => note(index),
                None => strange += 1,
            }
        }
        if !tagged && let Some(&index) = self.by_bytes.get(&hash(bytes)) {
            note(index);
        }
        strange
    }

    /// These bytes came in by an interface there.
    pub fn saw(&self, bytes: &[u8], point: Points) {
        let strange = self.known(bytes, |index| {
            self.seen[index].fetch_or(point.0, Ordering::Relaxed);
        });
        self.strangers.fetch_add(strange, Ordering::Relaxed);
    }

    /// A socket there was given these bytes.
    pub fn received(&self, bytes: &[u8], point: Points) {
        self.known(bytes, |index| {
            self.delivered[index].fetch_or(point.0, Ordering::Relaxed);
        });
    }

    /// These bytes came back to the sender: the tag itself, or one of the numbers of a segment that acknowledge it.
    pub fn came_back(&self, bytes: &[u8], acknowledged: &[u32]) {
        self.known(bytes, |index| self.answered[index].store(1, Ordering::Relaxed));
        for number in acknowledged {
            if let Some(&index) = self.by_number.get(number) {
                self.answered[index].store(1, Ordering::Relaxed);
            }
        }
    }

    /// At whose interface a frame was seen.
    #[must_use]
    pub fn seen(&self, index: usize) -> Points {
        Points(self.seen[index].load(Ordering::Relaxed))
    }

    /// Whose sockets were given a frame.
    #[must_use]
    pub fn delivered(&self, index: usize) -> Points {
        Points(self.delivered[index].load(Ordering::Relaxed))
    }

    /// Whether a frame was answered.
    #[must_use]
    pub fn answered(&self, index: usize) -> bool {
        self.answered[index].load(Ordering::Relaxed) != 0
    }

    /// Whether everything that has to come has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.frames.iter().enumerate().all(|(index, frame)| {
            frame.expected.must.without(self.seen(index)).is_empty()
                && (!frame.expected.answered || self.answered(index))
        })
    }

    /// Tags of frames that were not sent in this round.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Moves while frames of the round still come in; not for what kernels and programs say to each other.
    #[must_use]
    pub fn sightings(&self) -> u64 {
        self.sightings.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::frame::{Expected, Tag, Way};

    fn frame(bytes: Vec<u8>) -> Frame {
        Frame { bytes, label: Cow::Borrowed("test"), expected: Expected::DENIED, way: Way::Message }
    }

    #[test]
    fn frames_are_known_by_tag_or_by_all_of_their_bytes() {
        let registry =
            Registry::new(vec![frame([&[1; 20][..], &Tag(9).bytes()].concat()), frame(vec![7; 16])]);
        // Somebody has put something else around it.
        registry.saw(&[&[5; 3][..], &Tag(9).bytes()].concat(), Points::VICTIM);
        registry.received(&[7; 16], Points::FRIEND);
        registry.saw(&[7; 15], Points::FRIEND);
        registry.saw(&Tag(10).bytes(), Points::FRIEND);
        assert_eq!((registry.seen(0), registry.seen(1)), (Points::VICTIM, Points::NONE));
        assert_eq!((registry.delivered(0), registry.delivered(1)), (Points::NONE, Points::FRIEND));
        assert_eq!((registry.strangers(), registry.sightings()), (1, 2));
        registry.came_back(&[], &[9]);
        assert!(registry.answered(0) && !registry.answered(1));
    }
}
