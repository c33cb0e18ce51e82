//! The maps as the agent sees them: names, expected shapes, typed handles.

use agent_common::{
    config::Config,
    counter::{DeniedCount, DeniedKey, TOTALS},
    endpoint::{Destination, Interface, Published, PublishedKey},
    event::{AttemptEntry, AttemptKey, DeniedEvent},
    flow::{FlowEntry, FlowKey, HeldKey},
    policy::{AddressKey, Rule, RuleKey, Subject, SubjectKey},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType, RingBuf},
};

use super::pins::Pins;

/// Every map that is pinned, by name.
pub const NAMES: [&str; 16] = [
    "CONFIG",
    "INTERFACES",
    "SLOTS",
    "DESTINATIONS",
    "PUBLISHED",
    "SUBJECTS",
    "RULES",
    "ADDRESSES",
    "FLOWS_OPENING",
    "FLOWS",
    "FLOWS_HELD",
    "FLOWS_GONE",
    "DENIED",
    "TOTALS",
    "ATTEMPTS",
    "EVENTS",
];

/// What a pinned map has to look like.
struct Shape {
    kind: MapType,
    key: usize,
    value: usize,
}

fn shape(name: &str) -> Shape {
    // LPM keys start with the prefix length.
    let lpm = size_of::<u32>();
    let (kind, key, value) = match name {
        "CONFIG" => (MapType::Array, 4, size_of::<Config>()),
        "INTERFACES" => (MapType::Hash, 4, size_of::<Interface>()),
        "SLOTS" => (MapType::Array, 4, 4),
        "DESTINATIONS" => (MapType::LpmTrie, lpm + 16, size_of::<Destination>()),
        "PUBLISHED" => (MapType::LpmTrie, lpm + size_of::<PublishedKey>(), size_of::<Published>()),
        "SUBJECTS" => (MapType::Hash, size_of::<SubjectKey>(), size_of::<Subject>()),
        "RULES" => (MapType::LpmTrie, lpm + size_of::<RuleKey>(), size_of::<Rule>()),
        "ADDRESSES" => (MapType::LpmTrie, lpm + size_of::<AddressKey>(), 4),
        "FLOWS_OPENING" => (MapType::LruHash, size_of::<FlowKey>(), size_of::<FlowEntry>()),
        "FLOWS" => (MapType::Hash, size_of::<FlowKey>(), size_of::<FlowEntry>()),
        "FLOWS_HELD" | "FLOWS_GONE" => (MapType::Hash, size_of::<HeldKey>(), 8),
        "DENIED" => (MapType::PerCpuHash, size_of::<DeniedKey>(), size_of::<DeniedCount>()),
        "TOTALS" => (MapType::PerCpuArray, 4, 8),
        "ATTEMPTS" => (MapType::LruHash, size_of::<AttemptKey>(), size_of::<AttemptEntry>()),
        _ => (MapType::RingBuf, 0, 0),
    };
    Shape { kind, key, value }
}

/// A pinned map is not one of ours, or of another version.
#[derive(Debug, thiserror::Error)]
pub enum MapCheckError {
    #[error("pinned map `{name}` has {what} {found}, not {expected}")]
    Shape { name: &'static str, what: &'static str, found: String, expected: String },
    #[error("failed to open pinned map `{name}`")]
    Open { name: &'static str, source: MapError },
}

/// Compares what is pinned with what this version expects: aya takes any map of that name.
pub fn check_pins(pins: &Pins) -> Result<(), MapCheckError> {
    for name in NAMES {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|source| MapCheckError::Open { name, source })?;
        let shape = shape(name);
        let kind = info.map_type().map_err(|source| MapCheckError::Open { name, source })?;
        let error =
            |what, found: String, expected: String| MapCheckError::Shape { name, what, found, expected };
        if kind != shape.kind {
            return Err(error("type", format!("{kind:?}"), format!("{:?}", shape.kind)));
        }
        if info.key_size() as usize != shape.key {
            return Err(error("key size", info.key_size().to_string(), shape.key.to_string()));
        }
        if info.value_size() as usize != shape.value {
            return Err(error("value size", info.value_size().to_string(), shape.value.to_string()));
        }
    }
    Ok(())
}

/// The maps that the agent writes, and those that it cleans.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Maps {
    pub config: Array<MapData, Config>,
    pub interfaces: HashMap<MapData, u32, Interface>,
    pub slots: Array<MapData, u32>,
    pub destinations: LpmTrie<MapData, [u32; 4], Destination>,
    pub published: LpmTrie<MapData, PublishedKey, Published>,
    pub subjects: HashMap<MapData, SubjectKey, Subject>,
    pub rules: LpmTrie<MapData, RuleKey, Rule>,
    pub addresses: LpmTrie<MapData, AddressKey, u32>,
    pub flows_opening: HashMap<MapData, FlowKey, FlowEntry>,
    pub flows: HashMap<MapData, FlowKey, FlowEntry>,
    pub flows_held: HashMap<MapData, HeldKey, u64>,
    pub flows_gone: HashMap<MapData, HeldKey, u64>,
    pub capacities: Capacities,
}

/// How many entries the maps that policies and hosts fill can take.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    pub interfaces: usize,
    pub destinations: usize,
    pub published: usize,
    pub subjects: usize,
    pub rules: usize,
    pub addresses: usize,
}

/// A map is missing or cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("map `{name}` cannot be used")]
pub struct TakeError {
    name: &'static str,
    source: Option<MapError>,
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, TakeError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(TakeError { name, source: None })?;
    T::try_from(map).map_err(|source| TakeError { name, source: Some(source) })
}

fn capacity(pins: &Pins, name: &'static str) -> Result<usize, TakeError> {
    let info =
        MapInfo::from_pin(pins.map(name)).map_err(|source| TakeError { name, source: Some(source) })?;
    Ok(info.max_entries() as usize)
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf, pins: &Pins) -> Result<Self, TakeError> {
        Ok(Self {
            config: take(ebpf, "CONFIG")?,
            interfaces: take(ebpf, "INTERFACES")?,
            slots: take(ebpf, "SLOTS")?,
            destinations: take(ebpf, "DESTINATIONS")?,
            published: take(ebpf, "PUBLISHED")?,
            subjects: take(ebpf, "SUBJECTS")?,
            rules: take(ebpf, "RULES")?,
            addresses: take(ebpf, "ADDRESSES")?,
            flows_opening: take(ebpf, "FLOWS_OPENING")?,
            flows: take(ebpf, "FLOWS")?,
            flows_held: take(ebpf, "FLOWS_HELD")?,
            flows_gone: take(ebpf, "FLOWS_GONE")?,
            capacities: Capacities {
                interfaces: capacity(pins, "INTERFACES")?,
                destinations: capacity(pins, "DESTINATIONS")?,
                published: capacity(pins, "PUBLISHED")?,
                subjects: capacity(pins, "SUBJECTS")?,
                rules: capacity(pins, "RULES")?,
                addresses: capacity(pins, "ADDRESSES")?,
            },
        })
    }
}

/// The ring buffer of denied attempts.
pub fn take_events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, TakeError> {
    const { assert!(size_of::<DeniedEvent>() == 96 && TOTALS == 13) };
    take(ebpf, "EVENTS")
}
