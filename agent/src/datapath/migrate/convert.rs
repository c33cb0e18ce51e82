//! What an entry of another layout says in this one's. Each map that changed has a line here; what has none is dropped.

use crate::datapath::raw::Shape;

/// Turns key and value of an older layout into those of the present one; `None` for an entry that has no meaning there.
pub type Convert = fn(&[u8], &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// How entries of one map, as one earlier layout had them, become today's.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// The map's name.
    pub map: &'static str,
    /// The layout that is read: `pins::LAYOUT` of that version.
    pub layout: u32,
    /// Bytes of its keys.
    pub key: u32,
    /// Bytes of its values, for one CPU.
    pub value: u32,
    pub convert: Convert,
}

/// Every conversion there is. Layout 1 is the first.
pub const ALL: &[Conversion] = &[];

/// The layout in which keys or values of a map last changed their meaning, for maps that did.
const CHANGED: &[(&str, u32)] = &[];

/// What is done to each entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    AsIs,
    By(Convert),
}

impl How {
    pub(super) fn apply(self, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::AsIs => Some((key.to_vec(), value.to_vec())),
            Self::By(convert) => convert(key, value),
        }
    }
}

/// Whether entries of one layout mean the same in another. Nobody knows what a newer one means.
pub(super) fn same_meaning(map: &str, theirs: u32, ours: u32) -> bool {
    let changed = CHANGED.iter().find(|(name, _)| *name == map).map_or(1, |(_, layout)| *layout);
    theirs == ours || (changed..ours).contains(&theirs)
}

/// How entries of a pinned map get into the new one; `None` if nobody knows.
pub(super) fn find(
    map: &str,
    theirs: u32,
    ours: u32,
    old: Shape,
    new: Shape,
    conversions: &[Conversion],
) -> Option<How> {
    let conversion = conversions.iter().find(|conversion| {
        let Conversion { layout, key, value, .. } = **conversion;
        conversion.map == map && (layout, key, value) == (theirs, old.key, old.value)
    });
    if let Some(conversion) = conversion {
        return Some(How::By(conversion.convert));
    }
    let same = (old.key, old.value) == (new.key, new.value);
    (same && same_meaning(map, theirs, ours)).then_some(How::AsIs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { kind: 1, key: 4, value: 8, entries: 10, flags: 0 };
    const GROWN: Shape = Shape { value: 12, ..SHAPE };

    fn grow(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let value = [value, &[0; 4]].concat();
        (key[0] != 9).then(|| (key.to_vec(), value))
    }

    #[test]
    fn another_size_needs_no_conversion_and_another_value_does() {
        let larger = Shape { entries: 99, ..SHAPE };
        assert!(matches!(find("FLOWS", 1, 1, SHAPE, larger, ALL), Some(How::AsIs)));
        assert!(find("FLOWS", 1, 1, SHAPE, GROWN, ALL).is_none());
        // Of what a newer version wrote nothing is known, whatever it looks like.
        assert!(find("FLOWS", 2, 1, SHAPE, SHAPE, ALL).is_none());
    }

    #[test]
    fn a_conversion_is_found_by_map_layout_and_size() {
        let all = [Conversion { map: "FLOWS", layout: 1, key: 4, value: 8, convert: grow }];
        assert!(find("FLOWS_OPENING", 1, 2, SHAPE, GROWN, &all).is_none());
        assert!(find("FLOWS", 1, 2, Shape { value: 4, ..SHAPE }, GROWN, &all).is_none());
        let how = find("FLOWS", 1, 2, SHAPE, GROWN, &all).unwrap();
        assert_eq!(how.apply(&[1; 4], &[7; 8]), Some((vec![1; 4], [&[7; 8][..], &[0; 4]].concat())));
        assert_eq!(how.apply(&[9; 4], &[7; 8]), None);
    }
}
