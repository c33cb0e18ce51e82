//! Counters of maps that were retired. While old programs may still count, both maps are read; afterwards what the old
//! one came to is kept in `CARRIED`, which no program writes to. So nothing is added to a counter that is counting.

use std::{
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_common::counter::{DeniedCount, DeniedKey, TOTALS};
use aya::maps::{HashMap, Map, MapData, MapError};

use super::convert::How;
use crate::datapath::{
    counters::{CounterError, Reading},
    heritage::rename,
    pins::{CARRIED, Pins, Retired},
    raw::RawMap,
};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// The subject of entries that are totals: their destination is the total's number. No identity is that high.
const TOTAL: u32 = u32::MAX;
/// The destination of the entry that says which generations are in it.
const MARK: u32 = u32::MAX;

type Table = HashMap<MapData, DeniedKey, DeniedCount>;

/// What is not counted by the maps that today's programs write to.
#[derive(Debug, Default)]
pub(in crate::datapath) struct Carried(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    base: Reading,
    /// The newest generation that `base` holds.
    mark: u64,
    counting: Vec<Counting>,
}

/// A map that old programs may still write to.
#[derive(Debug)]
struct Counting {
    retired: Retired,
    map: RawMap,
    how: How,
}

/// The newest generation whose counters were kept; 0 if there is none.
pub(in crate::datapath) fn mark(pins: &Pins) -> u64 {
    let mut inner = Inner::default();
    match inner.read(&pins.map(CARRIED)) {
        Ok(()) => inner.mark,
        Err(_absent) => 0,
    }
}

impl Carried {
    /// Reads what earlier agents kept.
    pub(in crate::datapath) fn open(pins: &Pins) -> Self {
        let path = pins.map(CARRIED);
        let mut inner = Inner::default();
        if fs::symlink_metadata(&path).is_ok()
            && let Err(error) = inner.read(&path)
        {
            tracing::warn!(path = %path.display(), %error, "counters of earlier agents cannot be read: they begin anew");
        }
        Self(Mutex::new(inner))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a map. One that is in what was kept already was about to be removed.
    pub(super) fn add(&self, retired: Retired, map: RawMap, how: How) {
        let mut inner = self.lock();
        if retired.generation > inner.mark {
            inner.counting.push(Counting { retired, map, how });
        }
    }

    /// What it all comes to now.
    pub(in crate::datapath) fn read(&self) -> Result<Reading, CounterError> {
        self.lock().sum()
    }

    /// Keeps what the retired maps came to. Nobody writes to them any more.
    pub(super) fn settle(&self, pins: &Pins) -> Result<(), CounterError> {
        let mut inner = self.lock();
        if inner.counting.is_empty() {
            return Ok(());
        }
        let base = inner.sum()?;
        let generations = inner.counting.iter().map(|counting| counting.retired.generation);
        let mark = generations.max().unwrap_or(0).max(inner.mark);
        write(pins, &base, mark).map_err(|source| CounterError { name: CARRIED, source })?;
        *inner = Inner { base, mark, counting: Vec::new() };
        Ok(())
    }
}

impl Inner {
    fn read(&mut self, path: &std::path::Path) -> Result<(), MapError> {
        let table: Table = Map::HashMap(MapData::from_pin(path)?).try_into()?;
        for entry in table.iter() {
            let (key, count) = entry?;
            match (key.subject, key.destination) {
                (TOTAL, MARK) => self.mark = count.packets,
                (TOTAL, total) => {
                    if let Some(sum) = self.base.totals.get_mut(total as usize) {
                        *sum = count.packets;
                    }
                }
                _ => drop(self.base.denied.insert(key, count)),
            }
        }
        Ok(())
    }

    fn sum(&self) -> Result<Reading, CounterError> {
        let mut sum = self.base.clone();
        for Counting { retired, map, how } in &self.counting {
            let mut seen = Reading::default();
            let walked = map.walk(|key, values| {
                take(&mut seen, retired.name, *how, map, key, values);
                Ok(())
            });
            walked.map_err(|error| CounterError { name: retired.name, source: MapError::IoError(error) })?;
            sum.add(&seen);
        }
        Ok(sum)
    }
}

/// Takes in one entry. One that a walk meets twice counts once.
fn take(seen: &mut Reading, name: &str, how: How, map: &RawMap, key: &[u8], values: &[u8]) {
    let converted: Vec<_> = map.values(values).filter_map(|value| how.apply(key, value)).collect();
    let Some((key, _)) = converted.first() else { return };
    let first = |value: &[u8], at: usize| number(value.get(at..at + 8)).unwrap_or(0);
    let sum = |at| converted.iter().map(|(_, value)| first(value, at)).sum();
    if name == "TOTALS" {
        let index = key.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        if let Some(total) = index.and_then(|index| seen.totals.get_mut(index as usize)) {
            *total = sum(0);
        }
    } else if let Some(key) = denied_key(key) {
        seen.denied.insert(key, DeniedCount { packets: sum(0), attempts: sum(8) });
    }
}

fn number(bytes: Option<&[u8]>) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes?.try_into().ok()?))
}

fn denied_key(bytes: &[u8]) -> Option<DeniedKey> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let byte = |at: usize| bytes.get(at).copied();
    Some(DeniedKey {
        subject: word(0)?,
        source: word(4)?,
        destination: word(8)?,
        port_first: half(12)?,
        port_last: half(14)?,
        policy: half(16)?,
        protocol: byte(18)?,
        reason: byte(19)?,
        severity: byte(20)?,
        observed: byte(21)?,
        _pad: [0; 2],
    })
}

/// Makes a new table and puts it into the place of the old one at once: a reader finds all of it or nothing of it.
fn write(pins: &Pins, base: &Reading, mark: u64) -> Result<(), MapError> {
    // Each key, each total and the mark.
    let entries = u32::try_from(base.denied.len()).unwrap_or(u32::MAX).saturating_add(TOTALS + 1);
    let mut table = Table::create(entries, NO_PREALLOC)?;
    for (key, count) in &base.denied {
        table.insert(key, count, 0)?;
    }
    let totals = (0..TOTALS).zip(base.totals);
    for (destination, packets) in totals.chain([(MARK, mark)]) {
        let key = DeniedKey { destination, ..marked() };
        table.insert(key, DeniedCount { packets, attempts: 0 }, 0)?;
    }
    let aside = pins.map_aside(CARRIED);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(MapError::IoError(error)),
        _ => {}
    }
    table.pin(&aside).map_err(|error| MapError::PinError { name: Some(CARRIED.to_owned()), error })?;
    rename(&aside, &pins.map(CARRIED)).map_err(|error| MapError::IoError(io::Error::other(error)))
}

const fn marked() -> DeniedKey {
    DeniedKey {
        subject: TOTAL,
        source: 0,
        destination: 0,
        port_first: 0,
        port_last: 0,
        policy: 0,
        protocol: 0,
        reason: 0,
        severity: 0,
        observed: 0,
        _pad: [0; 2],
    }
}

const _: () = assert!(size_of::<DeniedKey>() == 24 && size_of::<DeniedCount>() == 16);
