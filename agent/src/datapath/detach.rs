//! Taking everything of one agent out of the kernel again: filters in whatever network namespace they are, then what is
//! pinned. What stays is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use agent_common::verdict::Hook;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    attach::attach_type,
    filter,
    pins::{FilterNote, Left, Pins, Removed},
    query, raw,
};

/// What was taken out of the kernel.
#[derive(Debug, Default)]
pub struct Detached {
    pub pins: usize,
    /// Interfaces that had filters.
    pub interfaces: usize,
    /// What is still there.
    pub left: Vec<Left>,
}

/// Removes filters, links, programs and maps. Nothing runs that would put them back.
#[must_use]
pub fn detach(pins: &Pins) -> Detached {
    let mut done = Detached::default();
    let programs = known_programs(pins);
    let mut by_namespace: BTreeMap<u64, BTreeSet<FilterNote>> = BTreeMap::new();
    for layout in pins.other_layouts().into_iter().chain([pins.clone()]) {
        for note in layout.filter_notes() {
            by_namespace.entry(note.netns).or_default().insert(note);
        }
    }
    by_namespace.entry(filter::netns()).or_default();
    for (netns, notes) in by_namespace {
        let places = notes.iter().filter_map(|note| Some((note.ifindex, note.hook?))).collect();
        let cleaned = if netns == filter::netns() {
            Ok(clean(pins, netns, places, &programs))
        } else {
            clean_elsewhere(pins, netns, places, &programs)
        };
        match cleaned {
            Ok((interfaces, left)) => {
                done.interfaces += interfaces;
                done.left.extend(left);
            }
            Err(error) => {
                let what = format!("filters in the network namespace {netns}");
                done.left.push(Left { what, why: error.to_string(), ours: true });
            }
        }
        for note in notes {
            // A qdisc that others use is theirs from now on.
            filter::forget(pins, note);
            pins.other_layouts().iter().for_each(|layout| filter::forget(layout, note));
        }
    }
    let Removed { pins, left } = pins.remove();
    done.pins = pins;
    done.left.extend(left);
    done
}

/// Filters in our place on any interface of this network namespace, as text. Whose they are nobody can tell.
#[must_use]
pub fn orphans() -> Vec<Left> {
    let found = interfaces().into_iter().flat_map(|(ifindex, name)| {
        Hook::ALL.into_iter().filter_map(move |hook| {
            let filters = query::filters(ifindex, attach_type(hook)).ok()?;
            let filter = filters.into_iter().find(filter::has_our_place)?;
            Some(orphan(&name, hook, &filter))
        })
    });
    let mut orphans: Vec<Left> = found.collect();
    orphans.dedup();
    orphans
}

fn orphan(interface: &str, hook: Hook, filter: &query::Filter) -> Left {
    let way = if hook.is_tc_ingress() { "ingress" } else { "egress" };
    let (priority, handle) = (filter.priority, filter.handle);
    Left {
        what: format!("a filter on {way} of `{interface}`"),
        why: format!(
            "another agent's, or one whose pins are gone; if nobody needs it: \
             `tc filter del dev {interface} {way} pref {priority} handle {handle:#x} bpf`"
        ),
        ours: false,
    }
}

/// The ids of all programs that are pinned.
fn known_programs(pins: &Pins) -> BTreeSet<u32> {
    let mut programs = BTreeSet::new();
    for layout in pins.other_layouts().iter().chain([pins]) {
        for set in layout.program_sets() {
            let pinned = Hook::ALL.map(|hook| layout.program_set(set).join(hook.name()));
            let pinned = pinned.iter().filter_map(|path| raw::pinned_program(path).ok());
            programs.extend(pinned.map(|program| program.id));
        }
    }
    programs
}

/// Takes filters off in this thread's network namespace: where they are noted, and wherever one of our programs is.
fn clean(
    pins: &Pins,
    netns: u64,
    mut places: BTreeSet<(u32, Hook)>,
    programs: &BTreeSet<u32>,
) -> (usize, Vec<Left>) {
    let (mut cleaned, mut left) = (BTreeSet::new(), Vec::new());
    let interfaces = interfaces();
    for &ifindex in interfaces.keys() {
        for hook in Hook::ALL {
            let filters = query::filters(ifindex, attach_type(hook)).unwrap_or_default();
            let mut ours = filters.iter().filter(|filter| filter::has_our_place(filter));
            if ours.any(|filter| programs.contains(&filter.program)) {
                places.insert((ifindex, hook));
            }
        }
    }
    for (ifindex, hook) in places {
        // The notes of devices that are gone go with the rest.
        let Some(name) = interfaces.get(&ifindex) else { continue };
        match filter::remove(pins, netns, ifindex, hook) {
            Ok(true) => drop(cleaned.insert(ifindex)),
            Ok(false) => {}
            Err(error) => {
                let what = format!("the filter of {} on `{name}`", hook.name());
                left.push(Left { what, why: error.to_string(), ours: true });
            }
        }
    }
    (cleaned.len(), left)
}

/// The same in another network namespace. One that nobody is in any more has taken its interfaces along.
fn clean_elsewhere(
    pins: &Pins,
    netns: u64,
    places: BTreeSet<(u32, Hook)>,
    programs: &BTreeSet<u32>,
) -> io::Result<(usize, Vec<Left>)> {
    let Some(path) = find_namespace(netns) else { return Ok((0, Vec::new())) };
    let namespace = fs::File::open(path)?;
    // On a thread of its own, which ends there.
    let cleaned = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(clean(pins, netns, places, programs))
        });
        thread.join()
    });
    cleaned.unwrap_or_else(|_panic| Err(io::Error::other("the thread that went there panicked")))
}

/// A file that stands for a network namespace: a process's, or one that `ip netns` or Docker keeps.
fn find_namespace(netns: u64) -> Option<PathBuf> {
    let below = |directory: &str| fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let processes = below("/proc").map(|entry| entry.path().join("ns/net"));
    let kept = ["/run/netns", "/run/docker/netns"];
    let kept = kept.into_iter().flat_map(below).map(|entry| entry.path());
    kept.chain(processes).find(|path| inode(path) == Some(netns))
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|data| data.ino()).ok()
}

/// Number and name of all interfaces of this thread's network namespace. Not by /sys, which shows the namespace that it
/// was mounted in.
fn interfaces() -> BTreeMap<u32, String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    // Two lines of headings; a name may hold a colon, its counters do not.
    let names = table.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim().to_owned()));
    names.filter_map(|name| Some((super::attach::interface_index(&name)?, name))).collect()
}
