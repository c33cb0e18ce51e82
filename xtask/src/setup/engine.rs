//! A Docker Engine without installing one: Debian's packages are fetched and unpacked below `target/lab-tools`, where
//! no service manager sees them and no configuration is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::process::run;
use lab::tools;

use super::{apt, quiet};

/// Packages that hold an engine; `docker-cli` is apart on newer Debians.
const ENGINE_PACKAGES: [&str; 4] = ["docker.io", "docker-cli", "containerd", "runc"];
/// Installing or changing one of these would be a change to a Docker on the machine.
const ENGINES: [&str; 8] = [
    "docker.io",
    "docker-ce",
    "docker-cli",
    "docker-ce-cli",
    "containerd",
    "containerd.io",
    "runc",
    "podman-docker",
];

/// Fetches and unpacks the engine, then installs the shared libraries that it names.
pub(super) fn unpack() -> Result<()> {
    let root = tools::lab_tools();
    let mut libraries = BTreeSet::new();
    for package in ENGINE_PACKAGES {
        if known(package) {
            libraries.extend(unpack_into(&root, package)?);
        }
    }
    install_missing(&libraries)
}

/// The same for one package that is no part of an engine.
pub(super) fn unpack_package(package: &str) -> Result<()> {
    install_missing(&unpack_into(&tools::lab_tools(), package)?)
}

/// Fetches and unpacks a package; returns the shared libraries that it names.
fn unpack_into(root: &Path, package: &str) -> Result<BTreeSet<String>> {
    let archive = download(package)?;
    extract(&archive, root)?;
    let libraries = library_dependencies(&archive)?;
    fs::remove_file(&archive)?;
    Ok(libraries)
}

/// Compose: a single binary is unpacked, the older Python program is installed, but only if no engine comes with it.
pub(super) fn compose() -> Result<()> {
    let archive = download("docker-compose")?;
    let contents = run(Command::new("dpkg-deb").arg("-c").arg(&archive))?;
    if contents.contains("cli-plugins/docker-compose") {
        return extract(&archive, &tools::lab_tools());
    }
    let package = ["docker-compose".to_owned()];
    refuse_engine_changes(&package)?;
    quiet(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(package))
}

/// Asks apt what it would do, and fails if that touches a Docker on the machine.
pub(super) fn refuse_engine_changes(packages: &[String]) -> Result<()> {
    let simulated = run(apt().args(["install", "-s", "-y", "--no-install-recommends"]).args(packages))?;
    let touched = engine_changes(&simulated);
    if !touched.is_empty() {
        bail!(
            "installing {} would change {} on this machine, which setup never does",
            packages.join(" "),
            touched.join(" ")
        );
    }
    Ok(())
}

/// The engine packages that a simulated run installs, changes or removes.
fn engine_changes(simulated: &str) -> Vec<String> {
    simulated
        .lines()
        .filter(|line| line.starts_with("Inst ") || line.starts_with("Remv "))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|package| ENGINES.contains(package))
        .map(str::to_owned)
        .collect()
}

fn known(package: &str) -> bool {
    Command::new("apt-cache").args(["policy", package]).output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line.contains("Candidate:") && !line.contains("(none)"))
    })
}

fn download(package: &str) -> Result<PathBuf> {
    let folder = tools::lab_tools().join("packages").join(package);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    quiet(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(&folder),
    )?;
    let archive = fs::read_dir(&folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    archive.with_context(|| format!("`apt-get download {package}` left no package"))
}

fn extract(archive: &Path, root: &Path) -> Result<()> {
    quiet(Command::new("dpkg-deb").arg("-x").arg(archive).arg(root))
}

fn library_dependencies(archive: &Path) -> Result<BTreeSet<String>> {
    Ok(libraries_in(&run(Command::new("dpkg-deb").arg("-f").arg(archive).args(["Depends"]))?))
}

/// The shared libraries in a `Depends` field; services and other programs are not wanted.
fn libraries_in(depends: &str) -> BTreeSet<String> {
    depends
        .split(',')
        .filter_map(|dependency| dependency.split('|').next()?.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name))
        // Scripts for web pages are called so too.
        .filter(|name| name.starts_with("lib") && !name.starts_with("libjs-"))
        .map(str::to_owned)
        .collect()
}

fn install_missing(libraries: &BTreeSet<String>) -> Result<()> {
    let missing: Vec<String> = libraries.iter().filter(|library| !installed(library)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", missing.join(" "));
    refuse_engine_changes(&missing)?;
    quiet(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing))
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("install ok installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_taken_from_a_dependency_list() {
        let depends = "libc6 (>= 2.34), libdevmapper1.02.1 (>= 2:1.02.97), libsystemd0, libjs-jquery, adduser, containerd (>= 1.4~), iptables, tini";
        let found: Vec<String> = libraries_in(depends).into_iter().collect();
        assert_eq!(found, ["libc6", "libdevmapper1.02.1", "libsystemd0"]);
    }

    #[test]
    fn an_engine_in_a_simulated_installation_is_seen() {
        let simulated = "Reading package lists...\nInst python3-docker (5.0.3-1 Debian:12/stable [all])\nInst runc (1.1.5 Debian)\nConf runc (1.1.5)\n";
        assert_eq!(engine_changes(simulated), ["runc"]);
        assert_eq!(engine_changes("Inst docker-compose (1.29.2-3)\n"), [] as [&str; 0]);
    }
}
