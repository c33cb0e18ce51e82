//! One directory a lab: its sockets, logs and the list of processes it started, named after the process that made it
//! so that what a dead one left can be told from what is in use.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process;

/// What every lab directory is called, inside the temporary directory.
pub const PREFIX: &str = "portcullis-lab-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Mounts a BPF file system of its own at a place inside a [`Scratch`], which takes it away again.
pub fn mount_bpffs(place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(place))
        .context("failed to mount a bpffs")?;
    Ok(())
}

/// The directory of one lab; it goes, with every mount and process in it, when the value does.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    /// A new empty directory. Its name is short: the path of a socket has 107 bytes at most.
    pub fn create() -> Result<Self> {
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to create `{}`", path.display()))?;
        Ok(Self { path, kept: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a process that must be gone before the directory can go.
    pub fn note_process(&self, pid: u32) -> Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.path.join("processes"))?;
        writeln!(file, "{pid} {}", process::started_at(pid).unwrap_or(0))?;
        Ok(())
    }

    /// Leaves the lab up when the value goes; `sweep::remove_kept` removes it.
    pub fn keep(&mut self) -> Result<()> {
        self.kept = true;
        fs::write(self.path.join("kept"), "left up by `--keep`\n").context("failed to mark the lab as kept")
    }

    /// Whether a lab directory was left up on purpose.
    #[must_use]
    pub fn is_kept(path: &Path) -> bool {
        path.join("kept").exists()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            crate::sweep::remove_directory(&self.path);
        }
    }
}
