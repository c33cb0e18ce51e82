//! Keeps what is known of the engine current: a full list at every (re)connection and now and then, single
//! containers and the networks on events. Whatever fails leaves the last good state in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{Client, DockerError, Event, url::socket_path};
use crate::inventory::{
    containers::{Container, Containers, Network},
    links::Moment,
};

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// An engine that has not even said its version by then is taken for unreachable for now, while it is still being
/// waited for. A socket that a service manager holds takes calls long before an engine answers them; where that engine
/// is to start after the agent, each would wait for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events may get lost; then this long at most.
const RELIST: Duration = Duration::from_secs(30);
/// A stream of events that says nothing may belong to an engine that hangs.
const PING: Duration = Duration::from_secs(5);
/// One container whose inspection hangs must not hold up the others, nor should all be asked for at once.
const INSPECTIONS: usize = 8;
const INSPECTION_RETRY: Duration = Duration::from_secs(1);

/// What the engine said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineState {
    pub(crate) containers: Arc<Containers>,
    pub(crate) connected: bool,
    /// Whether everything was listed and inspected once.
    pub(crate) complete: bool,
    pub(crate) error: Option<String>,
}

/// Follows the engine at `url` until nobody listens. An id that arrives on `hints` is looked at again at once.
pub(crate) async fn follow(
    url: Option<String>,
    origin: Instant,
    sender: watch::Sender<EngineState>,
    mut hints: mpsc::Receiver<String>,
) {
    let mut retry = FIRST_RETRY;
    let socket = socket_path(url.as_deref());
    loop {
        let error = tokio::select! {
            error = session(url.as_deref(), origin, &sender, &mut hints) => error,
            () = sender.closed() => return,
        };
        let was_connected = sender.borrow().connected;
        let text = with_causes(&error);
        if was_connected || sender.borrow().error.as_ref() != Some(&text) {
            warn!(error = text, "docker unreachable, the containers known last stay in force");
        }
        sender.send_modify(|state| {
            state.connected = false;
            state.error = Some(text);
        });
        if was_connected {
            retry = FIRST_RETRY;
        }
        tokio::select! {
            () = sleep(retry) => {}
            // Containers start the moment the engine does.
            () = socket_made(socket.as_deref()) => {}
        }
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// Waits until there is another socket file than now.
async fn socket_made(path: Option<&Path>) {
    let Some(path) = path else {
        return std::future::pending().await;
    };
    let identity = || std::fs::metadata(path).ok().map(|file| (file.ino(), file.ctime(), file.ctime_nsec()));
    let before = identity();
    loop {
        sleep(FIRST_RETRY).await;
        let now = identity();
        if now.is_some() && now != before {
            return;
        }
    }
}

/// An error on one line; causes that it repeats are left out.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What a request came to.
enum Outcome {
    Listed(Moment, Result<(BTreeMap<String, Network>, BTreeSet<String>), DockerError>),
    Networks(Moment, Result<BTreeMap<String, Network>, DockerError>),
    Starting(String, Result<Option<Container>, DockerError>),
    Inspected(String, Result<Option<Container>, DockerError>),
    RetryInspection(String),
    Pinged(Result<(), DockerError>),
}

/// The requests of one connection, and what waits for its turn.
struct Session<'a> {
    client: Client,
    origin: Instant,
    sender: &'a watch::Sender<EngineState>,
    containers: Containers,
    requests: FuturesUnordered<BoxFuture<'static, Outcome>>,
    inspecting: BTreeSet<String>,
    /// Containers to inspect as soon as there is room; one of `inspecting` is then inspected once more, because
    /// the answer under way may be older than the event.
    waiting: BTreeSet<String>,
    /// Networks that containers were connected to since they were last inspected.
    connected: BTreeMap<String, BTreeSet<String>>,
    networks_requested: bool,
    networks_dirty: bool,
    /// Whether the first list of this connection has arrived.
    listed: bool,
    /// Whether each container of the first list was inspected.
    complete: bool,
}

async fn session(
    url: Option<&str>,
    origin: Instant,
    sender: &watch::Sender<EngineState>,
    hints: &mut mpsc::Receiver<String>,
) -> DockerError {
    let client = match connect(url, sender).await {
        Ok(client) => client,
        Err(error) => return error,
    };
    let mut events = client.events().boxed();
    let mut session = Session {
        client,
        origin,
        sender,
        containers: Containers::clone(&sender.borrow().containers),
        requests: FuturesUnordered::new(),
        inspecting: BTreeSet::new(),
        waiting: BTreeSet::new(),
        connected: BTreeMap::new(),
        networks_requested: false,
        networks_dirty: false,
        listed: false,
        complete: false,
    };
    let mut relist = interval(RELIST);
    let mut ping = interval(PING);
    for ticks in [&mut relist, &mut ping] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let result = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => { session.note(event); Ok(()) }
                Some(Err(error)) => Err(error),
                None => Err(DockerError::EventsEnded),
            },
            Some(outcome) = session.requests.next() => session.settle(outcome),
            Some(id) = hints.recv() => { session.note(Event::Container(id)); Ok(()) }
            _ = relist.tick() => { session.list(); Ok(()) }
            _ = ping.tick() => { session.ping(); Ok(()) }
        };
        if let Err(error) = result {
            return error;
        }
        session.ask();
    }
}

/// Connects, and tells when that takes long.
async fn connect(url: Option<&str>, sender: &watch::Sender<EngineState>) -> Result<Client, DockerError> {
    let mut connecting = pin!(Client::connect(url));
    if let Ok(result) = timeout(PATIENCE, &mut connecting).await {
        return result;
    }
    sender.send_if_modified(|state| {
        let is_news = state.error.is_none();
        state.error.get_or_insert_with(|| "no answer from docker yet".to_owned());
        is_news
    });
    connecting.await
}

impl Session<'_> {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Container(id) => {
                self.waiting.insert(id);
            }
            Event::Connected { container, network } => {
                let networks = self.connected.entry(container.clone()).or_default();
                networks.insert(network);
                let (client, networks) = (self.client.clone(), networks.iter().cloned().collect::<Vec<_>>());
                self.waiting.insert(container.clone());
                self.requests.push(
                    async move {
                        let result = client.starting(&container, &networks).await;
                        Outcome::Starting(container, result)
                    }
                    .boxed(),
                );
            }
            Event::Networks => self.networks_dirty = true,
            Event::Irrelevant => {}
        }
    }

    fn list(&mut self) {
        let (client, now) = (self.client.clone(), self.now());
        self.requests.push(
            async move {
                let list = async { Ok((client.networks().await?, client.container_ids().await?)) };
                Outcome::Listed(now, list.await)
            }
            .boxed(),
        );
    }

    fn ping(&mut self) {
        let client = self.client.clone();
        self.requests.push(async move { Outcome::Pinged(client.ping().await) }.boxed());
    }

    /// Sends what waits, as far as there is room.
    fn ask(&mut self) {
        if self.networks_dirty && !self.networks_requested {
            self.networks_dirty = false;
            self.networks_requested = true;
            let (client, now) = (self.client.clone(), self.now());
            self.requests.push(async move { Outcome::Networks(now, client.networks().await) }.boxed());
        }
        while self.inspecting.len() < INSPECTIONS {
            let Some(id) = self.waiting.iter().find(|id| !self.inspecting.contains(*id)).cloned() else {
                break;
            };
            self.waiting.remove(&id);
            self.inspecting.insert(id.clone());
            let client = self.client.clone();
            self.requests.push(
                async move {
                    let result = client.container(&id).await;
                    Outcome::Inspected(id, result)
                }
                .boxed(),
            );
        }
    }

    /// Takes in an answer and whatever else has arrived, then publishes once.
    fn settle(&mut self, outcome: Outcome) -> Result<(), DockerError> {
        let mut next = Some(outcome);
        while let Some(outcome) = next {
            self.take(outcome)?;
            next = self.requests.next().now_or_never().flatten();
        }
        if self.listed && self.inspecting.is_empty() && self.waiting.is_empty() {
            self.complete = true;
        }
        self.publish();
        Ok(())
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), DockerError> {
        match outcome {
            Outcome::Listed(now, result) => {
                let (networks, ids) = result?;
                self.take_networks(now, networks);
                // What started after the list was made is in the events, and inspected for them.
                self.containers.containers.retain(|id, _| {
                    ids.contains(id) || self.inspecting.contains(id) || self.waiting.contains(id)
                });
                self.waiting.extend(ids);
                if !self.listed {
                    self.listed = true;
                    info!(containers = self.waiting.len(), "docker connected");
                }
            }
            Outcome::Networks(now, result) => {
                self.networks_requested = false;
                self.take_networks(now, result?);
            }
            Outcome::Starting(id, result) => match result {
                // An inspection that has been answered meanwhile knows better.
                Ok(Some(container)) if self.connected.contains_key(&id) => self.take_starting(container),
                Ok(_) => {}
                Err(error) => debug!(container = %id, %error, "starting container not seen early"),
            },
            Outcome::Inspected(id, result) => {
                self.inspecting.remove(&id);
                // Unless it is asked for again: then this answer may be older than the connection.
                if !self.waiting.contains(&id) {
                    self.connected.remove(&id);
                }
                match result {
                    Ok(Some(container)) => {
                        // A network that is newer than the last list of networks.
                        self.networks_dirty |= self.knows_not_all_networks(&container);
                        if self.containers.containers.get(&id).is_none_or(|known| **known != container) {
                            self.containers.containers.insert(id, Arc::new(container));
                        }
                    }
                    Ok(None) => {
                        self.containers.containers.remove(&id);
                    }
                    Err(error) => {
                        debug!(container = %id, %error, "container not inspected, trying again");
                        self.requests
                            .push(sleep(INSPECTION_RETRY).map(|()| Outcome::RetryInspection(id)).boxed());
                    }
                }
            }
            Outcome::RetryInspection(id) => {
                self.waiting.insert(id);
            }
            Outcome::Pinged(result) => result?,
        }
        Ok(())
    }

    /// Adds what is new about a container that is being started or connected to another network.
    fn take_starting(&mut self, starting: Container) {
        self.networks_dirty |= self.knows_not_all_networks(&starting);
        let Some(known) = self.containers.containers.get_mut(&starting.id) else {
            self.containers.containers.insert(starting.id.clone(), Arc::new(starting));
            return;
        };
        let known = Arc::make_mut(known);
        for attachment in starting.attachments {
            if known.attachments.iter().all(|other| other.network_id != attachment.network_id) {
                known.attachments.push(attachment);
            }
        }
        known.attachments.sort();
    }

    fn knows_not_all_networks(&self, container: &Container) -> bool {
        container.attachments.iter().any(|attachment| {
            !attachment.network_id.is_empty()
                && !self.containers.networks.contains_key(&attachment.network_id)
        })
    }

    fn take_networks(&mut self, now: Moment, networks: BTreeMap<String, Network>) {
        // Answers may overtake one another.
        if self.containers.networks_listed.is_none_or(|listed| listed < now) {
            self.containers.networks = networks;
            self.containers.networks_listed = Some(now);
        }
    }

    fn publish(&self) {
        self.sender.send_if_modified(|state| {
            let complete = state.complete || self.complete;
            let changed = *state.containers != self.containers
                || state.connected != self.listed
                || state.complete != complete
                || (self.listed && state.error.is_some());
            if changed {
                state.containers = Arc::new(self.containers.clone());
                state.connected = self.listed;
                state.complete = complete;
                if self.listed {
                    state.error = None;
                }
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the socket of an engine that a service manager has yet to start.
    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_told_before_the_request_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (sender, mut receiver) = watch::channel(EngineState::default());
        let (_hint, hints) = mpsc::channel(1);
        let url = format!("unix://{}", path.display());
        tokio::spawn(follow(Some(url), Instant::now(), sender, hints));
        let told = timeout(
            crate::inventory::docker::REQUEST_TIMEOUT,
            receiver.wait_for(|state| state.error.is_some()),
        )
        .await;
        let state = told.expect("told in time").unwrap().clone();
        assert_eq!(state.error.as_deref(), Some("no answer from docker yet"));
        assert!(!state.connected && !state.complete);
    }
}
