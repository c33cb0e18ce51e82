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
    backstop::{self, BackstopError},
    config, control,
    datapath::{
        attach,
        pins::{Lock, PinError, Pins},
    },
    reconcile::Chain,
};

/// How long a running agent may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Where programs, links and maps are pinned
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Where the agent keeps its state
    #[arg(long, value_name = "DIR", default_value = config::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// The control socket of the agent, which is stopped if it is running
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, env = "PORTCULLIS_CONTROL")]
    control: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum DetachError {
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Backstop(#[from] BackstopError),
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
            Self::Elsewhere { .. } => "stop it first, or name its socket with `--control`",
            Self::Alive { .. } => "stop it with `systemctl stop portcullis`, then detach again",
            Self::Backstop(BackstopError::Remove { .. }) => {
                "install `nft`, or remove the table by other means"
            }
            Self::Pins(_) | Self::Stop { .. } | Self::Backstop(_) => "run as root",
        }
    }
}

/// 0 if nothing of ours is left, 2 if that could not be done.
#[must_use]
pub(super) fn run(args: &DetachArgs) -> ExitCode {
    match detach(args) {
        Ok(Removed { pins: 0, filters: 0, backstop: false }) => {
            output::finish("nothing was attached\n", output::CLEAN)
        }
        Ok(Removed { pins, filters, backstop }) => output::finish(
            &format!(
                "removed {pins} pins and filters of {filters} interfaces{}; nothing is enforced any more\n",
                if backstop { ", and the backstop" } else { "" }
            ),
            output::CLEAN,
        ),
        Err(error) => {
            output::note(&format!("error: {}\n\nhint: {}", Chain(&error), error.hint()));
            ExitCode::from(output::UNKNOWN)
        }
    }
}

/// What there was to remove: pins, interfaces with filters, a backstop.
struct Removed {
    pins: usize,
    filters: usize,
    backstop: bool,
}

fn detach(args: &DetachArgs) -> Result<Removed, DetachError> {
    let pins = Pins::new(&args.pin_dir);
    let lock = take_over(&pins, &args.control)?;
    // Without pins, too: what is left of it would go on by itself.
    let backstop = backstop::remove(&args.pin_dir, &args.state_dir)?;
    if lock.is_none() {
        return Ok(Removed { pins: 0, filters: 0, backstop });
    }
    let filters = attach::detach_filters(&pins);
    Ok(Removed { pins: pins.remove()?, filters, backstop })
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
