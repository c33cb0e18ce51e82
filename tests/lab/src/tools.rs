//! Finds the programs that a lab runs: in the folder of another engine if one is wanted, else in PATH, else in
//! `target/lab-tools` where `cargo xtask setup` unpacked them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run;

/// The environment variable that names the folder of another engine than the machine's: unpacked packages, or the
/// programs themselves. What it lacks, such as `runc`, is the machine's.
pub const ENGINE: &str = "PORTCULLIS_ENGINE";

/// Folders of packages that hold an engine's programs.
const PROGRAM_FOLDERS: [&str; 7] = [
    "usr/sbin",
    "usr/bin",
    "sbin",
    "bin",
    "usr/libexec/docker",
    "usr/libexec/docker/cli-plugins",
    "usr/lib/docker/cli-plugins",
];

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

/// The folder of the engine that is wanted instead of the machine's.
#[must_use]
pub fn wanted_engine() -> Option<PathBuf> {
    std::env::var_os(ENGINE).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The search path: the engine that is wanted first, then what the machine has, then what setup unpacked, then the
/// system folders that an ordinary user's PATH leaves out.
#[must_use]
pub fn search_path() -> OsString {
    let mut folders = wanted_engine().as_deref().map(program_folders).unwrap_or_default();
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders.extend(program_folders(&lab_tools()));
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec/docker"].map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or_default()
}

/// Where programs may lie below a folder.
fn program_folders(root: &Path) -> Vec<PathBuf> {
    let below = PROGRAM_FOLDERS.iter().map(|folder| root.join(folder));
    std::iter::once(root.to_path_buf()).chain(below).collect()
}

/// The first executable of that name on the search path.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    executable(std::env::split_paths(&search_path()), program)
}

/// An executable of unpacked packages.
#[must_use]
pub fn find_below(root: &Path, program: &str) -> Option<PathBuf> {
    executable(program_folders(root).into_iter(), program)
}

fn executable(mut folders: impl Iterator<Item = PathBuf>, program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    folders.find_map(|folder| {
        let file = folder.join(program);
        let data = file.metadata().ok()?;
        (data.is_file() && data.permissions().mode() & 0o111 != 0).then_some(file)
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
        let dockerd = needed("dockerd")?;
        // A test of one engine that ran on another would say nothing. Tests have folders of their own to run in.
        if let Some(wanted) = wanted_engine()
            && !(wanted.is_absolute() && dockerd.starts_with(&wanted))
        {
            bail!(
                "`{ENGINE}` is `{}`, which is no absolute path of a folder with `dockerd`",
                wanted.display()
            );
        }
        Ok(Self {
            dockerd,
            docker: needed("docker")?,
            compose: find_compose().context("compose is missing: run `cargo xtask setup`")?,
            busybox: static_busybox()?,
            path: search_path(),
        })
    }

    /// The engine's version, such as 20.10.
    pub fn version(&self) -> Result<(u32, u32)> {
        let said = run(Command::new(&self.dockerd).arg("--version"))?;
        version_in(&said).with_context(|| format!("no version in `{}`", said.trim()))
    }
}

/// The two numbers in `Docker version 20.10.24+dfsg1, build 5d6db84`.
fn version_in(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("Docker version ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn needed(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("`{program}` is missing: run `cargo xtask setup`"))
}

fn static_busybox() -> Result<PathBuf> {
    needed("busybox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_says_its_version() {
        assert_eq!(version_in("Docker version 28.5.2+dfsg4, build 3ef3c07\n"), Some((28, 5)));
        assert_eq!(version_in("podman version 4.3.1\n"), None);
    }
}
