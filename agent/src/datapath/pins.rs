//! Where programs, links and maps are pinned: `<pin-dir>/v1/{maps,links}`, for root only.
//!
//! The version is that of the map layouts: another layout lives beside this one, never in it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use agent_common::verdict::Hook;

/// The version of all layouts under the pin directory.
pub const LAYOUT: &str = "v1";

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
    #[error("failed to {verb} `{path}`")]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

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

    /// Removes everything that is pinned, which ends its enforcement. Returns how many pins there were.
    pub fn remove(&self) -> Result<usize, PinError> {
        let mut removed = 0;
        // Links first: a program without its maps' pins still has its maps.
        for directory in [self.links(), self.maps()] {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(PinError::Io { verb: "list", path: directory, source });
                }
            };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| PinError::Io { verb: "remove", path, source })?;
                removed += 1;
            }
            fs::remove_dir(&directory).map_err(|source| PinError::Io {
                verb: "remove",
                path: directory,
                source,
            })?;
        }
        for directory in [self.root.join(LAYOUT), self.root.clone()] {
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
