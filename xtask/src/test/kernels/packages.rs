//! Fetches a kernel from Debian's archive without touching what apt knows of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lab::process::run;

use crate::apt::{Apt, MAIN, SECURITY};

/// An unpacked kernel package.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// `5.10` of `5.10.0-46-cloud-amd64`.
    pub(super) fn line(&self) -> String {
        let (major, minor) = self.version();
        format!("{major}.{minor}")
    }

    /// The same as numbers.
    pub(super) fn version(&self) -> (u32, u32) {
        let numbers = numbers(&self.release);
        (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0))
    }
}

/// Where Debian has a kernel line, archive and suite.
fn suites(version: &str) -> &'static [(&'static str, &'static str)] {
    match version {
        "5.10" => &[(SECURITY, "bullseye-security")],
        "6.1" => &[(MAIN, "bookworm"), (SECURITY, "bookworm-security")],
        "6.12" => &[(SECURITY, "bookworm-security"), (MAIN, "trixie")],
        _ => &[(MAIN, "trixie-backports"), (MAIN, "sid")],
    }
}

/// The newest kernel of a line, unpacked below `folder`; what is there already is used as it is.
pub(super) fn fetch(folder: &Path, version: &str) -> Result<Kernel> {
    let root = folder.join("root");
    if let Some(kernel) = unpacked(&root) {
        return Ok(kernel);
    }
    if !is_version(version) {
        bail!("`{version}` is not a kernel line such as `5.10`");
    }
    println!("fetching a kernel {version} of Debian");
    let apt = Apt::prepare(&folder.join("apt"), suites(version))?;
    apt.update()?;
    let names = run(apt.command("apt-cache").args(["search", "--names-only", "cloud-amd64$"]))?;
    let package =
        newest(&names, version).with_context(|| format!("Debian's suites have no cloud kernel {version}"))?;
    let mut wanted = parts(&run(apt.command("apt-cache").args(["show", "--no-all-versions", &package]))?);
    wanted.push(package);
    println!("downloading {}", wanted.join(" "));
    apt.unpack(&wanted, &root)?;
    unpacked(&root).with_context(|| format!("no kernel in the packages below `{}`", root.display()))
}

fn unpacked(root: &Path) -> Option<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
        .find_map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).next())?;
    let release = modules.file_name()?.to_str()?.to_owned();
    let image = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")]
        .into_iter()
        .find(|image| image.exists())?;
    Some(Kernel { release, image, modules })
}

/// What an image package is made of, from 7.x on: the kernel itself and its modules are packages of their own.
fn parts(shown: &str) -> Vec<String> {
    shown
        .lines()
        .filter_map(|line| line.strip_prefix("Depends:"))
        .flat_map(|depends| depends.split([',', '|']))
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
        .map(str::to_owned)
        .collect()
}

fn is_version(text: &str) -> bool {
    text.split_once('.').is_some_and(|(major, minor)| {
        [major, minor].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn names_of(search: &str) -> impl Iterator<Item = &str> {
    search.lines().filter_map(|line| line.split_whitespace().next())
}

/// The image package of a line with the highest numbers in its name. Metapackages have none behind the line's.
fn newest(search: &str, version: &str) -> Option<String> {
    names_of(search)
        .filter(|name| name.ends_with("-cloud-amd64"))
        .filter_map(|name| {
            let rest = name.strip_prefix("linux-image-")?.strip_prefix(version)?;
            rest.starts_with('.').then(|| (numbers(rest), name))
        })
        .max()
        .map(|(_, name)| name.to_owned())
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_image_of_a_line_is_chosen() {
        let search = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 (signed)\n\
                      linux-image-6.1.0-42-cloud-amd64 - Linux 6.1 (signed)\n\
                      linux-image-6.12.100+deb12-cloud-amd64 - Linux 6.12\n\
                      linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12\n\
                      linux-image-6.12-cloud-amd64 - Linux (meta-package)\n";
        assert_eq!(newest(search, "6.1").as_deref(), Some("linux-image-6.1.0-42-cloud-amd64"));
        assert_eq!(newest(search, "6.12").as_deref(), Some("linux-image-6.12.100+deb12-cloud-amd64"));
        assert_eq!(newest(search, "5.10"), None);
    }

    #[test]
    fn the_parts_of_an_image_are_its_dependencies() {
        let shown = "Package: linux-image-7.2\nDepends: kmod, linux-binary-7.2 (= 7.2-1), linux-modules-7.2 (= 7.2-1)\n";
        assert_eq!(parts(shown), ["linux-binary-7.2", "linux-modules-7.2"]);
        assert!(parts("Depends: kmod, initramfs-tools | linux-initramfs-tool\n").is_empty());
    }

    #[test]
    fn a_line_of_kernels_is_two_numbers() {
        assert!(!is_version("5.10; rm") && is_version("5.10"));
    }
}
