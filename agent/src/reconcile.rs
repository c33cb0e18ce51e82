//! The agent's loop: what is known of the host and what the policy says come in, the kernel's state goes out. One
//! task owns the datapath; everything else reads the state that it publishes.

mod guard;
mod policies;
mod publish;
mod registry;
mod watch;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch as channel;

use self::{policies::Policies, registry::Registry};
pub use self::{
    policies::{BY_SIGNAL, PolicyError},
    registry::RegistryError,
    watch::PolicyWatch,
};
use crate::{
    backstop::{Backstop, BackstopError},
    config::Settings,
    datapath::{Datapath, DatapathError, attach::AttachError},
    interference::Ledger,
    inventory::{self, snapshot::Snapshot},
    policy::{entries::Entries, resolve::ResolveError},
    service,
    state::{AgentState, unenforceable},
    telemetry::Telemetry,
};

/// How often expired flows are removed.
const COLLECT_EVERY: Duration = Duration::from_secs(10);
/// How often what failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often a new policy is tried again that was taken back for a reason that passes.
const POSTPONED: Duration = Duration::from_secs(5);

/// What moves the loop.
#[derive(Debug)]
pub enum Event {
    /// The host changed, as far as the inventory can tell.
    Host(inventory::Update),
    /// The policy files may have changed, or somebody asks to read them again.
    Reload { reason: &'static str },
    /// Time to clean up and to try again what failed.
    Tick,
}

/// A pass that changed nothing in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Backstop(#[from] BackstopError),
}

impl PassError {
    /// Whether the same may work later, though nobody changes the policy: a full disk gets room, the kernel memory.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Registry(RegistryError::Resolve(_)) => false,
            Self::Registry(_) | Self::Backstop(_) => true,
            Self::Datapath(error) => !matches!(error, DatapathError::Full { .. }),
        }
    }
}

/// The state of the loop.
pub struct Reconciler {
    datapath: Datapath,
    backstop: Option<Backstop>,
    policies: Policies,
    registry: Registry,
    /// What is known of the host, though it may not have been taken in yet.
    newest: channel::Receiver<inventory::Update>,
    update: Option<inventory::Update>,
    /// What the kernel was last brought to.
    applied: Option<(Arc<Snapshot>, Arc<Entries>)>,
    /// Whether the last pass left something undone.
    unfinished: bool,
    collected: Instant,
    state: channel::Sender<Arc<AgentState>>,
    telemetry: Arc<Telemetry>,
    last_error: Option<String>,
    /// Since when a new policy waits to be tried again.
    postponed: Option<Instant>,
    /// What others did to what enforces.
    ledger: Ledger,
    /// What the last pass complained of.
    complaints: BTreeSet<String>,
    /// What lies in the pin directory and is not ours.
    strangers: Vec<PathBuf>,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reconciler").field("datapath", &self.datapath).finish_non_exhaustive()
    }
}

/// Reads the policies for the first time. An agent without a valid policy does not start.
pub fn load_policies(settings: &Settings) -> Result<Policies, PolicyError> {
    Policies::load(settings.policy.clone(), settings.profile.clone())
}

/// Reads the identity numbers of earlier runs.
pub fn load_registry(settings: &Settings) -> Result<Registry, RegistryError> {
    Registry::load(&settings.state_dir)
}

impl Reconciler {
    #[must_use]
    pub fn new(
        datapath: Datapath,
        backstop: Option<Backstop>,
        policies: Policies,
        registry: Registry,
        newest: channel::Receiver<inventory::Update>,
        state: channel::Sender<Arc<AgentState>>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self {
            datapath,
            backstop,
            policies,
            registry,
            newest,
            update: None,
            applied: None,
            unfinished: false,
            collected: Instant::now(),
            state,
            telemetry,
            last_error: None,
            postponed: None,
            ledger: Ledger::default(),
            complaints: BTreeSet::new(),
            strangers: Vec::new(),
        }
    }

    /// Takes in one event and brings the kernel to where it should be.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Host(update) => {
                self.update = Some(update);
                self.pass();
            }
            Event::Reload { reason } => {
                self.postponed = None;
                service::reloading(&self.state.borrow());
                if self.policies.reload(reason) {
                    self.pass();
                }
                self.publish();
                service::reloaded(&self.state.borrow());
                return;
            }
            Event::Tick => {
                service::alive();
                self.guard();
                self.collect_flows();
                let due = self.postponed.take_if(|since| since.elapsed() >= POSTPONED).is_some();
                let again = due && self.policies.reload(policies::AGAIN);
                if !again && !self.unfinished {
                    return;
                }
                self.pass();
            }
        }
        self.publish();
    }

    fn pass(&mut self) {
        let Some(update) = self.update.clone() else { return };
        self.unfinished = false;
        let mut complaints = BTreeSet::new();
        // First of all: a port with a program and nothing else is denied.
        for error in self.attach(&update) {
            complaints.insert(format!("port not attached: {}", Chain(&error)));
            self.unfinished = true;
        }
        self.unfinished |= self.datapath.lingers();
        // Until the inventory has been read whole once, what an earlier agent pinned knows better.
        if update.complete {
            let attempt = |this: &mut Self| {
                this.apply(&update).err().map(|error| (this.failed(&error), error.may_pass()))
            };
            let mut failure = attempt(self);
            // A new policy that does not fit keeps nothing else from being applied.
            if let Some((error, may_pass)) = &failure
                && self.policies.failed_to_apply(error)
            {
                self.postponed = may_pass.then(Instant::now);
                failure = attempt(self);
            }
            self.unfinished |= failure.is_some();
            // Programs of an earlier agent went on until these know the policy.
            if failure.is_none() && self.datapath.is_deferring() {
                for error in self.attach(&update) {
                    complaints.insert(format!("port not attached: {}", Chain(&error)));
                    self.unfinished = true;
                }
            }
            self.last_error = failure.map(|(error, _)| error);
        }
        for left_out in self.datapath.left_out() {
            let (container, reason) = (&left_out.container, &left_out.reason);
            complaints.insert(format!("endpoint `{container}` left without rights: {reason}"));
        }
        if let Some((snapshot, entries)) = &self.applied {
            complaints.extend(unenforceable(snapshot, entries).map(|container| {
                let (name, obstacle) = (&container.container, &container.obstacle);
                format!("container `{name}` cannot be enforced: it {obstacle}")
            }));
        }
        self.strangers = self.datapath.strangers();
        complaints.extend(
            self.strangers
                .iter()
                .map(|path| format!("`{}` in the pin directory is not ours: left alone", path.display())),
        );
        // What is tried again every second is told once.
        for complaint in complaints.difference(&self.complaints) {
            tracing::warn!("{complaint}");
        }
        self.complaints = complaints;
    }

    /// Attaches the programs, and measures how long new ports waited for theirs.
    fn attach(&mut self, update: &inventory::Update) -> Vec<AttachError> {
        let mut newest = Arc::clone(&update.snapshot);
        let errors = self.datapath.attach(&update.snapshot, update.complete, || {
            let now = Arc::clone(&self.newest.borrow().snapshot);
            let is_new = !Arc::ptr_eq(&now, &newest);
            newest = now;
            is_new.then(|| Arc::clone(&newest))
        });
        let noticed = Arc::clone(&self.newest.borrow().noticed);
        for (ifindex, guarded) in self.datapath.take_guarded() {
            if let Some(noticed) = noticed.get(&ifindex) {
                self.telemetry.observe_enforce_delay(guarded.saturating_duration_since(*noticed));
            }
        }
        errors
    }

    /// What went wrong, as a text; told once, not each time that it is tried again.
    fn failed(&self, error: &PassError) -> String {
        let text = Chain(error).to_string();
        let told = [&self.last_error, &self.policies.state().last_error];
        if !told.into_iter().flatten().any(|said| *said == text) {
            tracing::error!(error = %text, "state not applied, the old one stays in force");
        }
        text
    }

    fn apply(&mut self, update: &inventory::Update) -> Result<(), PassError> {
        let started = Instant::now();
        let entries = self.registry.resolve(self.policies.set(), &update.snapshot)?;
        let moved = self.datapath.apply(&update.snapshot, &entries)?;
        self.policies.applied();
        if moved {
            self.telemetry.observe_policy_apply(started.elapsed());
            tracing::info!(
                revision = self.datapath.revision(),
                rules = entries.rules.len(),
                "policy in force"
            );
        }
        let entries = Arc::new(entries);
        self.applied = Some((Arc::clone(&update.snapshot), Arc::clone(&entries)));
        if let Some(backstop) = &mut self.backstop {
            backstop.bring(&update.snapshot, &entries)?;
        }
        Ok(())
    }

    fn collect_flows(&mut self) {
        if self.collected.elapsed() < COLLECT_EVERY {
            return;
        }
        self.collected = Instant::now();
        match self.datapath.collect_flows(boot_time()) {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "expired flows removed"),
            Err(error) => tracing::warn!(error = %Chain(&error), "expired flows not removed"),
        }
    }
}

/// Feeds the loop until it is told to stop. `None`: nobody tells it about the host any more.
pub async fn run(
    mut reconciler: Reconciler,
    mut updates: channel::Receiver<inventory::Update>,
    mut reloads: tokio::sync::mpsc::Receiver<&'static str>,
    mut stop: channel::Receiver<bool>,
) -> Option<Reconciler> {
    let mut tick = tokio::time::interval(RETRY_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    reconciler.publish();
    loop {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => return Some(reconciler),
            changed = updates.changed() => match changed {
                Ok(()) => Event::Host(updates.borrow_and_update().clone()),
                Err(_closed) => {
                    // As at any other end, what is attached stays attached.
                    std::mem::forget(reconciler);
                    return None;
                }
            },
            Some(reason) = reloads.recv() => Event::Reload { reason },
            _ = tick.tick() => Event::Tick,
        };
        reconciler.handle(event);
    }
}

/// Nanoseconds since boot, suspend included: the clock of the kernel programs.
fn boot_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// An error with its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        let mut said = self.0.to_string();
        while let Some(error) = cause {
            let text = error.to_string();
            // Transparent errors say the same as their cause.
            if !said.contains(&text) {
                write!(formatter, ": {text}")?;
            }
            said = text;
            cause = error.source();
        }
        Ok(())
    }
}
