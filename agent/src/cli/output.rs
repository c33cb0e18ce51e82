//! Where commands write: data to standard output, everything else to standard error. Colour is taken out where the
//! stream or `NO_COLOR` asks for it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::ValueEnum;

/// Nothing was found.
pub(super) const CLEAN: u8 = 0;
/// Something was found.
pub(super) const FINDINGS: u8 = 1;
/// The question could not be answered.
pub(super) const UNKNOWN: u8 = 2;

/// The form of a command's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Writes data and ends with `code`. Whoever reads may have had enough (`| head`): that is no failure.
pub(super) fn finish(data: &str, code: u8) -> ExitCode {
    match anstream::stdout().write_all(data.as_bytes()).and_then(|()| anstream::stdout().flush()) {
        Ok(()) => ExitCode::from(code),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(error) => {
            note(&format!("error: failed to write to standard output: {error}"));
            ExitCode::from(UNKNOWN)
        }
    }
}

/// Writes a line that is not data.
pub(super) fn note(text: &str) {
    // There is nobody left to tell if standard error is gone.
    let _ignored = writeln!(anstream::stderr(), "{text}");
}
