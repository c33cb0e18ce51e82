//! Docker Compose itself: two versions, as Debian packages, unpacked once. `config` needs no engine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use lab::{process::run, tools::repository};

use super::case::Case;
use crate::apt::{Apt, MAIN};

/// What a reader of compose files says.
#[derive(Debug)]
pub(super) enum Answer {
    Model(serde_json::Value),
    Refused(String),
}

/// One version of Compose.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) version: &'static str,
    program: PathBuf,
}

/// The versions, and the suites of Debian that have them.
const VERSIONS: [(&str, &str); 2] = [("2.26", "trixie"), ("2.40", "sid")];

impl Oracle {
    /// Every version; fetched if it is not there yet.
    pub(super) fn all() -> Result<Vec<Self>> {
        VERSIONS
            .iter()
            .map(|(version, suite)| {
                let folder = target().join("compose").join(version);
                let program = fetch(&folder, suite).with_context(|| {
                    format!("Docker Compose {version} is not to be had, so nothing was compared")
                })?;
                let oracle = Self { version, program };
                oracle.is_what_it_says()?;
                Ok(oracle)
            })
            .collect()
    }

    fn is_what_it_says(&self) -> Result<()> {
        let shown = run(Command::new(&self.program).args(["version", "--short"]))?;
        let shown = shown.trim();
        let number = |text: &str| -> Option<(u32, u32)> {
            let mut parts = text.split(['.', '-', '+']).map(str::parse);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        match (number(shown), number(self.version)) {
            (Some(is), Some(wanted)) if is == wanted => {}
            // Debian's newest suite moves on; what has changed there is worth knowing.
            (Some(is), Some(wanted)) if is > wanted => {
                println!("conform: Debian has Compose {shown} by now in place of {}", self.version);
            }
            _ => bail!("Debian's Compose is `{shown}`, not {}", self.version),
        }
        Ok(())
    }

    /// What this version says of a case.
    pub(super) fn ask(&self, case: &Case, place: &Path) -> Result<Answer> {
        let output = Command::new(&self.program)
            .args(&case.arguments)
            .args(["config", "--format", "json"])
            .current_dir(case.working_directory(place))
            .env_clear()
            .envs(case.variables())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to run `{}`", self.program.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            return Ok(Answer::Refused(last.to_owned()));
        }
        let model = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("Compose {} printed no JSON for `{}`", self.version, case.name))?;
        Ok(Answer::Model(model))
    }
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

fn fetch(folder: &Path, suite: &str) -> Result<PathBuf> {
    let program = folder.join("root/usr/libexec/docker/cli-plugins/docker-compose");
    if program.is_file() {
        return Ok(program);
    }
    println!("conform: fetching Docker Compose from Debian's {suite}");
    let apt = Apt::prepare(&folder.join("apt"), &[(MAIN, suite)])?;
    apt.update()?;
    apt.unpack(&["docker-compose".to_owned()], &folder.join("root"))?;
    if !program.is_file() {
        bail!("Debian's package has no `{}`", program.display());
    }
    Ok(program)
}
