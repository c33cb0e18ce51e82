//! The identity numbers, kept in the state directory so that they outlive the agent as the pinned maps do.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{
    inventory::{identity::IdentityRegistry, snapshot::Snapshot},
    policy::{
        entries::Entries,
        model::PolicySet,
        resolve::{self, ResolveError},
    },
};

/// The name of the file in the state directory.
const FILE: &str = "identities.json";

/// The numbers cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("failed to {verb} `{}`", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is damaged", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("another agent is running with the state directory `{}`", path.display())]
    InUse { path: PathBuf },
    #[error("failed to encode the identity numbers")]
    Encode(#[source] serde_json::Error),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

impl RegistryError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => Some(
                "run `portcullis detach`, remove the file, and start again: numbers in the kernel and in the file have to agree",
            ),
            Self::Io { .. } => Some("the state directory has to be writable for root; see `--state-dir`"),
            Self::InUse { .. } => {
                Some("stop it first, or give this one its own `--state-dir`, `--pin-dir` and `--control`")
            }
            Self::Encode(_) | Self::Resolve(_) => None,
        }
    }
}

/// The numbers and where they are kept.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    numbers: IdentityRegistry,
    saved: IdentityRegistry,
    /// Holds the directory: two agents would give the same number to different services.
    _lock: fs::File,
}

impl Registry {
    pub(super) fn load(directory: &Path) -> Result<Self, RegistryError> {
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| RegistryError::Io { verb, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("create", directory))?;
        let lock = fs::File::open(directory).map_err(failed("open", directory))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(RegistryError::InUse { path: directory.to_owned() }),
            Err(error) => return Err(failed("lock", directory)(error.into())),
        }
        let path = directory.join(FILE);
        let numbers = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| RegistryError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => IdentityRegistry::default(),
            Err(source) => return Err(RegistryError::Io { verb: "read", path, source }),
        };
        let registry = Self { path, saved: numbers.clone(), numbers, _lock: lock };
        // Numbers that could not be kept later would be found out only when they are needed.
        registry.save()?;
        Ok(registry)
    }

    pub(super) fn numbers(&self) -> &IdentityRegistry {
        &self.numbers
    }

    /// Resolves policies on a host. New numbers are on disk before anything uses them.
    pub(super) fn resolve(&mut self, set: &PolicySet, snapshot: &Snapshot) -> Result<Entries, RegistryError> {
        let resolved = self.resolve_and_save(set, snapshot);
        if resolved.is_err() {
            // What could not be kept was never given out: the policy before needs no new numbers.
            self.numbers = self.saved.clone();
        }
        resolved
    }

    fn resolve_and_save(&mut self, set: &PolicySet, snapshot: &Snapshot) -> Result<Entries, RegistryError> {
        let entries = resolve::resolve(set, snapshot, &mut self.numbers)?;
        if self.numbers != self.saved {
            self.save()?;
            self.saved = self.numbers.clone();
        }
        Ok(entries)
    }

    /// Replaces the file as a whole: a crash leaves the old or the new one.
    fn save(&self) -> Result<(), RegistryError> {
        let bytes = serde_json::to_vec_pretty(&self.numbers).map_err(RegistryError::Encode)?;
        let temporary = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|source| RegistryError::Io { verb: "write", path: self.path.clone(), source })
    }
}
