//! Creates the socket so that nobody else can ever open it, and so that two agents cannot share it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
};

use axum::serve::Listener;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// The socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another agent answers on `{path}`")]
    InUse { path: PathBuf },
    #[error("`{path}` is in the way: it is not a socket")]
    NotASocket { path: PathBuf },
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl BindError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => {
                Some("stop it first, or give this one its own `--control`, `--pin-dir` and `--state-dir`")
            }
            Self::NotASocket { .. } => Some("remove it, or name another path with `--control`"),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the agent runs as root; `--control` names a path that this user may write")
            }
            Self::Io { .. } => None,
        }
    }
}

/// The listening socket; its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl ControlSocket {
    /// Creates the socket, mode 0600, and its directory, mode 0700, if there is none. Replaces a socket that
    /// nobody answers on. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { action, path, source }
        };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io("create", parent))?;
        }
        ensure_free(path)?;
        // Under its final name the socket has its final mode from the start: there is no moment at which others
        // could connect. The rename also replaces a stale socket without a gap.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        remove(&temporary).map_err(io("remove", &temporary))?;
        let listener = UnixListener::bind(&temporary).map_err(io("bind", path))?;
        let placed = fs::set_permissions(&temporary, Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&temporary))
            .and_then(|metadata| fs::rename(&temporary, path).map(|()| metadata));
        let metadata = match placed {
            Ok(metadata) => metadata,
            Err(source) => {
                if let Err(error) = remove(&temporary) {
                    tracing::debug!(%error, "cannot remove the half-made control socket");
                }
                return Err(io("create", path)(source));
            }
        };
        Ok(Self { listener, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }
}

/// Fails if somebody answers on the path, or if it is something else than a socket.
fn ensure_free(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { action: "examine", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        // Refused: the socket's agent is gone. Not found: so is the socket by now.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(io(error)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // An agent that was started meanwhile may have put its own socket here.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if ours && let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the control socket");
        }
    }
}

impl Listener for ControlSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
