//! Attaches programs to interfaces: by TCX where the kernel has it (6.6), by clsact below. First in order, and never
//! taken off by a drop: only `detach` and the port's own end do that. A new port gets filters of clsact until its links
//! are there (decision 0018).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_common::verdict::Hook;
use aya::{
    Ebpf,
    programs::{ProgramError, TcAttachType, tc::TcError},
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde::{Deserialize, Serialize};

use super::{
    filter,
    link::{self, LinkInfo},
    loader::{self, LoadError},
    pins::{FilterNote, PinError, Pins},
    query, raw,
};
use crate::{
    interference::{Fault, Finding},
    inventory::snapshot::Interface,
};

/// The way programs get onto ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Tcx,
    Clsact,
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("failed to attach `{program}` to `{interface}`")]
    Program { program: &'static str, interface: String, source: ProgramError },
    #[error("failed to add a clsact qdisc to `{interface}`")]
    Qdisc { interface: String, source: TcError },
    #[error("failed to {verb} `{program}` on `{interface}`")]
    Hook { verb: &'static str, program: &'static str, interface: String, source: io::Error },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error("failed to {verb} `{path}`")]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

/// What is attached where.
#[derive(Debug)]
pub struct Attachments {
    via: Via,
    pins: Pins,
    netns: u64,
    /// TCX links, kept open beside their pins: a removed pin alone changes nothing.
    pub(super) links: BTreeMap<(u32, Hook), OwnedFd>,
    /// clsact filters, with the name of the interface that they were attached under.
    filters: BTreeMap<(u32, Hook), String>,
    /// Hooks with a filter of clsact that acts until the link does.
    stopgaps: BTreeSet<(u32, Hook)>,
    /// Hooks that an earlier agent's programs go on to guard until this one's know the policy.
    deferred: BTreeSet<(u32, Hook)>,
    /// Whether the programs know no policy yet, so that earlier ones are left where they are.
    pub(super) hold: bool,
    /// The ids of earlier agents' programs; empty if nobody knows them.
    ours: BTreeSet<u32>,
    /// What was found in the place of earlier agents' programs.
    findings: Vec<Finding>,
    /// Interfaces that are not what they were, and since when.
    strayed: BTreeMap<u32, Instant>,
}

/// How long programs stay on an interface that is not what it was. A port that is taken off its bridge may be put back
/// at once, and to take programs off and put them on takes a while in which it would have none.
const LINGER: Duration = Duration::from_secs(2);

impl Attachments {
    #[must_use]
    pub(super) fn new(via: Via, pins: Pins, ours: BTreeSet<u32>, hold: bool) -> Self {
        Self {
            via,
            pins,
            netns: filter::netns(),
            links: BTreeMap::new(),
            filters: BTreeMap::new(),
            stopgaps: BTreeSet::new(),
            strayed: BTreeMap::new(),
            deferred: BTreeSet::new(),
            hold,
            ours,
            findings: Vec::new(),
        }
    }

    #[must_use]
    pub fn via(&self) -> Via {
        self.via
    }

    /// Whether a program guards a hook, this agent's or still an earlier one's.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32, hook: Hook) -> bool {
        let place = (ifindex, hook);
        self.is_current(ifindex, hook) || self.stopgaps.contains(&place) || self.deferred.contains(&place)
    }

    /// Whether this agent's program is on a hook.
    pub(super) fn is_current(&self, ifindex: u32, hook: Hook) -> bool {
        match self.via {
            Via::Tcx => self.links.contains_key(&(ifindex, hook)),
            Via::Clsact => self.filters.contains_key(&(ifindex, hook)),
        }
    }

    /// Every hook that a program of ours is on, if nobody took it off.
    pub(super) fn held(&self) -> Vec<(u32, Hook)> {
        self.links.keys().chain(self.filters.keys()).copied().collect()
    }

    /// Whether earlier programs are left where they are.
    pub(super) fn is_deferring(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// What was found in the place of earlier agents' programs, once.
    pub(super) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Puts the programs onto a port that nothing is known of yet, at once: a link of TCX makes the kernel wait until
    /// every processor has seen it, and the second hook is open as long as it waits for the first. Filters of clsact
    /// have no such wait. They go when the links are there; until then both run, but let nothing pass.
    pub(super) fn attach_stopgaps(&mut self, ebpf: &mut Ebpf, port: &Interface) -> Result<(), AttachError> {
        if self.via != Via::Tcx || self.hold {
            return Ok(());
        }
        for hook in Hook::OF_PORT {
            filter::attach(loader::program(ebpf, hook)?, &self.pins, port, hook)?;
            self.stopgaps.insert((port.ifindex, hook));
        }
        Ok(())
    }

    /// Puts a program onto an interface, taking over what an earlier agent left there.
    pub fn attach(&mut self, ebpf: &mut Ebpf, interface: &Interface, hook: Hook) -> Result<(), AttachError> {
        let place = (interface.ifindex, hook);
        if self.hold && self.is_guarded(interface, hook)? {
            self.deferred.insert(place);
            return Ok(());
        }
        // An earlier agent may have been told to attach the other way: one program of a kind counts a packet once.
        match self.via {
            Via::Tcx => {
                let program = loader::program(ebpf, hook)?;
                let program = program.fd().map_err(|source| AttachError::Program {
                    program: hook.name(),
                    interface: interface.name.clone(),
                    source,
                })?;
                let link = self.attach_tcx(program.as_fd(), interface, hook)?;
                self.links.insert(place, link);
                let removed = filter::remove(&self.pins, self.netns, interface.ifindex, hook);
                removed.map_err(hook_error("remove the filter of", interface, hook))?;
                self.stopgaps.remove(&place);
            }
            Via::Clsact => {
                self.look_at_filter(interface, hook)?;
                filter::attach(loader::program(ebpf, hook)?, &self.pins, interface, hook)?;
                remove_link(&self.pins.link(interface.ifindex, hook))?;
                self.filters.insert(place, interface.name.clone());
            }
        }
        self.deferred.remove(&place);
        Ok(())
    }

    /// Whether an earlier agent's program is on a hook.
    fn is_guarded(&self, interface: &Interface, hook: Hook) -> Result<bool, AttachError> {
        let (ifindex, kind) = (interface.ifindex, attach_type(hook));
        let failed = hook_error("look at", interface, hook);
        let chain = query::tcx(ifindex, kind).map_err(&failed)?;
        let pinned = raw::open_kind(&self.pins.link(ifindex, hook), "bpf-link");
        if let Ok(info) = pinned.and_then(|link| link::info(link.as_fd()))
            && chain.iter().any(|attached| attached.link == info.id)
        {
            return Ok(true);
        }
        Ok(query::filters(ifindex, kind).map_err(&failed)?.iter().any(filter::has_our_place))
    }

    fn attach_tcx(
        &mut self,
        program: BorrowedFd<'_>,
        port: &Interface,
        hook: Hook,
    ) -> Result<OwnedFd, AttachError> {
        let path = self.pins.link(port.ifindex, hook);
        let attach_type = query::attach_type(attach_type(hook));
        if let Some((link, info)) = self.adopt(&path, port, hook)? {
            if !self.ours.is_empty() && !self.ours.contains(&info.program) {
                let found = format!("since the last agent ended the link holds program {}", info.program);
                self.find(port, hook, found, "exchanged back");
            }
            // The kernel exchanges the program atomically: there is no moment without one.
            match link::update(link.as_fd(), program) {
                Ok(()) => return Ok(link),
                // The device went, or somebody took the link off, since it was looked at.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(hook_error("exchange", port, hook)(error)),
            }
        }
        let old = raw::open_kind(&path, "bpf-link").ok();
        let link = link::create_first(program, port.ifindex, attach_type)
            .map_err(hook_error("attach", port, hook))?;
        // Not pinned, it holds as long as the agent runs. The watchdog says so and tries again.
        let aside = self.pins.link_aside(port.ifindex, hook);
        if let Err(error) = link::pin_over(link.as_fd(), &aside, &path) {
            tracing::warn!(path = %path.display(), %error, "link not pinned: it would end with the agent");
        } else if let Some(old) = old
            && link::info(old.as_fd()).is_ok_and(|info| self.ours.contains(&info.program))
        {
            // Retired after the new one acts: its device has moved to another namespace, or is gone.
            if let Err(error) = link::detach(old.as_fd()) {
                tracing::debug!(path = %path.display(), %error, "old link not detached");
            }
        }
        Ok(link)
    }

    /// The link that an earlier agent pinned, if it is on that hook.
    fn adopt(
        &mut self,
        path: &Path,
        port: &Interface,
        hook: Hook,
    ) -> Result<Option<(OwnedFd, LinkInfo)>, AttachError> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(None);
        }
        let Ok(link) = raw::open_kind(path, "bpf-link") else {
            self.find(port, hook, format!("`{}` is no link", path.display()), "attached anew");
            return Ok(None);
        };
        let failed = hook_error("look at", port, hook);
        let info = link::info(link.as_fd()).map_err(&failed)?;
        // A device that is gone leaves a link without one; numbers of devices come round again, and the same number
        // may be another device in another namespace. So only what the hook itself lists is adopted.
        let chain = query::tcx(port.ifindex, attach_type(hook)).map_err(&failed)?;
        if chain.iter().any(|attached| attached.link == info.id) {
            return Ok(Some((link, info)));
        }
        if info.ifindex != 0 {
            let found = format!("`{}` is a link of another interface", path.display());
            self.find(port, hook, found, "attached anew");
        }
        Ok(None)
    }

    /// Says if somebody else's program is in our filter's place, which is about to be taken again.
    fn look_at_filter(&mut self, port: &Interface, hook: Hook) -> Result<(), AttachError> {
        let kind = attach_type(hook);
        let filters = query::filters(port.ifindex, kind).map_err(hook_error("look at", port, hook))?;
        let theirs = filters.iter().find(|filter| {
            filter::has_our_place(filter) && !self.ours.is_empty() && !self.ours.contains(&filter.program)
        });
        if let Some(filter) = theirs {
            let found = format!("since the last agent ended the filter holds program {}", filter.program);
            self.find(port, hook, found, "exchanged back");
        }
        Ok(())
    }

    fn find(&mut self, port: &Interface, hook: Hook, found: String, done: &str) {
        let (interface, hook) = (port.name.clone(), hook.name().to_owned());
        let (fault, done) = (Fault::Exchanged, done.to_owned());
        self.findings.push(Finding { interface, hook, fault, found, done, repaired: true });
    }

    /// Forgets interfaces that are gone, and takes programs off those that have not been what they were for a while.
    pub fn retain(&mut self, wanted: &BTreeSet<(u32, Hook)>) {
        self.deferred.retain(|place| wanted.contains(place));
        let unwanted: BTreeSet<(u32, Hook)> =
            self.held().into_iter().filter(|place| !wanted.contains(place)).collect();
        let strays: BTreeSet<u32> = unwanted.iter().map(|(ifindex, _)| *ifindex).collect();
        for &ifindex in &strays {
            self.strayed.entry(ifindex).or_insert_with(Instant::now);
        }
        // What has gone to another namespace has nothing to wait for: its programs have gone with it.
        self.strayed.retain(|ifindex, since| {
            let is_here = || query::interface_name(*ifindex).is_some();
            strays.contains(ifindex) && since.elapsed() < LINGER && is_here()
        });
        let is_over = |place: &&(u32, Hook)| unwanted.contains(place) && !self.strayed.contains_key(&place.0);
        let gone: Vec<(u32, Hook)> = self.links.keys().filter(is_over).copied().collect();
        for place in gone {
            // Closing the last descriptor of a link without a pin detaches it.
            if let Some(_link) = self.links.remove(&place)
                && let Err(error) = fs::remove_file(self.pins.link(place.0, place.1))
            {
                tracing::debug!(ifindex = place.0, %error, "link was not pinned any more");
            }
        }
        let is_over = |place: &&(u32, Hook)| unwanted.contains(place) && !self.strayed.contains_key(&place.0);
        let gone: Vec<(u32, Hook)> = self.filters.keys().filter(is_over).copied().collect();
        for (ifindex, hook) in gone {
            if let Some(name) = self.filters.remove(&(ifindex, hook)) {
                self.remove_filter(&name, ifindex, hook);
            }
        }
    }

    /// Takes filters off ports that were none any more before their links came.
    pub(super) fn retain_stopgaps(&mut self, ports: &BTreeSet<u32>) {
        let gone: Vec<(u32, Hook)> =
            self.stopgaps.iter().filter(|(ifindex, _)| !ports.contains(ifindex)).copied().collect();
        for (ifindex, hook) in gone {
            self.stopgaps.remove(&(ifindex, hook));
            if let Some(name) = query::interface_name(ifindex) {
                self.remove_filter(&name, ifindex, hook);
            } else {
                filter::forget(&self.pins, FilterNote { netns: self.netns, ifindex, hook: Some(hook) });
                filter::forget(&self.pins, FilterNote { netns: self.netns, ifindex, hook: None });
            }
        }
    }

    fn remove_filter(&self, name: &str, ifindex: u32, hook: Hook) {
        if interface_index(name) != Some(ifindex) {
            filter::forget(&self.pins, FilterNote { netns: self.netns, ifindex, hook: Some(hook) });
        } else if let Err(error) = filter::remove(&self.pins, self.netns, ifindex, hook) {
            tracing::warn!(interface = name, %error, "filter not removed");
        }
    }

    /// Whether programs are still on an interface that is not what it was.
    #[must_use]
    pub fn lingers(&self) -> bool {
        !self.strayed.is_empty()
    }

    /// Removes pins of interfaces that no longer exist, or are not what they were. What is pinned for one that is wanted
    /// stays until it is adopted.
    pub fn sweep(&self, wanted: &BTreeSet<(u32, Hook)>) -> Result<(), AttachError> {
        for (ifindex, hook) in self.pins.pinned_links()? {
            if !self.is_attached(ifindex, hook) && !wanted.contains(&(ifindex, hook)) {
                tracing::debug!(ifindex, hook = hook.name(), "pin of an interface that is gone: removed");
                remove_link(&self.pins.link(ifindex, hook))?;
            }
        }
        for note in self.pins.filter_notes().into_iter().filter(|note| note.netns == self.netns) {
            let FilterNote { ifindex, hook, .. } = note;
            let name = query::interface_name(ifindex);
            match (hook, name) {
                (_, None) => filter::forget(&self.pins, note),
                (Some(hook), Some(name))
                    if self.via == Via::Clsact
                        && !self.is_attached(ifindex, hook)
                        && !wanted.contains(&(ifindex, hook)) =>
                {
                    self.remove_filter(&name, ifindex, hook);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes a link off its interface and removes its pin.
fn remove_link(path: &Path) -> Result<(), AttachError> {
    let Ok(link) = raw::open_kind(path, "bpf-link") else { return Ok(()) };
    // Of a device that is gone there is nothing to take off.
    if let Err(error) = link::detach(link.as_fd()) {
        tracing::debug!(path = %path.display(), %error, "link not detached, only its pin is removed");
    }
    fs::remove_file(path).map_err(|source| AttachError::Io { verb: "remove", path: path.to_owned(), source })
}

fn hook_error(
    verb: &'static str,
    interface: &Interface,
    hook: Hook,
) -> impl Fn(io::Error) -> AttachError + use<> {
    let interface = interface.name.clone();
    move |source| AttachError::Hook { verb, program: hook.name(), interface: interface.clone(), source }
}

pub(super) const fn attach_type(hook: Hook) -> TcAttachType {
    if hook.is_tc_ingress() { TcAttachType::Ingress } else { TcAttachType::Egress }
}

/// The number of the interface that has this name now.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    name_to_index(&socket, name).ok()
}
