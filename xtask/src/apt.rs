//! Debian's archive without touching what apt knows of this machine: lists, cache and sources are of a folder's own, and
//! the mirror is the one that the machine uses itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::process::run;

/// The archives, by the label that their release files carry.
pub(crate) const MAIN: &str = "Debian";
pub(crate) const SECURITY: &str = "Debian-Security";
/// Who signs them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a state of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// A state below `folder` that knows these archives and suites.
    pub(crate) fn prepare(folder: &Path, suites: &[(&str, &str)]) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mirrors = mirrors(&run(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ]))?);
        let mut sources = String::new();
        for (label, suite) in suites {
            let mirror = mirrors.get(*label).with_context(|| {
                format!("this machine's apt has no archive `{label}` to take packages from")
            })?;
            sources.push_str(&format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        }
        fs::write(folder.join("sources.list"), sources)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// A command of apt on that state.
    pub(crate) fn command(&self, program: &str) -> Command {
        let at = |part: &str| self.folder.join(part).display().to_string();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={}", at("state")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Reads the package lists.
    pub(crate) fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["update", "-qq"])).map(drop)
    }

    /// Downloads packages and unpacks them below `root`; nothing is installed and no service of theirs starts.
    pub(crate) fn unpack(&self, wanted: &[String], root: &Path) -> Result<()> {
        let packages = self.folder.join("packages");
        fs::create_dir_all(&packages)?;
        run(self.command("apt-get").args(["download", "-qq"]).args(wanted).current_dir(&packages))?;
        for entry in fs::read_dir(&packages)?.filter_map(Result::ok) {
            run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(root))?;
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }
}

/// Label and address of every archive that the machine's apt uses.
fn mirrors(targets: &str) -> BTreeMap<String, String> {
    targets
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(label, address)| (label.to_owned(), address.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_the_machines_own() {
        let found =
            mirrors("Debian http://mirror.example/debian/\nDebian-Security http://mirror.example/s/\n");
        assert_eq!(found["Debian"], "http://mirror.example/debian/");
    }
}
