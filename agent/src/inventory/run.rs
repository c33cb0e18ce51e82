//! The loop that holds the kernel's and the source's state together and publishes what they amount to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    Update,
    links::{Change, Links, Moment},
    merge::{Known, merge},
    netlink::{self, NetlinkError, Notifications, Requests},
    snapshot::Snapshot,
};

pub(super) use feed::Feed;
use feed::Taken;

mod feed;

/// Notifications can get lost without the kernel noticing that they did.
const DUMP: Duration = Duration::from_secs(2);
/// How often a container whose port is not known yet is looked at again.
const PENDING: Duration = Duration::from_millis(250);
const REOPEN: Duration = Duration::from_millis(500);

/// Why the loop goes round.
enum Woken {
    /// The kernel said something.
    Kernel,
    /// The kernel answered. That alone is no reason to ask again.
    Answer,
    /// The kernel's notifications have ended.
    Lost,
    /// The source said something, or it is time to look.
    Look,
}

/// What the kernel answered. It may take its time: whoever makes or removes interfaces holds the same lock, and
/// a new port must not wait for that.
enum Answer {
    Dump(Result<Links, NetlinkError>),
    Namespace(PathBuf, Result<Option<i32>, NamespaceError>),
    OtherEnd { port: u32, namespace: i32, mac: Result<Option<[u8; 6]>, NetlinkError> },
}

/// A container's namespace could not be numbered.
#[derive(Debug, thiserror::Error)]
enum NamespaceError {
    #[error("failed to open it: {0}")]
    Open(#[source] std::io::Error),
    #[error(transparent)]
    Netlink(NetlinkError),
}

struct Run {
    notifications: Notifications,
    requests: Arc<Requests>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// What was notified since the dump under way was asked for: the dump may be older.
    since_dump: Option<Vec<Change>>,
    /// Whether the dump under way may miss something that got lost after it was asked for.
    dump_again: bool,
    asked_namespaces: BTreeSet<PathBuf>,
    asked_other_ends: BTreeSet<u32>,
    /// Numbers that became free while namespaces were being asked for.
    gone_namespaces: BTreeSet<i32>,
    feed: Feed,
    origin: Instant,
    sender: watch::Sender<Update>,
    taken: Taken,
    /// A newer one that takes its place as soon as its namespaces have been asked for: a container that has just
    /// been given its namespace would else lose its port until that is numbered.
    incoming: Option<Taken>,
    /// The namespaces that `incoming` waits for.
    awaited: BTreeSet<PathBuf>,
    links: Links,
    /// Whether the kernel was asked for everything once.
    dumped: bool,
    /// Namespace numbers by the file that stands for the namespace.
    namespaces: BTreeMap<PathBuf, i32>,
    /// The address at the other end of ports into namespaces of no known container, by ifindex.
    other_ends: BTreeMap<u32, [u8; 6]>,
    /// Files that could not be used, each complained of once.
    unusable: BTreeSet<PathBuf>,
    /// Ports that a hint was already given for.
    hinted: BTreeSet<u32>,
    /// When each port was first known to be one.
    noticed: BTreeMap<u32, Instant>,
}

/// Publishes to `sender` until nobody listens.
pub(super) async fn run(
    (notifications, requests): (Notifications, Requests),
    mut feed: Feed,
    origin: Instant,
    sender: watch::Sender<Update>,
) {
    let taken = feed.take();
    let mut run = Run {
        notifications,
        requests: Arc::new(requests),
        answers: FuturesUnordered::new(),
        since_dump: None,
        dump_again: false,
        asked_namespaces: BTreeSet::new(),
        asked_other_ends: BTreeSet::new(),
        gone_namespaces: BTreeSet::new(),
        feed,
        origin,
        sender,
        taken,
        incoming: None,
        awaited: BTreeSet::new(),
        links: Links::default(),
        dumped: false,
        namespaces: BTreeMap::new(),
        other_ends: BTreeMap::new(),
        unusable: BTreeSet::new(),
        hinted: BTreeSet::new(),
        noticed: BTreeMap::new(),
    };
    let mut dump = interval(DUMP);
    let mut pending = interval(PENDING);
    for ticks in [&mut dump, &mut pending] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut is_pending = false;
    loop {
        let mut woken = Woken::Look;
        let mut dirty = false;
        tokio::select! {
            biased;
            change = run.notifications.next() => match change {
                Some(change) => {
                    woken = Woken::Kernel;
                    dirty = run.apply(change);
                }
                None => woken = Woken::Lost,
            },
            Some(answer) = run.answers.next() => {
                woken = Woken::Answer;
                run.take(answer);
            }
            () = run.feed.changed() => run.incoming = Some(run.feed.take()),
            _ = dump.tick() => dirty = true,
            _ = pending.tick(), if is_pending => dirty = true,
            () = run.sender.closed() => return,
        }
        let seen = Instant::now();
        if matches!(woken, Woken::Lost) {
            run.reopen().await;
            dirty = true;
        }
        dirty |= run.drain();
        if dirty {
            run.dump();
        }
        if !matches!(woken, Woken::Answer) {
            run.number_namespaces();
        }
        if run.adopt() || !matches!(woken, Woken::Answer) {
            run.look_at_other_ends();
        }
        is_pending = run.publish(seen);
    }
}

impl Run {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Applies a notification; true if notifications were lost and only a dump helps.
    fn apply(&mut self, change: Change) -> bool {
        match &change {
            Change::Overrun => {
                warn!("interface notifications were lost, reading everything again");
                return true;
            }
            // The number may stand for another container's namespace next.
            Change::NamespaceGone(gone) => {
                self.namespaces.retain(|_, namespace| namespace != gone);
                if !(self.asked_namespaces.is_empty() && self.asked_other_ends.is_empty()) {
                    self.gone_namespaces.insert(*gone);
                }
            }
            Change::LinkGone(ifindex) => {
                self.hinted.remove(ifindex);
                self.other_ends.remove(ifindex);
            }
            _ => {}
        }
        if let Some(changes) = &mut self.since_dump {
            changes.push(change.clone());
        }
        let now = self.now();
        self.links.apply(change, now);
        false
    }

    /// Applies all notifications that are there; true as for [`Self::apply`].
    fn drain(&mut self) -> bool {
        let mut dirty = false;
        while let Some(change) = self.notifications.try_next() {
            dirty |= self.apply(change);
        }
        dirty
    }

    fn dump(&mut self) {
        if self.since_dump.is_some() {
            self.dump_again = true;
            return;
        }
        self.since_dump = Some(Vec::new());
        let requests = Arc::clone(&self.requests);
        self.answers.push(async move { Answer::Dump(requests.dump().await) }.boxed());
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Dump(result) => {
                let since = self.since_dump.take().unwrap_or_default();
                match result {
                    Ok(dump) => self.take_dump(dump, since),
                    Err(error) => warn!(%error, "interfaces not read"),
                }
                if std::mem::take(&mut self.dump_again) {
                    self.dump();
                }
            }
            Answer::Namespace(sandbox, result) => {
                self.asked_namespaces.remove(&sandbox);
                self.awaited.remove(&sandbox);
                match result {
                    Ok(Some(namespace)) if !self.gone_namespaces.contains(&namespace) => {
                        debug!(sandbox = %sandbox.display(), namespace, "namespace numbered");
                        self.namespaces.insert(sandbox, namespace);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        if self.unusable.insert(sandbox.clone()) {
                            debug!(sandbox = %sandbox.display(), %error, "namespace not numbered yet");
                        }
                    }
                }
            }
            Answer::OtherEnd { port, namespace, mac } => {
                self.asked_other_ends.remove(&port);
                let is_still =
                    self.links.links.get(&port).is_some_and(|link| link.netns_id == Some(namespace));
                match mac {
                    Ok(Some(mac)) if is_still && !self.gone_namespaces.contains(&namespace) => {
                        self.other_ends.insert(port, mac);
                    }
                    Ok(_) => {}
                    // The container is known anyway as soon as the engine has started it.
                    Err(error) => debug!(port, %error, "other end not seen"),
                }
            }
        }
        if self.asked_namespaces.is_empty() && self.asked_other_ends.is_empty() {
            self.gone_namespaces.clear();
        }
    }

    fn take_dump(&mut self, mut dump: Links, since: Vec<Change>) {
        let now = self.now();
        if self.dumped {
            self.links.replace(dump, now);
        } else {
            // What is there from the start has no time of appearance.
            for link in dump.links.values_mut() {
                link.appeared = None;
            }
            self.links = dump;
            self.dumped = true;
        }
        for change in since {
            self.links.apply(change, now);
        }
    }

    async fn reopen(&mut self) {
        warn!("netlink socket lost, opening another");
        loop {
            match netlink::open() {
                Ok((notifications, requests)) => {
                    self.notifications = notifications;
                    self.requests = Arc::new(requests);
                    info!("netlink socket opened");
                    return;
                }
                Err(error) => warn!(%error, "netlink socket not opened"),
            }
            sleep(REOPEN).await;
        }
    }

    /// Asks for the numbers of the namespaces that are not known yet.
    fn number_namespaces(&mut self) {
        let newest = self.incoming.as_ref().unwrap_or(&self.taken);
        let sandboxes = newest.sandboxes();
        let before = self.taken.sandboxes();
        self.namespaces.retain(|sandbox, _| sandboxes.contains(sandbox) || before.contains(sandbox));
        self.unusable.retain(|sandbox| sandboxes.contains(sandbox));
        let unknown = sandboxes.iter().filter(|sandbox| !self.namespaces.contains_key(*sandbox));
        if self.incoming.is_some() {
            // Those that could not be numbered before are not waited for.
            self.awaited = unknown.filter(|sandbox| !self.unusable.contains(*sandbox)).cloned().collect();
        }
        for sandbox in sandboxes {
            if self.namespaces.contains_key(&sandbox) || !self.asked_namespaces.insert(sandbox.clone()) {
                continue;
            }
            let requests = Arc::clone(&self.requests);
            self.answers.push(
                async move {
                    let number = number_namespace(&requests, &sandbox).await;
                    Answer::Namespace(sandbox, number)
                }
                .boxed(),
            );
        }
    }

    /// Lets the source's newest state take effect once its namespaces have been asked for; true if it does now.
    fn adopt(&mut self) -> bool {
        if self.awaited.is_empty()
            && let Some(incoming) = self.incoming.take()
        {
            self.taken = incoming;
            return true;
        }
        false
    }

    /// Finds the ports of containers that are being started by their MAC address.
    ///
    /// Looked at are only ports that lead into a namespace of no known container: a running container may give
    /// itself any address, one that is not running yet cannot. What was found to fit is not looked at again.
    fn look_at_other_ends(&mut self) {
        let Some(containers) = self.taken.containers() else {
            return;
        };
        let wanted: BTreeSet<[u8; 6]> = containers
            .containers
            .values()
            .filter(|container| container.sandbox.is_none())
            .flat_map(|container| container.attachments.iter().filter_map(|attachment| attachment.mac))
            .collect();
        let numbered: BTreeSet<i32> = self.namespaces.values().copied().collect();
        let links = &self.links.links;
        self.other_ends.retain(|ifindex, mac| {
            let namespace = links.get(ifindex).and_then(|link| link.netns_id);
            wanted.contains(mac) && namespace.is_some_and(|namespace| !numbered.contains(&namespace))
        });
        if wanted.iter().all(|mac| self.other_ends.values().any(|found| found == mac)) {
            return;
        }
        for link in links.values().filter(|link| link.kind == "veth" && link.master.is_some()) {
            let (Some(namespace), Some(peer)) = (link.netns_id, link.peer) else {
                continue;
            };
            if numbered.contains(&namespace)
                || self.other_ends.contains_key(&link.ifindex)
                || !self.asked_other_ends.insert(link.ifindex)
            {
                continue;
            }
            let (requests, port) = (Arc::clone(&self.requests), link.ifindex);
            self.answers.push(
                async move {
                    let mac = requests.mac_in(namespace, peer).await;
                    Answer::OtherEnd { port, namespace, mac }
                }
                .boxed(),
            );
        }
    }

    /// Publishes what is known if it differs from what was published; returns whether a port is still wanted. `seen` is
    /// when the kernel or the source spoke.
    fn publish(&mut self, seen: Instant) -> bool {
        if !self.dumped {
            return false;
        }
        let known = match &self.taken {
            Taken::Engine(state) => Known::Engine {
                containers: &state.containers,
                namespaces: &self.namespaces,
                other_ends: &self.other_ends,
            },
            Taken::File(state) => Known::File(&state.listed),
        };
        let snapshot = merge(known, &self.links);
        self.hint(&snapshot);
        let is_pending = matches!(self.taken, Taken::Engine(_))
            && snapshot.endpoints.iter().any(|endpoint| endpoint.port.is_none());
        let (connected, complete, error) = self.taken.status();
        let complete = complete && self.dumped;
        let noticed = &mut self.noticed;
        self.sender.send_if_modified(|update| {
            let changed = *update.snapshot != snapshot
                || (update.connected, update.complete, update.error.as_ref()) != (connected, complete, error);
            if changed {
                let before = std::mem::take(noticed);
                let ports = snapshot.ports.iter().map(|port| port.interface.ifindex);
                noticed.extend(ports.map(|port| (port, before.get(&port).copied().unwrap_or(seen))));
                let (snapshot, noticed) = (Arc::new(snapshot), Arc::new(noticed.clone()));
                *update = Update { snapshot, connected, complete, error: error.cloned(), noticed };
            }
            changed
        });
        is_pending
    }

    /// A port of a known container that the engine has not mentioned: it was connected to another network just
    /// now. Asking at once beats waiting for the event.
    fn hint(&mut self, snapshot: &Snapshot) {
        let (Feed::Engine { hint, .. }, Some(containers)) = (&self.feed, self.taken.containers()) else {
            return;
        };
        let taken: BTreeSet<u32> =
            snapshot.endpoints.iter().filter_map(|endpoint| Some(endpoint.port.as_ref()?.ifindex)).collect();
        for port in &snapshot.ports {
            let ifindex = port.interface.ifindex;
            if taken.contains(&ifindex) || self.hinted.contains(&ifindex) {
                continue;
            }
            let Some(namespace) = self.links.links.get(&ifindex).and_then(|link| link.netns_id) else {
                continue;
            };
            let Some((sandbox, _)) = self.namespaces.iter().find(|&(_, number)| *number == namespace) else {
                continue;
            };
            let owner = containers
                .containers
                .values()
                .find(|container| container.sandbox.as_deref() == Some(sandbox.as_path()));
            if let Some(owner) = owner
                && hint.try_send(owner.id.clone()).is_ok()
            {
                self.hinted.insert(ifindex);
            }
        }
    }
}

/// The number of the namespace that a file stands for. Neither enters it nor needs rights on its processes.
async fn number_namespace(requests: &Requests, sandbox: &Path) -> Result<Option<i32>, NamespaceError> {
    let file = File::open(sandbox).map_err(NamespaceError::Open)?;
    requests.namespace_id(file.as_fd()).await.map_err(NamespaceError::Netlink)
}
