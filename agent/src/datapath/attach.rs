//! Attaches programs to interfaces: by TCX where the kernel has it (6.6), by clsact below. First in order, and never
//! taken off by a drop: only [`Attachments::detach`] and the port's own end do that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_common::verdict::Hook;
use aya::{
    Ebpf,
    programs::{
        Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde::{Deserialize, Serialize};

use super::{
    link,
    loader::{self, LoadError},
    pins::{PinError, Pins},
    query,
};
use crate::inventory::snapshot::Interface;

/// The way programs get onto ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Tcx,
    Clsact,
}

/// Ahead of every other filter that names a priority.
pub(super) const PRIORITY: u16 = 1;
/// Fixed, so that a later agent finds and replaces its filter.
pub(super) const HANDLE: u32 = 0x706f_7274;
/// Of the filter that acts while ours is moved.
const HANDLE_ASIDE: u32 = HANDLE + 1;

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("failed to attach `{program}` to `{interface}`")]
    Program { program: &'static str, interface: String, source: ProgramError },
    #[error("failed to add a clsact qdisc to `{interface}`")]
    Qdisc { interface: String, source: TcError },
    #[error("failed to use the link at `{path}`")]
    Link { path: PathBuf, source: LinkError },
    #[error("failed to pin a link at `{path}`")]
    Pin { path: PathBuf, source: aya::pin::PinError },
    #[error("`{interface}` changed its number while it was attached to")]
    Renamed { interface: String },
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
    /// TCX links, kept open beside their pins: a removed pin alone changes nothing.
    pub(super) links: BTreeMap<(u32, Hook), OwnedFd>,
    /// clsact filters, with the name of the interface that they were attached under.
    filters: BTreeMap<(u32, Hook), String>,
    /// Interfaces that are not what they were, and since when.
    strayed: BTreeMap<u32, Instant>,
}

/// How long programs stay on an interface that is not what it was. A port that is taken off its bridge may be put back
/// at once, and to take programs off and put them on takes a while in which it would have none.
const LINGER: Duration = Duration::from_secs(2);

impl Attachments {
    #[must_use]
    pub fn new(via: Via, pins: Pins) -> Self {
        Self { via, pins, links: BTreeMap::new(), filters: BTreeMap::new(), strayed: BTreeMap::new() }
    }

    #[must_use]
    pub fn via(&self) -> Via {
        self.via
    }

    /// Whether a program is on an interface.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32, hook: Hook) -> bool {
        match self.via {
            Via::Tcx => self.links.contains_key(&(ifindex, hook)),
            Via::Clsact => self.filters.contains_key(&(ifindex, hook)),
        }
    }

    /// Every hook that a program of ours is on, if nobody took it off.
    pub(super) fn held(&self) -> Vec<(u32, Hook)> {
        self.links.keys().chain(self.filters.keys()).copied().collect()
    }

    /// Puts a program onto an interface, taking over what an earlier agent left there.
    pub fn attach(&mut self, ebpf: &mut Ebpf, interface: &Interface, hook: Hook) -> Result<(), AttachError> {
        let program = loader::program(ebpf, hook)?;
        let place = (interface.ifindex, hook);
        // An earlier agent may have been told to attach the other way: one program of a kind counts a packet once.
        match self.via {
            Via::Tcx => {
                if !self.links.contains_key(&place) {
                    let link = attach_tcx(program, &self.pins, interface, hook)?;
                    self.links.insert(place, link);
                }
                detach_filter(&interface.name, hook);
            }
            Via::Clsact => {
                attach_clsact(program, interface, hook)?;
                remove_link(&self.pins.link(interface.ifindex, hook))?;
                self.filters.insert(place, interface.name.clone());
            }
        }
        Ok(())
    }

    /// Forgets interfaces that are gone, and takes programs off those that have not been what they were for a while.
    pub fn retain(&mut self, wanted: &BTreeSet<(u32, Hook)>) {
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
        for place in gone {
            if let Some(name) = self.filters.remove(&place)
                && interface_index(&name) == Some(place.0)
            {
                detach_filter(&name, place.1);
            }
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
        self.pins.remove_aside()?;
        for (ifindex, hook) in self.pins.pinned_links()? {
            let path = self.pins.link(ifindex, hook);
            if self.links.contains_key(&(ifindex, hook)) {
                continue;
            }
            let dead = !wanted.contains(&(ifindex, hook))
                || link::ifindex(&path).is_ok_and(|linked| linked != Some(ifindex));
            if dead {
                fs::remove_file(&path).map_err(|source| AttachError::Io { verb: "remove", path, source })?;
            }
        }
        Ok(())
    }
}

/// Takes a link off its interface and removes its pin.
fn remove_link(path: &Path) -> Result<(), AttachError> {
    if !path.exists() {
        return Ok(());
    }
    let failed = |verb| move |source| AttachError::Io { verb, path: path.to_owned(), source };
    link::open(path).and_then(|link| link::detach(link.as_fd())).map_err(failed("detach"))?;
    fs::remove_file(path).map_err(failed("remove"))
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    port: &Interface,
    hook: Hook,
) -> Result<OwnedFd, AttachError> {
    let path = pins.link(port.ifindex, hook);
    let open =
        |path: PathBuf| link::open(&path).map_err(|source| AttachError::Io { verb: "open", path, source });
    let failed = |source| AttachError::Program { program: hook.name(), interface: port.name.clone(), source };
    if let Some(link) = adopt(&path, port.ifindex)? {
        // The kernel exchanges the program atomically: there is no moment without one.
        let id = program.attach_to_link(link).map_err(failed)?;
        // The pin stays where it is; the handle is opened again from there.
        drop(program.take_link(id).map_err(failed)?);
        return open(path);
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&port.name, attach_type(hook), options).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| AttachError::Link { path: path.clone(), source })?;
    let link = link.pin(&path).map_err(|source| AttachError::Pin { path: path.clone(), source })?;
    // aya attaches by name; a rename in between would have put the program onto another interface.
    let linked = link::ifindex(&path).map_err(|source| AttachError::Io {
        verb: "look at",
        path: path.clone(),
        source,
    })?;
    if linked == Some(port.ifindex) {
        return open(path);
    }
    drop(link.unpin());
    Err(AttachError::Renamed { interface: port.name.clone() })
}

/// The link that an earlier agent pinned, if it is still that port's.
fn adopt(path: &Path, ifindex: u32) -> Result<Option<SchedClassifierLink>, AttachError> {
    if !path.exists() {
        return Ok(None);
    }
    let failed = |source| AttachError::Link { path: path.to_owned(), source };
    let io_failed = |verb| move |source| AttachError::Io { verb, path: path.to_owned(), source };
    if link::ifindex(path).map_err(io_failed("look at"))? == Some(ifindex) {
        let link = FdLink::from(PinnedLink::from_pin(path).map_err(failed)?);
        return SchedClassifierLink::try_from(link).map(Some).map_err(failed);
    }
    // The device of the pin is gone and its number has come round again.
    fs::remove_file(path).map_err(io_failed("remove"))?;
    Ok(None)
}

pub(super) fn attach_clsact(
    program: &mut SchedClassifier,
    port: &Interface,
    hook: Hook,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Program { program: hook.name(), interface: port.name.clone(), source };
    match tc::qdisc_add_clsact(&port.name) {
        Ok(()) => {}
        Err(error) if is_exists(&error) => {}
        Err(source) => {
            return Err(AttachError::Qdisc { interface: port.name.clone(), source });
        }
    }
    let (kind, handle) = (attach_type(hook), TcHandle::from(HANDLE));
    // In place if there is one already: without a moment in which neither filter acts.
    let replaced = SchedClassifierLink::attached(&port.name, kind, PRIORITY, handle, None)
        .map_err(|error| failed(ProgramError::from(TcError::IoError(error))))
        .and_then(|link| program.attach_to_link(link).map_err(failed));
    let id = match replaced {
        Ok(id) => id,
        Err(_absent) => {
            let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None });
            program.attach_with_options(&port.name, kind, options).map_err(failed)?
        }
    };
    // Dropping the link would detach the filter; it lives as long as the device, or until `detach`.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Puts a filter ahead of others of the same priority, where the newest comes first. A second one acts in between: what
/// it lets pass is counted twice for a moment, but there is no moment without one.
pub(super) fn move_filter_to_front(
    program: &mut SchedClassifier,
    port: &Interface,
    hook: Hook,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Program { program: hook.name(), interface: port.name.clone(), source };
    let kind = attach_type(hook);
    let filter = |handle| {
        SchedClassifierLink::attached(&port.name, kind, PRIORITY, TcHandle::from(handle), None)
            .map_err(|error| failed(ProgramError::from(TcError::IoError(error))))
    };
    // An agent that was killed may have left one.
    drop(filter(HANDLE_ASIDE)?.detach());
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE_ASIDE.into(),
        classid: None,
    });
    let aside = program.attach_with_options(&port.name, kind, options).map_err(failed)?;
    filter(HANDLE)?.detach().map_err(failed)?;
    attach_clsact(program, port, hook)?;
    program.detach(aside).map_err(failed)
}

fn is_exists(error: &TcError) -> bool {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        TcError::IoError(error) => error.kind() == io::ErrorKind::AlreadyExists,
        _ => false,
    }
}

/// Takes one of our filters off an interface, by program name. An error means that there was none.
fn detach_filter(interface: &str, hook: Hook) -> bool {
    tc::qdisc_detach_program(interface, attach_type(hook), hook.name()).is_ok()
}

/// Takes all our filters off an interface.
pub fn detach_clsact(interface: &str) -> bool {
    Hook::ALL.into_iter().filter(|&hook| detach_filter(interface, hook)).count() > 0
}

/// Takes our filters off every interface of this network namespace. Returns how many interfaces had some. Does
/// nothing where no agent has pinned its maps.
#[must_use]
pub fn detach_filters(pins: &Pins) -> usize {
    if !pins.maps().is_dir() {
        return 0;
    }
    interfaces().iter().filter(|name| detach_clsact(name)).count()
}

pub(super) const fn attach_type(hook: Hook) -> TcAttachType {
    if hook.is_tc_ingress() { TcAttachType::Ingress } else { TcAttachType::Egress }
}

/// The number of the interface that has this name now.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    name_to_index(&socket, name).ok()
}

/// The names of all interfaces of this thread's network namespace. Not by /sys, which shows the namespace that it was
/// mounted in.
fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    // Two lines of headings; a name may hold a colon, its counters do not.
    table.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim().to_owned())).collect()
}
