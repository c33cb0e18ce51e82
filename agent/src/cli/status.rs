//! `portcullis status`: what is attached and enforced, as the running agent tells it.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use crate::{
    control::{self, client, client::ControlError},
    status::{Status, text},
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// The agent's control socket
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, env = "PORTCULLIS_CONTROL")]
    control: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people
    Text,
    /// One JSON document, schema `portcullis.status/v1`
    Json,
}

#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot write the status")]
    Write(#[from] io::Error),
    #[error("cannot encode the status")]
    Encode(#[from] serde_json::Error),
}

/// 0 if the agent answered, 2 if not.
#[must_use]
pub(super) fn run(args: &StatusArgs) -> ExitCode {
    match show(args, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(StatusError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(2)
        }
    }
}

fn show(args: &StatusArgs, out: &mut impl Write) -> Result<(), StatusError> {
    let status: Status = client::get_blocking(&args.control, control::STATUS)?;
    match args.output {
        Output::Text => out.write_all(text::render(&status).as_bytes())?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &status)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(out.flush()?)
}

fn report(error: &StatusError) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    let hint = match error {
        StatusError::Control(error) => error.hint(),
        StatusError::Write(_) | StatusError::Encode(_) => None,
    };
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
