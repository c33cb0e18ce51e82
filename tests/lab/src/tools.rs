//! Finds the programs that a lab runs: in `target/lab-tools` where `cargo xtask setup` unpacked them, else in PATH.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where the engine and compose are.
#[derive(Debug, Clone)]
pub struct Tools {
    pub dockerd: PathBuf,
    pub docker: PathBuf,
    pub compose: Compose,
    pub busybox: PathBuf,
    /// PATH for all of them: an engine looks there for containerd, runc and docker-proxy.
    pub path: OsString,
}

/// The two ways compose comes.
#[derive(Debug, Clone)]
pub enum Compose {
    /// `docker-compose`, version 1 or the plugin's binary run by itself.
    Program(PathBuf),
    /// `docker compose`.
    Plugin,
}

/// The repository that this crate was built from.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}

/// Where unpacked engine packages live.
#[must_use]
pub fn lab_tools() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    target.join("lab-tools")
}

/// The search path: what the machine has first, then what setup unpacked, then the system folders that an ordinary
/// user's PATH leaves out.
#[must_use]
pub fn search_path() -> OsString {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let root = lab_tools();
    for folder in [
        "usr/sbin",
        "usr/bin",
        "sbin",
        "bin",
        "usr/libexec/docker",
        "usr/libexec/docker/cli-plugins",
        "usr/lib/docker/cli-plugins",
    ] {
        folders.push(root.join(folder));
    }
    for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec/docker"] {
        folders.push(folder.into());
    }
    std::env::join_paths(folders).unwrap_or_default()
}

/// The first executable of that name on the search path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    std::env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| {
        file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}

/// Finds compose; nothing needs to be running for that.
#[must_use]
pub fn find_compose() -> Option<Compose> {
    if let Some(program) = find("docker-compose") {
        return Some(Compose::Program(program));
    }
    let docker = find("docker")?;
    let version = Command::new(docker).args(["compose", "version"]).output().ok()?;
    version.status.success().then_some(Compose::Plugin)
}

impl Tools {
    /// Finds everything a Docker lab needs, or says what is missing.
    pub fn locate() -> Result<Self> {
        for program in ["containerd", "runc", "docker-proxy", "iptables", "nsenter", "ip"] {
            needed(program)?;
        }
        Ok(Self {
            dockerd: needed("dockerd")?,
            docker: needed("docker")?,
            compose: find_compose().context("compose is missing: run `cargo xtask setup`")?,
            busybox: static_busybox()?,
            path: search_path(),
        })
    }
}

fn needed(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("`{program}` is missing: run `cargo xtask setup`"))
}

fn static_busybox() -> Result<PathBuf> {
    needed("busybox")
}
