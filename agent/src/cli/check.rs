//! `portcullis check`: compose files against the policy, before anything starts.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use compose::{Fault, FaultKind, Loaded, Request, Sources};

use super::{
    output::{CLEAN, FINDINGS, UNKNOWN, note},
    reporting::{FailOn, Form, baseline, fault, policies, print},
};
use crate::{
    check::{self, report::Report},
    diagnostics::{self, Diagnostic, Place, Severity},
    policy::PolicySet,
};

/// Checks compose files against the policy: exit 0 if clean, 1 with findings, 2 if it could not tell.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Compose files, `-` for standard input (also what `docker compose config --format json` prints); without any,
    /// the files that Compose itself would take.
    #[arg(value_name = "COMPOSE")]
    files: Vec<PathBuf>,
    /// A policy file or a directory with `*.yaml` and `*.yml`; may be given several times.
    #[arg(long, required = true, value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// The profile to check, of the policy and of the compose files; without it, the one that the policy names.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Another profile of the compose files that is in use; `*` for all.
    #[arg(long, value_name = "NAME")]
    compose_profile: Vec<String>,
    /// The name of the project.
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Where relative paths are meant from, instead of the folder of the first file.
    #[arg(long, value_name = "DIR")]
    project_directory: Option<PathBuf>,
    /// A file with variables, instead of `.env`; may be given several times.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A file of findings that are accepted, each with a reason.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The least severity that makes the command fail.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    fail_on: FailOn,
    /// How to print what was found.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

pub(super) fn run(arguments: &CheckArgs) -> ExitCode {
    let report = match answer(arguments) {
        Ok(report) => report,
        Err(faults) => {
            note(diagnostics::render(&faults, true).trim_end());
            Report::failed(faults)
        }
    };
    let code = code(&report, arguments.fail_on);
    print(&report, arguments.output, code)
}

fn code(report: &Report, fail_on: FailOn) -> u8 {
    if report.checked.is_none() {
        return UNKNOWN;
    }
    if report.findings().iter().any(|finding| fail_on.fails(finding.level)) { FINDINGS } else { CLEAN }
}

fn answer(arguments: &CheckArgs) -> Result<Report, Vec<Diagnostic>> {
    let policies = policies(&arguments.policy, arguments.profile.as_deref())?;
    let baseline = arguments.baseline.as_deref().map(|path| baseline(path, &[])).transpose()?;
    let request = request(arguments, &policies)?;
    let Loaded { sources, warnings, project } = compose::load(&request);
    let warnings: Vec<Diagnostic> =
        warnings.iter().map(|warning| diagnostic(warning, &sources, Severity::Warning)).collect();
    let shown = diagnostics::render(&warnings, true);
    if !shown.is_empty() {
        note(shown.trim_end());
    }
    let project = project.map_err(|faults| -> Vec<Diagnostic> {
        faults.iter().map(|fault| diagnostic(fault, &sources, Severity::Error)).collect()
    })?;
    let mut checked = check::check(&project, &sources, &policies)
        .map_err(|error| vec![fault("C008", String::new(), error.to_string(), error.hint())])?;
    let mut accepted = Vec::new();
    if let Some(baseline) = baseline {
        let today = jiff::Zoned::now().date();
        let findings = std::mem::take(&mut checked.findings);
        (checked.findings, accepted) = baseline.apply(findings, today);
    }
    Ok(Report::of(checked, accepted))
}

/// More than the loader accepts.
const MAX_STDIN: u64 = 8 << 20;

fn request(arguments: &CheckArgs, policies: &PolicySet) -> Result<Request, Vec<Diagnostic>> {
    let failed = |what: &str, error: &io::Error| {
        vec![fault("C001", String::new(), format!("failed to {what}: {error}"), None)]
    };
    let mut standard_input = None;
    if arguments.files.iter().any(|file| file == Path::new("-")) {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(MAX_STDIN)
            .read_to_string(&mut text)
            .map_err(|error| failed("read standard input", &error))?;
        standard_input = Some(text);
    }
    let mut profiles = arguments.compose_profile.clone();
    // Somebody who starts the profile of the policy starts it in the compose files as well.
    profiles.extend(policies.policies.iter().filter_map(|policy| policy.profile.clone()));
    let environment: BTreeMap<String, String> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Request {
        files: arguments.files.clone(),
        standard_input,
        working_directory: env::current_dir()
            .map_err(|error| failed("find the working directory", &error))?,
        project_directory: arguments.project_directory.clone(),
        project_name: arguments.project_name.clone(),
        env_files: arguments.env_file.clone(),
        profiles,
        environment,
    })
}

fn diagnostic(fault: &Fault, sources: &Sources, severity: Severity) -> Diagnostic {
    let source = fault.span.and_then(|span| Some((sources.files.get(span.source)?, span)));
    let code = match fault.kind {
        FaultKind::Unreadable => "C001",
        FaultKind::Syntax => "C002",
        FaultKind::Limit => "C003",
        FaultKind::Schema => "C004",
        FaultKind::Interpolation => "C005",
        FaultKind::Reference => "C006",
        FaultKind::Inconsistent => "C007",
    };
    Diagnostic {
        severity,
        code,
        message: fault.message.clone(),
        file: source.map(|(source, _)| source.name.clone()).unwrap_or_default(),
        place: source.map(|(source, span)| Place::of_bytes(&source.text, span.start, span.end)),
        hint: fault.hint.clone(),
    }
}
