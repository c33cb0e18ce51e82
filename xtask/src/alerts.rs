//! `cargo xtask alerts`: asks Prometheus's own tools about the rules, runs the rules' tests, and makes the Kubernetes
//! object from the same file. What promtool does not ask is in this module's tests.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lab::tools::{find, repository};

/// The one source of all rules.
const RULES: &str = "deploy/prometheus/portcullis.rules.yml";
/// Its tests; what takes a week has a file of its own, as promtool evaluates a file at one interval.
const TESTS: [&str; 2] =
    ["deploy/prometheus/portcullis.rules.test.yml", "deploy/prometheus/portcullis.rules.week.test.yml"];
const OBJECT: &str = "deploy/kubernetes/prometheusrule.yaml";
const HEAD: &str = "\
# Made from deploy/prometheus/portcullis.rules.yml by `cargo xtask alerts --write`: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: portcullis
  labels:
    app.kubernetes.io/name: portcullis
    app.kubernetes.io/component: alerts
spec:
";

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write the Kubernetes object anew instead of comparing it
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let rules = read(RULES)?;
    if arguments.write {
        fs::write(repository().join(OBJECT), object(&rules)?)?;
    } else if read(OBJECT)? != object(&rules)? {
        bail!("`{OBJECT}` is not what `{RULES}` makes\nhint: cargo xtask alerts --write");
    }
    let mut failed = false;
    for (program, arguments) in [
        ("promtool", vec!["check", "rules", RULES]),
        ("promtool", vec!["check", "config", "deploy/prometheus/prometheus.yml"]),
        ("promtool", ["test", "rules"].into_iter().chain(TESTS).collect()),
        ("amtool", vec!["check-config", "deploy/prometheus/alertmanager.yml"]),
    ] {
        let program =
            find(program).with_context(|| format!("`{program}` is missing: run `cargo xtask setup`"))?;
        let status = Command::new(program).args(arguments).current_dir(repository()).status()?;
        failed |= !status.success();
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &str) -> Result<String> {
    let path: PathBuf = repository().join(path);
    fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))
}

/// The object: the groups as they stand, further in.
fn object(rules: &str) -> Result<String> {
    let groups = rules.find("\ngroups:\n").context("no `groups:` in the rules")? + 1;
    let mut text = HEAD.to_owned();
    for line in rules[groups..].lines() {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
