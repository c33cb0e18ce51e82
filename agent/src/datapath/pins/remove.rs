//! Taking out of the kernel what is pinned: all of ours, whatever state it is in, and nothing else.

use std::{fs, io, os::fd::AsFd, path::Path};

use super::{CARRIED, Pins, Retired, hook, names};
use crate::datapath::{link, maps, raw};

/// How much was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects that were pinned.
    pub pins: usize,
    /// What is left where ours was, and why.
    pub left: Vec<Left>,
}

/// Something that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub what: String,
    pub why: String,
    /// Whether it is ours, so that the job is not done.
    pub ours: bool,
}

impl Pins {
    /// Removes everything of ours that is pinned, in every layout, which ends its enforcement; what else lies there
    /// stays and is named. One thing that cannot be removed does not keep the others.
    #[must_use]
    pub fn remove(&self) -> Removed {
        let mut removed = Removed::default();
        // The newest layout last: it is what an agent that starts meanwhile would look for.
        for pins in self.other_layouts().iter().chain([self]) {
            pins.remove_layout(&mut removed);
        }
        for stranger in self.strangers() {
            let why = "it is not ours".to_owned();
            removed.left.push(Left { what: stranger.display().to_string(), why, ours: false });
        }
        remove_directory(self.root(), &mut removed);
        removed
    }

    /// Removes what is left of a layout that another has taken the place of.
    pub(in crate::datapath) fn remove_rest(&self) {
        let mut removed = Removed::default();
        self.remove_layout(&mut removed);
        tracing::info!(layout = self.layout, pins = removed.pins, "the pins of another layout are removed");
    }

    fn remove_layout(&self, removed: &mut Removed) {
        // Links first: a program without its maps' pins still has its maps.
        for name in names(&self.links()) {
            let path = self.links().join(&name);
            if super::place(&name).is_some() || name.starts_with(super::ASIDE) {
                remove_link(&path, removed);
            }
        }
        for set in self.program_sets() {
            let directory = self.program_set(set);
            for name in names(&directory).iter().filter(|name| hook(name).is_some()) {
                remove_pin(&directory.join(name), "bpf-prog", removed);
            }
            for name in maps::NAMES {
                remove_pin(&directory.join(name), "bpf-map", removed);
            }
            remove_directory(&directory, removed);
        }
        let retired = self.retired_maps();
        let retired = retired.iter().map(|map: &Retired| self.retired(map));
        let named = maps::NAMES.into_iter().chain([CARRIED]);
        let named = named.flat_map(|name| [self.map(name), self.map_aside(name)]);
        for path in retired.chain(named) {
            remove_pin(&path, "bpf-map", removed);
        }
        for directory in [self.links(), self.maps(), self.programs(), self.filters(), self.own()] {
            remove_directory(&directory, removed);
        }
    }
}

/// Takes a link off its interface, then removes its pin: somebody else may have it open, which would keep it alive.
fn remove_link(path: &Path, removed: &mut Removed) {
    match raw::open_kind(path, "bpf-link") {
        // One whose device is gone cannot be detached any more.
        Ok(link) if link::info(link.as_fd()).is_ok_and(|info| info.ifindex != 0) => {
            if let Err(error) = link::detach(link.as_fd()) {
                tracing::debug!(path = %path.display(), %error, "link not detached, only its pin is removed");
            }
        }
        _ => {}
    }
    remove_pin(path, "bpf-link", removed);
}

/// Removes a pin, if what is pinned there is of the kind that ours is.
fn remove_pin(path: &Path, kind: &str, removed: &mut Removed) {
    if fs::symlink_metadata(path).is_err() {
        return;
    }
    let left = |why: String, ours| Left { what: path.display().to_string(), why, ours };
    if let Err(error) = raw::open_kind(path, kind) {
        let ours = error.kind() != io::ErrorKind::InvalidData;
        removed
            .left
            .push(left(if ours { error.to_string() } else { format!("it is not ours: {error}") }, ours));
        return;
    }
    match fs::remove_file(path) {
        Ok(()) => removed.pins += 1,
        Err(error) => removed.left.push(left(error.to_string(), true)),
    }
}

/// Removes a directory, unless somebody else's things are in it.
fn remove_directory(path: &Path, removed: &mut Removed) {
    match fs::remove_dir(path) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                // The last: the BPF file system may be mounted right there.
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) => {}
        Err(error) => {
            let what = path.display().to_string();
            removed.left.push(Left { what, why: error.to_string(), ours: true });
        }
    }
}
