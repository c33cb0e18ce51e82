//! What the service manager is told, where there is one (`NOTIFY_SOCKET`, see sd_notify(3)).

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::state::AgentState;

/// Tells that everything that was found is enforced, once it is.
pub async fn ready(mut state: watch::Receiver<Arc<AgentState>>) {
    if state.wait_for(|state| state.ready).await.is_err() {
        return;
    }
    tracing::info!("ready");
    tell(&[NotifyState::Ready]);
}

/// Tells that the policy is being read again. Before the start is complete that is part of it.
pub fn reloading(state: &AgentState) {
    if state.ready {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "no clock for the service manager"),
        }
    }
}

/// Tells that the policy has been read again. A manager that was told of a reload waits for this.
pub fn reloaded(state: &AgentState) {
    if state.ready {
        tell(&[NotifyState::Ready]);
    }
}

/// Tells that the loop still runs, to a manager that restarts what does not (`WatchdogSec=`).
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// Tells that the agent is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "no service manager to notify");
    }
}
