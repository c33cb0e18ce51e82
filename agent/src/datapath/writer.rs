//! Brings the kernel to a desired state, in an order in which every moment is either the old state, the new one, or
//! stricter than both.

mod flows;
mod host;
mod revision;

use std::{path::PathBuf, sync::Arc, time::Duration};

use agent_common::{
    config::{Config, DEFAULT_MARK_MASK, MarkLayout, Timeouts},
    endpoint::Interface,
    verdict::Hook,
};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};

use self::{host::adopted_host, revision::same_entries};
use super::{
    attach::{self, AttachError, Attachments, Via},
    counters::{CounterError, Counters, Filled, Filling},
    kernel::{self, KernelError},
    loader::{self, LoadError},
    maps::{self, Maps, TakeError},
    pins::{Lock, PinError, Pins},
    plan::{self, HostState, LeftOut, Slots},
    sizes::Sizes,
    streams::{Diagnostics, Events},
    watchdog::Watchdog,
};
use crate::{
    interference::Finding,
    inventory::snapshot::Snapshot,
    policy::{entries::Entries, glob::Glob},
};

/// How the datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    pub pin_dir: PathBuf,
    /// The bits of `skb->mark` that belong to the agent.
    pub mark_mask: u32,
    pub timeouts: Timeouts,
    pub sizes: Sizes,
    /// Overrides the choice by kernel version.
    pub via: Option<Via>,
    /// Whether the programs log what they do.
    pub diagnostics: bool,
    /// Names of the interfaces whose packets to published ports are judged where they come in.
    pub uplinks: Vec<Glob>,
    /// For how long after the first start connections from before it are taken over.
    pub adopt: Duration,
}

impl Options {
    #[must_use]
    pub fn new(pin_dir: PathBuf) -> Self {
        Self {
            pin_dir,
            mark_mask: DEFAULT_MARK_MASK,
            timeouts: Timeouts::DEFAULT,
            sizes: Sizes::DEFAULT,
            via: None,
            diagnostics: false,
            uplinks: vec![Glob::new("*")],
            adopt: DEFAULT_ADOPT,
        }
    }
}

/// The kernel side did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Counters(#[from] CounterError),
    #[error("mark mask `{mask:#x}` is not at least 8 contiguous bits")]
    Mark { mask: u32 },
    #[error("failed to open what was just pinned")]
    Reopen(#[source] std::io::Error),
    #[error("failed to follow events")]
    Events(#[source] std::io::Error),
    #[error("failed to write map `{map}`")]
    Write { map: &'static str, source: MapError },
    #[error("{what} need {needed} entries in map `{map}`, which has room for {room}")]
    Full { what: &'static str, map: &'static str, needed: usize, room: usize },
}

impl DatapathError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel(error) => Some(error.hint().to_owned()),
            Self::Pins(PinError::NotBpf { .. }) => {
                Some("mount one: `mount -t bpf bpf /sys/fs/bpf`".to_owned())
            }
            Self::Pins(PinError::InUse { .. }) => Some(
                "stop it first, or give this one its own `--pin-dir`, `--control` and `--state-dir`"
                    .to_owned(),
            ),
            Self::Load(LoadError::Map(_)) => Some(
                "another version or program left it there; `portcullis detach` removes what is pinned"
                    .to_owned(),
            ),
            Self::Mark { .. } => Some("the default is `0xffff0000`".to_owned()),
            _ => None,
        }
    }
}

/// Long enough for what keeps a connection open to say something on it.
pub const DEFAULT_ADOPT: Duration = Duration::from_secs(15 * 60);

/// Seconds in which a repeated denial is not a new attempt.
const ATTEMPT_WINDOW: u32 = 30;

/// The programs, links and maps of one agent.
pub struct Datapath {
    ebpf: Ebpf,
    maps: Maps,
    attachments: Attachments,
    pins: Pins,
    layout: MarkLayout,
    slots: Slots,
    config: Config,
    uplinks: Vec<Glob>,
    adopt: Duration,
    host: HostState,
    filling: Arc<Filling>,
    entries: Option<Entries>,
    watchdog: Watchdog,
    /// Nobody else writes to the pinned maps while this lives.
    lock: Lock,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Datapath").field("revision", &self.config.revision).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs onto what an earlier agent pinned, or onto new maps. Nothing is attached yet.
    pub fn open(options: &Options) -> Result<Self, DatapathError> {
        let layout =
            MarkLayout::new(options.mark_mask).ok_or(DatapathError::Mark { mask: options.mark_mask })?;
        let via = options.via.map_or_else(kernel::probe, |via| kernel::probe().map(|_| via))?;
        let pins = Pins::new(&options.pin_dir);
        pins.create()?;
        let lock = pins.lock()?;
        let mut ebpf = loader::load(&pins, &options.sizes, options.diagnostics)?;
        let maps = Maps::take(&mut ebpf, &pins)?;
        // Zeroes, which enforce, if no agent was here before.
        let left = maps.config.get(&0, 0).ok();
        let left = |field: fn(&Config) -> u64| left.as_ref().map_or(0, field);
        let config = Config {
            revision: left(|config| config.revision.into()) as u32,
            mark_mask: options.mark_mask,
            strictest_mode: left(|config| config.strictest_mode.into()) as u8,
            has_published: left(|config| config.has_published.into()) as u8,
            epoch: left(|config| config.epoch.into()) as u16,
            timeouts: options.timeouts,
            attempt_window: ATTEMPT_WINDOW,
            adopt_until: left(|config| config.adopt_until),
        };
        let host = adopted_host(&maps);
        let slots = Slots::new(layout, &host.slots);
        let attachments = Attachments::new(via, pins.clone());
        let mut datapath = Self {
            watchdog: Watchdog::new(&pins).map_err(DatapathError::Reopen)?,
            lock,
            ebpf,
            maps,
            attachments,
            pins,
            layout,
            slots,
            config,
            uplinks: options.uplinks.clone(),
            adopt: options.adopt,
            host,
            filling: Arc::default(),
            entries: None,
        };
        // Before any program runs: without settings every packet is dropped.
        datapath.write_config()?;
        Ok(datapath)
    }

    #[must_use]
    pub fn via(&self) -> Via {
        self.attachments.via()
    }

    #[must_use]
    pub fn revision(&self) -> u32 {
        self.config.revision
    }

    /// Whether a port has both of its programs.
    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        Hook::OF_PORT.into_iter().all(|hook| self.attachments.is_attached(ifindex, hook))
    }

    /// Whether the endpoint behind a port is known to the kernel.
    #[must_use]
    pub fn is_ready(&self, ifindex: u32) -> bool {
        self.host.interfaces.contains_key(&ifindex)
    }

    /// Endpoints that could not be made ready.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.host.left_out
    }

    /// The stream of denied attempts; once.
    pub fn take_events(&mut self) -> Result<Events, DatapathError> {
        Events::new(maps::take_events(&mut self.ebpf)?).map_err(DatapathError::Events)
    }

    /// What the programs log; once, and only with `Options::diagnostics`.
    pub fn take_diagnostics(&mut self) -> Option<Diagnostics> {
        loader::diagnostics(&mut self.ebpf).map(Diagnostics::new)
    }

    /// A reader of the counters, independent of this value.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::open(&self.pins, Arc::clone(&self.filling))?)
    }

    /// Instructions that the verifier walked through, by program.
    pub fn verified_instructions(&mut self) -> Result<Vec<(&'static str, u32)>, DatapathError> {
        Ok(loader::verified_instructions(&mut self.ebpf)?)
    }

    /// Puts the programs onto every watched bridge, its ports and the uplinks; what is not known of a port yet is denied
    /// from then on. One interface that fails does not keep the others from being attached; its error is returned.
    ///
    /// Only a `complete` snapshot says that an interface is not what it was: before that, what an earlier agent attached
    /// stays attached, whether it was seen again by now or not.
    pub fn attach(&mut self, snapshot: &Snapshot, complete: bool) -> Vec<AttachError> {
        let places = plan::places(snapshot, &self.uplinks);
        let mut errors = Vec::new();
        for &(interface, hook) in &places {
            // What is not known to be a port or a bridge may still turn out to be one.
            if !complete && Hook::OF_UPLINK.contains(&hook) {
                continue;
            }
            if !self.attachments.is_attached(interface.ifindex, hook)
                && let Err(error) = self.attachments.attach(&mut self.ebpf, interface, hook)
            {
                if attach::interface_index(&interface.name) == Some(interface.ifindex) {
                    errors.push(error);
                } else {
                    // Containers come and go; the next snapshot will not list it.
                    tracing::debug!(interface = interface.name, %error, "interface is gone");
                }
            }
        }
        if complete {
            let wanted = places.iter().map(|(interface, hook)| (interface.ifindex, *hook)).collect();
            self.attachments.retain(&wanted);
            errors.extend(self.attachments.sweep(&wanted).err());
        }
        errors
    }

    /// Looks whether somebody took programs or pins away, and puts them back.
    pub fn watch(&mut self) -> Vec<Finding> {
        self.watchdog.look(&mut self.ebpf, &mut self.attachments, &self.pins, &mut self.lock)
    }

    /// Brings maps to the state that a snapshot and its resolved policy call for.
    ///
    /// Returns whether the revision moved. On an error the entries in force stay in force.
    pub fn apply(&mut self, snapshot: &Snapshot, entries: &Entries) -> Result<bool, DatapathError> {
        let desired = plan::host_state(snapshot, entries, self.layout, &mut self.slots);
        let moved = match &self.entries {
            Some(current) => !same_entries(current, entries),
            None => !self.holds(entries),
        };
        self.check_room(&desired, moved.then_some(entries))?;
        // What changes sides is unknown, and so denied, from before the policy moves until after it has.
        let unsettled: Vec<u32> = self
            .host
            .interfaces
            .iter()
            .filter(|(ifindex, current)| {
                desired.interfaces.get(ifindex).is_none_or(|new| !same_party(current, new))
            })
            .map(|(&ifindex, _)| ifindex)
            .collect();
        let known = self.host.clone();
        let removed = self.forget_interfaces(&unsettled);
        self.settle(&known)?;
        removed?;
        if moved {
            self.swap(entries)?;
        }
        // The same entries as those in force; the lines of the policy that they stand for may have moved.
        self.entries = Some(entries.clone());
        let known = self.host.clone();
        let written = self.write_host(desired);
        self.settle(&known)?;
        written?;
        for (map, count) in [
            (Filled::Interfaces, self.host.interfaces.len()),
            (Filled::Destinations, self.host.destinations.len()),
            (Filled::Published, self.host.published.len()),
            (Filled::Subjects, entries.subjects.len()),
            (Filled::Rules, entries.rules.len()),
            (Filled::Addresses, entries.addresses.len()),
        ] {
            self.filling.set(map, count);
        }
        Ok(moved)
    }

    /// Whether everything has room, before anything is written. `entries`: those that will be, beside the old ones.
    fn check_room(&self, desired: &HostState, entries: Option<&Entries>) -> Result<(), DatapathError> {
        let room = &self.maps.capacities;
        // Two revisions lie side by side during a swap.
        let both = |count: fn(&Entries) -> usize| {
            entries.map_or(0, |entries| count(entries) + self.entries.as_ref().map_or(0, count))
        };
        let needs = [
            ("interfaces", "INTERFACES", desired.interfaces.len(), room.interfaces),
            ("addresses", "DESTINATIONS", desired.destinations.len(), room.destinations),
            ("published ports", "PUBLISHED", desired.published.len(), room.published),
            ("services", "SUBJECTS", both(|entries| entries.subjects.len()), room.subjects),
            ("rules", "RULES", both(|entries| entries.rules.len()), room.rules),
            ("CIDRs", "ADDRESSES", both(|entries| entries.addresses.len()), room.addresses),
        ];
        for (what, map, needed, room) in needs {
            if needed > room {
                return Err(DatapathError::Full { what, map, needed, room });
            }
        }
        Ok(())
    }

    fn forget_interfaces(&mut self, gone: &[u32]) -> Result<(), DatapathError> {
        for ifindex in gone {
            remove(&mut self.maps.interfaces, ifindex).map_err(write_error("INTERFACES"))?;
            self.host.interfaces.remove(ifindex);
        }
        Ok(())
    }

    /// Makes the programs forget how the host was, if it is not any more what it was `before`. Also after an error: some
    /// of what was to be written may be.
    fn settle(&mut self, before: &HostState) -> Result<(), DatapathError> {
        if self.host == *before {
            return Ok(());
        }
        self.config.epoch = self.config.epoch.wrapping_add(1);
        self.write_config()
    }

    fn write_config(&mut self) -> Result<(), DatapathError> {
        self.maps.config.set(0, self.config, 0).map_err(write_error("CONFIG"))
    }
}

fn same_party(current: &Interface, new: &Interface) -> bool {
    let flags = agent_common::endpoint::COVERED;
    current.kind == new.kind
        && current.identity == new.identity
        && current.instance == new.instance
        && current.flags & flags == new.flags & flags
}

fn remove<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<(), MapError> {
    absent_is_fine(map.remove(key))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn write_error(map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Write { map, source }
}
