//! Open findings as a file for the textfile collector of Prometheus' node exporter: the metrics of an agent that audits at
//! an interval.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Audited, open::open};
use crate::{
    status::unix_seconds,
    telemetry::{
        TelemetryError,
        audit::{LastRun, Runs},
    },
};

/// The exposition: every code, those without findings at 0, so that a dashboard sees them come and go. Without an engine
/// only that it could not be asked.
pub fn exposition(audited: &Audited, took: Duration) -> Result<String, TelemetryError> {
    let successful = audited.error.is_none();
    let last = LastRun { ended: unix_seconds(), took, successful };
    let open = successful.then(|| open(audited));
    Runs { interval: None, last: Some(last), open }.exposition()
}

/// Writes the file at once: whoever reads it sees the old one or the new one.
pub fn write(audited: &Audited, took: Duration, path: &Path) -> io::Result<()> {
    let text = exposition(audited, took).map_err(io::Error::other)?;
    let mut beside = path.as_os_str().to_owned();
    // The collector takes what ends in `.prom`.
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, text)?;
    fs::rename(&beside, path).inspect_err(|_| {
        // The first error is the one to tell.
        let _left_over = fs::remove_file(&beside);
    })
}
