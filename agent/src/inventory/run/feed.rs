//! The states that a source hands over, whichever source it is.

use std::{collections::BTreeSet, path::PathBuf};

use tokio::sync::{mpsc, watch};

use crate::inventory::{
    containers::{Containers, NetworkMode},
    docker::watch::EngineState,
    file::FileState,
};

/// Where the source's states come from.
pub(in crate::inventory) enum Feed {
    Engine {
        receiver: watch::Receiver<EngineState>,
        /// Containers about which the kernel knows more than the engine has said.
        hint: mpsc::Sender<String>,
    },
    File {
        receiver: watch::Receiver<FileState>,
    },
}

/// The source's state as the loop last took it.
pub(super) enum Taken {
    Engine(EngineState),
    File(FileState),
}

impl Feed {
    /// Waits for a new state; for ever once the source's task is gone.
    pub(super) async fn changed(&mut self) {
        let ended = match self {
            Self::Engine { receiver, .. } => receiver.changed().await.is_err(),
            Self::File { receiver } => receiver.changed().await.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn take(&mut self) -> Taken {
        match self {
            Self::Engine { receiver, .. } => Taken::Engine(receiver.borrow_and_update().clone()),
            Self::File { receiver } => Taken::File(receiver.borrow_and_update().clone()),
        }
    }
}

impl Taken {
    pub(super) fn status(&self) -> (bool, bool, Option<&String>) {
        match self {
            Self::Engine(state) => (state.connected, state.complete, state.error.as_ref()),
            Self::File(state) => (state.connected, state.complete, state.error.as_ref()),
        }
    }

    /// The files that stand for namespaces in which a container has an interface.
    pub(super) fn sandboxes(&self) -> BTreeSet<PathBuf> {
        self.containers()
            .into_iter()
            .flat_map(|containers| containers.containers.values())
            .filter(|container| container.network_mode == NetworkMode::Own)
            .filter(|container| container.attachments.iter().any(|attachment| attachment.mac.is_some()))
            .filter_map(|container| container.sandbox.clone())
            .collect()
    }

    pub(super) fn containers(&self) -> Option<&Containers> {
        match self {
            Self::Engine(state) => Some(&state.containers),
            Self::File(_) => None,
        }
    }
}
