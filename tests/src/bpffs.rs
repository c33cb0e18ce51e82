//! A BPF file system of a test's own, so that what it pins is nobody else's and goes with it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lab::scratch::{Scratch, mount_bpffs};

/// A mounted BPF file system; it goes, with everything that is pinned there, when the value does.
#[derive(Debug)]
pub struct Bpffs {
    scratch: Scratch,
}

impl Bpffs {
    /// Mounts a new one.
    pub fn mount() -> Result<Self> {
        let scratch = Scratch::create()?;
        let directory = scratch.path().join("bpf");
        mount_bpffs(&directory)?;
        Ok(Self { scratch })
    }

    /// A pin directory on it, not made yet.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.scratch.path().join("bpf").join("portcullis")
    }

    /// A directory beside it that is on an ordinary file system.
    #[must_use]
    pub fn elsewhere(&self) -> &Path {
        self.scratch.path()
    }
}
