//! The control socket: how the other commands talk to the running agent. HTTP over a unix socket that only its
//! owner may open. It answers questions; it changes nothing.

pub mod client;
mod socket;

use std::{path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::spawn_blocking};

pub use self::socket::{BindError, ControlSocket};
use crate::{
    events::{recent::Recent, record::Record},
    state::AgentState,
    status::{self, Status},
    telemetry::source::CounterSource,
};

/// Where the socket is unless told otherwise.
pub const DEFAULT_PATH: &str = "/run/portcullis/portcullis.sock";
/// The resource behind `portcullis status`.
pub const STATUS: &str = "/v1/status";
/// The resource behind `portcullis events`; `?from=N` leaves out what came before record N.
pub const RECENT_EVENTS: &str = "/v1/events/recent";

/// The answer to [`RECENT_EVENTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentEvents {
    /// `portcullis.events/v1`
    pub schema: String,
    /// Oldest first.
    pub events: Vec<Record>,
    /// What to pass as `from` to get only what is new.
    pub next: u64,
}

/// The schema of [`RecentEvents`].
pub const EVENTS_SCHEMA: &str = "portcullis.events/v1";

#[derive(Clone)]
struct Shared {
    state: watch::Receiver<Arc<AgentState>>,
    counters: Arc<dyn CounterSource>,
    recent: Arc<Recent>,
}

/// What the socket answers.
pub fn router(
    state: watch::Receiver<Arc<AgentState>>,
    counters: Arc<dyn CounterSource>,
    recent: Arc<Recent>,
) -> Router {
    Router::new()
        .route(STATUS, get(answer_status))
        .route(RECENT_EVENTS, get(answer_events))
        .with_state(Shared { state, counters, recent })
}

/// The default path, for `--control` and settings.
#[must_use]
pub fn default_path() -> &'static Path {
    Path::new(DEFAULT_PATH)
}

async fn answer_status(State(shared): State<Shared>) -> Response {
    let state = Arc::clone(&shared.state.borrow());
    let counters = shared.counters;
    let status = spawn_blocking(move || {
        let reading = counters
            .read()
            .inspect_err(|error| {
                let error: &dyn std::error::Error = error;
                tracing::warn!(error, "cannot read counters, status goes without");
            })
            .ok();
        Status::new(&state, reading.as_ref(), status::unix_seconds())
    });
    match status.await {
        Ok(status) => Json(status).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn answer_events(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let from = match query.as_deref().filter(|query| !query.is_empty()) {
        None => Some(0),
        Some(query) => query.strip_prefix("from=").and_then(|number| number.parse().ok()),
    };
    let Some(from) = from else {
        return (StatusCode::BAD_REQUEST, "expected `from=NUMBER`\n").into_response();
    };
    let (events, next) = shared.recent.since(from);
    let events = events.iter().map(|record| Record::clone(record)).collect();
    Json(RecentEvents { schema: EVENTS_SCHEMA.to_owned(), events, next }).into_response()
}

#[cfg(test)]
mod tests;
