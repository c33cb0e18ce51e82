//! What runs inside a guest: the agent and the tests, both without shared libraries, a shell, `ip` and `tc` with
//! theirs, the files that the tests read, and the script that starts it all.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lab::process::run;
use lab::tools::{self, repository};

use super::archive::Archive;
use super::modules;
use super::packages::Kernel;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The test program that asks a kernel.
const TESTS: &str = "kernel";
/// Programs with shared libraries that come along; busybox's own `ip` knows too little.
const TOOLS: [&str; 2] = ["ip", "tc"];
/// What the tests read in the repository.
const FILES: [&str; 2] = ["policies", "tests/scenarios"];

/// Programs for a guest.
#[derive(Debug)]
pub(super) struct Programs {
    agent: PathBuf,
    tests: PathBuf,
}

/// Builds both.
pub(super) fn build() -> Result<Programs> {
    let folder = super::folder().join("build");
    cargo(&folder, &["build", "--package", "portcullis"])?;
    let said = cargo(
        &folder,
        &["test", "--no-run", "--package", "integration-tests", "--test", TESTS, "--message-format=json"],
    )?;
    let tests = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == TESTS)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where the tests are")?;
    Ok(Programs { agent: folder.join(TARGET).join("debug/portcullis"), tests })
}

fn cargo(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("cargo");
    command
        .args(arguments)
        .args(["--quiet", "--target", TARGET])
        .current_dir(repository())
        .env("CARGO_TARGET_DIR", folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("failed to run cargo")?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            said.push_str(&line?);
            said.push('\n');
        }
    }
    if !child.wait()?.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(said)
}

/// Writes the first file system of a guest and says where it is.
pub(super) fn image(kernel: &Kernel, programs: &Programs, only: Option<&str>) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.console();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run/netns", "/etc", "/var/lib"] {
        archive.folder(folder);
    }
    let busybox = tools::find("busybox").context("`busybox` is missing: run `cargo xtask setup`")?;
    archive.file("/bin/busybox", &fs::read(&busybox)?);
    for applet in run(Command::new(&busybox).arg("--list"))?.lines() {
        if applet != "busybox" && !TOOLS.contains(&applet) {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    let mut libraries = BTreeSet::new();
    for tool in TOOLS {
        let program = tools::find(tool).with_context(|| format!("`{tool}` is missing"))?;
        archive.file(&format!("/bin/{tool}"), &fs::read(&program)?);
        libraries.extend(libraries_in(&run(Command::new("ldd").arg(&program))?));
    }
    for library in libraries {
        archive.file(&library, &fs::read(&library)?);
    }
    let modules = modules::in_order(&kernel.modules)?;
    for module in &modules {
        archive.file(&format!("/modules/{}.ko", module.name), &module.bytes);
    }
    archive.file("/vm/portcullis", &stripped(&programs.agent)?);
    archive.file("/vm/deps/tests", &stripped(&programs.tests)?);
    for folder in FILES {
        add_folder(&mut archive, &repository().join(folder))?;
    }
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    archive.file("/init", script(&names, only).as_bytes());
    let path = super::folder().join(format!("{}.cpio", kernel.release));
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// A program without what only debuggers read, which is most of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = super::folder().join("stripped");
    run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    fs::read(&copy).with_context(|| format!("failed to read `{}`", copy.display()))
}

fn add_folder(archive: &mut Archive, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            add_folder(archive, &path)?;
        } else if let Some(name) = path.to_str() {
            archive.file(name, &fs::read(&path)?);
        }
    }
    Ok(())
}

/// The files that `ldd` names.
fn libraries_in(said: &str) -> Vec<String> {
    said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// The first program of the guest. Its last words come before the machine goes off; without them it has failed.
fn script(modules: &[&str], only: Option<&str>) -> String {
    let only = only.unwrap_or_default();
    format!(
        "#!/bin/busybox sh
export PATH=/bin HOME=/ PORTCULLIS_REPORT=/report
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
for module in {}; do insmod /modules/$module.ko || echo \"vm: no module $module\"; done
echo \"vm: running $(uname -r)\"
/vm/deps/tests --test-threads=1 {only} </dev/null 2>&1
echo \"vm: tests ended with $?\"
cat /report
poweroff -f
",
        modules.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_names() {
        let said = "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\t/lib64/ld.so (0x2)\n";
        assert_eq!(libraries_in(said), ["/lib/libc.so.6", "/lib64/ld.so"]);
    }
}
