//! The maps as the agent sees them: names and typed handles.

use agent_common::{
    config::Config,
    counter::TOTALS,
    endpoint::{Destination, Interface, Published, PublishedKey},
    event::DeniedEvent,
    flow::{FlowEntry, FlowKey, HeldKey},
    policy::{AddressKey, Rule, RuleKey, Subject, SubjectKey},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, RingBuf},
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

/// A ring buffer of an earlier agent.
pub fn open_events(path: &std::path::Path) -> Result<RingBuf<MapData>, TakeError> {
    let failed = |source| TakeError { name: "EVENTS", source: Some(source) };
    RingBuf::try_from(Map::RingBuf(MapData::from_pin(path).map_err(failed)?)).map_err(failed)
}
