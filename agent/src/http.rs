//! Serves a router to a bounded number of connections, each with a bounded time to say what it wants. Shared by the
//! metrics port and the control socket.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How much a listener's peers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// From the start of a request to the end of its header.
    pub header: Duration,
    /// Of one connection; whoever wants more opens another.
    pub lifetime: Duration,
    /// For open requests when the agent stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header: Duration::from_secs(5),
            lifetime: Duration::from_secs(120),
            drain: Duration::from_secs(3),
        }
    }
}

/// Serves until `shutdown` is done, then lets open requests finish for a moment.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut shutdown = pin!(shutdown);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed, so there is always a permit in the end.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            let (io, _peer) = listener.accept().await;
            Some((io, permit))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => None,
        };
        let Some((io, permit)) = accepted else { break };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection::<L>(io, router.clone(), limits, stopped.clone(), permit));
    }
    drop(listener);
    drop(stop);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::debug!("closed connections that were still open at shutdown");
    }
}

async fn connection<L: Listener>(
    io: L::Io,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _closed = stopped.changed() => None,
        () = sleep(limits.lifetime) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.drain, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
