//! Log lines of the agent itself. Denials are not logs: they have a schema and sinks of their own, see
//! [`crate::events`].

use std::{env, io, io::IsTerminal};

use rustix::fs::fstat;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt,
    util::TryInitError,
};

/// How log lines look on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// The journal where standard error is connected to it, text on a terminal, JSON otherwise.
    #[default]
    Auto,
    Text,
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("invalid log level `{level}`")]
    Level {
        level: String,
        #[source]
        source: ParseError,
    },
    #[error("logging is already set up")]
    Twice(#[from] TryInitError),
}

impl LoggingError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Level { .. } => Some(
                "one of `error`, `warn`, `info`, `debug`, `trace`, or per module: `info,portcullis::events=debug`",
            ),
            Self::Twice(_) => None,
        }
    }
}

/// Sets up logging for the process, `log` records of libraries included. `level` wins over `RUST_LOG`; without
/// either it is `info`.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), LoggingError> {
    let level =
        level.map(str::to_owned).or_else(|| env::var("RUST_LOG").ok().filter(|level| !level.is_empty()));
    let level = level.unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&level).map_err(|source| LoggingError::Level { level, source })?;
    // Setting a subscriber also bridges the `log` crate to it.
    tracing_subscriber::registry().with(output(format).with_filter(filter)).try_init()?;
    Ok(())
}

fn output(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let terminal = io::stderr().is_terminal();
    match format {
        // Without a journal (a container that inherited the variable) the lines still go somewhere.
        LogFormat::Auto if stderr_is_journal() => match tracing_journald::layer() {
            Ok(journal) => journal.with_field_prefix(Some("PORTCULLIS".to_owned())).boxed(),
            Err(_no_socket) => text(false),
        },
        LogFormat::Auto if !terminal => json(),
        LogFormat::Json => json(),
        LogFormat::Auto | LogFormat::Text => {
            text(terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        }
    }
}

fn text(colour: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false).boxed()
}

fn json() -> Box<dyn Layer<Registry> + Send + Sync> {
    fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed()
}

/// Whether standard error is the journal: systemd says which device and inode it connected to it, and a shell may
/// have redirected it since.
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
