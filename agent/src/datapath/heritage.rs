//! What earlier agents left pinned, and whether it is what they left: the programs that they pinned say which programs
//! are ours on a hook, and which maps these use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use agent_common::verdict::Hook;

use super::{
    link, maps, migrate,
    pins::{PinError, Pins, Retired},
    raw::{self, Program, RawMap},
};
use crate::interference::{Fault, Finding};

/// What was found, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Heritage {
    /// The number of the agent that starts now: higher than any that left something.
    pub(super) generation: u64,
    /// The programs of earlier agents, by their ids. None if nobody knows them any more.
    pub(super) programs: BTreeSet<u32>,
    pub(super) findings: Vec<Finding>,
}

/// The programs that one agent pinned.
struct Set {
    generation: u64,
    directory: PathBuf,
    programs: Vec<Program>,
}

impl Heritage {
    /// Looks at all that is pinned. What was begun and never used is removed, what is missing is put back from the
    /// programs that use it, and what others put in its place is moved out of the way.
    pub(super) fn take_stock(pins: &Pins) -> Result<Self, PinError> {
        let mut heritage = Self::default();
        let mut sets: Vec<Set> = Vec::new();
        for layout in pins.other_layouts().iter().chain([pins]) {
            for generation in layout.program_sets() {
                heritage.generation = heritage.generation.max(generation);
                let directory = layout.program_set(generation);
                match read_set(&directory) {
                    Some(programs) => sets.push(Set { generation, directory, programs }),
                    None => remove_set(&directory)?,
                }
            }
            let retired = layout.retired_maps().into_iter().map(|map| map.generation).max();
            heritage.generation = heritage.generation.max(retired.unwrap_or(0)).max(migrate::mark(layout));
        }
        heritage.generation += 1;
        sets.sort_by_key(|set| set.generation);
        heritage.programs = sets.iter().flat_map(|set| &set.programs).map(|program| program.id).collect();
        if let Some(newest) = sets.last() {
            let used = sets.iter().flat_map(|set| &set.programs).flat_map(|program| program.maps.clone());
            heritage.restore_maps(pins, newest, &used.collect())?;
        } else {
            heritage.clear_places(pins)?;
        }
        // Only now: what an agent was about to put in its place has been put there.
        pins.remove_aside()?;
        Ok(heritage)
    }

    /// Where nobody knows the programs any more, maps are what they look like; what is none makes room.
    fn clear_places(&mut self, pins: &Pins) -> Result<(), PinError> {
        for name in maps::NAMES {
            let path = pins.map(name);
            if fs::symlink_metadata(&path).is_ok()
                && let Err(error) = RawMap::open(&path)
                && error.kind() == io::ErrorKind::InvalidData
            {
                let found = format!("`{}` is no map of ours: {error}", path.display());
                self.move_away(pins, name, found)?;
            }
        }
        Ok(())
    }

    /// Brings the pins of maps in line with what the newest programs use.
    fn restore_maps(&mut self, pins: &Pins, newest: &Set, used: &BTreeSet<u32>) -> Result<(), PinError> {
        let wanted: BTreeSet<u32> = newest.programs.iter().flat_map(|program| program.maps.clone()).collect();
        let held: BTreeMap<&str, RawMap> = maps::NAMES
            .into_iter()
            .filter_map(|name| Some((name, RawMap::open(&newest.directory.join(name)).ok()?)))
            .filter(|(_, map)| wanted.contains(&map.id))
            .collect();
        let directories = pins.other_layouts();
        for pins in directories.iter().chain([pins]) {
            restore_retired(pins, &wanted)?;
        }
        for name in maps::NAMES {
            let mut found = false;
            for pins in directories.iter().chain([pins]) {
                found |= self.look_at_pin(pins, name, &wanted, used, newest.generation)?;
            }
            let Some(map) = held.get(name).filter(|_| !found) else { continue };
            let path = pins.map(name);
            let pinned = link::pin(map.as_fd(), &path);
            let repaired = pinned.is_ok();
            let done = pinned.err().map_or_else(|| "pinned again".to_owned(), |error| error.to_string());
            let found = format!("`{}` was missing at the start", path.display());
            self.find(name, Fault::PinMissing, found, done, repaired);
        }
        Ok(())
    }

    /// Whether the map that the newest programs use is pinned here. What is there in its place is moved away.
    fn look_at_pin(
        &mut self,
        pins: &Pins,
        name: &'static str,
        wanted: &BTreeSet<u32>,
        used: &BTreeSet<u32>,
        generation: u64,
    ) -> Result<bool, PinError> {
        let (path, aside) = (pins.map(name), pins.map_aside(name));
        let begun = RawMap::open(&aside).is_ok_and(|map| wanted.contains(&map.id));
        if fs::symlink_metadata(&path).is_err() {
            if begun {
                rename(&aside, &path)?;
            }
            return Ok(begun);
        }
        match RawMap::open(&path) {
            Ok(map) if wanted.contains(&map.id) && map.name == name => return Ok(true),
            // An agent was killed between making its programs known and giving this map up.
            Ok(map) if used.contains(&map.id) && map.name == name => {
                rename(&path, &pins.retired(&Retired { generation, layout: pins.layout(), name }))?;
            }
            Err(source) if source.kind() != io::ErrorKind::InvalidData => {
                return Err(PinError::Io { verb: "open", path, source });
            }
            other => {
                let found = match other {
                    Ok(_) => format!("`{}` is a map that no program of ours uses as that", path.display()),
                    Err(error) => format!("`{}` is no map of ours: {error}", path.display()),
                };
                self.move_away(pins, name, found)?;
            }
        }
        if begun {
            rename(&aside, &path)?;
        }
        Ok(begun)
    }

    fn move_away(&mut self, pins: &Pins, name: &'static str, found: String) -> Result<(), PinError> {
        let away = stranger(pins, name);
        rename(&pins.map(name), &away)?;
        self.find(name, Fault::Exchanged, found, format!("moved to `{}`", away.display()), true);
        Ok(())
    }

    fn find(&mut self, name: &str, fault: Fault, found: String, done: String, repaired: bool) {
        let (interface, hook) = (String::new(), name.to_owned());
        self.findings.push(Finding { interface, hook, fault, found, done, repaired });
    }
}

/// What somebody made look retired, though the newest programs use it.
fn restore_retired(pins: &Pins, wanted: &BTreeSet<u32>) -> Result<(), PinError> {
    for retired in pins.retired_maps() {
        let (path, place) = (pins.retired(&retired), pins.map(retired.name));
        if RawMap::open(&path).is_ok_and(|map| wanted.contains(&map.id)) {
            if fs::symlink_metadata(&place).is_err() {
                rename(&path, &place)?;
            } else {
                fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
            }
        }
    }
    Ok(())
}

/// A name that nobody has, for what is not ours.
fn stranger(pins: &Pins, name: &str) -> PathBuf {
    let free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let names = (1_u32..).map(|number| pins.maps().join(format!("foreign-{number}-{name}")));
    names.take(1_000).find(free).unwrap_or_else(|| pins.maps().join(format!("foreign-{name}")))
}

/// The programs of a set; `None` if it is not whole, and so was never used.
fn read_set(directory: &Path) -> Option<Vec<Program>> {
    Hook::ALL.into_iter().map(|hook| raw::pinned_program(&directory.join(hook.name())).ok()).collect()
}

/// Removes the programs of an agent.
pub(super) fn remove_set(directory: &Path) -> Result<(), PinError> {
    for hook in Hook::ALL {
        let path = directory.join(hook.name());
        if raw::pinned_program(&path).is_ok() {
            fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
        }
    }
    for name in maps::NAMES {
        let path = directory.join(name);
        if RawMap::open(&path).is_ok() {
            fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
        }
    }
    match fs::remove_dir(directory) {
        // Somebody else's things are in it, and stay.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(source) => Err(PinError::Io { verb: "remove", path: directory.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

/// Moves a pin, which is atomic.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), PinError> {
    fs::rename(from, to).map_err(|source| PinError::Io { verb: "move", path: from.to_owned(), source })
}
