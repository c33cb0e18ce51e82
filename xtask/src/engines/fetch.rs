//! Fetches an engine from Debian's archive: its programs are unpacked into a folder, where no service manager sees them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lab::process::run;
use lab::tools;

use crate::apt::{Apt, MAIN};

/// What an engine is made of. Not `runc`: a newer one wants a newer libc than the machine may have, and the machine's
/// serves every engine. Compose belongs to it, since an old one may not speak to a new engine.
const PACKAGES: [&str; 4] = ["docker.io", "docker-cli", "containerd", "docker-compose"];

/// The suite that has a version.
fn suite(version: &str) -> &'static str {
    match version {
        "20.10" => "bookworm",
        "26.1" => "trixie",
        _ => "sid",
    }
}

/// The engine of that version, unpacked below `folder`; what is there already is used as it is.
pub(super) fn fetch(folder: &Path, version: &str) -> Result<PathBuf> {
    let root = folder.join("root");
    if tools::find_below(&root, "dockerd").is_some() {
        return Ok(root);
    }
    let suite = suite(version);
    println!("engines: fetching Docker {version} of Debian's {suite}");
    let state = folder.join("apt");
    let apt = Apt::prepare(&state, &[(MAIN, suite)])?;
    apt.update()?;
    let policy = run(apt.command("apt-cache").arg("policy").args(PACKAGES))?;
    let candidates = candidates(&policy);
    match candidates.iter().find(|(package, _)| *package == "docker.io") {
        Some((_, found)) if is_of(found, version) => {}
        Some((_, found)) => bail!("Debian's {suite} has Docker {found}, not {version}"),
        None => bail!("Debian's {suite} has no Docker"),
    }
    let wanted: Vec<String> = candidates
        .iter()
        // Compose 1 is a Python program that has to be installed: setup has done that, or found another.
        .filter(|(package, found)| *package != "docker-compose" || !found.starts_with("1."))
        .map(|(package, found)| format!("{package}={found}"))
        .collect();
    // Only a whole engine has the name that is looked for.
    let unfinished = folder.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    println!("engines: downloading {}", wanted.join(" "));
    apt.unpack(&wanted, &unfinished)?;
    fs::rename(&unfinished, &root)?;
    // The lists of a whole suite are larger than the engine.
    fs::remove_dir_all(&state)?;
    Ok(root)
}

/// Package and version of what `apt-cache policy` says can be had.
fn candidates(policy: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut package = "";
    for line in policy.lines() {
        if !line.starts_with(' ') {
            package = line.trim_end_matches(':');
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.push((package, version));
        }
    }
    found
}

/// Whether a package's version is one of a line such as `26.1`.
fn is_of(found: &str, line: &str) -> bool {
    found.strip_prefix(line).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_what_can_be_had() {
        let policy = "docker.io:\n  Installed: (none)\n  Candidate: 26.1.5+dfsg1-9\n  Version table:\n     26.1.5+dfsg1-9 500\n\
                      docker-cli:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidates(policy), [("docker.io", "26.1.5+dfsg1-9")]);
    }

    #[test]
    fn a_version_is_of_its_line_only() {
        assert!(is_of("26.1.5+dfsg1-9", "26.1"));
        assert!(!is_of("26.10.5", "26.1"));
        assert!(!is_of("28.5.2", "26.1"));
    }
}
