//! `portcullis run`: the agent.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use super::output;
use crate::{
    agent::{self, StartError},
    config::{self, ConfigError},
    events::format::EventFormat,
    privileges,
    reconcile::Chain,
    telemetry::logging::{self, LogFormat},
};

/// Arguments of `run`. Each also stands in `agent.yaml`, with underscores.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Policy file or directory of `*.yaml`; repeatable [default: /etc/portcullis/policy.d]
    #[arg(long, value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// The profile in force, instead of what the policies say
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// `docker`, or a file that lists endpoints [default: docker]
    #[arg(long, value_name = "docker|FILE")]
    inventory: Option<String>,
    /// The Docker Engine [default: the usual socket]
    #[arg(long, value_name = "URL", env = "DOCKER_HOST")]
    docker_host: Option<String>,
    /// Where metrics and health are served [default: 127.0.0.1:10477]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// TLS and passwords for that, as Prometheus's exporters have them [default: neither]
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,
    /// The control socket [default: /run/portcullis/portcullis.sock]
    #[arg(long, value_name = "PATH", env = "PORTCULLIS_CONTROL")]
    control: Option<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/portcullis]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Where identity numbers are kept [default: /var/lib/portcullis]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where denied attempts go: `-` is standard output; `syslog+udp://HOST:PORT` and `syslog+tcp://HOST:PORT` are
    /// syslog servers [default: -]
    #[arg(long, value_name = "-|journald|URL|FILE", allow_hyphen_values = true)]
    events: Option<String>,
    /// In which form [default: json]
    #[arg(long, value_name = "FORMAT", value_enum)]
    event_format: Option<EventFormat>,
    /// What holds back frames between two ports that both have no program [default: off]
    #[arg(long, value_name = "off|nft", value_enum)]
    backstop: Option<config::Backstop>,
    /// Settings file; only the default one may be missing [default: /etc/portcullis/agent.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look on standard error
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, also per module
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logging(#[from] logging::LoggingError),
    #[error("failed to start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// 0 after SIGTERM, 2 if the agent could not start.
#[must_use]
pub(super) fn run(args: &RunArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Start(StartError::Policy(error))) => {
            output::note(&error.render(true));
            ExitCode::from(output::UNKNOWN)
        }
        Err(error) => {
            output::note(&format!("error: {}", Chain(&error)));
            let hint = match &error {
                RunError::Start(error) => error.hint(),
                RunError::Logging(error) => error.hint().map(str::to_owned),
                RunError::Config(_) | RunError::Runtime(_) => None,
            };
            if let Some(hint) = hint {
                output::note(&format!("\nhint: {hint}"));
            }
            ExitCode::from(output::UNKNOWN)
        }
    }
}

fn start(args: &RunArgs) -> Result<(), RunError> {
    let flags = config::File {
        policy: (!args.policy.is_empty()).then(|| args.policy.clone()),
        profile: args.profile.clone(),
        inventory: args.inventory.clone(),
        docker_host: args.docker_host.clone(),
        listen: args.listen,
        web_config: args.web_config.clone(),
        control: args.control.clone(),
        pin_dir: args.pin_dir.clone(),
        state_dir: args.state_dir.clone(),
        events: args.events.clone(),
        event_format: args.event_format,
        backstop: args.backstop,
        ..config::File::default()
    };
    let settings = flags.or(config::File::read(args.config.as_deref())?).complete();
    let level = match (&args.log_level, settings.datapath_log) {
        (None, true) => Some("info,portcullis_ebpf=debug"),
        (level, _) => level.as_deref(),
    };
    logging::init(args.log_format, level)?;
    // Before the runtime has threads.
    if let Err(error) = privileges::drop_unneeded() {
        tracing::warn!(error = %Chain(&error), "the agent has more rights than it needs");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(agent::run(settings));
    // Tasks that wait for a slow reader must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(result?)
}
