//! Notices that policy files may have changed. Whether they have, reading them tells.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use inotify::{Inotify, WatchMask};
use tokio::sync::mpsc;

/// Editors and config maps write in several steps; the last one is waited for this long.
const SETTLE: Duration = Duration::from_millis(300);

/// A watch on the directories that policy files are in.
#[derive(Debug)]
pub struct PolicyWatch {
    inotify: Inotify,
}

impl PolicyWatch {
    /// Watches directories rather than files: a file that is replaced is another file.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE;
        let directories: BTreeSet<PathBuf> =
            paths.iter().filter(|path| path.as_os_str() != "-").map(|path| directory(path)).collect();
        for directory in directories {
            inotify.watches().add(&directory, mask)?;
        }
        Ok(Self { inotify })
    }

    /// Asks for a reload after each burst of changes, until the receiver is gone.
    pub async fn run(self, reloads: mpsc::Sender<&'static str>) {
        let mut events = match self.inotify.into_event_stream([0; 4096]) {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "policy files are not watched; SIGHUP reloads them");
                return;
            }
        };
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "policy files are not watched any more; SIGHUP reloads them");
                return;
            }
            // Swallows what follows closely; a quiet moment ends the burst.
            while tokio::time::timeout(SETTLE, events.next()).await.is_ok_and(|event| event.is_some()) {}
            if reloads.send("file change").await.is_err() {
                return;
            }
        }
    }
}

fn directory(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
