//! Looks whether every program is still on its hook, first in order, and is the one that the agent loaded; and whether
//! everything is still pinned. Repairs what it can, so that every moment on the way has a program of ours in force, or
//! drops all packets.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_common::verdict::Hook;
use aya::Ebpf;

use super::{
    attach::{self, Attachments, Via},
    filter,
    link::{self, LinkInfo},
    loader, maps,
    pins::{Lock, Pins},
    query::{self, Attached, Filter},
};
use crate::{
    interference::{Fault, Finding},
    inventory::snapshot::Interface,
    reconcile::Chain,
};

/// How often a program is moved to the front again. Whoever insists longer is not fought, only reported.
const MOVES: u32 = 3;
/// How long nobody may have stood before it until it counts from the beginning.
const PEACE: Duration = Duration::from_secs(600);

/// What has to be remembered from one look to the next.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Pins of maps and programs and what is to be pinned there.
    objects: Vec<(&'static str, PathBuf, OwnedFd)>,
    moves: BTreeMap<(u32, Hook), Moves>,
}

/// How often one program was moved to the front, and when last.
#[derive(Clone, Copy, Debug)]
struct Moves {
    count: u32,
    last: Instant,
}

/// A hook that is looked at.
struct Place {
    interface: Interface,
    hook: Hook,
}

impl Place {
    fn finding(&self, fault: Fault, found: String, repair: Result<String, String>) -> Finding {
        let repaired = repair.is_ok();
        let done = repair.unwrap_or_else(|why| why);
        let (interface, hook) = (self.interface.name.clone(), self.hook.name().to_owned());
        Finding { interface, hook, fault, found, done, repaired }
    }
}

impl Watchdog {
    /// Opens the maps that have just been pinned, and takes the programs, which should be.
    pub(super) fn new(pins: &Pins, ebpf: &mut Ebpf, generation: u64) -> io::Result<Self> {
        let set = pins.program_set(generation);
        let map = |name| link::open(&pins.map(name)).map(|map| (name, pins.map(name), map));
        let mut program = |hook: Hook| -> io::Result<_> {
            let program = loader::program(ebpf, hook).map_err(io::Error::other)?;
            let fd = program.fd().map_err(io::Error::other)?.as_fd().try_clone_to_owned()?;
            Ok((hook.name(), set.join(hook.name()), fd))
        };
        let mut objects = maps::NAMES.into_iter().map(map).collect::<io::Result<Vec<_>>>()?;
        for (name, _, map) in maps::NAMES.into_iter().map(map).collect::<io::Result<Vec<_>>>()? {
            objects.push((name, set.join(name), map));
        }
        for hook in Hook::ALL {
            objects.push(program(hook)?);
        }
        Ok(Self { objects, moves: BTreeMap::new() })
    }

    /// Looks at everything once.
    pub(super) fn look(
        &mut self,
        ebpf: &mut Ebpf,
        attachments: &mut Attachments,
        pins: &Pins,
        lock: &mut Lock,
    ) -> Vec<Finding> {
        let held = attachments.held();
        self.moves.retain(|key, moves| held.contains(key) && moves.last.elapsed() < PEACE);
        let mut findings = self.look_at_objects(pins, lock);
        for (ifindex, hook) in held {
            // An interface that is gone is no fault; the inventory will say that it is.
            let Some(name) = query::interface_name(ifindex) else { continue };
            let place = Place { interface: Interface { ifindex, name }, hook };
            let looked = match attachments.via() {
                Via::Tcx => self.look_at_link(ebpf, attachments, pins, &place),
                Via::Clsact => self.look_at_filter(ebpf, pins, &place),
            };
            match looked {
                Ok(found) => findings.extend(found),
                // It went while it was looked at.
                Err(_) if query::interface_name(ifindex).is_none() => {}
                Err(why) => {
                    let found = "it cannot be looked at".to_owned();
                    findings.push(place.finding(Fault::Gone, found, Err(why)));
                }
            }
        }
        findings
    }

    fn look_at_objects(&self, pins: &Pins, lock: &mut Lock) -> Vec<Finding> {
        let missing: Vec<_> = self.objects.iter().filter(|(_, path, _)| !path.exists()).collect();
        if missing.is_empty() && pins.links().is_dir() {
            return Vec::new();
        }
        let restored = restore_directories(pins, lock);
        let finding = |(name, path, map): &(&'static str, PathBuf, OwnedFd)| {
            let repair = restored.clone().and_then(|()| pin_in_its_directory(map.as_fd(), path));
            let repaired = repair.is_ok();
            let done = repair.err().unwrap_or_else(|| "pinned again".to_owned());
            let found = format!("`{}` is missing", path.display());
            let (interface, hook) = (String::new(), (*name).to_owned());
            Finding { interface, hook, fault: Fault::PinMissing, found, done, repaired }
        };
        missing.into_iter().map(finding).collect()
    }

    fn look_at_link(
        &mut self,
        ebpf: &mut Ebpf,
        attachments: &mut Attachments,
        pins: &Pins,
        place: &Place,
    ) -> Result<Vec<Finding>, String> {
        let (ifindex, hook) = (place.interface.ifindex, place.hook);
        let Some(link) = attachments.links.get_mut(&(ifindex, hook)) else { return Ok(Vec::new()) };
        let kind = attach::attach_type(hook);
        let program = said(loader::program(ebpf, hook))?;
        let id = said(program.info())?.id();
        let program = said(program.fd())?.as_fd();
        let chain = text(query::tcx(ifindex, kind))?;
        let info = text(link::info(link.as_fd()))?;
        let path = pins.link(ifindex, hook);
        let aside = pins.link_aside(ifindex, hook);
        let mut findings = Vec::new();
        match judge_link(info, id, ifindex, &chain) {
            None => {}
            Some((Fault::Exchanged, found)) => {
                let repair = text(link::update(link.as_fd(), program)).map(|()| "exchanged back".to_owned());
                findings.push(place.finding(Fault::Exchanged, found, repair));
            }
            Some((Fault::Shadowed, found)) => {
                let repair = self.allowed_to_move(ifindex, hook).and_then(|()| {
                    text(move_to_front(link, program, ifindex, query::attach_type(kind)))
                        .map(|()| "moved to the front".to_owned())
                });
                findings.push(place.finding(Fault::Shadowed, found, repair));
            }
            Some((fault, found)) => {
                let repair = text(link::create_first(program, ifindex, query::attach_type(kind)));
                let repair = repair.map(|new| {
                    *link = new;
                    "attached again".to_owned()
                });
                findings.push(place.finding(fault, found, repair));
            }
        }
        if let Some(found) = pin_fault(&path, link.as_fd())? {
            let repair = text(link::pin_over(link.as_fd(), &aside, &path));
            // After a repair the pin is the old link's, which is the repair's business and nobody's fault.
            match (findings.last_mut(), repair) {
                (None, repair) => {
                    let repair = repair.map(|()| "pinned again".to_owned());
                    findings.push(place.finding(Fault::PinMissing, found, repair));
                }
                (Some(_), Ok(())) => {}
                (Some(finding), Err(why)) => {
                    finding.repaired = false;
                    finding.done = format!("{}, but not pinned: {why}", finding.done);
                }
            }
        }
        Ok(findings)
    }

    fn look_at_filter(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        place: &Place,
    ) -> Result<Vec<Finding>, String> {
        let (ifindex, hook) = (place.interface.ifindex, place.hook);
        let kind = attach::attach_type(hook);
        let program = said(loader::program(ebpf, hook))?;
        let id = said(program.info())?.id();
        let filters = text(query::filters(ifindex, kind))?;
        let links = text(query::tcx(ifindex, kind))?;
        let mut findings = Vec::new();
        match judge_filters(&filters, id) {
            None => {}
            Some((Fault::Shadowed, found)) => {
                let repair = self.allowed_to_move(ifindex, hook).and_then(|()| {
                    said(filter::move_to_front(program, pins, &place.interface, hook))
                        .map(|()| "moved to the front".to_owned())
                });
                findings.push(place.finding(Fault::Shadowed, found, repair));
            }
            Some((fault, found)) => {
                let repair = said(filter::attach(program, pins, &place.interface, hook))
                    .map(|()| "attached again".to_owned());
                findings.push(place.finding(fault, found, repair));
            }
        }
        if let Some(first) = links.first() {
            let found = format!("program {} runs before it, by TCX", first.program);
            let why = "TCX runs before clsact: leave `attach` out of `agent.yaml`, or detach that program";
            findings.push(place.finding(Fault::Shadowed, found, Err(why.to_owned())));
        }
        Ok(findings)
    }

    /// Whether a program may be moved to the front once more, which is counted.
    fn allowed_to_move(&mut self, ifindex: u32, hook: Hook) -> Result<(), String> {
        let now = Instant::now();
        let moves = self.moves.entry((ifindex, hook)).or_insert(Moves { count: 0, last: now });
        moves.last = now;
        if moves.count >= MOVES {
            return Err(format!("given up after {MOVES} moves to the front: whoever attached it insists"));
        }
        moves.count += 1;
        Ok(())
    }
}

/// What is wrong with a link, and what was found. `program` is the one that the agent loaded.
fn judge_link(link: LinkInfo, program: u32, ifindex: u32, chain: &[Attached]) -> Option<(Fault, String)> {
    if link.ifindex != ifindex {
        return Some((Fault::Gone, "the link was detached".to_owned()));
    }
    if link.program != program {
        return Some((Fault::Exchanged, format!("the link holds program {}, not {program}", link.program)));
    }
    match chain.iter().position(|attached| attached.link == link.id) {
        Some(0) => None,
        Some(_) => Some((Fault::Shadowed, format!("program {} runs before it", chain[0].program))),
        None => Some((Fault::Gone, "the link is not on the interface".to_owned())),
    }
}

/// What is wrong with the filters of a hook, listed in the order in which they run.
fn judge_filters(filters: &[Filter], program: u32) -> Option<(Fault, String)> {
    let is_ours = |filter: &Filter| filter.priority == filter::PRIORITY && filter.handle == filter::HANDLE;
    let Some(at) = filters.iter().position(is_ours) else {
        return Some((Fault::Gone, "the filter is gone".to_owned()));
    };
    if filters[at].program != program {
        let found = format!("the filter holds program {}, not {program}", filters[at].program);
        return Some((Fault::Exchanged, found));
    }
    let Filter { priority, handle, program } = filters[0];
    (at > 0).then(|| {
        let found =
            format!("filter {handle:#x} with priority {priority} and program {program} runs before it");
        (Fault::Shadowed, found)
    })
}

/// What is wrong with the pin of a link.
fn pin_fault(path: &Path, link: BorrowedFd<'_>) -> Result<Option<String>, String> {
    let pinned = match link::open(path) {
        Ok(pinned) => pinned,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("`{}` is missing", path.display())));
        }
        Err(error) => return Ok(Some(format!("`{}` cannot be opened: {error}", path.display()))),
    };
    let same = text(link::info(pinned.as_fd()))? == text(link::info(link))?;
    Ok((!same).then(|| format!("`{}` is another link", path.display())))
}

/// Attaches anew, ahead of all others, and takes the old link off. The kernel takes no program twice on one hook, so a
/// program that drops everything holds the place until the old link is off: stricter for a moment, never laxer.
fn move_to_front(
    link: &mut OwnedFd,
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
) -> io::Result<()> {
    let stop = link::load_drop()?;
    let new = link::create_first(stop.as_fd(), ifindex, attach_type)?;
    // If this fails the new link goes with its descriptor, and the old one stays.
    link::detach(link.as_fd())?;
    *link = new;
    link::update(link.as_fd(), program)
}

/// Pins where the directory may be missing too, as that of an agent's programs.
fn pin_in_its_directory(object: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    match path.parent().map(fs::create_dir) {
        Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    text(link::pin(object, path))
}

/// Makes the pin directories again, and locks the new one if it is another than before.
fn restore_directories(pins: &Pins, lock: &mut Lock) -> Result<(), String> {
    let is_new = !pins.root().is_dir();
    said(pins.create())?;
    if is_new {
        *lock = said(pins.lock())?;
    }
    Ok(())
}

fn text<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn said<T, E: std::error::Error + 'static>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| Chain(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: LinkInfo = LinkInfo { id: 7, program: 70, ifindex: 3, attach_type: 46 };

    fn fault(found: Option<(Fault, String)>) -> Option<Fault> {
        found.map(|(fault, _)| fault)
    }

    #[test]
    fn links() {
        let ours = Attached { program: 70, link: 7 };
        let theirs = Attached { program: 80, link: 8 };
        let judge = |link, chain: &[Attached]| fault(judge_link(link, 70, 3, chain));
        assert_eq!(judge(OURS, &[ours]), None);
        assert_eq!(judge(OURS, &[ours, theirs]), None);
        assert_eq!(judge(OURS, &[theirs, ours]), Some(Fault::Shadowed));
        // The same program by another link is not ours to keep.
        assert_eq!(judge(OURS, &[Attached { program: 70, link: 9 }]), Some(Fault::Gone));
        assert_eq!(judge(OURS, &[]), Some(Fault::Gone));
        assert_eq!(judge(LinkInfo { ifindex: 0, ..OURS }, &[]), Some(Fault::Gone));
        assert_eq!(judge(LinkInfo { program: 80, ..OURS }, &[ours]), Some(Fault::Exchanged));
    }

    #[test]
    fn filters() {
        let ours = Filter { priority: filter::PRIORITY, handle: filter::HANDLE, program: 70 };
        let theirs = Filter { handle: 1, program: 80, ..ours };
        let judge = |filters: &[Filter]| fault(judge_filters(filters, 70));
        assert_eq!(judge(&[ours, theirs]), None);
        assert_eq!(judge(&[theirs, ours]), Some(Fault::Shadowed));
        assert_eq!(judge(&[theirs]), Some(Fault::Gone));
        assert_eq!(judge(&[Filter { program: 80, ..ours }]), Some(Fault::Exchanged));
        assert_eq!(judge(&[Filter { priority: 2, ..ours }]), Some(Fault::Gone));
    }
}
