//! What stands in the pinned maps, read beside the agent or without one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use agent_common::config::Config;
use agent_common::endpoint::{Destination, DestinationKind, Interface};
use agent_common::flow::{FlowEntry, FlowKey, HeldKey, PEER_HOST, PEER_LOCAL, PEER_OUTSIDER};
use agent_common::policy::{AddressKey, Rule, RuleKey, Subject, SubjectKey};
use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapType};
use portcullis::datapath::counters::{Counters, Reading};
use portcullis::datapath::pins::Pins;

/// The pins of one agent.
#[derive(Clone, Debug)]
pub struct Pinned(Pins);

impl Pinned {
    /// Those below a pin directory.
    #[must_use]
    pub fn new(pin_dir: &Path) -> Self {
        Self(Pins::new(pin_dir))
    }

    fn open(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.0.map(name)).with_context(|| format!("failed to open `{name}`"))
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> Result<HashMap<MapData, K, V>> {
        let map = self.open(name)?;
        // Both are read the same way.
        let map = match map.info()?.map_type()? {
            MapType::LruHash => Map::LruHashMap(map),
            _ => Map::HashMap(map),
        };
        Ok(HashMap::try_from(map)?)
    }

    fn trie<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> Result<LpmTrie<MapData, K, V>> {
        Ok(LpmTrie::try_from(Map::LpmTrie(self.open(name)?))?)
    }

    /// Where the number of the entries in force can be read again and again.
    pub fn revision(&self) -> Result<Revision> {
        Ok(Revision(Array::try_from(Map::Array(self.open("CONFIG")?))?))
    }

    /// What has been counted.
    pub fn counters(&self) -> Result<Reading> {
        Ok(Counters::pinned(&self.0)?.read()?)
    }

    /// The ports that have a pinned link.
    pub fn linked(&self) -> Result<BTreeSet<u32>> {
        Ok(self.0.pinned_links()?.into_iter().map(|(ifindex, _)| ifindex).collect())
    }

    /// What should not stand in the maps: whatever is about an interface that is not among `living`, or about entries
    /// that are not in force.
    pub fn leftovers(&self, living: &BTreeSet<u32>) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let is_dead = |ifindex: u32| !living.contains(&ifindex);
        let revision = self.revision()?.get()?;
        let mut note = |map: &str, about: String| left.push(format!("{map}: {about}"));
        for ifindex in self.linked()?.into_iter().filter(|&ifindex| is_dead(ifindex)) {
            note("links", format!("interface {ifindex}"));
        }
        for ifindex in self.hash::<u32, Interface>("INTERFACES")?.keys() {
            let ifindex = ifindex?;
            if is_dead(ifindex) {
                note("INTERFACES", format!("interface {ifindex}"));
            }
        }
        let slots: Array<MapData, u32> = Array::try_from(Map::Array(self.open("SLOTS")?))?;
        for slot in slots.iter() {
            let ifindex = slot?;
            if ifindex != 0 && is_dead(ifindex) {
                note("SLOTS", format!("interface {ifindex}"));
            }
        }
        for entry in self.trie::<[u32; 4], Destination>("DESTINATIONS")?.iter() {
            let (_, destination) = entry?;
            if destination.kind == DestinationKind::Endpoint as u32 && is_dead(destination.ifindex) {
                note("DESTINATIONS", format!("interface {}", destination.ifindex));
            }
        }
        for key in self.hash::<SubjectKey, Subject>("SUBJECTS")?.keys() {
            let key = key?;
            if key.revision != revision {
                note("SUBJECTS", format!("revision {}", key.revision));
            }
        }
        for key in self.trie::<RuleKey, Rule>("RULES")?.keys() {
            let key = { key?.data() };
            if key.revision != revision {
                note("RULES", format!("revision {}", key.revision));
            }
        }
        for key in self.trie::<AddressKey, u32>("ADDRESSES")?.keys() {
            let key = { key?.data() };
            if key.revision != revision {
                note("ADDRESSES", format!("revision {}", key.revision));
            }
        }
        for map in ["FLOWS", "FLOWS_OPENING"] {
            for entry in self.hash::<FlowKey, FlowEntry>(map)?.iter() {
                let (key, entry) = entry?;
                // Peers that are no ports have numbers of their own.
                let has_peer = entry.peer != PEER_HOST && entry.peer < PEER_LOCAL;
                if is_dead(key.port) || (has_peer && is_dead(entry.peer & !PEER_OUTSIDER)) {
                    note(map, format!("interface {}, peer {}", key.port, entry.peer));
                }
            }
        }
        for map in ["FLOWS_HELD", "FLOWS_GONE"] {
            for key in self.hash::<HeldKey, u64>(map)?.keys() {
                let key = key?;
                if is_dead(key.port) {
                    note(map, format!("interface {}", key.port));
                }
            }
        }
        Ok(left)
    }

    /// The interfaces that the programs know.
    pub fn known(&self) -> Result<BTreeSet<u32>> {
        Ok(self.hash::<u32, Interface>("INTERFACES")?.keys().collect::<Result<_, _>>()?)
    }

    /// Addresses of endpoints, with the interface behind which the programs believe each to be.
    pub fn endpoints(&self) -> Result<BTreeSet<(IpAddr, u32)>> {
        let mut found = BTreeSet::new();
        for entry in self.trie::<[u32; 4], Destination>("DESTINATIONS")?.iter() {
            let (key, destination) = entry?;
            if destination.kind == DestinationKind::Endpoint as u32 {
                // As they lie in a packet.
                let words = { key.data() }.map(u32::to_ne_bytes);
                let bytes: [u8; 16] = words.concat().try_into().ok().context("not 16 bytes")?;
                found.insert((Ipv6Addr::from(bytes).to_canonical(), destination.ifindex));
            }
        }
        Ok(found)
    }
}

/// The number of the entries in force.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Revision(Array<MapData, Config>);

impl Revision {
    /// The number now.
    pub fn get(&self) -> Result<u32> {
        Ok(self.0.get(&0, 0)?.revision)
    }
}
