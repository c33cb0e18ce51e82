//! An image without a registry: a static busybox and a script that listens as whatever service it is told to be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// What the image is called.
pub const NAME: &str = "portcullis-lab/stand-in:latest";

/// Answers every request for `/name` with the service's name, on IPv4 and IPv6. Without a port it only waits.
const STAND_IN: &str = "#!/bin/sh
name=$1; shift
mkdir -p /www; echo \"$name\" > /www/name
for port; do httpd -p \"[::]:$port\" -h /www; done
exec sleep 86400
";

/// Makes the archive that `docker import` reads; it has no more than busybox, a few names for it and the script.
pub fn archive(busybox: &Path, scratch: &Path) -> Result<PathBuf> {
    let root = scratch.join("image");
    for folder in ["bin", "etc", "tmp", "www", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("failed to copy busybox")?;
    for applet in
        ["sh", "mkdir", "echo", "httpd", "sleep", "nc", "wget", "ip", "ping", "cat", "ls", "timeout"]
    {
        symlink("busybox", root.join("bin").join(applet))
            .with_context(|| format!("failed to link `{applet}`"))?;
    }
    let script = root.join("bin/stand-in");
    fs::write(&script, STAND_IN)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let archive = scratch.join("image.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."))?;
    Ok(archive)
}
