//! A frame, what is known of it by construction, and the mark by which it is known again wherever it turns up.

use std::borrow::Cow;

use crate::town::Points;

/// Stands behind the number of a frame.
const AFTER: [u8; 4] = [0xb7, 0x5e, 0xd1, 0x2b];
/// Stands before it, in segments whose acknowledgement is answered with its number.
const BEFORE: [u8; 4] = [0xd1, 0x93, 0x4f, 0xa6];

/// One frame and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// The production that made it: a class, perhaps a colon and a variant.
    pub label: Cow<'static, str>,
    pub expected: Expected,
    pub way: Way,
}

impl Frame {
    /// The label without the variant.
    #[must_use]
    pub fn class(&self) -> &str {
        self.label.split(':').next().unwrap_or_default()
    }
}

/// Where a frame may and must turn up once the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Nothing at all: a denied frame.
    pub may: Points,
    pub must: Points,
    /// Whether something that belongs to it has to come back.
    pub answered: bool,
}

impl Expected {
    /// Nobody gets it.
    pub const DENIED: Self = Self::at_most(Points::NONE);

    /// Nobody else gets it.
    #[must_use]
    pub const fn at_most(may: Points) -> Self {
        Self { may, must: Points::NONE, answered: false }
    }

    /// Those get it and nobody else.
    #[must_use]
    pub const fn exactly(must: Points) -> Self {
        Self { may: must, must, answered: false }
    }

    /// The word for what is expected.
    #[must_use]
    pub const fn verdict(&self) -> &'static str {
        if !self.must.is_empty() {
            "allowed"
        } else if self.may.is_empty() {
            "denied"
        } else {
            "bounded"
        }
    }
}

/// How a frame is handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `sendmmsg`: the packet is one piece.
    Message,
    /// `PACKET_TX_RING`: only 14 bytes are, the rest lies in pages.
    Ring,
}

impl Way {
    /// As it stands in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Ring => "ring",
        }
    }
}

/// The eight bytes that tell a frame from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u32);

impl Tag {
    /// For payloads.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        [self.0.to_be_bytes(), AFTER].concat()
    }

    /// Sequence and acknowledgement numbers of a segment whose answer acknowledges the first.
    #[must_use]
    pub const fn opening(self) -> (u32, u32) {
        (self.0, u32::from_be_bytes(AFTER))
    }

    /// The same for a segment that acknowledges: a reset takes its number from there.
    #[must_use]
    pub const fn acknowledging(self) -> (u32, u32) {
        (u32::from_be_bytes(BEFORE), self.0)
    }
}

/// Every number that stands in some bytes, with the place of its eight bytes.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = (usize, u32)> {
    bytes.windows(8).enumerate().filter_map(|(at, window)| {
        let (first, second) = window.split_at(4);
        let number = if second == AFTER {
            first
        } else if first == BEFORE {
            second
        } else {
            return None;
        };
        Some((at, u32::from_be_bytes([number[0], number[1], number[2], number[3]])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_wherever_it_lies() {
        let (sequence, acknowledgement) = Tag(7).acknowledging();
        let bytes = [
            &[1, 2, 3][..],
            &Tag(0x0102_0304).bytes(),
            &[9],
            &sequence.to_be_bytes(),
            &acknowledgement.to_be_bytes(),
        ]
        .concat();
        assert_eq!(numbers(&bytes).collect::<Vec<_>>(), [(3, 0x0102_0304), (12, 7)]);
        assert_eq!(numbers(&[0; 64]).count(), 0);
    }

    #[test]
    fn what_must_arrive_may() {
        let expected = Expected::exactly(Points::VICTIM);
        assert_eq!((expected.may, expected.verdict()), (Points::VICTIM, "allowed"));
        assert_eq!(Expected::DENIED.verdict(), "denied");
    }
}
