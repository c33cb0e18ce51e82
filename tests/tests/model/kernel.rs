//! The programs on maps of their own, packet by packet, and everything that they leave behind.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use agent_common::config::Timeouts;
use agent_common::counter::{DeniedCount, DeniedKey, TOTALS};
use agent_common::endpoint::Interface;
use agent_common::event::{AttemptEntry, AttemptKey, DeniedEvent};
use agent_common::flow::{FlowEntry, FlowKey};
use agent_common::verdict::Hook;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use datapath_model::decision::Known;
use integration_tests::bpffs::Bpffs;
use lab::netns::Netns;
use portcullis::datapath::pins::Pins;
use portcullis::datapath::{Datapath, Options, loader};
use portcullis::inventory::identity::IdentityRegistry;
use portcullis::policy::entries::Entries;
use portcullis::policy::{Source, load, resolve};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::packets::Given;
use crate::text::{snapshot, yaml};
use crate::world::{MARK_MASK, PORTS};

/// Each two seconds away from a multiple of the four by which the clock is moved.
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    tcp_opening: 10,
    tcp_established: 22,
    tcp_closing: 6,
    udp_opening: 14,
    udp_established: 18,
    icmp: 2,
};

/// Size of `struct __sk_buff` and the offsets of the fields that a test run takes (linux/bpf.h).
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// What a packet left behind.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) returned: i32,
    pub(crate) mark: u32,
    pub(crate) event: Option<DeniedEvent>,
}

/// The programs and their maps.
pub(crate) struct Kernel {
    datapath: Datapath,
    programs: aya::Ebpf,
    registry: IdentityRegistry,
    pub(crate) entries: Entries,
    /// The ports of `entries.endpoints`.
    pub(crate) endpoints: Vec<u32>,
    interfaces: HashMap<MapData, u32, Interface>,
    flows: [HashMap<MapData, FlowKey, FlowEntry>; 2],
    attempts: HashMap<MapData, AttemptKey, AttemptEntry>,
    denied: PerCpuHashMap<MapData, DeniedKey, DeniedCount>,
    totals: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    home: File,
    _netns: Netns,
    // Last: its end removes the pins.
    _bpffs: Bpffs,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Kernel {
    /// Loads everything. From here on the calling thread is in a namespace that has the ports.
    pub(crate) fn start() -> Self {
        let netns = Netns::create().unwrap();
        for port in PORTS {
            let far = port + 1000;
            netns
                .ip(&format!("link add if{port} index {port} type veth peer name far{port} index {far}"))
                .unwrap();
        }
        let bpffs = Bpffs::mount().unwrap();
        let options = Options {
            timeouts: TIMEOUTS,
            mark_mask: MARK_MASK,
            adopt: Duration::ZERO,
            ..Options::new(bpffs.pins())
        };
        let datapath = Datapath::open(&options).unwrap();
        let pins = Pins::new(&bpffs.pins());
        let map = |name: &str| MapData::from_pin(pins.map(name)).unwrap();
        let kernel = Self {
            datapath,
            programs: loader::load(&pins, &options.sizes, false).unwrap(),
            registry: IdentityRegistry::default(),
            entries: Entries::default(),
            endpoints: Vec::new(),
            interfaces: Map::HashMap(map("INTERFACES")).try_into().unwrap(),
            flows: [
                Map::HashMap(map("FLOWS")).try_into().unwrap(),
                Map::LruHashMap(map("FLOWS_OPENING")).try_into().unwrap(),
            ],
            attempts: Map::LruHashMap(map("ATTEMPTS")).try_into().unwrap(),
            denied: Map::PerCpuHashMap(map("DENIED")).try_into().unwrap(),
            totals: Map::PerCpuArray(map("TOTALS")).try_into().unwrap(),
            ring: Map::RingBuf(map("EVENTS")).try_into().unwrap(),
            home: File::open("/proc/thread-self/ns/net").unwrap(),
            _netns: netns,
            _bpffs: bpffs,
        };
        let inside = File::open(kernel._netns.path()).unwrap();
        move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        kernel
    }

    /// Brings a host and its policies into force, and tells which marks the ports got.
    pub(crate) fn apply(&mut self, known: &mut Known) {
        let text = yaml(&known.policies);
        let loaded = load(&[Source { name: "model.yaml".to_owned(), text: text.clone() }], None);
        let set = loaded.policies.unwrap_or_else(|| panic!("{text}\n{:#?}", loaded.diagnostics));
        let snapshot = snapshot(known);
        self.entries = resolve(&set, &snapshot, &mut self.registry).unwrap();
        self.endpoints =
            snapshot.endpoints.iter().filter_map(|each| Some(each.port.as_ref()?.ifindex)).collect();
        self.datapath.apply(&snapshot, &self.entries).unwrap();
        known.host.marks = self
            .interfaces
            .iter()
            .map(Result::unwrap)
            .filter(|(_, interface)| interface.mark != 0)
            .map(|(ifindex, interface)| (ifindex, interface.mark))
            .collect();
    }

    pub(crate) fn revision(&self) -> u32 {
        self.datapath.revision()
    }

    /// Forgets all packets.
    pub(crate) fn forget(&mut self) {
        let mut remembered = Vec::new();
        for flows in &mut self.flows {
            let keys: Vec<FlowKey> = flows.keys().map(Result::unwrap).collect();
            keys.iter().for_each(|key| flows.remove(key).unwrap());
            remembered.extend(keys);
        }
        self.open_anew(&remembered);
        let keys: Vec<AttemptKey> = self.attempts.keys().map(Result::unwrap).collect();
        keys.iter().for_each(|key| self.attempts.remove(key).unwrap());
        let keys: Vec<DeniedKey> = self.denied.keys().map(Result::unwrap).collect();
        keys.iter().for_each(|key| self.denied.remove(key).unwrap());
        while self.ring.next().is_some() {}
    }

    /// Takes from every CPU what it remembers of these flows, as opening them would.
    fn open_anew(&mut self, keys: &[FlowKey]) {
        let mut openings: Array<&mut MapData, u64> =
            self.programs.map_mut("OPENINGS").unwrap().try_into().unwrap();
        for key in keys {
            let count = openings.get(&key.place(), 0).unwrap();
            openings.set(key.place(), count + 1, 0).unwrap();
        }
    }

    /// Makes everything that is remembered older.
    pub(crate) fn age(&mut self, seconds: u64) {
        let nanoseconds = seconds * 1_000_000_000;
        let mut remembered = Vec::new();
        for flows in &mut self.flows {
            let entries: Vec<_> = flows.iter().map(Result::unwrap).collect();
            for (key, mut entry) in entries {
                entry.last_seen -= nanoseconds;
                // Long enough ago for any `CONFIG_HZ`.
                entry.refreshed = entry.refreshed.wrapping_sub(10_000);
                flows.insert(key, entry, 0).unwrap();
                remembered.push(key);
            }
        }
        self.open_anew(&remembered);
        let entries: Vec<_> = self.attempts.iter().map(Result::unwrap).collect();
        for (key, mut entry) in entries {
            entry.time -= nanoseconds;
            self.attempts.insert(key, entry, 0).unwrap();
        }
    }

    /// Runs a packet through its hook.
    pub(crate) fn run(&mut self, given: &Given) -> Ran {
        let mut context = [0_u8; CONTEXT];
        for (offset, value) in [(MARK, given.mark), (INGRESS_IFINDEX, given.from), (IFINDEX, given.at)] {
            context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut after = [0_u8; CONTEXT];
        let hook = hook(given);
        let program: &mut SchedClassifier = loader::program(&mut self.programs, hook).unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(&given.bytes),
                ctx_in: Some(&context),
                ctx_out: Some(&mut after),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("{given:?}: {error}"));
        let mark = u32::from_ne_bytes(after[MARK..MARK + 4].try_into().unwrap());
        let event = self.ring.next().map(|record| {
            assert_eq!(record.len(), size_of::<DeniedEvent>());
            // SAFETY: the record has the size of the type, of which any bytes are a valid value.
            unsafe { record.as_ptr().cast::<DeniedEvent>().read_unaligned() }
        });
        Ran { returned: result.return_value.cast_signed(), mark, event }
    }

    /// What stands under one label.
    pub(crate) fn denied(&self, key: &DeniedKey) -> DeniedCount {
        self.denied.get(key, 0).map_or_else(|_absent| DeniedCount::default(), |counts| sum(&counts))
    }

    /// What stands under every label.
    pub(crate) fn all_denied(&self) -> std::collections::BTreeMap<DeniedKey, DeniedCount> {
        self.denied.iter().map(Result::unwrap).map(|(key, counts)| (key, sum(&counts))).collect()
    }

    pub(crate) fn totals(&self) -> [u64; TOTALS as usize] {
        let mut totals = [0; TOTALS as usize];
        for (index, total) in (0..TOTALS).zip(&mut totals) {
            *total = self.totals.get(&index, 0).unwrap().iter().sum();
        }
        totals
    }
}

pub(crate) const fn hook(given: &Given) -> Hook {
    match given.hook {
        datapath_model::verdict::Hook::ToEndpoint => Hook::ToEndpoint,
        datapath_model::verdict::Hook::FromEndpoint => Hook::FromEndpoint,
    }
}

fn sum(counts: &[DeniedCount]) -> DeniedCount {
    let mut sum = DeniedCount::default();
    for count in counts {
        sum.packets += count.packets;
        sum.attempts += count.attempts;
    }
    sum
}
