//! A table of flows that programs write to while it is copied.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    mem::offset_of,
};

use agent_common::flow::FlowEntry;

use super::convert::How;
use crate::datapath::raw::RawMap;

/// What the copy of an entry was made from, and what it was.
#[derive(Clone, Copy)]
struct Copied {
    from: u64,
    to: u64,
    /// The pass in which it was last seen.
    pass: u32,
}

/// One old table, the new one, and what was copied so far.
pub(super) struct Follow {
    name: &'static str,
    old: RawMap,
    new: RawMap,
    how: How,
    copied: HashMap<Vec<u8>, Copied>,
    pass: u32,
    /// Entries that found no room, or have no meaning any more.
    lost: u64,
}

impl Follow {
    pub(super) fn new(name: &'static str, old: RawMap, new: RawMap, how: How) -> Self {
        Self { name, old, new, how, copied: HashMap::new(), pass: 0, lost: 0 }
    }

    /// Copies what old programs changed since the last pass, and removes what they removed. An entry that a new program
    /// has changed meanwhile is that one's, unless an old one has seen the flow later.
    pub(super) fn catch_up(&mut self) {
        self.pass += 1;
        let Self { old, new, how, copied, pass, lost, .. } = self;
        let walked = old.walk(|key, value| {
            let from = fingerprint(value);
            let before = copied.get(key).copied();
            if let Some(same) = before.filter(|before| before.from == from) {
                copied.insert(key.to_vec(), Copied { pass: *pass, ..same });
                return Ok(());
            }
            let Some((new_key, new_value)) = how.apply(key, value) else {
                *lost += u64::from(before.is_none());
                return Ok(());
            };
            let to = fingerprint(&new_value);
            let written = match new.get(&new_key)? {
                Some(current)
                    if before.is_none_or(|before| before.to != fingerprint(&current))
                        && last_seen(&current) >= last_seen(&new_value) =>
                {
                    true
                }
                _ => new.put(&new_key, &new_value).is_ok(),
            };
            *lost += u64::from(!written && before.is_none());
            if written {
                copied.insert(key.to_vec(), Copied { from, to, pass: *pass });
            }
            Ok(())
        });
        if let Err(error) = walked.and_then(|()| self.forget()) {
            tracing::warn!(map = self.name, %error, "flows not carried over whole");
        }
    }

    /// Removes copies of what is gone from the old table, if nobody has changed them.
    fn forget(&mut self) -> io::Result<()> {
        let pass = self.pass;
        let gone: Vec<Vec<u8>> = self
            .copied
            .iter()
            .filter(|(_, copied)| copied.pass != pass)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(copied) = self.copied.remove(&key) else { continue };
            // A walk may miss what was moved while it went on.
            let Some(value) = self.old.get(&key)? else {
                if let How::AsIs = self.how
                    && self.new.get(&key)?.is_some_and(|current| fingerprint(&current) == copied.to)
                {
                    self.new.remove(&key)?;
                }
                continue;
            };
            let from = fingerprint(&value);
            if from == copied.from {
                self.copied.insert(key, Copied { pass, ..copied });
            }
        }
        Ok(())
    }

    /// Says how it went.
    pub(super) fn tell(self) {
        let (map, flows, lost) = (self.name, self.copied.len(), self.lost);
        if lost > 0 {
            tracing::warn!(map, flows, lost, "flows carried over; there was no room for all");
        } else {
            tracing::info!(map, flows, "flows carried over");
        }
    }
}

/// When a flow was last seen, which every layout begins with.
fn last_seen(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

const _: () = assert!(offset_of!(FlowEntry, last_seen) == 0);

fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
