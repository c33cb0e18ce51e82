//! What `check` and `audit` have in common: policies and baselines in, a report in one of its forms out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;

use super::output::{UNKNOWN, finish, note};
use crate::{
    audit::{self, Audited},
    check::{self, Level, baseline::Baseline, report::Report},
    diagnostics::{self, Diagnostic, Severity, has_errors},
    policy::{self, PolicySet, Source},
    sources,
};

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum FailOn {
    Error,
    #[default]
    Warning,
    Info,
    /// Findings never make it fail.
    Never,
}

impl FailOn {
    /// Whether something of this severity makes the command fail.
    pub(super) fn fails(self, level: Level) -> bool {
        match self {
            Self::Error => level >= Level::Error,
            Self::Warning => level >= Level::Warning,
            Self::Info => true,
            Self::Never => false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For code hosts.
    Sarif,
    /// For CI systems.
    Junit,
}

/// A report that can be printed in every form; JSON is what it is as a value.
pub(super) trait Reported: Serialize {
    fn text(&self) -> String;
    fn sarif(&self) -> serde_json::Result<String>;
    fn junit(&self) -> String;
}

impl Reported for Report {
    fn text(&self) -> String {
        self.text()
    }

    fn sarif(&self) -> serde_json::Result<String> {
        check::sarif::write(self)
    }

    fn junit(&self) -> String {
        check::junit::write(self)
    }
}

impl Reported for Audited {
    fn text(&self) -> String {
        audit::report::text(self)
    }

    fn sarif(&self) -> serde_json::Result<String> {
        audit::sarif::write(self)
    }

    fn junit(&self) -> String {
        audit::junit::write(self)
    }
}

/// Prints a report and ends with `code`.
pub(super) fn print(report: &impl Reported, form: Form, code: u8) -> ExitCode {
    let written = match form {
        Form::Text => Ok(report.text()),
        Form::Json => serde_json::to_string_pretty(report).map(|text| text + "\n"),
        Form::Sarif => report.sarif(),
        Form::Junit => Ok(report.junit()),
    };
    match written {
        Ok(text) => finish(&text, code),
        Err(error) => {
            note(&format!("error: failed to write the report: {error}"));
            ExitCode::from(UNKNOWN)
        }
    }
}

/// Reads policies; what they are warned of goes to standard error.
pub(super) fn policies(paths: &[PathBuf], profile: Option<&str>) -> Result<PolicySet, Vec<Diagnostic>> {
    let (texts, unreadable) = sources::read(paths);
    if !unreadable.is_empty() {
        let faults = unreadable.iter().map(|error| {
            let cause =
                std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            fault("C001", String::new(), format!("{error}{cause}"), error.hint().map(str::to_owned))
        });
        return Err(faults.collect());
    }
    let loaded = policy::load(&texts, profile);
    match loaded.policies {
        Some(policies) if !has_errors(&loaded.diagnostics) => {
            let shown = diagnostics::render(&loaded.diagnostics, true);
            if !shown.is_empty() {
                note(shown.trim_end());
            }
            Ok(policies)
        }
        _ => Err(loaded.diagnostics),
    }
}

/// Reads a baseline; `more` can be accepted besides the findings.
pub(super) fn baseline(
    path: &Path,
    more: &[(&'static str, &'static str)],
) -> Result<Baseline, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        vec![fault("C001", String::new(), format!("failed to read `{name}`: {error}"), None)]
    })?;
    Baseline::parse_with(&Source { name, text }, more).map_err(|fault| vec![*fault])
}

/// A mistake without a place.
pub(super) fn fault(code: &'static str, file: String, message: String, hint: Option<String>) -> Diagnostic {
    Diagnostic { severity: Severity::Error, code, message, file, place: None, hint }
}
