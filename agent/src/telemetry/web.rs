//! Who may read the metrics, and over what: TLS and passwords from a file in the format that Prometheus's exporters share
//! (`--web.config.file` of the exporter toolkit). The file and the certificates are read again when they change.

mod auth;
mod listener;
mod settings;

#[cfg(test)]
mod tests;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio_rustls::rustls::ServerConfig;

pub use self::{auth::guard, listener::WebListener, settings::WebConfigError};
use crate::reconcile::Chain;

/// What is in force.
#[derive(Debug)]
struct Loaded {
    tls: Option<Arc<ServerConfig>>,
    users: auth::Users,
    /// What it was read from.
    files: Vec<PathBuf>,
}

/// The web configuration of a running agent.
#[derive(Debug)]
pub struct WebConfig {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    loaded: Arc<Loaded>,
    seen: Vec<Stamp>,
}

/// What tells one content of a file from another; nothing if it is gone.
type Stamp = Option<(u64, i64, i64)>;

impl WebConfig {
    /// Reads the file, its certificates and keys.
    pub fn load(path: &Path) -> Result<Self, WebConfigError> {
        let loaded = Arc::new(settings::read(path)?);
        let seen = stamps(&loaded.files);
        Ok(Self { path: path.to_owned(), state: Mutex::new(State { loaded, seen }) })
    }

    /// What is in force now. New files that cannot be used change nothing, and are told once.
    fn current(&self) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&state.loaded.files);
        if now != state.seen {
            state.seen = now;
            match settings::read(&self.path) {
                Ok(loaded) => {
                    state.seen = stamps(&loaded.files);
                    state.loaded = Arc::new(loaded);
                    tracing::info!(file = %self.path.display(), "web configuration read again");
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "invalid web configuration, the old one stays in force");
                }
            }
        }
        Arc::clone(&state.loaded)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let data = fs::metadata(file).ok()?;
        Some((data.ino(), data.mtime(), data.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
