//! `cargo xtask dist --check`: makes everything and tries it, on a Debian of its own below `target/` and in a Docker
//! Engine of its own. The machine gets programs that judge packages, and nothing of ours.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lab::process::run;
use lab::sweep;
use lab::tools::{find, repository};

use super::{Extent, sha256, target};
use crate::{apt, setup};

/// Programs that judge, and their packages.
const JUDGES: [(&str, &str); 2] = [("lintian", "lintian"), ("rpm", "rpm")];
/// What that system has beside the least.
const PACKAGES: &str = "systemd,systemd-sysv,nftables,init-system-helpers,rpm";
/// Units that would touch the kernel's settings, which are everybody's, or wait for devices that are not there.
const MASKED: [&str; 12] = [
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-logind.service",
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_reap.service",
];
/// What decides about packages, but for what the agent does: that has tests of its own.
const INPUTS: [&str; 14] = [
    "Cargo.lock",
    "agent/Cargo.toml",
    "agent/examples",
    "agent/src/privileges.rs",
    "agent/src/service.rs",
    "deploy",
    "tests/src/deployment.rs",
    "tests/src/flood.rs",
    "tests/src/machine",
    "tests/src/machine.rs",
    "tests/src/small_lab.rs",
    "tests/tests/packages",
    "xtask/src/dist",
    "xtask/src/dist.rs",
];

/// Makes what the tests need beside the packages.
pub(super) fn prepare(extent: Extent) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("trying packages needs root");
    }
    sweep::dead()?;
    let judges = if extent == Extent::All { &JUDGES[..] } else { &[] };
    let missing: Vec<String> = judges
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    setup::install(&missing)?;
    system()
}

/// Runs the tests; whether all passed.
pub(super) fn try_out(extent: Extent) -> Result<bool> {
    println!("dist: trying what was made");
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "integration-tests", "--test", "packages", "--", "--test-threads=1"]);
    if extent == Extent::Quick {
        command.arg("debian::");
    }
    command.env("PORTCULLIS_PACKAGES", extent.folder()).current_dir(repository()).stdin(Stdio::null());
    Ok(command.status().context("failed to run cargo")?.success())
}

/// A Debian with systemd, to be booted. It is never written to again.
fn system() -> Result<()> {
    let folder = target().join("dist-check");
    let system = folder.join("system");
    if system.exists() {
        return Ok(());
    }
    println!("dist: a Debian to try packages on");
    let unfinished = folder.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), &suite()?]);
    run(command.arg(&unfinished).arg(apt::mirror(apt::MAIN)?))?;
    for unit in MASKED {
        symlink("/dev/null", unfinished.join("etc/systemd/system").join(unit))?;
    }
    fs::rename(&unfinished, &system).context("failed to rename what debootstrap has made")
}

/// The release of Debian that this machine runs: packages are tried on the same.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("failed to read `/etc/os-release`")?;
    let suite = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    suite.map(str::to_owned).context("`/etc/os-release` names no release of Debian")
}

/// Whether nothing that decides about packages has changed since they last passed.
pub(super) fn is_current() -> Result<bool> {
    let inputs = inputs()?;
    Ok(fs::read_to_string(stamp()).is_ok_and(|passed| passed == inputs))
}

/// Notes that they pass with these inputs.
pub(super) fn note(inputs: &str) -> Result<()> {
    fs::write(stamp(), inputs).context("failed to note that the packages pass")
}

fn stamp() -> PathBuf {
    target().join("dist-check").join("passed")
}

/// One number for all inputs, names and contents.
pub(super) fn inputs() -> Result<String> {
    let mut files = BTreeSet::new();
    for input in INPUTS {
        collect(&repository().join(input), &mut files)?;
    }
    let mut all = Vec::new();
    for file in files {
        all.extend(file.display().to_string().into_bytes());
        all.extend(sha256(&fs::read(&file)?).into_bytes());
    }
    Ok(sha256(&all))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.insert(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_there() {
        // One that was renamed would decide about nothing any more.
        for input in INPUTS {
            assert!(repository().join(input).exists(), "{input}");
        }
        assert_eq!(inputs().unwrap().len(), 64);
    }
}
