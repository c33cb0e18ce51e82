//! Brings the kernel to a desired state, in an order in which every moment is either the old state, the new one, or
//! stricter than both.

mod flows;
mod host;
mod mask;
mod newcomers;
mod revision;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use agent_common::{
    config::{Config, MarkLayout},
    endpoint::{Interface, InterfaceKind},
    verdict::Hook,
};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};

use self::{host::adopted_host, revision::same_entries};
use super::{
    attach::{self, AttachError, Attachments, Via},
    counters::{Counters, Filled, Filling},
    error::DatapathError,
    heritage::{self, Heritage},
    kernel, loader,
    maps::{self, Maps},
    migrate::{self, Migration},
    options::Options,
    pins::{Lock, Pins},
    plan::{self, HostState, LeftOut, Slots},
    streams::{Diagnostics, Events},
    watchdog::Watchdog,
};
use crate::{
    interference::Finding,
    inventory::snapshot::Snapshot,
    policy::{entries::Entries, glob::Glob},
    reconcile::Chain,
};

/// Seconds in which a repeated denial is not a new attempt.
const ATTEMPT_WINDOW: u32 = 30;

/// The programs, links and maps of one agent.
pub struct Datapath {
    ebpf: Ebpf,
    maps: Maps,
    attachments: Attachments,
    /// Ports that have got both of their programs, and when, until somebody asks.
    guarded: Vec<(u32, Instant)>,
    pins: Pins,
    layout: MarkLayout,
    slots: Slots,
    config: Config,
    uplinks: Vec<Glob>,
    adopt: Duration,
    host: HostState,
    /// Ports that are not known any more, as they were: their flows may outlive them until the next clean-up.
    departed: BTreeMap<u32, Interface>,
    filling: Arc<Filling>,
    entries: Option<Entries>,
    migration: Migration,
    /// The number of this agent among those whose programs are pinned.
    generation: u64,
    /// What was wrong with what earlier agents left, until it has been told.
    findings: Vec<Finding>,
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
        let via = kernel::probe(options.via)?;
        let pins = Pins::new(&options.pin_dir);
        pins.create()?;
        let lock = pins.lock()?;
        let Heritage { generation, programs, findings } = Heritage::take_stock(&pins)?;
        let wanted = loader::shapes(&options.sizes)?;
        let plan = migrate::Plan::new(&pins, generation, &wanted, options.conversions)?;
        let loaded = loader::load_as(&pins, &plan, &options.sizes, options.diagnostics);
        if loaded.is_err() {
            // What an earlier agent left is as it was.
            pins.remove_aside()?;
        }
        let mut ebpf = loaded?;
        // Known before they are used. Where that fails the watchdog says so and tries again; but maps are exchanged only
        // if the next agent can tell which of them the programs use.
        match loader::pin_programs(&mut ebpf, &pins, &plan, generation) {
            Err(error) if plan.changes_nothing() => {
                tracing::warn!(error = %Chain(&error), "programs not pinned");
            }
            pinned => pinned?,
        }
        let migration = plan.begin(&pins)?;
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
        let left_mask = left(|config| config.mark_mask.into()) as u32;
        if migration.is_carrying("CONFIG") && mask::is_another(left_mask, options.mark_mask) {
            return Err(DatapathError::MarkInUse { old: left_mask, new: options.mark_mask });
        }
        let host = adopted_host(&maps);
        let slots = Slots::new(layout, &host.slots);
        // Programs that know no policy deny everything; those of an earlier agent know the last one.
        let hold = migrate::WRITTEN.into_iter().any(|name| migration.is_empty(name));
        let attachments = Attachments::new(via, pins.clone(), programs, hold);
        let mut datapath = Self {
            watchdog: Watchdog::new(&pins, &mut ebpf, generation).map_err(DatapathError::Reopen)?,
            migration,
            generation,
            findings,
            lock,
            ebpf,
            maps,
            attachments,
            guarded: Vec::new(),
            pins,
            layout,
            slots,
            config,
            uplinks: options.uplinks.clone(),
            adopt: options.adopt,
            host,
            departed: BTreeMap::new(),
            filling: Arc::default(),
            entries: None,
        };
        datapath.begin(left_mask)?;
        Ok(datapath)
    }

    /// Puts the settings into force: without them every packet is dropped.
    fn begin(&mut self, mask: u32) -> Result<(), DatapathError> {
        let lost = |name| self.migration.is_empty(name);
        if lost("CONFIG") {
            // Flows of an earlier agent must not be taken for ones that the first policy of this one has allowed.
            let flows = self.maps.flows.iter().chain(self.maps.flows_opening.iter());
            let revisions = flows.filter_map(Result::ok).map(|(_, entry)| entry.revision);
            self.config.revision = revisions.max().unwrap_or(0);
        } else if lost("FLOWS") && self.config.revision != 0 && !self.adopt.is_zero() {
            // What was open then is taken over as at the very first start.
            self.config.adopt_until = revision::adopt_until(self.adopt);
            tracing::warn!(
                seconds = self.adopt.as_secs(),
                "no flows are known: open connections are taken over anew"
            );
        }
        if mask::is_another(mask, self.config.mark_mask) {
            return self.change_mask(mask);
        }
        self.write_config()
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
        // What has just become a port may be known as an uplink still.
        let is_port = |interface: &Interface| interface.kind == InterfaceKind::Port as u8;
        self.host.interfaces.get(&ifindex).is_some_and(is_port)
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

    /// Streams that programs of an earlier agent may still write to.
    pub fn old_events(&self) -> Result<Vec<Events>, DatapathError> {
        let open = |path: &PathBuf| Events::new(maps::open_events(path)?).map_err(DatapathError::Events);
        self.migration.drained().iter().map(open).collect()
    }

    /// What the programs log; once, and only with `Options::diagnostics`.
    pub fn take_diagnostics(&mut self) -> Option<Diagnostics> {
        loader::diagnostics(&mut self.ebpf).map(Diagnostics::new)
    }

    /// A reader of the counters, independent of this value.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::open(&self.pins, self.migration.counters(), Arc::clone(&self.filling))?)
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
    ///
    /// Where many ports come at once this takes a while; `newest` says what is known meanwhile.
    pub fn attach(
        &mut self,
        snapshot: &Snapshot,
        complete: bool,
        mut newest: impl FnMut() -> Option<Arc<Snapshot>>,
    ) -> Vec<AttachError> {
        self.guard(snapshot);
        let mut known = None;
        let places = plan::places(snapshot, &self.uplinks);
        let mut errors = Vec::new();
        // Before and after: what the programs that are about to go write in between is not lost.
        self.migration.catch_up();
        for &(interface, hook) in &places {
            // What is not known to be a port or a bridge may still turn out to be one.
            if !complete && Hook::OF_UPLINK.contains(&hook) {
                continue;
            }
            if self.attachments.is_current(interface.ifindex, hook) {
                continue;
            }
            let was_guarded = self.is_attached(interface.ifindex);
            if let Err(error) = self.attachments.attach(&mut self.ebpf, interface, hook) {
                if attach::interface_index(&interface.name) == Some(interface.ifindex) {
                    errors.push(error);
                } else {
                    // Containers come and go; the next snapshot will not list it.
                    tracing::debug!(interface = interface.name, %error, "interface is gone");
                }
            } else if !was_guarded {
                self.note_guarded(interface.ifindex);
            }
            if let Some(newest) = newest() {
                self.guard(&newest);
                known = Some(newest);
            }
        }
        if complete {
            let wanted = places.iter().map(|(interface, hook)| (interface.ifindex, *hook)).collect();
            self.attachments.retain(&wanted);
            let ports = known.as_deref().unwrap_or(snapshot).ports.iter();
            self.attachments.retain_stopgaps(&ports.map(|port| port.interface.ifindex).collect());
            errors.extend(self.attachments.sweep(&wanted).err());
        }
        self.migration.catch_up();
        if complete && errors.is_empty() && !self.attachments.is_deferring() {
            self.retire();
        }
        errors
    }

    /// Whether programs of an earlier agent stay on their hooks until this one's know the policy.
    #[must_use]
    pub fn is_deferring(&self) -> bool {
        self.attachments.is_deferring()
    }

    /// Ends what earlier agents left: none of their programs is on a hook any more.
    fn retire(&mut self) {
        if let Err(error) = self.migration.finish(&self.pins) {
            tracing::warn!(error = %Chain(&error), "counters of an earlier agent not settled, tried again later");
            return;
        }
        for generation in self.pins.program_sets() {
            if generation < self.generation
                && let Err(error) = heritage::remove_set(&self.pins.program_set(generation))
            {
                tracing::warn!(error = %Chain(&error), "programs of an earlier agent stay pinned");
            }
        }
        for layout in self.pins.other_layouts() {
            layout.remove_rest();
        }
    }

    /// Whether programs are still on an interface that is not what it was, and have to be taken off later.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.attachments.lingers()
    }

    /// Looks whether somebody took programs or pins away, and puts them back.
    pub fn watch(&mut self) -> Vec<Finding> {
        let mut findings = std::mem::take(&mut self.findings);
        findings.extend(self.attachments.take_findings());
        findings.extend(self.watchdog.look(
            &mut self.ebpf,
            &mut self.attachments,
            &self.pins,
            &mut self.lock,
        ));
        findings
    }

    /// What lies in the pin directory and is nobody's that is known.
    #[must_use]
    pub fn strangers(&self) -> Vec<PathBuf> {
        self.pins.strangers()
    }

    /// Brings maps to the state that a snapshot and its resolved policy call for.
    ///
    /// Returns whether the revision moved. On an error the entries in force stay in force.
    pub fn apply(&mut self, snapshot: &Snapshot, entries: &Entries) -> Result<bool, DatapathError> {
        let desired = plan::host_state(snapshot, entries, self.layout, &mut self.slots);
        // What a port was allowed under another name is decided anew, as all else is by another revision.
        let moved = self.changes_sides(&desired)
            || match &self.entries {
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
        self.departed.retain(|ifindex, _| !self.host.interfaces.contains_key(ifindex));
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
        self.attachments.hold = false;
        Ok(moved)
    }

    /// Whether a port that may have flows was somebody else's before.
    fn changes_sides(&self, desired: &HostState) -> bool {
        self.host.interfaces.iter().chain(&self.departed).any(|(ifindex, before)| {
            before.kind == InterfaceKind::Port as u8
                && desired.interfaces.get(ifindex).is_some_and(|now| !same_party(before, now))
        })
    }

    /// Whether everything has room, before anything is written. `entries`: those that will be, if others than now.
    fn check_room(&self, desired: &HostState, entries: Option<&Entries>) -> Result<(), DatapathError> {
        let room = &self.maps.capacities;
        // Two revisions lie side by side during a swap. None may take more than its half: one that fits only as long
        // as it is alone could never be replaced by another, a stricter one included.
        let new = |count: fn(&Entries) -> usize| entries.map_or(0, count);
        let needs = [
            ("interfaces", "INTERFACES", desired.interfaces.len(), room.interfaces),
            ("addresses", "DESTINATIONS", desired.destinations.len(), room.destinations),
            ("published ports", "PUBLISHED", desired.published.len(), room.published),
            ("services", "SUBJECTS", new(|entries| entries.subjects.len()), room.subjects / 2),
            ("rules", "RULES", new(|entries| entries.rules.len()), room.rules / 2),
            ("CIDRs", "ADDRESSES", new(|entries| entries.addresses.len()), room.addresses / 2),
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
            self.departed.extend(self.host.interfaces.remove_entry(ifindex));
        }
        Ok(())
    }

    /// Makes the programs forget how the host was, if it is not any more what it was `before`. Also after an error: some
    /// of what was to be written may be.
    fn settle(&mut self, before: &HostState) -> Result<(), DatapathError> {
        if self.host == *before {
            return Ok(());
        }
        self.move_epoch()
    }

    /// Makes the programs forget what they remember of packets.
    fn move_epoch(&mut self) -> Result<(), DatapathError> {
        self.config.epoch = self.config.epoch.wrapping_add(1);
        // The kernel writes both maps, on this thread's behalf. Whoever reads the new number has to find what it stands for;
        // processors with a weak order may show the two the other way round. The other half is `after` in the programs.
        fence(Ordering::SeqCst);
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
