//! What exists on the host: containers and networks from the Docker Engine or a file, interfaces and
//! addresses from netlink, merged into one [`snapshot::Snapshot`]. Decides nothing about policy.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use snapshot::Snapshot;

pub mod containers;
pub mod docker;
pub mod file;
pub mod identity;
pub mod links;
pub mod merge;
pub mod netlink;
pub mod resolvers;
mod run;
pub mod snapshot;

/// Hints that nobody has taken yet; one that does not fit is no loss, as the engine's events say the same later.
const HINTS: usize = 64;

/// Where knowledge of containers comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The Engine API at this URL, else at `DOCKER_HOST`, else at the usual socket.
    Docker { url: Option<String> },
    /// A file that names endpoints by their port.
    File(PathBuf),
}

/// The state of the host after something in it changed.
#[derive(Clone, Debug)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    /// Whether the engine answers, or the file is readable and valid.
    pub connected: bool,
    /// Whether the kernel was asked for everything and the source was, at least once, listed whole. What a source
    /// said before it became unreachable stays in the snapshot.
    pub complete: bool,
    /// Why `connected` is false, for people.
    pub error: Option<String>,
    /// When each port of a watched bridge was first known to be one, by ifindex.
    pub noticed: Arc<BTreeMap<u32, Instant>>,
}

impl Update {
    /// Whether there is nothing to wait for any more before enforcing: all is known, or the source is known to be
    /// unreachable.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.complete || self.error.is_some()
    }
}

/// The running inventory; it stops when this is dropped.
#[derive(Debug)]
pub struct InventoryHandle {
    updates: watch::Receiver<Update>,
    _tasks: JoinSet<()>,
}

impl InventoryHandle {
    /// The newest state, and a way to wait for the next one. A slow reader misses intermediate states only.
    #[must_use]
    pub fn updates(&self) -> watch::Receiver<Update> {
        self.updates.clone()
    }
}

/// Starts to follow the kernel and `source` on the current tokio runtime, in the calling thread's network
/// namespace. A source that is unreachable is no error; no netlink is.
pub fn start(source: Source) -> Result<InventoryHandle, netlink::NetlinkError> {
    let origin = Instant::now();
    let sockets = netlink::open()?;
    let (sender, updates) = watch::channel(Update {
        snapshot: Arc::default(),
        connected: false,
        complete: false,
        error: None,
        noticed: Arc::default(),
    });
    let mut tasks = JoinSet::new();
    let feed = match source {
        Source::Docker { url } => {
            let (sender, receiver) = watch::channel(docker::watch::EngineState::default());
            let (hint, hints) = mpsc::channel(HINTS);
            tasks.spawn(docker::watch::follow(url, origin, sender, hints));
            run::Feed::Engine { receiver, hint }
        }
        Source::File(path) => {
            let (sender, receiver) = watch::channel(file::FileState::default());
            tasks.spawn(file::follow(path, sender));
            run::Feed::File { receiver }
        }
    };
    tasks.spawn(run::run(sockets, feed, origin, sender));
    Ok(InventoryHandle { updates, _tasks: tasks })
}

/// Reads the host once: waits until everything is known or the source has failed, at most `limit`.
///
/// What is known by then comes back even if it is not all; [`Update::complete`] tells.
pub async fn once(source: Source, limit: Duration) -> Result<Update, netlink::NetlinkError> {
    let handle = start(source)?;
    let mut updates = handle.updates();
    // The watch ends only with the handle, and the limit is what the caller asked for.
    let settled = tokio::time::timeout(limit, updates.wait_for(Update::is_settled)).await.is_ok();
    tracing::debug!(settled, "inventory read once");
    let update = updates.borrow().clone();
    Ok(update)
}
