//! The policies in force, and how a new text replaces them: whole and valid, or not at all.

use std::path::PathBuf;

use crate::{
    diagnostics::{self, Diagnostic},
    policy::{self, Source, model::PolicySet},
    sources::{self, SourceError},
    state::ReloadState,
    status::unix_seconds,
};

/// The texts do not make a policy.
#[derive(Debug, thiserror::Error)]
#[error("the policy cannot be used")]
pub struct PolicyError {
    sources: Vec<SourceError>,
    diagnostics: Vec<Diagnostic>,
}

impl PolicyError {
    /// Everything that is wrong, for people.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        let mut text: Vec<String> = self.sources.iter().map(SourceError::render).collect();
        if !self.diagnostics.is_empty() {
            text.push(diagnostics::render(&self.diagnostics, coloured));
        }
        text.join("\n\n")
    }

    /// The first thing that is wrong, on one line, and how many more there are.
    fn summary(&self) -> String {
        let mut lines: Vec<String> =
            self.sources.iter().map(|error| super::Chain(error).to_string()).collect();
        let errors = self.diagnostics.iter().filter(|found| found.severity == diagnostics::Severity::Error);
        lines.extend(errors.map(|found| match &found.place {
            Some(place) => format!("{}:{}:{}: {}", found.file, place.line, place.column, found.message),
            None => format!("{}: {}", found.file, found.message),
        }));
        match lines.len() {
            0 => self.to_string(),
            1 => lines.remove(0),
            more => format!("{} (and {} more)", lines.remove(0), more - 1),
        }
    }
}

/// The reason of a reload that somebody asked for.
pub const BY_SIGNAL: &str = "signal";
/// The reason of one that nobody asked for: what was taken back may work by now.
pub(super) const AGAIN: &str = "another try";

/// What the policy files say.
#[derive(Debug)]
pub struct Policies {
    paths: Vec<PathBuf>,
    profile: Option<String>,
    texts: Vec<Source>,
    set: PolicySet,
    /// The last good texts, while newer ones have not proved that they fit into the kernel.
    previous: Option<(Vec<Source>, PolicySet)>,
    state: ReloadState,
}

impl Policies {
    pub(super) fn load(paths: Vec<PathBuf>, profile: Option<String>) -> Result<Self, PolicyError> {
        let Reading { texts, set, warnings } = read(&paths, profile.as_deref())?;
        log_warnings(&warnings);
        let state = ReloadState { successful: true, last_success: unix_seconds(), last_error: None };
        Ok(Self { paths, profile, texts, set, previous: None, state })
    }

    pub(super) fn set(&self) -> &PolicySet {
        &self.set
    }

    pub(super) fn state(&self) -> &ReloadState {
        &self.state
    }

    /// Reads the files again; true if there is something new to apply.
    pub(super) fn reload(&mut self, reason: &'static str) -> bool {
        match read(&self.paths, self.profile.as_deref()) {
            Ok(Reading { texts, set, warnings }) => {
                let changed = texts != self.texts;
                let recovered = !self.state.successful;
                // Tried again, it is no success before it is in force.
                if reason != AGAIN || !changed {
                    self.state =
                        ReloadState { successful: true, last_success: unix_seconds(), last_error: None };
                }
                if !changed {
                    if recovered || reason == BY_SIGNAL {
                        tracing::info!(reason, "policy read again, unchanged");
                    }
                    return recovered;
                }
                if reason != AGAIN {
                    tracing::info!(reason, "policy read again, changed");
                    log_warnings(&warnings);
                }
                let old = (std::mem::replace(&mut self.texts, texts), std::mem::replace(&mut self.set, set));
                self.previous.get_or_insert(old);
                true
            }
            Err(error) => {
                let summary = error.summary();
                // Whoever asks gets an answer; a file that is only looked at again was told about before.
                if reason == BY_SIGNAL || self.state.last_error.as_ref() != Some(&summary) {
                    tracing::error!(reason, error = %summary, "invalid policy, the old one stays in force");
                }
                self.fail(summary);
                false
            }
        }
    }

    /// The policy is in force.
    pub(super) fn applied(&mut self) {
        // What was tried again has worked, if it is not the one before that was taken back to.
        if self.previous.take().is_some() && !self.state.successful {
            self.state = ReloadState { successful: true, last_success: unix_seconds(), last_error: None };
        }
    }

    /// The policy does not fit this host or its kernel: back to the last one that did, if there is one.
    pub(super) fn failed_to_apply(&mut self, error: &str) -> bool {
        let Some((texts, set)) = self.previous.take() else { return false };
        self.texts = texts;
        self.set = set;
        self.fail(error.to_owned());
        true
    }

    fn fail(&mut self, error: String) {
        self.state.successful = false;
        self.state.last_error = Some(error);
    }
}

/// What valid files say.
struct Reading {
    texts: Vec<Source>,
    set: PolicySet,
    warnings: Vec<Diagnostic>,
}

fn read(paths: &[PathBuf], profile: Option<&str>) -> Result<Reading, PolicyError> {
    let (texts, errors) = sources::read(paths);
    let loaded = policy::load(&texts, profile);
    match loaded.policies {
        Some(set) if errors.is_empty() => Ok(Reading { texts, set, warnings: loaded.diagnostics }),
        _ => Err(PolicyError { sources: errors, diagnostics: loaded.diagnostics }),
    }
}

fn log_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!(file = %warning.file, code = warning.code, message = %warning.message, "policy");
    }
}
