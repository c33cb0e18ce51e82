//! Builds the kernel programs and puts the object where the agent includes it from.
//!
//! Two toolchains can: Debian's `rustc` with its precompiled `core` for BPF, and a rustup nightly with
//! `rust-src`, which builds `core` itself. `PORTCULLIS_BPF_TOOLCHAIN=debian|nightly` overrides the choice; `none` leaves
//! the programs out, for a build that never meets a kernel.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
const OBJECT: &str = "portcullis-ebpf";

fn main() -> ExitCode {
    match build() {
        Ok(toolchain) => {
            println!("cargo:rustc-env=PORTCULLIS_BPF_TOOLCHAIN={toolchain}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<&'static str, String> {
    for path in ["../agent-ebpf", "../agent-common/src", "../Cargo.lock", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=PORTCULLIS_BPF_TOOLCHAIN");
    println!("cargo:rustc-env=PORTCULLIS_REVISION={}", commit());

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    if env::var("PORTCULLIS_BPF_TOOLCHAIN").is_ok_and(|wanted| wanted == "none") {
        fs::write(out.join(OBJECT), [])
            .map_err(|error| format!("failed to write an empty object: {error}"))?;
        return Ok("none");
    }
    let target_dir = out.join("bpf");
    let (name, mut command) = toolchain()?;
    // The outer build's own settings must not reach a build for another target.
    for key in
        ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(key);
    }
    command
        .current_dir(manifest.join("../agent-ebpf"))
        .args([
            "build",
            "--quiet",
            "--package",
            "agent-ebpf",
            "--profile",
            "bpf",
            "--target",
            "bpfel-unknown-none",
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            concat!(
                "-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}",
                // It would make a copy of a program for each thing that is known early on.
                "-Zmir-enable-passes=-JumpThreading"
            ),
        );
    let output = command.output().map_err(|error| format!("failed to run {command:?}: {error}"))?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo:warning={line}");
        }
        return Err(format!(
            "the kernel programs did not build with the `{name}` toolchain; `cargo xtask setup` installs what is missing"
        ));
    }
    let object = target_dir.join("bpfel-unknown-none/bpf").join(OBJECT);
    fs::copy(&object, out.join(OBJECT))
        .map_err(|error| format!("failed to copy `{}`: {error}", object.display()))?;
    Ok(name)
}

fn toolchain() -> Result<(&'static str, Command), String> {
    let wanted = env::var("PORTCULLIS_BPF_TOOLCHAIN").unwrap_or_default();
    let debian = Path::new(DEBIAN_BPF_CORE).is_dir() && Path::new(DEBIAN_CARGO).exists();
    match wanted.as_str() {
        "" if debian => Ok(("debian", debian_cargo())),
        "debian" => Ok(("debian", debian_cargo())),
        "" if nightly_has_source() => Ok(("nightly", nightly_cargo())),
        "nightly" => Ok(("nightly", nightly_cargo())),
        "" => Err("no toolchain can build the kernel programs: neither Debian's `libstd-rust-web-dev-bpf` nor a rustup \
                   nightly with `rust-src` is installed; `cargo xtask setup` installs what is missing"
            .to_owned()),
        other => Err(format!("PORTCULLIS_BPF_TOOLCHAIN is `{other}`, not `debian` or `nightly`")),
    }
}

fn debian_cargo() -> Command {
    let mut command = Command::new(DEBIAN_CARGO);
    // aya-ebpf uses unstable language features, which a stable compiler accepts only when told so.
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command
}

fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]).env_remove("RUSTC");
    command
}

fn nightly_has_source() -> bool {
    Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").is_dir())
}

fn commit() -> String {
    println!("cargo:rerun-if-changed=../.git/HEAD");
    Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}
