//! The HTTP endpoints for Prometheus, probes and the curious.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, task::spawn_blocking};

use super::{
    Telemetry,
    web::{self, WebConfig},
};
use crate::state::AgentState;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10477);

/// The address could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl ListenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => Some(format!(
                "another process has the port, maybe another agent: `ss -ltnp 'sport = :{}'` names it; \
                 `--listen` chooses another address",
                self.address.port()
            )),
            io::ErrorKind::AddrNotAvailable => {
                Some("the host has no such address; `--listen` chooses another".to_owned())
            }
            io::ErrorKind::PermissionDenied => Some("ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()),
            _ => None,
        }
    }
}

/// Binds the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

#[derive(Clone)]
struct Shared {
    telemetry: Arc<Telemetry>,
    state: watch::Receiver<Arc<AgentState>>,
}

/// `/metrics`, `/healthz`, `/readyz` and `/`, for those whom the web configuration lets in.
pub fn router(
    telemetry: Arc<Telemetry>,
    state: watch::Receiver<Arc<AgentState>>,
    web: Option<Arc<WebConfig>>,
) -> Router {
    let router = Router::new()
        .route("/", get(async || Html(LANDING_PAGE)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { telemetry, state });
    match web {
        Some(web) => router.layer(from_fn_with_state(web, web::guard)),
        None => router,
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.state.borrow().waiting_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    // Reading per-CPU maps is a few thousand system calls: not on the threads that serve everybody.
    match spawn_blocking(move || shared.telemetry.encode()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "cannot produce metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

const LANDING_PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Portcullis</title></head>\n",
    "<body><h1>Portcullis ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<p>Enforces a declarative service exposure policy on this Docker host.</p>\n<ul>\n",
    "<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\n",
    "<li><a href=\"/healthz\">/healthz</a>: the agent runs</li>\n",
    "<li><a href=\"/readyz\">/readyz</a>: everything that was found is enforced</li>\n",
    "</ul>\n<p><code>portcullis status</code> on the host says more.</p></body></html>\n",
);
