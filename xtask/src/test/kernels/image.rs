//! The one first file system of all guests: the agent and the tests, a shell, the tools that the tests run with their
//! libraries, the files that they read, every kernel's modules, and the script that starts it all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::process::run;
use lab::tools::{self, repository};

use super::archive::Archive;
use super::packages::Kernel;
use super::programs::Built;
use super::{Choice, modules, script};

/// Programs that come along with their libraries, because busybox has none of that name or one that knows too little.
const TOOLS: [&str; 7] = ["ip", "tc", "bridge", "nft", "setpriv", "unshare", "nsenter"];
/// What the tests read in the repository.
const FILES: [&str; 3] = ["policies", "tests/scenarios", "tests/verified-instructions.json"];
const FOLDERS: [&str; 8] = ["/proc", "/sys", "/dev", "/tmp", "/run/netns", "/etc", "/var/lib", "/var/tmp"];

/// Writes it and says where it is.
pub(super) fn write(kernels: &[Kernel], built: &[Built], choice: &Choice) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.console();
    for folder in FOLDERS {
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
        libraries.extend(libraries_of(&program)?);
    }
    if let Some(first) = built.first() {
        let agent = first.file.ancestors().nth(2).context("no folder above a test")?.join("portcullis");
        libraries.extend(libraries_of(&agent)?);
        archive.file("/vm/portcullis", &stripped(&agent)?);
    }
    for Built { program, file } in built {
        libraries.extend(libraries_of(file)?);
        archive.file(&format!("/vm/deps/{}", program.name), &stripped(file)?);
    }
    for library in libraries {
        archive.file(&library, &fs::read(&library)?);
    }
    for path in FILES {
        add(&mut archive, &repository().join(path))?;
    }
    for kernel in kernels {
        let modules = modules::in_order(&kernel.modules)?;
        for module in &modules {
            archive.file(&format!("/modules/{}/{}.ko", kernel.release, module.name), &module.bytes);
        }
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        archive.file(
            &format!("/vm/{}.sh", kernel.release),
            script::of_kernel(kernel, &names, built, choice).as_bytes(),
        );
    }
    archive.file("/init", script::INIT.as_bytes());
    let path = super::folder().join("image.cpio");
    fs::write(&path, archive.finish()).with_context(|| format!("failed to write `{}`", path.display()))?;
    Ok(path)
}

/// A program without what only debuggers read, which is most of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = super::folder().join("stripped");
    run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    fs::read(&copy).with_context(|| format!("failed to read `{}`", copy.display()))
}

fn add(archive: &mut Archive, path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            add(archive, &entry?.path())?;
        }
    } else if let Some(name) = path.to_str() {
        archive.file(name, &fs::read(path)?);
    }
    Ok(())
}

fn libraries_of(program: &Path) -> Result<Vec<String>> {
    Ok(libraries_in(&run(Command::new("ldd").arg(program))?))
}

/// The files that `ldd` names.
fn libraries_in(said: &str) -> Vec<String> {
    said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
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
