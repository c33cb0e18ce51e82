//! Where an agent of a lab is at home: one directory with its settings, policies, state and pins.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lab::scratch::mount_bpffs;

/// Makes the folders below a lab's directory, `bpf` with a BPF file system of its own.
pub fn furnish(directory: &Path) -> Result<()> {
    for folder in ["state", "policy"] {
        fs::create_dir_all(directory.join(folder))?;
    }
    mount_bpffs(&directory.join("bpf"))
}

/// Writes `agent.yaml`: the paths of the directory, an inventory from a file, and what else is to stand there.
pub fn write_settings(directory: &Path, more: &str) -> Result<()> {
    let path = directory.display();
    fs::write(
        directory.join("agent.yaml"),
        format!(
            "policy: [{path}/policy]\ninventory: {path}/inventory.yaml\ncontrol: {path}/control.sock\n\
             pin_dir: {path}/bpf/portcullis\nstate_dir: {path}/state\nevents: {path}/events.jsonl\n{more}"
        ),
    )
    .context("failed to write `agent.yaml`")
}

/// Keeps what is set around the tests away from an agent.
pub fn undisturbed(command: &mut Command) {
    command.env_remove("DOCKER_HOST").env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
}
