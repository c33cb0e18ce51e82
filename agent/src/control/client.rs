//! Asks a running agent over its control socket. Every answer is bounded in time and size.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

/// How long an answer may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may be; a status of thousands of containers is a few megabytes.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The agent did not answer, or not as expected.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("agent is not running: nobody answers on `{path}`")]
    NotRunning { path: PathBuf },
    #[error("cannot connect to `{path}`")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("agent did not answer on `{path}` within {patience:?}")]
    TimedOut { path: PathBuf, patience: Duration },
    #[error("agent broke off its answer")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("agent answered `{status}`: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("agent's answer makes no sense")]
    Unreadable(#[from] serde_json::Error),
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
}

impl ControlError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotRunning { .. } => {
                Some("start it with `portcullis run`, or name its socket with `--control`")
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the socket belongs to the agent's user: use `sudo`")
            }
            Self::TimedOut { .. } => Some("it may be stuck: `journalctl -u portcullis` says more"),
            Self::Refused { status: StatusCode::NOT_FOUND, .. } | Self::Unreadable(_) => {
                Some("is the running agent of the same version as this command?")
            }
            _ => None,
        }
    }
}

/// Gets a resource and reads its JSON.
pub async fn get<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, ControlError> {
    get_within(socket, resource, PATIENCE).await
}

pub(super) async fn get_within<T: DeserializeOwned>(
    socket: &Path,
    resource: &str,
    patience: Duration,
) -> Result<T, ControlError> {
    let answer = timeout(patience, fetch(socket, resource)).await;
    let body = answer
        .unwrap_or_else(|_elapsed| Err(ControlError::TimedOut { path: socket.to_owned(), patience }))?;
    Ok(serde_json::from_slice(&body)?)
}

/// The same for a command that does nothing else.
pub fn get_blocking<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, ControlError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::Runtime)?
        .block_on(get(socket, resource))
}

async fn fetch(socket: &Path, resource: &str) -> Result<Bytes, ControlError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning { path },
            _ => ControlError::Connect { path, source },
        }
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| ControlError::Broken(error.into()))?;
    let request = Request::get(resource)
        .header(HOST, "portcullis")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ControlError::Broken(error.into()))?;
    let exchange = async {
        let response =
            sender.send_request(request).await.map_err(|error| ControlError::Broken(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        Ok::<_, ControlError>((status, body.map_err(ControlError::Broken)?.to_bytes()))
    };
    // The connection has to be driven for the exchange to get anywhere; the exchange ends first.
    let driver = async {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the agent ended early");
        }
        std::future::pending::<Infallible>().await
    };
    let (status, body) = tokio::select! {
        exchanged = exchange => exchanged?,
        never = driver => match never {},
    };
    if status != StatusCode::OK {
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(ControlError::Refused { status, body });
    }
    Ok(body)
}
