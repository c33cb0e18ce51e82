//! Carries over what earlier agents' maps hold into maps of another layout: another size, or another version of what
//! lies in them.
//!
//! The old map stays pinned under another name for as long as a program may use it. Flows are copied before the programs
//! are exchanged and again afterwards, so that what the old ones wrote in between is not lost; counters of both are
//! added up. An agent that is killed on the way leaves everything to the next one.

pub mod convert;

mod carried;
mod follow;

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc};

pub(super) use self::carried::{Carried, mark};
use self::{
    convert::{Conversion, How},
    follow::Follow,
};
use super::{
    counters::CounterError,
    heritage::rename,
    maps,
    pins::{CARRIED, PinError, Pins, Retired},
    raw::{RawMap, Shape},
};

/// What becomes of what a map holds when another takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carry {
    /// Programs write to it: copied, and looked at again until none of the old ones is left.
    Follow,
    /// Counters: those of the old one are added when they are read.
    Count,
    /// Read until it is empty.
    Drain,
    /// Only the agent writes to it, or nothing is lost with it but time: copied once.
    Once,
}

fn carry(name: &str) -> Carry {
    match name {
        "FLOWS" | "FLOWS_OPENING" => Carry::Follow,
        "DENIED" | "TOTALS" => Carry::Count,
        "EVENTS" => Carry::Drain,
        _ => Carry::Once,
    }
}

/// Which pinned maps go on being used, and which have to be made anew.
#[derive(Debug, Default)]
pub(super) struct Plan {
    generation: u64,
    /// Where the maps are that fit, if not in their place: another layout's directory.
    moved: BTreeMap<&'static str, PathBuf>,
    fresh: Vec<&'static str>,
    /// Those that do not fit, and where they are now.
    outdated: Vec<(Retired, PathBuf)>,
    conversions: &'static [Conversion],
}

impl Plan {
    /// Compares what is pinned with what this version's programs want.
    pub(super) fn new(
        pins: &Pins,
        generation: u64,
        wanted: &BTreeMap<&'static str, Shape>,
        conversions: &'static [Conversion],
    ) -> Result<Self, PinError> {
        let (mut moved, mut fresh, mut outdated) = (BTreeMap::new(), Vec::new(), Vec::new());
        let layouts = pins.other_layouts();
        for (&name, &shape) in wanted {
            let mut kept = false;
            // Its own directory first: that is the newest.
            for from in [pins].into_iter().chain(layouts.iter().rev()) {
                let path = from.map(name);
                let map = match RawMap::open(&path) {
                    Ok(map) => map,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    // Somebody else's, in another layout's directory: it stays there.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                    Err(source) => return Err(PinError::Io { verb: "open", path, source }),
                };
                let fits = map.shape == shape && convert::same_meaning(name, from.layout(), pins.layout());
                if fits && !kept {
                    kept = true;
                    if from.layout() != pins.layout() {
                        moved.insert(name, path);
                    }
                    continue;
                }
                let (layout, old) = (from.layout(), map.shape);
                tracing::info!(map = name, %old, new = %shape, layout, "the pinned map is of another layout");
                outdated.push((Retired { generation, layout, name }, path));
            }
            if !kept {
                fresh.push(name);
            }
        }
        Ok(Self { generation, moved, fresh, outdated, conversions })
    }

    /// Whether everything stays as it is.
    pub(super) fn changes_nothing(&self) -> bool {
        self.fresh.is_empty() && self.outdated.is_empty() && self.moved.is_empty()
    }

    /// Where a map is to be found or made.
    pub(super) fn path(&self, pins: &Pins, name: &'static str) -> PathBuf {
        if self.fresh.contains(&name) {
            return pins.map_aside(name);
        }
        self.moved.get(name).cloned().unwrap_or_else(|| pins.map(name))
    }

    /// Copies what there is to copy and gives the new maps their places. The programs are loaded and known; none is
    /// on a hook yet.
    pub(super) fn begin(self, pins: &Pins) -> Result<Migration, PinError> {
        for (retired, path) in &self.outdated {
            rename(path, &pins.retired(retired))?;
        }
        for (name, path) in &self.moved {
            rename(path, &pins.map(name))?;
        }
        for layout in pins.other_layouts() {
            self.take_over(&layout, pins)?;
        }
        for name in &self.fresh {
            rename(&pins.map_aside(name), &pins.map(name))?;
        }
        let mut migration = Migration::new(pins);
        for retired in pins.retired_maps() {
            let filled = self.fresh.contains(&retired.name);
            migration.take(pins, retired, filled, self.conversions)?;
        }
        // A map that was made anew and that nothing was copied to is empty.
        migration.empty = self.fresh.into_iter().filter(|name| !migration.copied.contains(name)).collect();
        migration.catch_up();
        Ok(migration)
    }
}

impl Plan {
    /// Moves the links of another layout over, and what it had retired itself.
    fn take_over(&self, layout: &Pins, pins: &Pins) -> Result<(), PinError> {
        for retired in layout.retired_maps() {
            let next = Retired { generation: self.generation, ..retired.clone() };
            rename(&layout.retired(&retired), &pins.retired(&next))?;
        }
        let links = layout.pinned_links()?.into_iter();
        let links = links.map(|(ifindex, hook)| (layout.link(ifindex, hook), pins.link(ifindex, hook)));
        let notes = layout.filter_notes().into_iter();
        let notes = notes.map(|note| (layout.filter_note(note), pins.filter_note(note)));
        let counters = [(layout.map(CARRIED), pins.map(CARRIED))];
        for (theirs, ours) in links.chain(notes).chain(counters) {
            if fs::symlink_metadata(&theirs).is_ok() && fs::symlink_metadata(&ours).is_err() {
                rename(&theirs, &ours)?;
            }
        }
        Ok(())
    }
}

/// Maps that are being carried over.
pub(super) struct Migration {
    follows: Vec<Follow>,
    /// All that go when it is done.
    retired: Vec<PathBuf>,
    names: Vec<&'static str>,
    counters: Arc<Carried>,
    drained: Vec<PathBuf>,
    copied: Vec<&'static str>,
    empty: Vec<&'static str>,
}

impl Migration {
    fn new(pins: &Pins) -> Self {
        Self {
            follows: Vec::new(),
            retired: Vec::new(),
            names: Vec::new(),
            counters: Arc::new(Carried::open(pins)),
            drained: Vec::new(),
            copied: Vec::new(),
            empty: Vec::new(),
        }
    }

    /// Whether nothing is to be carried over, or all has been.
    pub(super) fn is_over(&self) -> bool {
        self.retired.is_empty()
    }

    /// What the counters of retired maps come to.
    pub(super) fn counters(&self) -> Arc<Carried> {
        Arc::clone(&self.counters)
    }

    /// Ring buffers that programs of an earlier agent may still write to.
    pub(super) fn drained(&self) -> &[PathBuf] {
        &self.drained
    }

    /// Whether programs of an earlier agent use another map of this name.
    pub(super) fn is_carrying(&self, name: &str) -> bool {
        !self.is_over() && self.names.contains(&name)
    }

    /// Whether a map holds nothing, though an earlier agent's may have.
    pub(super) fn is_empty(&self, name: &str) -> bool {
        self.empty.contains(&name)
    }

    fn take(
        &mut self,
        pins: &Pins,
        retired: Retired,
        fresh: bool,
        conversions: &'static [Conversion],
    ) -> Result<(), PinError> {
        let path = pins.retired(&retired);
        let opened = |path: &PathBuf| {
            RawMap::open(path).map_err(|source| PinError::Io { verb: "open", path: path.clone(), source })
        };
        let (old, new) = (opened(&path)?, opened(&pins.map(retired.name))?);
        let name = retired.name;
        let how = convert::find(name, retired.layout, pins.layout(), old.shape, new.shape, conversions);
        self.retired.push(path.clone());
        self.names.push(name);
        match (carry(name), how) {
            (Carry::Drain, Some(_)) => self.drained.push(path),
            (_, None) => tracing::warn!(
                map = name,
                old = %old.shape,
                new = %new.shape,
                layout = retired.layout,
                "what the pinned map holds cannot be converted: dropped"
            ),
            (Carry::Count, Some(how)) => self.counters.add(retired, old, how),
            (Carry::Follow, Some(how)) => {
                self.copied.push(name);
                self.follows.push(Follow::new(name, old, new, how));
            }
            // Later on the new one knows better.
            (Carry::Once, Some(_)) if !fresh => {}
            (Carry::Once, Some(how)) => {
                self.copied.push(name);
                copy(name, &old, &new, how);
            }
        }
        Ok(())
    }

    /// Copies the flows that old programs have opened, moved or closed since the last time.
    pub(super) fn catch_up(&mut self) {
        for follow in &mut self.follows {
            follow.catch_up();
        }
    }

    /// Ends it: no program of an earlier agent is on a hook any more.
    pub(super) fn finish(&mut self, pins: &Pins) -> Result<(), CounterError> {
        if self.is_over() {
            return Ok(());
        }
        wait_for_programs();
        self.catch_up();
        self.counters.settle(pins)?;
        for follow in self.follows.drain(..) {
            follow.tell();
        }
        for path in self.retired.drain(..) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a map that nobody uses any more stays pinned");
            }
        }
        Ok(())
    }
}

/// Copies a map that no program writes to.
fn copy(name: &'static str, old: &RawMap, new: &RawMap, how: How) {
    let mut lost = 0_u64;
    let walked = old.walk(|key, value| {
        let written = how.apply(key, value).is_some_and(|(key, value)| new.put(&key, &value).is_ok());
        lost += u64::from(!written);
        Ok(())
    });
    if let Err(error) = walked {
        tracing::warn!(map = name, %error, "the pinned map was not read to its end");
    }
    if lost > 0 {
        tracing::warn!(map = name, lost, "entries of the pinned map that do not fit the new one are dropped");
    }
}

/// Waits until no program that was taken off its hook still runs.
#[expect(unsafe_code, reason = "no library exposes this call")]
fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes two numbers and a third that is not looked at; touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with CPUs free of ticks have none. A program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The maps that only the agent writes, which together are the policy in force.
pub(super) const WRITTEN: [&str; 8] =
    ["CONFIG", "INTERFACES", "SLOTS", "DESTINATIONS", "PUBLISHED", "SUBJECTS", "RULES", "ADDRESSES"];

const _: () = assert!(WRITTEN.len() < maps::NAMES.len());
