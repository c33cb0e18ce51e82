//! `portcullis policy`: finds mistakes in policies, shows what they come down to, prints their schema.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use super::output::{CLEAN, FINDINGS, Format, UNKNOWN, finish, note};
use crate::{
    diagnostics::{self, Diagnostic, has_errors},
    policy::{
        Loaded, load,
        matrix::{Matrix, PolicyMatrix, matrix},
        schema,
    },
    sources,
};

/// Work with policies: nothing here needs a running agent, Docker or privileges.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake with its place: exit 0 without errors, 1 with some, 2 if a file cannot be read.
    Lint(Lint),
    /// Show who may reach which port and what each service may reach.
    Show(Show),
    /// Print the JSON Schema of policy files, for editors.
    Schema,
}

#[derive(Debug, Args)]
struct Lint {
    /// Policy files, directories with `*.yaml` and `*.yml`, or `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The profile in force, in place of the one that a policy names.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// How to print findings.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct Show {
    /// A policy file, a directory with `*.yaml` and `*.yml`, or `-` for standard input; may be given several times.
    #[arg(long, required = true, value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// The profile in force, in place of the one that a policy names.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// How to print the tables.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.command {
        Command::Lint(lint) => run_lint(lint),
        Command::Show(show) => run_show(show),
        Command::Schema => match schema::schema() {
            Ok(text) => finish(&text, CLEAN),
            Err(error) => fail(&format!("error: failed to write the schema: {error}")),
        },
    }
}

fn fail(message: &str) -> ExitCode {
    note(message);
    ExitCode::from(UNKNOWN)
}

#[derive(Serialize)]
struct LintReport<'r> {
    schema: &'static str,
    diagnostics: &'r [Diagnostic],
}

fn run_lint(arguments: &Lint) -> ExitCode {
    let (texts, unreadable) = sources::read(&arguments.files);
    for error in &unreadable {
        note(&error.render());
    }
    let found = load(&texts, arguments.profile.as_deref()).diagnostics;
    let code = match (unreadable.is_empty(), has_errors(&found)) {
        (false, _) => UNKNOWN,
        (true, true) => FINDINGS,
        (true, false) => CLEAN,
    };
    match arguments.output {
        Format::Text => finish(&diagnostics::render(&found, true), code),
        Format::Json => finish_json(&LintReport { schema: "portcullis.lint/v1", diagnostics: &found }, code),
    }
}

#[derive(Serialize)]
struct ShowReport<'r> {
    schema: &'static str,
    #[serde(flatten)]
    matrix: &'r Matrix,
}

fn run_show(arguments: &Show) -> ExitCode {
    let (texts, unreadable) = sources::read(&arguments.policy);
    for error in &unreadable {
        note(&error.render());
    }
    let Loaded { policies, diagnostics } = load(&texts, arguments.profile.as_deref());
    let findings = diagnostics::render(&diagnostics, true);
    if !findings.is_empty() {
        note(findings.trim_end());
    }
    let Some(policies) = policies.filter(|_| unreadable.is_empty()) else {
        return ExitCode::from(UNKNOWN);
    };
    let shown = match matrix(&policies) {
        Ok(shown) => shown,
        Err(error) => return fail(&format!("error: failed to resolve the policies: {error}")),
    };
    match arguments.output {
        Format::Text => finish(&tables(&shown), CLEAN),
        Format::Json => finish_json(&ShowReport { schema: "portcullis.policy/v1", matrix: &shown }, CLEAN),
    }
}

fn finish_json(value: &impl Serialize, code: u8) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => finish(&(text + "\n"), code),
        Err(error) => fail(&format!("error: failed to write JSON: {error}")),
    }
}

fn tables(shown: &Matrix) -> String {
    shown.policies.iter().map(policy_tables).collect::<Vec<_>>().join("\n")
}

fn policy_tables(policy: &PolicyMatrix) -> String {
    let mut text = String::new();
    let profile = policy.profile.as_deref().unwrap_or("(none)");
    // Writing to a `String` cannot fail.
    let _infallible = writeln!(
        text,
        "policy {} ({}), mode {}, profile {profile}\n\nwho may reach which port",
        policy.policy, policy.applies_to, policy.mode
    );
    let mut ingress = Table::new();
    ingress.load_style(UTF8_HORIZONTAL_ONLY);
    ingress.set_header(["service", "port", "severity", "mode", "reached by"]);
    for row in &policy.ingress {
        let allowed: Vec<&str> =
            row.sources.iter().filter(|cell| cell.allowed).map(|cell| cell.source.as_str()).collect();
        let reached_by = match (row.in_profile, allowed.is_empty()) {
            (false, _) => "(not in this profile)".to_owned(),
            (true, true) => "nobody".to_owned(),
            (true, false) => allowed.join(", "),
        };
        ingress.add_row([row.service.as_str(), &row.port, row.severity, row.mode, &reached_by]);
    }
    let _infallible = writeln!(text, "{ingress}\n\nwhat each service may reach outside its instance");
    let mut egress = Table::new();
    egress.load_style(UTF8_HORIZONTAL_ONLY);
    egress.set_header(["service", "may reach"]);
    for row in &policy.egress {
        let open: Vec<String> = row
            .destinations
            .iter()
            .filter(|cell| !cell.ports.is_empty())
            // Resolvers are part of what is open already.
            .filter(|cell| cell.destination != "dns" || cell.ports != ["any"])
            .map(|cell| format!("{} ({})", cell.destination, cell.ports.join(", ")))
            .collect();
        let reach = match (row.in_profile, open.is_empty()) {
            (false, _) => "(not in this profile)".to_owned(),
            (true, true) => "nothing".to_owned(),
            (true, false) => open.join(", "),
        };
        egress.add_row([row.service.as_str(), &reach]);
    }
    let _infallible = writeln!(text, "{egress}");
    text
}
