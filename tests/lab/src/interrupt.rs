//! SIGINT and SIGTERM as a flag that every bounded wait looks at, so that `Drop` gets to clean up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::patience::patient;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Replaces the default action of SIGINT and SIGTERM, which would end the process before it cleaned up.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// Fails once a signal has arrived.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Whether a signal has arrived.
pub fn arrived() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Polls `ready` until it gives a value; fails after `limit`, as long as it is on this machine, or when interrupted.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, limit) = (Instant::now(), patient(limit));
    loop {
        check()?;
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not ready within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
