//! Runs the programs on single packets, on maps that the agent's own resolver and datapath have filled, and looks at
//! everything that they leave behind: the return value, the counters, the event, the mark.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::{Mutex, Once};
use std::time::Duration;

use agent_common::counter::{DeniedCount, DeniedKey, Total};
use agent_common::decision::{Party, PartyKind};
use agent_common::endpoint::Interface;
use agent_common::event::{AttemptEntry, AttemptKey, DeniedEvent};
use agent_common::flow::{FlowEntry, FlowKey, FlowState, HeldKey};
use agent_common::verdict::{DropReason, Hook, Verdict};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuHashMap, RingBuf};
use aya::programs::{TestRun, TestRunOptions};
use integration_tests::bpffs::Bpffs;
use integration_tests::prepare;
use lab::netns::Netns;
use portcullis::datapath::counters::{Counters, Reading};
use portcullis::datapath::pins::Pins;
use portcullis::datapath::{Datapath, Options, loader};
use portcullis::inventory::identity::IdentityRegistry;
use portcullis::inventory::snapshot::Snapshot;
use portcullis::policy::entries::Entries;
use portcullis::policy::{Source, load, resolve};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::town;

/// One packet at one hook, and what should come of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) packet: Vec<u8>,
    pub(crate) hook: Hook,
    /// The port whose hook it is.
    pub(crate) at: u32,
    /// The interface that it came in by.
    pub(crate) from: u32,
    pub(crate) mark: u32,
    pub(crate) expected: Verdict,
    /// What a denial adds to the attempts.
    pub(crate) attempts: u64,
    /// Whether a denial is told; `None` where it depends on the rows before.
    pub(crate) told: Option<bool>,
}

impl Row {
    /// A packet on its way into a container, by default from the container's own bridge without a mark.
    pub(crate) fn to(port: u32, name: impl Into<String>, packet: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            packet,
            hook: Hook::ToEndpoint,
            at: port,
            from: town::bridge_of(port),
            mark: 0,
            expected: Verdict::Forwarded,
            attempts: 1,
            told: Some(true),
        }
    }

    /// A packet that a container sends.
    pub(crate) fn from(port: u32, name: impl Into<String>, packet: Vec<u8>) -> Self {
        Self { hook: Hook::FromEndpoint, from: port, ..Self::to(port, name, packet) }
    }

    /// The interface that the packet came in by.
    pub(crate) fn by(mut self, ifindex: u32) -> Self {
        self.from = ifindex;
        self
    }

    pub(crate) fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    pub(crate) fn dropped(mut self, reason: DropReason) -> Self {
        self.expected = Verdict::Dropped(reason);
        self
    }

    pub(crate) fn observed(mut self, reason: DropReason) -> Self {
        self.expected = Verdict::Observed(reason);
        self
    }

    /// A denial that is no attempt of its own.
    pub(crate) fn again(mut self) -> Self {
        self.attempts = 0;
        self.told = Some(false);
        self
    }

    /// A denial that is an attempt, and may have been told shortly before.
    pub(crate) fn perhaps_told(mut self) -> Self {
        self.told = None;
        self
    }

    /// A denial that is an attempt, but was told shortly before.
    pub(crate) fn untold(mut self) -> Self {
        self.told = Some(false);
        self
    }
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) returned: i32,
    pub(crate) mark: u32,
    pub(crate) events: Vec<DeniedEvent>,
}

/// The town on loaded programs. What tests with the usual options have left is taken by the next one: the verifier
/// takes a second for all programs, and many where a kernel is emulated.
pub(crate) struct Bench {
    loaded: Option<Loaded>,
    usual: bool,
}

static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

impl Bench {
    /// The town under its policy.
    pub(crate) fn start() -> Self {
        Self::under(town::POLICY)
    }

    /// The town under another policy.
    pub(crate) fn under(policy: &str) -> Self {
        let idle = IDLE.lock().unwrap().pop();
        let mut loaded = idle.unwrap_or_else(|| Loaded::start(|_| {}));
        loaded.apply(policy);
        Self { loaded: Some(loaded), usual: true }
    }

    /// The town under another policy and with other options.
    pub(crate) fn with(policy: &str, change: impl FnOnce(&mut Options)) -> Self {
        let mut loaded = Loaded::start(change);
        loaded.apply(policy);
        Self { loaded: Some(loaded), usual: false }
    }

    /// Takes what is known of an interface away from the programs.
    pub(crate) fn forget_interface(&mut self, ifindex: u32) {
        self.usual = false;
        let data = MapData::from_pin(self.pins.map("INTERFACES")).unwrap();
        let mut map: HashMap<MapData, u32, Interface> = Map::HashMap(data).try_into().unwrap();
        map.remove(&ifindex).unwrap();
    }

    /// Fills the table of established flows with copies of one at a port that does not exist.
    pub(crate) fn fill_flows(&mut self, (key, entry): (FlowKey, FlowEntry)) {
        self.usual = false;
        let mut table = self.table("FLOWS");
        let copies = (1_000_u32..).map(|port| FlowKey { port, ..key });
        let taken = copies.map(|key| table.insert(key, entry, 0)).take_while(Result::is_ok).count();
        eprintln!("{taken} flows more fill the table");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.usual
            && !std::thread::panicking()
            && let Some(mut loaded) = self.loaded.take()
        {
            static REMOVED_AT_EXIT: Once = Once::new();
            // A static is never dropped: without this namespaces and mounts would outlive the tests.
            // SAFETY: `remove_idle` takes no arguments, does not unwind into C and is registered once.
            REMOVED_AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(remove_idle) }, 0));
            loaded.forget();
            IDLE.lock().unwrap().push(loaded);
        }
    }
}

extern "C" fn remove_idle() {
    if let Ok(mut idle) = IDLE.lock() {
        idle.clear();
    }
}

impl Deref for Bench {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        self.loaded.as_ref().unwrap()
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Loaded {
        self.loaded.as_mut().unwrap()
    }
}

/// The programs on maps of their own.
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    pub(crate) entries: Entries,
    registry: IdentityRegistry,
    pub(crate) datapath: Datapath,
    /// The same object once more, on the same pinned maps: the datapath does not hand out its own.
    programs: aya::Ebpf,
    counters: Counters,
    ring: RingBuf<MapData>,
    pins: Pins,
    inside: File,
    outside: File,
    _netns: Netns,
    // Last: its end removes the pins.
    _bpffs: Bpffs,
}

impl Loaded {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        prepare().unwrap();
        let netns = Netns::create().unwrap();
        let others = [town::BRIDGE_1, town::BRIDGE_2, town::BRIDGE_3, town::UPLINK];
        for port in town::PORTS.chain(others) {
            let veth = format!(
                "link add port{port} index {port} type veth peer name far{port} index {}",
                port + 1000
            );
            netns.ip(&veth).unwrap();
        }
        let bpffs = Bpffs::mount().unwrap();
        let mut options = Options::new(bpffs.pins());
        // Only `adopted` starts in the middle of connections.
        options.adopt = Duration::ZERO;
        change(&mut options);
        let datapath = Datapath::open(&options).unwrap();
        let pins = Pins::new(&bpffs.pins());
        let programs = loader::load(&pins, &options.sizes, false).unwrap();
        let ring = MapData::from_pin(pins.map("EVENTS")).unwrap();
        Self {
            snapshot: town::snapshot(),
            entries: Entries::default(),
            registry: IdentityRegistry::default(),
            counters: datapath.counters().unwrap(),
            datapath,
            programs,
            ring: Map::RingBuf(ring).try_into().unwrap(),
            pins,
            inside: File::open(netns.path()).unwrap(),
            outside: File::open("/proc/thread-self/ns/net").unwrap(),
            _netns: netns,
            _bpffs: bpffs,
        }
    }

    /// Forgets every packet and every change of the host.
    fn forget(&mut self) {
        for name in ["FLOWS", "FLOWS_OPENING"] {
            empty(&mut self.table::<FlowKey, FlowEntry>(name));
        }
        for name in ["FLOWS_HELD", "FLOWS_GONE"] {
            empty(&mut self.table::<HeldKey, u64>(name));
        }
        empty(&mut self.table::<AttemptKey, AttemptEntry>("ATTEMPTS"));
        let mut denied: PerCpuHashMap<MapData, DeniedKey, DeniedCount> =
            Map::PerCpuHashMap(MapData::from_pin(self.pins.map("DENIED")).unwrap()).try_into().unwrap();
        let keys: Vec<DeniedKey> = denied.keys().map(Result::unwrap).collect();
        keys.iter().for_each(|key| denied.remove(key).unwrap());
        self.forget_remembered();
        while self.ring.next().is_some() {}
        self.snapshot = town::snapshot();
        self.registry = IdentityRegistry::default();
    }

    /// Takes from every CPU what it remembers of flows, as opening others would.
    pub(crate) fn forget_remembered(&mut self) {
        let mut openings: Array<&mut MapData, u64> =
            self.programs.map_mut("OPENINGS").unwrap().try_into().unwrap();
        for place in 0..openings.len() {
            let count = openings.get(&place, 0).unwrap();
            openings.set(place, count + 1, 0).unwrap();
        }
    }

    /// Brings a policy into force; true if the revision moved.
    pub(crate) fn apply(&mut self, policy: &str) -> bool {
        let source = Source { name: "town.yaml".to_owned(), text: policy.to_owned() };
        let loaded = load(&[source], None);
        let set = loaded.policies.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
        self.entries = resolve(&set, &self.snapshot, &mut self.registry).unwrap();
        self.datapath.apply(&self.snapshot, &self.entries).unwrap()
    }

    /// Brings a change of the host into force, under the policy that is.
    pub(crate) fn change(&mut self, policy: &str, change: impl FnOnce(&mut Snapshot)) -> bool {
        change(&mut self.snapshot);
        self.apply(policy)
    }

    /// Who is behind a port.
    pub(crate) fn party(&self, port: u32) -> Party {
        let found = self
            .snapshot
            .endpoints
            .iter()
            .position(|endpoint| endpoint.port.as_ref().is_some_and(|known| known.ifindex == port))
            .unwrap_or_else(|| panic!("no endpoint behind port {port}"));
        self.entries.endpoints[found].party
    }

    /// The mark that a port's packets carry once they have left it.
    pub(crate) fn mark_of(&mut self, port: u32) -> u32 {
        let packet = town::sent_by(
            port,
            town::v4(port),
            town::gateway(town::BRIDGE_3, 0),
            &integration_tests::packet::Payload::Echo { request: false, identifier: 0xfffe },
        );
        let mark = self.run(&Row::from(port, "to learn the mark", packet)).mark;
        assert_ne!(mark, 0, "port {port} has no mark");
        mark
    }

    /// Runs a packet and compares nothing.
    pub(crate) fn run(&mut self, row: &Row) -> Ran {
        let mut context = [0_u8; CONTEXT];
        for (offset, value) in [(MARK, row.mark), (INGRESS_IFINDEX, row.from), (IFINDEX, row.at)] {
            context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut after = [0_u8; CONTEXT];
        let program = loader::program(&mut self.programs, row.hook).unwrap();
        let options = TestRunOptions {
            data_in: Some(&row.packet),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        // The kernel looks for the ports in the namespace of whoever asks.
        let result = {
            let _visit = Visit::start(&self.inside, &self.outside);
            program.test_run(options)
        };
        let result = result.unwrap_or_else(|error| panic!("{}: {error}", row.name));
        let mark = u32::from_ne_bytes(after[MARK..MARK + 4].try_into().unwrap());
        Ran { returned: result.return_value.cast_signed(), mark, events: self.events() }
    }

    /// Runs a packet and compares everything that it leaves behind with what should come of it.
    pub(crate) fn check(&mut self, row: &Row) -> Ran {
        let name = &row.name;
        let before = self.read();
        let ran = self.run(row);
        let after = self.read();
        let (returned, denied) = match row.expected {
            Verdict::Forwarded => (-1, None),
            Verdict::Observed(reason) => (-1, Some((reason, 1))),
            Verdict::Dropped(reason) => (2, Some((reason, 0))),
        };
        let counted = increases(&before, &after);
        let said: Vec<_> =
            counted.iter().map(|(key, count)| (DropReason::from_number(key.reason), *count)).collect();
        assert_eq!(ran.returned, returned, "{name}: returned, counted {said:?}");
        let mut totals = before.totals;
        totals[total(row.hook, returned == -1) as usize] += 1;
        match denied {
            None => assert_eq!(said, [], "{name}: a forwarded packet was counted as denied"),
            Some((reason, observed)) => {
                let count = DeniedCount { packets: 1, attempts: row.attempts };
                assert_eq!(said, [(Some(reason), count)], "{name}: counted");
                assert_eq!(counted[0].0.observed, observed, "{name}: observed");
                if !row.told.unwrap_or(!ran.events.is_empty()) {
                    totals[Total::EventsSuppressed as usize] += 1;
                }
            }
        }
        assert_eq!(after.totals, totals, "{name}: totals");
        let told = denied.is_some() && row.told.unwrap_or(!ran.events.is_empty());
        assert_eq!(ran.events.len(), usize::from(told), "{name}: events");
        for event in &ran.events {
            check_event(row, event, &counted[0].0, self.datapath.revision());
        }
        ran
    }

    /// Checks every row, in order.
    pub(crate) fn check_all(&mut self, rows: &[Row]) {
        for row in rows {
            self.check(row);
        }
        eprintln!("{} packets as expected", rows.len());
    }

    /// The counters as they stand.
    pub(crate) fn read(&self) -> Reading {
        self.counters.read().unwrap()
    }

    /// What the programs have told since the last time.
    pub(crate) fn events(&mut self) -> Vec<DeniedEvent> {
        let mut events = Vec::new();
        while let Some(record) = self.ring.next() {
            assert_eq!(record.len(), size_of::<DeniedEvent>());
            // SAFETY: the record has the size of the type, of which any bytes are a valid value.
            events.push(unsafe { record.as_ptr().cast::<DeniedEvent>().read_unaligned() });
        }
        events
    }

    /// The flows of a table at one port.
    pub(crate) fn flows(&self, table: &str, port: u32) -> Vec<(FlowKey, FlowEntry)> {
        let entries = self.table::<FlowKey, FlowEntry>(table).iter().map(Result::unwrap).collect::<Vec<_>>();
        let is_flow = |entry: &FlowEntry| entry.state() != FlowState::Moved;
        entries.into_iter().filter(|(key, entry)| key.port == port && is_flow(entry)).collect()
    }

    fn table<K: Pod, V: Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        let data = MapData::from_pin(self.pins.map(name)).unwrap();
        let lru = ["FLOWS_OPENING", "ATTEMPTS"].contains(&name);
        (if lru { Map::LruHashMap(data) } else { Map::HashMap(data) }).try_into().unwrap()
    }
}

fn empty<K: Pod, V: Pod>(table: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = table.keys().map(Result::unwrap).collect();
    keys.iter().for_each(|key| table.remove(key).unwrap());
}

/// What an event says, against the packet and the counter that counts it.
fn check_event(row: &Row, event: &DeniedEvent, key: &DeniedKey, revision: u32) {
    let name = &row.name;
    assert_eq!(event.reason, key.reason, "{name}: reason");
    assert_eq!(event.observed, key.observed, "{name}: observed");
    assert_eq!(event.hook, row.hook as u8, "{name}: hook");
    assert_eq!(event.ifindex, row.at, "{name}: ifindex");
    assert_eq!(event.revision, revision, "{name}: revision");
    assert_eq!(
        (event.source, event.destination, event.subject),
        (key.source, key.destination, key.subject),
        "{name}: parties"
    );
    assert_eq!((event.policy, event.severity), (key.policy, key.severity), "{name}: policy");
    assert_eq!(event.protocol, key.protocol, "{name}: protocol");
    if row.packet.get(12..14).is_some_and(|ethertype| ethertype != [0x81, 0]) {
        assert_eq!(event.ethertype.to_be_bytes(), row.packet[12..14], "{name}: ethertype");
    }
    assert_ne!(event.time, 0, "{name}: time");
}

/// The denied keys that rose, with by how much.
pub(crate) fn increases(before: &Reading, after: &Reading) -> Vec<(DeniedKey, DeniedCount)> {
    after
        .denied
        .iter()
        .filter_map(|(key, count)| {
            let old = before.denied.get(key).copied().unwrap_or_default();
            (*count != old).then(|| {
                let packets = count.packets - old.packets;
                (*key, DeniedCount { packets, attempts: count.attempts - old.attempts })
            })
        })
        .collect()
}

pub(crate) const fn total(hook: Hook, forwarded: bool) -> Total {
    if forwarded { Total::forwarded(hook) } else { Total::dropped(hook) }
}

/// Whether a policy covers a party.
pub(crate) const fn is_covered(party: &Party) -> bool {
    matches!(party.kind, PartyKind::Covered)
}

/// Size of `struct __sk_buff` and the offsets of the fields that a test run takes (linux/bpf.h).
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// This thread's stay in another network namespace.
struct Visit<'a> {
    home: &'a File,
}

impl<'a> Visit<'a> {
    fn start(inside: &File, home: &'a File) -> Self {
        move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Self { home }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}
