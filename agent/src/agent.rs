//! The running agent: sets its parts up in an order in which enforcement never waits for convenience, and takes
//! them down without taking enforcement down.

use std::{error::Error, io, path::PathBuf, sync::Arc};

use agent_common::counter::DeniedKey;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    audit::interval::{self, Plan},
    backstop::{self, Backstop, BackstopError},
    config::{self, Inventory, Settings},
    control::{self, BindError, ControlSocket},
    datapath::{Datapath, DatapathError, Options, counters::Counters, kernel, streams::Events},
    events::{self, EventPipeline, format::Formatter, queue::EventQueue, recent::Recent, sink::Target},
    http,
    inventory::{self, netlink::NetlinkError},
    policy::glob::Glob,
    reconcile::{self, PolicyError, PolicyWatch, Reconciler, RegistryError},
    service,
    state::{AgentState, InventorySource, InventoryState},
    status::unix_seconds,
    telemetry::{
        Telemetry, TelemetryError,
        audit::Runs,
        server::{self, ListenError},
        source::{CounterError, CounterReading, CounterSource, MapUsage},
        web::{WebConfig, WebConfigError, WebListener},
    },
};

/// The agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Backstop(#[from] BackstopError),
    #[error(transparent)]
    Web(#[from] WebConfigError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Control(#[from] BindError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("failed to follow interfaces")]
    Netlink(#[from] NetlinkError),
    #[error("the inventory has ended, which is a defect; what is enforced stays enforced")]
    InventoryEnded,
    #[error("failed to write events to `{target}`")]
    Events { target: String, source: io::Error },
    #[error("failed to {verb}")]
    Io { verb: &'static str, source: io::Error },
}

impl StartError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint().map(str::to_owned),
            Self::Listen(error) => error.hint(),
            Self::Control(error) => error.hint().map(|hint| hint.to_string()),
            Self::Datapath(error) => error.hint(),
            Self::Backstop(error) => error.hint(),
            Self::Events { .. } => Some(
                "`--events` takes `-`, `journald`, `syslog+udp://HOST:PORT`, `syslog+tcp://HOST:PORT` or a \
                     file that can be written"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Runs the agent until it is told to stop. What is enforced stays enforced.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    // Everything that can be wrong is looked at before the kernel is touched. Rights come first: without them the
    // rest cannot even be read, and would be blamed for it.
    kernel::probe(settings.attach).map_err(DatapathError::from)?;
    let policies = reconcile::load_policies(&settings)?;
    let registry = reconcile::load_registry(&settings)?;
    let web = settings.web_config.as_deref().map(WebConfig::load).transpose()?.map(Arc::new);
    let listener = server::bind(settings.listen).await?;
    if web.is_none() && !settings.listen.ip().is_loopback() {
        tracing::warn!(address = %settings.listen, "whoever reaches this address can read the metrics");
    }
    let control = ControlSocket::bind(&settings.control)?;
    let (pipeline, recent) = open_events(&settings)?;
    let mut options = Options::new(settings.pin_dir.clone());
    options.mark_mask = settings.mark_mask;
    options.timeouts = settings.timeouts;
    options.sizes = settings.sizes;
    options.via = settings.attach;
    options.diagnostics = settings.datapath_log;
    options.uplinks = settings.uplinks.iter().map(|pattern| Glob::new(pattern)).collect();
    options.adopt = settings.adopt;
    let mut datapath = Datapath::open(&options)?;
    // Only now are the pins, and so the table, this agent's.
    let backstop = open_backstop(&settings)?;
    log_programs(&mut datapath);

    let counters: Arc<dyn CounterSource> = Arc::new(KernelCounters {
        counters: datapath.counters()?,
        pipeline: pipeline.clone(),
        pin_dir: backstop.is_some().then(|| settings.pin_dir.clone()),
    });
    let (sender, state) = watch::channel(Arc::new(initial_state(&settings)));
    let telemetry = Arc::new(Telemetry::new(state.clone(), Arc::clone(&counters))?);
    if let Some(plan) = &settings.audit {
        start_audits(plan, &settings, &telemetry, state.clone())?;
    }
    let (stop_sender, stop) = watch::channel(false);
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        // A closed channel is an end too.
        drop(stop.wait_for(|&stop| stop).await);
    };

    for old in datapath.old_events()? {
        tokio::spawn(read_events(old, pipeline.clone(), state.clone()));
    }
    tokio::spawn(read_events(datapath.take_events()?, pipeline, state.clone()));
    if settings.datapath_log
        && let Some(diagnostics) = datapath.take_diagnostics()
    {
        tokio::spawn(diagnostics.run());
    }
    tokio::spawn(http::serve(
        WebListener::new(listener, web.clone()),
        server::router(Arc::clone(&telemetry), state.clone(), web),
        http::Limits::default(),
        stopped(stop.clone()),
    ));
    tokio::spawn(http::serve(
        control,
        control::router(state.clone(), counters, recent),
        http::Limits::default(),
        stopped(stop.clone()),
    ));

    let source = match &settings.inventory {
        Inventory::Docker { url } => inventory::Source::Docker { url: url.clone() },
        Inventory::File(path) => inventory::Source::File(path.clone()),
    };
    let inventory = inventory::start(source)?;
    let (reload_sender, reloads) = mpsc::channel(4);
    match PolicyWatch::new(&settings.policy) {
        Ok(watch) => drop(tokio::spawn(watch.run(reload_sender.clone()))),
        Err(error) => tracing::warn!(%error, "policy files are not watched; SIGHUP reloads them"),
    }
    listen_for_signals(reload_sender, stop_sender)?;
    tokio::spawn(service::ready(state.clone()));

    let reconciler = Reconciler::new(datapath, backstop, policies, registry, sender, telemetry);
    let reconciler = reconcile::run(reconciler, inventory.updates(), reloads, stop)
        .await
        .ok_or(StartError::InventoryEnded)?;
    service::stopping();
    tracing::info!("stopping; what is enforced stays enforced, `portcullis detach` removes it");
    // Destructors of the datapath have no business here: links are pinned, filters stay.
    std::mem::forget(reconciler);
    Ok(())
}

fn initial_state(settings: &Settings) -> AgentState {
    let source = match settings.inventory {
        Inventory::Docker { .. } => InventorySource::Docker,
        Inventory::File(_) => InventorySource::File,
    };
    AgentState {
        started_at: unix_seconds(),
        inventory: InventoryState { source, ..InventoryState::default() },
        ..AgentState::default()
    }
}

/// The backstop, if there is to be one; else what is left of an earlier one goes.
fn open_backstop(settings: &Settings) -> Result<Option<Backstop>, BackstopError> {
    if settings.backstop == config::Backstop::Nft {
        return Backstop::open(settings).map(Some);
    }
    match backstop::remove(&settings.pin_dir, &settings.state_dir) {
        Ok(true) => tracing::info!("the backstop of an earlier agent is removed"),
        Ok(false) => {}
        // It is stricter than this agent was told to be, which is no reason to enforce nothing.
        Err(error) => tracing::warn!(error = %reconcile::Chain(&error), "an earlier backstop stays in force"),
    }
    Ok(None)
}

fn open_events(settings: &Settings) -> Result<(EventPipeline, Arc<Recent>), StartError> {
    let failed = |source| StartError::Events { target: settings.events.clone(), source };
    let target: Target = settings.events.parse().map_err(|error| failed(io::Error::other(error)))?;
    let formatter = Formatter::new(settings.event_format);
    let sink = target.open(formatter, settings.event_file).map_err(failed)?;
    // The thread may hang in a sink that blocks; it ends with the process.
    let (queue, _thread) = EventQueue::start(sink, events::queue::CAPACITY).map_err(failed)?;
    let recent = Arc::new(Recent::default());
    Ok((EventPipeline::new(Arc::clone(&recent), Some(queue)), recent))
}

fn start_audits(
    plan: &Plan,
    settings: &Settings,
    telemetry: &Telemetry,
    state: watch::Receiver<Arc<AgentState>>,
) -> Result<(), TelemetryError> {
    let (sender, runs) = watch::channel(Arc::new(Runs { interval: Some(plan.interval), ..Runs::default() }));
    telemetry.follow_audits(runs)?;
    tokio::spawn(interval::run(plan.clone(), settings.clone(), state, sender));
    Ok(())
}

fn log_programs(datapath: &mut Datapath) {
    match datapath.verified_instructions() {
        Ok(programs) => {
            for (program, instructions) in programs {
                tracing::info!(program, instructions, "program verified");
            }
        }
        Err(error) => tracing::debug!(error = %reconcile::Chain(&error), "no program statistics"),
    }
    tracing::info!(
        via = ?datapath.via(),
        revision = datapath.revision(),
        toolchain = crate::datapath::loader::BPF_TOOLCHAIN,
        "programs loaded"
    );
}

/// Counters as the metrics want them.
struct KernelCounters {
    counters: Counters,
    pipeline: EventPipeline,
    /// By which the backstop is known, if there is one.
    pin_dir: Option<PathBuf>,
}

impl CounterSource for KernelCounters {
    fn read(&self) -> Result<CounterReading, CounterError> {
        let reading = self.counters.read().map_err(|error| CounterError {
            map: error.name,
            source: Box::new(error) as Box<dyn Error + Send + Sync>,
        })?;
        let maps = self.counters.usage().into_iter().map(|(name, entries, capacity)| MapUsage {
            name,
            entries,
            capacity,
        });
        Ok(CounterReading {
            denied: reading.denied.into_iter().map(|(key, count): (DeniedKey, _)| (key, count)).collect(),
            totals: reading.totals,
            maps: maps.collect(),
            lost_in_agent: self.pipeline.lost(),
            suppressed_in_agent: self.pipeline.suppressed(),
            backstop_dropped: self.pin_dir.as_deref().and_then(backstop::dropped_packets).unwrap_or_default(),
            scans: self.pipeline.scans(),
        })
    }
}

async fn read_events(mut ring: Events, pipeline: EventPipeline, state: watch::Receiver<Arc<AgentState>>) {
    loop {
        let offset = events::clock_offset();
        let read = ring.read(|bytes| {
            let state = state.borrow().clone();
            if let Err(error) = pipeline.handle(bytes, &state, offset) {
                tracing::warn!(%error, "event not understood");
            }
        });
        if let Err(error) = read.await {
            tracing::error!(%error, "events are not read any more");
            return;
        }
    }
}

fn listen_for_signals(
    reloads: mpsc::Sender<&'static str>,
    stop: watch::Sender<bool>,
) -> Result<(), StartError> {
    let listen = |kind| signal(kind).map_err(|source| StartError::Io { verb: "listen for signals", source });
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    if reloads.send(reconcile::BY_SIGNAL).await.is_err() {
                        return;
                    }
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        stop.send_replace(true);
    });
    Ok(())
}
