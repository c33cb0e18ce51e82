//! Network namespaces named after the process that made them, and the links inside. Nothing here touches the
//! namespace that the caller runs in: every `ip` command names its namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::interrupt;
use crate::process::{run, words};

/// What every namespace of a lab is called: this, the maker's process id and a number.
pub const PREFIX: &str = "pc-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace; it goes when the value does.
#[derive(Debug)]
pub struct Netns {
    name: String,
    kept: bool,
}

impl Netns {
    /// A new namespace with only its loopback up and no way out.
    pub fn create() -> Result<Self> {
        interrupt::check()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&mut words(&format!("ip netns add {name}")))?;
        let netns = Self { name, kept: false };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name under which `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Leaves the namespace in place when the value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// A command that will run inside. `nsenter`, because `ip netns exec` remounts /sys and hides the cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip` on this namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(&mut words(&format!("ip -n {} {arguments}", self.name)))
    }

    /// Runs several `ip` commands, one a line.
    pub fn ip_lines(&self, lines: &str) -> Result<()> {
        lines
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .try_for_each(|line| self.ip(line).map(drop))
    }

    /// Plugs another namespace into a bridge of this one: its `eth0`, which is not up yet, and a port, which is.
    pub fn plug(&self, bridge: &str, port: &str, mac: &str, other: &Self) -> Result<()> {
        self.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {}", other.name))?;
        self.ip(&format!("link set {port} master {bridge} up"))?;
        Ok(())
    }

    /// Sets sysctls inside, `net/ipv4/ip_forward=1` a word.
    pub fn sysctl(&self, settings: &str) -> Result<()> {
        let settings: Vec<(PathBuf, String)> = settings
            .split_whitespace()
            .filter_map(|setting| setting.split_once('='))
            .map(|(key, value)| (Path::new("/proc/sys").join(key), value.to_owned()))
            .collect();
        within(&self.path(), move || {
            for (path, value) in settings {
                // /proc/sys/net shows the namespace of the thread that opens the file.
                std::fs::write(&path, value)
                    .with_context(|| format!("failed to set `{}`", path.display()))?;
            }
            Ok(())
        })?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.kept {
            delete(&self.name);
        }
    }
}

/// Deletes a namespace by name.
pub fn delete(name: &str) {
    if let Err(error) = run(&mut words(&format!("ip netns delete {name}"))) {
        eprintln!("lab: {error:#}");
    }
}

/// Joins two namespaces by a veth pair, both ends up.
pub fn join(left: &Netns, left_name: &str, right: &Netns, right_name: &str) -> Result<()> {
    left.ip(&format!("link add {left_name} type veth peer name {right_name} netns {}", right.name()))?;
    left.ip(&format!("link set {left_name} up"))?;
    right.ip(&format!("link set {right_name} up"))?;
    Ok(())
}

/// Runs a closure on a thread of its own that has moved into the namespace held by `path`; the thread ends with it,
/// so nobody else ever finds itself in there.
pub fn within<T: Send + 'static>(path: &Path, action: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let file = File::open(path).with_context(|| format!("failed to open namespace `{}`", path.display()))?;
    let thread = std::thread::spawn(move || -> Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("failed to enter the namespace")?;
        Ok(action())
    });
    thread.join().map_err(|_panic| anyhow!("the thread inside `{}` panicked", path.display()))?
}
