//! Notices that policy files may have changed. Whether they have, reading them tells.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use inotify::{Inotify, WatchMask, Watches};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

/// Editors and config maps write in several steps; the last one is waited for this long.
const SETTLE: Duration = Duration::from_millis(300);
/// A directory in which something is always being written is read this often all the same.
const LONGEST_BURST: Duration = Duration::from_secs(3);
/// How often a directory that is gone is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A watch on the directories that policy files are in.
#[derive(Debug)]
pub struct PolicyWatch {
    inotify: Inotify,
    paths: Vec<PathBuf>,
}

impl PolicyWatch {
    /// Watches directories rather than files: a file that is replaced is another file.
    pub fn new(paths: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let paths: Vec<PathBuf> =
            paths.iter().filter(|path| path.as_os_str() != "-").map(PathBuf::clone).collect();
        watch(&mut inotify.watches(), &paths)?;
        Ok(Self { inotify, paths })
    }

    /// Asks for a reload after each burst of changes, until the receiver is gone.
    pub async fn run(self, reloads: mpsc::Sender<&'static str>) {
        let mut watches = self.inotify.watches();
        let mut events = match self.inotify.into_event_stream([0; 4096]) {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "policy files are not watched; SIGHUP reloads them");
                return;
            }
        };
        let mut complete = true;
        loop {
            let wait = if complete { Duration::MAX } else { LOOK_AGAIN };
            match timeout(wait, events.next()).await {
                Ok(Some(Ok(_event))) => {}
                Ok(Some(Err(error))) => {
                    tracing::warn!(%error, "policy files are not watched any more; SIGHUP reloads them");
                    return;
                }
                Ok(None) => return,
                Err(_elapsed) => {
                    if watch(&mut watches, &self.paths).is_err() {
                        continue;
                    }
                }
            }
            // Swallows what follows closely; a quiet moment ends the burst.
            let end = Instant::now() + LONGEST_BURST;
            while timeout_at(end.min(Instant::now() + SETTLE), events.next())
                .await
                .is_ok_and(|event| event.is_some())
            {}
            // A directory, or what a symbolic link leads to, may be another one by now.
            complete = watch(&mut watches, &self.paths).is_ok();
            if reloads.send("file change").await.is_err() {
                return;
            }
        }
    }
}

/// Watches all directories there are; adding one again changes nothing.
fn watch(watches: &mut Watches, paths: &[PathBuf]) -> io::Result<()> {
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE_SELF
        | WatchMask::DELETE_SELF;
    let directories: BTreeSet<PathBuf> = paths.iter().flat_map(|path| directories(path)).collect();
    let mut result = Ok(());
    for directory in directories {
        if let Err(error) = watches.add(&directory, mask) {
            result = Err(error);
        }
    }
    result
}

/// Where a change of what a path stands for shows: its own directory, and that of a link's target.
fn directories(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        return vec![path.to_owned()];
    }
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let target = path.canonicalize().ok();
    [Some(parent(path)), target.as_deref().map(parent)].into_iter().flatten().collect()
}
