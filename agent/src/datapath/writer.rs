//! Brings the kernel to a desired state, in an order in which every moment is either the old state, the new one, or
//! stricter than both.

mod revision;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use agent_common::{
    config::{Config, DEFAULT_MARK_MASK, MarkLayout, Timeouts},
    endpoint::{Destination, Interface},
    flow::{FlowEntry, FlowKey, HeldKey},
    packet::Address,
    policy::prefix_words,
};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, lpm_trie::Key},
};

use self::revision::same_entries;
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
};
use crate::{inventory::snapshot::Snapshot, policy::entries::Entries};

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
    host: HostState,
    filling: Arc<Filling>,
    entries: Option<Entries>,
    /// Nobody else writes to the pinned maps while this lives.
    _lock: Lock,
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
        let (revision, strictest_mode) =
            maps.config.get(&0, 0).map_or((0, 0), |config| (config.revision, config.strictest_mode));
        let config = Config {
            revision,
            mark_mask: options.mark_mask,
            strictest_mode,
            _pad: [0; 3],
            timeouts: options.timeouts,
            attempt_window: ATTEMPT_WINDOW,
        };
        let host = adopted_host(&maps);
        let slots = Slots::new(layout, &host.slots);
        let attachments = Attachments::new(via, pins.clone());
        let mut datapath = Self {
            _lock: lock,
            ebpf,
            maps,
            attachments,
            pins,
            layout,
            slots,
            config,
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

    #[must_use]
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attachments.is_attached(ifindex)
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

    /// Puts the programs onto every port of a watched bridge; what is not known of it yet is denied from then on.
    /// One port that fails does not keep the others from being attached; its error is returned.
    ///
    /// Only a `complete` snapshot says that an interface is no port: before that, what an earlier agent attached
    /// stays attached, whether it was seen again by now or not.
    pub fn attach(&mut self, snapshot: &Snapshot, complete: bool) -> Vec<AttachError> {
        let ports: BTreeSet<u32> = snapshot.ports.iter().map(|port| port.interface.ifindex).collect();
        if complete {
            self.attachments.retain(&ports);
        }
        let mut errors = Vec::new();
        for port in &snapshot.ports {
            if !self.attachments.is_attached(port.interface.ifindex)
                && let Err(error) = self.attachments.attach(&mut self.ebpf, &port.interface)
            {
                if attach::interface_index(&port.interface.name) == Some(port.interface.ifindex) {
                    errors.push(error);
                } else {
                    // Containers come and go; the next snapshot will not list it.
                    tracing::debug!(interface = port.interface.name, %error, "port is gone");
                }
            }
        }
        if complete {
            errors.extend(self.attachments.sweep(&ports).err());
        }
        errors
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
        for ifindex in unsettled {
            remove(&mut self.maps.interfaces, &ifindex).map_err(write_error("INTERFACES"))?;
            self.host.interfaces.remove(&ifindex);
        }
        if moved {
            self.swap(entries)?;
        }
        // The same entries as those in force; the lines of the policy that they stand for may have moved.
        self.entries = Some(entries.clone());
        self.write_host(desired)?;
        for (map, count) in [
            (Filled::Interfaces, self.host.interfaces.len()),
            (Filled::Destinations, self.host.destinations.len()),
            (Filled::Subjects, entries.subjects.len()),
            (Filled::Rules, entries.rules.len()),
            (Filled::Addresses, entries.addresses.len()),
        ] {
            self.filling.set(map, count);
        }
        Ok(moved)
    }

    /// Removes flows that have expired. Their entries count for nothing in the kernel any more; this frees the room.
    pub fn collect_flows(&mut self, now: u64) -> Result<usize, DatapathError> {
        let timeouts = self.config.timeouts;
        let opening =
            collect(&mut self.maps.flows_opening, now, &timeouts).map_err(write_error("FLOWS_OPENING"))?;
        let held: BTreeMap<HeldKey, u64> = self.maps.flows_held.iter().filter_map(Result::ok).collect();
        let established = collect(&mut self.maps.flows, now, &timeouts).map_err(write_error("FLOWS"))?;
        self.settle_held(&held, &established.living)?;
        self.filling.set(Filled::FlowsOpening, opening.left);
        self.filling.set(Filled::Flows, established.left);
        Ok(opening.removed + established.removed)
    }

    /// Tells the programs how many of the flows that they have counted are gone. `living` was counted after `held`: a
    /// flow that came in between counts twice until the next time.
    fn settle_held(
        &mut self,
        held: &BTreeMap<HeldKey, u64>,
        living: &BTreeMap<HeldKey, u64>,
    ) -> Result<(), DatapathError> {
        for (key, count) in held {
            let living = living.get(key).copied().unwrap_or(0);
            if living == 0 && !self.attachments.is_attached(key.port) {
                remove(&mut self.maps.flows_gone, key).map_err(write_error("FLOWS_GONE"))?;
                remove(&mut self.maps.flows_held, key).map_err(write_error("FLOWS_HELD"))?;
                continue;
            }
            let gone = count.wrapping_sub(living);
            self.maps.flows_gone.insert(key, gone, 0).map_err(write_error("FLOWS_GONE"))?;
        }
        Ok(())
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

    fn write_config(&mut self) -> Result<(), DatapathError> {
        self.maps.config.set(0, self.config, 0).map_err(write_error("CONFIG"))
    }

    /// Addresses and slots first, so that a port is ready only when all of it is known. Each write is noted as it
    /// is made: after an error the next pass goes on from what the kernel really holds.
    fn write_host(&mut self, desired: HostState) -> Result<(), DatapathError> {
        let host = &mut self.host;
        for (&(address, prefix), destination) in &desired.destinations {
            if host.destinations.get(&(address, prefix)) != Some(destination) {
                let key = Key::new(u32::from(prefix), prefix_words(&address));
                self.maps.destinations.insert(&key, destination, 0).map_err(write_error("DESTINATIONS"))?;
                host.destinations.insert((address, prefix), *destination);
            }
        }
        let gone: Vec<(Address, u8)> =
            host.destinations.keys().filter(|key| !desired.destinations.contains_key(key)).copied().collect();
        for (address, prefix) in gone {
            let key = Key::new(u32::from(prefix), prefix_words(&address));
            absent_is_fine(self.maps.destinations.remove(&key)).map_err(write_error("DESTINATIONS"))?;
            host.destinations.remove(&(address, prefix));
        }
        let gone: Vec<u32> =
            host.slots.keys().filter(|slot| !desired.slots.contains_key(slot)).copied().collect();
        for slot in gone {
            self.maps.slots.set(slot, 0, 0).map_err(write_error("SLOTS"))?;
            host.slots.remove(&slot);
        }
        for (&slot, &ifindex) in &desired.slots {
            if host.slots.get(&slot) != Some(&ifindex) {
                self.maps.slots.set(slot, ifindex, 0).map_err(write_error("SLOTS"))?;
                host.slots.insert(slot, ifindex);
            }
        }
        for (&ifindex, interface) in &desired.interfaces {
            if host.interfaces.get(&ifindex) != Some(interface) {
                self.maps.interfaces.insert(ifindex, interface, 0).map_err(write_error("INTERFACES"))?;
                host.interfaces.insert(ifindex, *interface);
            }
        }
        host.left_out = desired.left_out;
        Ok(())
    }
}

/// What an earlier agent wrote, so that the first plan is the difference to it.
fn adopted_host(maps: &Maps) -> HostState {
    let mut host = HostState {
        interfaces: maps.interfaces.iter().filter_map(Result::ok).collect(),
        ..HostState::default()
    };
    for slot in 0..maps.slots.len() {
        if let Ok(ifindex) = maps.slots.get(&slot, 0)
            && ifindex != 0
        {
            host.slots.insert(slot, ifindex);
        }
    }
    for (key, destination) in maps.destinations.iter().filter_map(Result::ok) {
        let destination: Destination = destination;
        let [a, b, c, d] = { key.data() };
        let words = [
            u128::from(u32::from_be(a)),
            u128::from(u32::from_be(b)),
            u128::from(u32::from_be(c)),
            u128::from(u32::from_be(d)),
        ];
        let value = (words[0] << 96) | (words[1] << 64) | (words[2] << 32) | words[3];
        let prefix = u8::try_from(key.prefix_len()).unwrap_or(128);
        host.destinations.insert((Address::new(value.to_be_bytes()), prefix), destination);
    }
    host
}

fn same_party(current: &Interface, new: &Interface) -> bool {
    let flags = agent_common::endpoint::COVERED;
    current.kind == new.kind
        && current.identity == new.identity
        && current.instance == new.instance
        && current.flags & flags == new.flags & flags
}

/// What a walk over a flow map came to.
struct Collected {
    removed: usize,
    left: usize,
    /// By port and direction.
    living: BTreeMap<HeldKey, u64>,
}

fn collect(
    flows: &mut HashMap<MapData, FlowKey, FlowEntry>,
    now: u64,
    timeouts: &Timeouts,
) -> Result<Collected, MapError> {
    let mut all = 0;
    let mut living = BTreeMap::new();
    let mut expired = Vec::new();
    for (key, entry) in flows.iter().filter_map(Result::ok) {
        all += 1;
        if entry.is_expired(key.protocol, now, timeouts) {
            expired.push(key);
        } else {
            *living.entry(HeldKey::new(&key, &entry)).or_default() += 1;
        }
    }
    let mut removed = 0;
    for key in &expired {
        // Another flow with the same addresses may have begun since the walk.
        if flows.get(key, 0).is_ok_and(|entry| entry.is_expired(key.protocol, now, timeouts)) {
            remove(flows, key)?;
            removed += 1;
        }
    }
    Ok(Collected { removed, left: all - removed, living })
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
