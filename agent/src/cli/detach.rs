//! `portcullis detach`: takes everything out of the kernel again. Needs no running agent, and ends one.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::output;
use crate::{
    backstop,
    config::{self, ConfigError, Settings},
    datapath::{
        self,
        pins::{Left, Lock, PinError, Pins},
    },
    reconcile::Chain,
};

/// How long a running agent may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `detach`. What is left out stands in `agent.yaml`, as for `run`.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/portcullis]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Where the agent keeps its state [default: /var/lib/portcullis]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The control socket of the agent, which is stopped if it is running
    #[arg(long, value_name = "PATH", env = "PORTCULLIS_CONTROL")]
    control: Option<PathBuf>,
    /// Settings file; only the default one may be missing [default: /etc/portcullis/agent.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum DetachError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error("an agent is running with the pins in `{}`, and it is not the one that answers on `{}`", pins.display(), control.display())]
    Elsewhere { pins: PathBuf, control: PathBuf },
    #[error("failed to stop the agent, process {pid}")]
    Stop { pid: u32, source: io::Error },
    #[error("the agent, process {pid}, did not end within {PATIENCE:?}")]
    Alive { pid: u32 },
}

impl DetachError {
    fn hint(&self) -> &str {
        match self {
            Self::Config(_) => "name `--pin-dir`, `--state-dir` and `--control`, and no settings are read",
            Self::Elsewhere { .. } => "stop it first, or name its socket with `--control`",
            Self::Alive { .. } => "stop it with `systemctl stop portcullis`, then detach again",
            Self::Pins(error) => error.hint(),
            Self::Stop { .. } => "run as root",
        }
    }
}

/// 0 if nothing of ours is left, 2 if that could not be done, or nobody can tell.
#[must_use]
pub(super) fn run(args: &DetachArgs) -> ExitCode {
    let removed = match detach(args) {
        Ok(removed) => removed,
        Err(error) => {
            output::note(&format!("error: {}\n\nhint: {}", Chain(&error), error.hint()));
            return ExitCode::from(output::UNKNOWN);
        }
    };
    for Left { what, why, .. } in &removed.left {
        output::note(&format!("left: {what}: {why}"));
    }
    let code = if removed.is_done() { output::CLEAN } else { output::UNKNOWN };
    output::finish(&removed.said(), code)
}

/// What there was to remove.
struct Removed {
    /// Whether there was a pin directory.
    pinned: bool,
    pins: usize,
    interfaces: usize,
    backstop: bool,
    /// What is still there.
    left: Vec<Left>,
}

impl Removed {
    /// Whether nothing of ours is left. Without pins nobody can tell whose filters are found.
    fn is_done(&self) -> bool {
        self.left.iter().all(|left| !left.ours) && (self.pinned || self.left.is_empty())
    }

    fn said(&self) -> String {
        let Self { pins, interfaces, backstop, .. } = self;
        let done = self.is_done();
        if (*pins, *interfaces, *backstop) == (0, 0, false) {
            return if done { "nothing was attached\n" } else { "nothing was removed\n" }.to_owned();
        }
        let backstop = if *backstop { ", and the backstop" } else { "" };
        let end = if done { "; nothing is enforced any more" } else { ", but not all" };
        format!("removed {pins} pins and filters of {interfaces} interfaces{backstop}{end}\n")
    }
}

fn detach(args: &DetachArgs) -> Result<Removed, DetachError> {
    let settings = settings(args)?;
    let pins = Pins::new(&settings.pin_dir);
    let lock = take_over(&pins, &settings.control)?;
    let mut removed =
        Removed { pinned: lock.is_some(), pins: 0, interfaces: 0, backstop: false, left: Vec::new() };
    // Without pins, too: what is left of it would go on by itself.
    match backstop::remove(&settings.pin_dir, &settings.state_dir) {
        Ok(was) => removed.backstop = was,
        Err(error) => {
            let what = "the backstop".to_owned();
            removed.left.push(Left { what, why: Chain(&error).to_string(), ours: true });
        }
    }
    if lock.is_some() {
        let detached = datapath::detach::detach(&pins);
        (removed.pins, removed.interfaces) = (detached.pins, detached.interfaces);
        removed.left.extend(detached.left);
    }
    removed.left.extend(datapath::detach::orphans());
    Ok(removed)
}

/// Where everything is: as the command line says, and where it does not, as `agent.yaml` does.
fn settings(args: &DetachArgs) -> Result<Settings, ConfigError> {
    let flags = config::File {
        pin_dir: args.pin_dir.clone(),
        state_dir: args.state_dir.clone(),
        control: args.control.clone(),
        ..config::File::default()
    };
    let all = args.pin_dir.is_some() && args.state_dir.is_some() && args.control.is_some();
    // Settings that cannot be read must not keep anybody from taking enforcement out.
    let file = if all && args.config.is_none() {
        config::File::default()
    } else {
        config::File::read(args.config.as_deref())?
    };
    Ok(flags.or(file).complete())
}

/// Ends the agent that uses the pins, if there is one: it would put its programs onto the next port. `None` if there
/// are no pins at all.
fn take_over(pins: &Pins, control: &Path) -> Result<Option<Lock>, DetachError> {
    if !pins.root().exists() {
        return Ok(None);
    }
    match pins.lock() {
        Err(PinError::InUse { .. }) => {}
        lock => return Ok(Some(lock?)),
    }
    let elsewhere = || DetachError::Elsewhere { pins: pins.root().to_owned(), control: control.to_owned() };
    let stream = UnixStream::connect(control).map_err(|_nobody| elsewhere())?;
    let agent = socket_peercred(&stream).map_err(|_gone| elsewhere())?.pid;
    let pid = agent.as_raw_pid().unsigned_abs();
    // Held from before the question whether it is the right one, so that the number cannot become another's.
    let failed = |error: rustix::io::Errno| DetachError::Stop { pid, source: error.into() };
    let process = pidfd_open(agent, PidfdFlags::empty()).map_err(failed)?;
    if !has_open(agent, pins.root()) {
        return Err(elsewhere());
    }
    pidfd_send_signal(&process, Signal::TERM).map_err(failed)?;
    drop(stream);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pins.lock() {
            Err(PinError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(PinError::InUse { .. }) => return Err(DetachError::Alive { pid }),
            lock => return Ok(Some(lock?)),
        }
    }
}

/// Whether a process has a directory open, which an agent has its pin directory.
fn has_open(process: Pid, directory: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let wanted = identity(directory);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.as_raw_pid()));
    wanted.is_some()
        && descriptors.is_ok_and(|entries| {
            entries.filter_map(Result::ok).any(|entry| identity(&entry.path()) == wanted)
        })
}
