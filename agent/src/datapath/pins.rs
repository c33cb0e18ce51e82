//! Where programs, links and maps are pinned: `<pin-dir>/v1/{maps,links}`, for root only.
//!
//! The version is that of the map layouts: another layout lives beside this one, never in it.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use agent_common::verdict::Hook;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{link, maps};

/// The version of all layouts under the pin directory.
pub const LAYOUT: &str = "v1";
/// How names of pins begin that are about to take the place of another.
const ASIDE: &str = "aside-";

/// The pin directory of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// The pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("`{path}` is not on a BPF file system")]
    NotBpf { path: PathBuf },
    #[error("another agent is running with the pins in `{path}`")]
    InUse { path: PathBuf },
    #[error("failed to {verb} `{path}`")]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

/// Exclusive use of a pin directory, for as long as the value or its process lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its descriptor holds the lock")] fs::File);

/// The magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

impl Pins {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root.join(LAYOUT).join("maps")
    }

    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join(LAYOUT).join("links")
    }

    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    #[must_use]
    pub fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook.name()))
    }

    /// Where a link is pinned for the moment until it takes the place of another.
    pub(super) fn link_aside(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ASIDE}{ifindex}-{}", hook.name()))
    }

    /// Pins that an agent which was killed left aside.
    fn pins_aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.links()).into_iter().flatten().filter_map(Result::ok);
        let aside = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(ASIDE.as_bytes());
        entries.filter(aside).map(|entry| entry.path()).collect()
    }

    /// Removes what an agent which was killed left aside.
    pub(super) fn remove_aside(&self) -> Result<(), PinError> {
        for path in self.pins_aside() {
            fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
        }
        Ok(())
    }

    /// Makes the directories, after checking that they would be on a BPF file system.
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
        for path in [self.root.clone(), self.root.join(LAYOUT), self.maps(), self.links()] {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(PinError::Io { verb: "create", path, source });
                }
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(|source| PinError::Io {
                verb: "restrict",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// The (ifindex, hook) of every pinned link.
    pub fn pinned_links(&self) -> Result<Vec<(u32, Hook)>, PinError> {
        let path = self.links();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(PinError::Io { verb: "list", path, source });
            }
        };
        Ok(entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name();
                let (ifindex, hook) = name.to_str()?.split_once('-')?;
                let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
                Some((ifindex.parse().ok()?, hook))
            })
            .collect())
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

    /// Removes everything of ours that is pinned, which ends its enforcement; what else lies there stays. Returns how
    /// many pins there were. One that cannot be removed does not keep the others.
    pub fn remove(&self) -> Result<usize, PinError> {
        let mut removed = 0;
        let mut first_error = None;
        let links = self.pinned_links()?;
        let links =
            links.into_iter().map(|(ifindex, hook)| self.link(ifindex, hook)).chain(self.pins_aside());
        // Links first: a program without its maps' pins still has its maps.
        for path in links.chain(maps::NAMES.map(|name| self.map(name))) {
            // Somebody else may have a link open, which would keep it alive without its pin.
            if path.starts_with(self.links())
                && let Err(error) = link::open(&path).and_then(|link| link::detach(link.as_fd()))
            {
                tracing::debug!(path = %path.display(), %error, "link not detached, only its pin is removed");
            }
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    first_error.get_or_insert(PinError::Io { verb: "remove", path, source });
                }
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        for directory in [self.links(), self.maps(), self.root.join(LAYOUT), self.root.clone()] {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Somebody else's files are theirs.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(source) => {
                    return Err(PinError::Io { verb: "remove", path: directory, source });
                }
            }
        }
        Ok(removed)
    }
}
