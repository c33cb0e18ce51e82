//! Where programs, links and maps are pinned: names and directories, for root only.
//!
//! `<pin-dir>/v1` is one layout; another layout lives beside it, never in it. What lies there under a name that is not
//! ours is never touched.

mod remove;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use agent_common::verdict::Hook;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::maps;

pub use self::remove::{Left, Removed};

/// The version of what the values in the maps mean. It moves with the first release that changes one of them; what is
/// found under another number is converted, see `migrate`.
pub const LAYOUT: u32 = 1;
/// How names of pins begin that are about to take the place of another.
const ASIDE: &str = "aside-";
/// How names of maps begin that programs of an earlier agent still use: generation, layout and name follow.
const RETIRED: &str = "old-";
/// What counters of retired maps come to.
pub const CARRIED: &str = "CARRIED";

/// The pin directory of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    layout: u32,
}

/// The pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("`{}` is not on a BPF file system", path.display())]
    NotBpf { path: PathBuf },
    #[error("`{}` is mounted read-only: what is pinned there stays in force and cannot be opened", path.display())]
    ReadOnly { path: PathBuf },
    #[error("another agent is running with the pins in `{}`", path.display())]
    InUse { path: PathBuf },
    #[error("`{}` is no directory", path.display())]
    NoDirectory { path: PathBuf },
    #[error("`{}` belongs to user {owner}, not to root", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("failed to {verb} `{}`", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

impl PinError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotBpf { .. } => "mount one: `mount -t bpf bpf /sys/fs/bpf`",
            Self::InUse { .. } => {
                "stop it first, or give this one its own `--pin-dir`, `--control` and `--state-dir`"
            }
            Self::NoDirectory { .. } => {
                "the pin directory and what is in it are directories, no links to some"
            }
            Self::Owner { .. } => {
                "whoever it belongs to could have exchanged what is pinned: `portcullis detach`, and start again"
            }
            Self::ReadOnly { .. } => "`mount -o remount,rw /sys/fs/bpf`, then start again",
            Self::Io { .. } => "run as root",
        }
    }
}

/// Exclusive use of a pin directory, for as long as the value or its process lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its descriptor holds the lock")] fs::File);

/// A map that programs of an earlier agent may still use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Retired {
    /// Counts up; never used again as long as something is pinned.
    pub(super) generation: u64,
    /// The layout that it was made for.
    pub(super) layout: u32,
    pub(super) name: &'static str,
}

/// A filter of clsact, or the qdisc that was made for it, noted where a link would be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FilterNote {
    /// The network namespace's inode.
    pub(super) netns: u64,
    pub(super) ifindex: u32,
    /// `None` for the qdisc.
    pub(super) hook: Option<Hook>,
}

/// The magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;
const QDISC: &str = "qdisc";

impl Pins {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), layout: LAYOUT }
    }

    /// The same directory, seen as an agent with another layout does.
    pub(super) fn of_layout(&self, layout: u32) -> Self {
        Self { layout, ..self.clone() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn layout(&self) -> u32 {
        self.layout
    }

    fn own(&self) -> PathBuf {
        self.root.join(format!("v{}", self.layout))
    }

    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.own().join("maps")
    }

    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.own().join("links")
    }

    /// Programs, a directory for each agent that started: who put what onto a hook.
    pub(super) fn programs(&self) -> PathBuf {
        self.own().join("programs")
    }

    /// Notes of filters, which cannot be pinned.
    pub(super) fn filters(&self) -> PathBuf {
        self.own().join("filters")
    }

    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn map_aside(&self, name: &str) -> PathBuf {
        self.maps().join(format!("{ASIDE}{name}"))
    }

    pub(super) fn retired(&self, retired: &Retired) -> PathBuf {
        let Retired { generation, layout, name } = retired;
        self.maps().join(format!("{RETIRED}{generation}-v{layout}-{name}"))
    }

    #[must_use]
    pub fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook.name()))
    }

    /// Where a link is pinned for the moment until it takes the place of another.
    pub(super) fn link_aside(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ASIDE}{ifindex}-{}", hook.name()))
    }

    pub(super) fn program_set(&self, generation: u64) -> PathBuf {
        self.programs().join(generation.to_string())
    }

    pub(super) fn filter_note(&self, note: FilterNote) -> PathBuf {
        let FilterNote { netns, ifindex, hook } = note;
        self.filters().join(format!("{netns}-{ifindex}-{}", hook.map_or(QDISC, Hook::name)))
    }

    /// Every directory that is ours, from the outside in.
    fn directories(&self) -> [PathBuf; 6] {
        [self.root.clone(), self.own(), self.maps(), self.links(), self.programs(), self.filters()]
    }

    /// Makes the directories where they are missing, after checking that they are, or would be, on a BPF file system,
    /// and nobody's but root's.
    pub fn create(&self) -> Result<(), PinError> {
        let existing = self.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let statistics = rustix::fs::statfs(existing).map_err(|source| PinError::Io {
            verb: "look at",
            path: existing.to_owned(),
            source: source.into(),
        })?;
        if statistics.f_type != BPF_FS_MAGIC {
            return Err(PinError::NotBpf { path: self.root.clone() });
        }
        // The kernel opens no program and no link there, so that nothing could be taken over.
        let mount = rustix::fs::statvfs(existing).map(|mount| mount.f_flag);
        if mount.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY)) {
            return Err(PinError::ReadOnly { path: self.root.clone() });
        }
        let device = fs::metadata(existing).map(|data| data.dev()).ok();
        for path in self.directories() {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(PinError::Io { verb: "create", path, source }),
            }
            check_directory(path, device)?;
        }
        Ok(())
    }

    /// Which of these layouts there are, other than this one's.
    pub(super) fn other_layouts(&self) -> Vec<Self> {
        let number = |name: String| name.strip_prefix('v')?.parse().ok();
        let mut layouts: Vec<u32> = names(&self.root)
            .into_iter()
            .filter_map(number)
            .filter(|&layout| layout != self.layout)
            .collect();
        layouts.sort_unstable();
        layouts.into_iter().map(|layout| self.of_layout(layout)).collect()
    }

    /// The (ifindex, hook) of every pinned link.
    pub fn pinned_links(&self) -> Result<Vec<(u32, Hook)>, PinError> {
        let path = self.links();
        match fs::read_dir(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PinError::Io { verb: "list", path, source }),
        }
        Ok(names(&path).iter().filter_map(|name| place(name)).collect())
    }

    /// Every map that was retired, the oldest first.
    pub(super) fn retired_maps(&self) -> Vec<Retired> {
        let mut maps: Vec<Retired> =
            names(&self.maps()).iter().filter_map(|name| parse_retired(name)).collect();
        maps.sort_unstable();
        maps
    }

    /// The generations whose programs are pinned, the oldest first.
    pub(super) fn program_sets(&self) -> Vec<u64> {
        let mut sets: Vec<u64> =
            names(&self.programs()).iter().filter_map(|name| name.parse().ok()).collect();
        sets.sort_unstable();
        sets
    }

    /// Every filter and qdisc that was noted.
    pub(super) fn filter_notes(&self) -> Vec<FilterNote> {
        names(&self.filters()).iter().filter_map(|name| parse_note(name)).collect()
    }

    /// Pins that an agent which was killed left aside.
    fn pins_aside(&self) -> Vec<PathBuf> {
        let aside = |directory: PathBuf| {
            let names = names(&directory).into_iter().filter(|name| name.starts_with(ASIDE));
            names.map(move |name| directory.join(name))
        };
        aside(self.links()).chain(aside(self.maps())).collect()
    }

    /// Removes what an agent which was killed left aside. It never came to be used.
    pub(super) fn remove_aside(&self) -> Result<(), PinError> {
        for path in self.pins_aside() {
            tracing::info!(path = %path.display(), "an agent was killed while it made this: removed");
            fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
        }
        Ok(())
    }

    /// What lies in our directories under a name that is none of ours.
    #[must_use]
    pub fn strangers(&self) -> Vec<PathBuf> {
        let mut strangers = Vec::new();
        let mut judge = |directory: PathBuf, ours: &dyn Fn(&str) -> bool| {
            let theirs = names(&directory).into_iter().filter(|name| !ours(name));
            strangers.extend(theirs.map(|name| directory.join(name)));
        };
        judge(self.root.clone(), &|name| {
            name.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok())
        });
        for pins in self.other_layouts().iter().chain([self]) {
            judge(pins.own(), &|name| matches!(name, "maps" | "links" | "programs" | "filters"));
            judge(pins.maps(), &|name| {
                is_map(name) || parse_retired(name).is_some() || name.starts_with(ASIDE)
            });
            judge(pins.links(), &|name| place(name).is_some() || name.starts_with(ASIDE));
            judge(pins.filters(), &|name| parse_note(name).is_some());
            judge(pins.programs(), &|name| name.parse::<u64>().is_ok());
            for set in pins.program_sets() {
                judge(pins.program_set(set), &|name| hook(name).is_some() || is_map(name));
            }
        }
        strangers
    }

    /// Takes exclusive use of the directory, which has to exist.
    pub fn lock(&self) -> Result<Lock, PinError> {
        let failed = |source: io::Error| PinError::Io { verb: "lock", path: self.root.clone(), source };
        let directory = fs::File::open(&self.root).map_err(failed)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(directory)),
            Err(Errno::WOULDBLOCK) => Err(PinError::InUse { path: self.root.clone() }),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Whether a directory is one, on the device that it should be on, and root's alone. What others may enter is closed
/// to them; what belongs to somebody else may hold anything.
fn check_directory(path: PathBuf, device: Option<u64>) -> Result<(), PinError> {
    let data = match fs::symlink_metadata(&path) {
        Ok(data) => data,
        Err(source) => return Err(PinError::Io { verb: "look at", path, source }),
    };
    if !data.is_dir() {
        return Err(PinError::NoDirectory { path });
    }
    if device.is_some_and(|device| device != data.dev()) {
        return Err(PinError::NotBpf { path });
    }
    if data.uid() != 0 {
        return Err(PinError::Owner { path, owner: data.uid() });
    }
    if data.permissions().mode() & 0o777 == 0o700 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), mode = format!("{:o}", data.mode() & 0o777), "others could enter: closed");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(|source| PinError::Io {
        verb: "restrict",
        path,
        source,
    })
}

/// The names in a directory; none if there is no such directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn hook(name: &str) -> Option<Hook> {
    Hook::ALL.into_iter().find(|known| known.name() == name)
}

fn is_map(name: &str) -> bool {
    name == CARRIED || maps::NAMES.contains(&name)
}

/// `<ifindex>-<hook>`.
fn place(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, rest) = name.split_once('-')?;
    Some((ifindex.parse().ok()?, hook(rest)?))
}

/// `old-<generation>-v<layout>-<name>`.
fn parse_retired(name: &str) -> Option<Retired> {
    let mut parts = name.strip_prefix(RETIRED)?.splitn(3, '-');
    let generation = parts.next()?.parse().ok()?;
    let layout = parts.next()?.strip_prefix('v')?.parse().ok()?;
    let rest = parts.next()?;
    let name = maps::NAMES.into_iter().find(|known| *known == rest)?;
    Some(Retired { generation, layout, name })
}

/// `<netns>-<ifindex>-<hook>`.
fn parse_note(name: &str) -> Option<FilterNote> {
    let (netns, rest) = name.split_once('-')?;
    let (ifindex, rest) = rest.split_once('-')?;
    let hook = if rest == QDISC { None } else { Some(hook(rest)?) };
    Some(FilterNote { netns: netns.parse().ok()?, ifindex: ifindex.parse().ok()?, hook })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let pins = Pins::new(Path::new("/nowhere"));
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        for hook in Hook::ALL {
            assert_eq!(place(&name(pins.link(7, hook))), Some((7, hook)));
            let note = FilterNote { netns: 4_026_531_840, ifindex: 3, hook: Some(hook) };
            assert_eq!(parse_note(&name(pins.filter_note(note))), Some(note));
            assert!(name(pins.link_aside(7, hook)).starts_with(ASIDE));
        }
        let qdisc = FilterNote { netns: 1, ifindex: 3, hook: None };
        assert_eq!(parse_note(&name(pins.filter_note(qdisc))), Some(qdisc));
        for map in maps::NAMES {
            let retired = Retired { generation: 12, layout: 1, name: map };
            assert_eq!(parse_retired(&name(pins.retired(&retired))), Some(retired));
            assert!(is_map(map) && !is_map(&name(pins.map_aside(map))));
        }
        assert_eq!(parse_retired("old-1-v1-NOTHING"), None);
        assert_eq!(parse_retired("old-x-v1-FLOWS"), None);
        assert_eq!(place("7-nothing"), None);
    }
}
