//! Removes what labs left behind. Only what belongs to a process that is gone is touched, and a process is stopped
//! only if its start time is the one that was noted or its command line names the lab's own directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::{netns, process, scratch};

/// Removes the namespaces and directories of labs whose maker is gone, but for those that were kept on purpose.
pub fn dead() -> Result<Vec<String>> {
    remove(|owner, kept| !kept && process::started_at(owner).is_none())
}

/// Removes the labs that were left up on purpose.
pub fn kept() -> Result<Vec<String>> {
    remove(|owner, kept| kept && process::started_at(owner).is_none())
}

fn remove(unwanted: impl Fn(u32, bool) -> bool) -> Result<Vec<String>> {
    let directories = directories()?;
    let keepers: Vec<u32> = directories
        .iter()
        .filter(|(_, path)| scratch::Scratch::is_kept(path))
        .map(|(owner, _)| *owner)
        .collect();
    let mut removed = Vec::new();
    for (owner, path) in &directories {
        if unwanted(*owner, keepers.contains(owner)) {
            remove_directory(path);
            removed.push(path.display().to_string());
        }
    }
    for name in names(Path::new("/run/netns"), netns::PREFIX) {
        if owner(&name, netns::PREFIX).is_some_and(|owner| unwanted(owner, keepers.contains(&owner))) {
            netns::delete(&name);
            removed.push(name);
        }
    }
    Ok(removed)
}

fn directories() -> Result<Vec<(u32, PathBuf)>> {
    let root = std::env::temp_dir();
    Ok(names(&root, scratch::PREFIX)
        .into_iter()
        .filter_map(|name| Some((owner(&name, scratch::PREFIX)?, root.join(name))))
        .collect())
}

fn names(directory: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// The process id in `PREFIX PID - NUMBER`; other people's names that begin alike are not ours.
fn owner(name: &str, prefix: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(prefix)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Ends the processes of a lab, unmounts what is mounted below its directory and removes it.
pub fn remove_directory(path: &Path) {
    for line in fs::read_to_string(path.join("processes")).unwrap_or_default().lines().rev() {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        let (Some(pid), Some(started)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Ok(pid) = u32::try_from(pid) else { continue };
        if process::started_at(pid) == Some(started) {
            process::stop(pid, Duration::from_secs(20));
        }
    }
    // A shim outlives its engine and is not in the list, but names the engine's directory.
    let needle = format!("{}/", path.display());
    for pid in process::with_argument(&needle) {
        process::stop(pid, Duration::from_secs(2));
    }
    for mount in mounts_below(path).into_iter().rev() {
        if let Err(error) = process::run(Command::new("umount").arg("-l").arg(&mount)) {
            eprintln!("lab: {error:#}");
        }
    }
    if let Err(error) = fs::remove_dir_all(path)
        && path.exists()
    {
        eprintln!("lab: failed to remove `{}`: {error}", path.display());
    }
}

/// Mount points below a directory, outermost first.
#[must_use]
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("pc-4711-3", netns::PREFIX), Some(4711));
        assert_eq!(owner("pc-inventory", netns::PREFIX), None);
        assert_eq!(owner("pc-4711", netns::PREFIX), None);
        assert_eq!(owner("pc-4711-x", netns::PREFIX), None);
    }
}
