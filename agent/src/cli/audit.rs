//! `portcullis audit`: the live host against the policy and the operators' checklist.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;

use super::{
    output::{CLEAN, FINDINGS, UNKNOWN, finish, note},
    reporting::{FailOn, Form, baseline, policies, print},
};
use crate::{
    audit::{
        self, Audited, Request,
        line::{Line, Outcome},
        textfile, web,
    },
    check::{Code, baseline::Baseline},
    control, diagnostics,
    policy::probes::{self, PublicEndpoint},
};

/// Audits the live host against the policy and the operators' checklist: exit 0 if nothing failed, 1 if something did,
/// 2 if it could not tell.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// A policy file or a directory with `*.yaml` and `*.yml`; may be given several times.
    #[arg(long, required_unless_present = "explain", value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// The profile in force, instead of the one that the policy names.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The engine, instead of `DOCKER_HOST` or the usual socket.
    #[arg(long, value_name = "URL")]
    docker_host: Option<String>,
    /// The agent's control socket.
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, env = "PORTCULLIS_CONTROL")]
    control: PathBuf,
    /// A public endpoint to probe, `https://HOST[:PORT]`, instead of those that the policies name; may be given several
    /// times.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<PublicEndpoint>,
    /// A network namespace to call from, as one outside would, such as `/run/netns/NAME`; may be given several times.
    #[arg(long, value_name = "NETNS")]
    from: Vec<PathBuf>,
    /// A path that must not be there on the endpoints, besides well-known ones, instead of those that the policies name;
    /// may be given several times.
    #[arg(long, value_name = "PATH", value_parser = probes::path)]
    debug_path: Vec<String>,
    /// Only asks and reads: tries no connection to containers, which the agent would count as denied, and counts no
    /// requests at endpoints. So does the agent, see `audit` in `agent.yaml`.
    #[arg(long, conflicts_with = "from")]
    passive: bool,
    /// A file of findings that are accepted, each with a reason.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The least severity that makes the command fail.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    fail_on: FailOn,
    /// How to print what was found.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Writes the open findings as metrics to this file as well, for Prometheus' textfile collector.
    #[arg(long, value_name = "PATH")]
    textfile: Option<PathBuf>,
    /// Explains a line (`A05`) or a finding (`F001`), by its code or name, and ends.
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
}

pub(super) fn run(arguments: &AuditArgs) -> ExitCode {
    if let Some(code) = &arguments.explain {
        return explain(code);
    }
    let (policies, baseline) = match read(arguments) {
        Ok(read) => read,
        Err(faults) => {
            note(diagnostics::render(&faults, true).trim_end());
            return ExitCode::from(UNKNOWN);
        }
    };
    let request = Request {
        docker_host: arguments.docker_host.clone(),
        control: arguments.control.clone(),
        endpoints: web::endpoints(&policies, &arguments.endpoint, &arguments.debug_path),
        from: arguments.from.clone(),
        passive: arguments.passive,
    };
    let began = Instant::now();
    let seen = audit::look(&request, &policies);
    let mut audited = audit::judge(&policies, &seen);
    if let Some(baseline) = &baseline {
        audited.accept(baseline);
    }
    if let Some(error) = &audited.error {
        note(&format!(
            "error: {error}\n\nhint: is the engine running, and may you use its socket? `--docker-host` names another"
        ));
    }
    for (endpoint, error) in audited.silent() {
        note(&format!("error: failed to probe `{endpoint}`: {error}"));
    }
    if let Some(path) = &arguments.textfile
        && let Err(error) = textfile::write(&audited, began.elapsed(), path)
    {
        note(&format!("error: failed to write `{}`: {error}", path.display()));
        return ExitCode::from(UNKNOWN);
    }
    let code = code(&audited, arguments.fail_on);
    print(&audited, arguments.output, code)
}

type Read = (crate::policy::PolicySet, Option<Baseline>);

fn read(arguments: &AuditArgs) -> Result<Read, Vec<diagnostics::Diagnostic>> {
    let policies = policies(&arguments.policy, arguments.profile.as_deref())?;
    let lines: Vec<_> = Line::ALL.iter().map(|line| (line.code(), line.name())).collect();
    let baseline = arguments.baseline.as_deref().map(|path| baseline(path, &lines)).transpose()?;
    Ok((policies, baseline))
}

fn code(audited: &Audited, fail_on: FailOn) -> u8 {
    // Without the engine nothing about containers is known, and nothing of an endpoint that was to be probed and does not
    // answer, whatever the rest says.
    let untold = audited.lines.iter().all(|answer| answer.outcome == Outcome::CouldNotTell);
    if audited.error.is_some() || audited.silent().next().is_some() || untold {
        return UNKNOWN;
    }
    let mut levels = audited
        .findings()
        .map(|(_, finding)| finding.level)
        .chain(audited.failed().map(|answer| answer.level));
    if levels.any(|level| fail_on.fails(level)) { FINDINGS } else { CLEAN }
}

fn explain(wanted: &str) -> ExitCode {
    let line =
        Line::ALL.iter().find(|line| line.code().eq_ignore_ascii_case(wanted) || line.name() == wanted);
    if let Some(line) = line {
        let text = format!(
            "{} {} ({})\n\n{}.\n\nRequired by: {}\nServes: {}\nLooks at: {}\nTo do: {}\n",
            line.code(),
            line.name(),
            line.level().name(),
            line.title(),
            line.from(),
            line.controls().join(", "),
            line.looks_at(),
            line.fix()
        );
        return finish(&text, CLEAN);
    }
    let code =
        Code::ALL.iter().find(|code| code.text().eq_ignore_ascii_case(wanted) || code.name() == wanted);
    let Some(code) = code else {
        note(&format!(
            "error: there is no line or finding `{wanted}`\n\nhint: lines are called `A01` to `A{:02}`, findings `F001` to `F{:03}`",
            Line::ALL.len(),
            Code::ALL.len()
        ));
        return ExitCode::from(UNKNOWN);
    };
    let text = format!(
        "{} {} ({})\n\n{}\n\nTo do: {}\n",
        code.text(),
        code.name(),
        code.level().name(),
        code.explanation(),
        code.fix()
    );
    finish(&text, CLEAN)
}
