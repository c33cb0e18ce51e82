//! What is known of the host, brought into the maps.

use agent_common::{
    endpoint::{Destination, PublishedKey},
    packet::Address,
    policy::prefix_words,
};
use aya::maps::lpm_trie::Key;

use super::{Datapath, DatapathError, absent_is_fine, write_error};
use crate::datapath::{maps::Maps, plan::HostState};

impl Datapath {
    /// Addresses and slots first, so that a port is ready only when all of it is known. Each write is noted as it
    /// is made: after an error the next pass goes on from what the kernel really holds.
    pub(super) fn write_host(&mut self, desired: HostState) -> Result<(), DatapathError> {
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
        self.publish(&desired)?;
        let host = &mut self.host;
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

    /// The programs look for published ports from before the first is there until after the last is gone.
    fn publish(&mut self, desired: &HostState) -> Result<(), DatapathError> {
        if !desired.published.is_empty() && self.config.has_published == 0 {
            self.config.has_published = 1;
            self.write_config()?;
        }
        let failed = write_error("PUBLISHED");
        let (host, map) = (&mut self.host.published, &mut self.maps.published);
        for (&(key, prefix), published) in &desired.published {
            if host.get(&(key, prefix)) != Some(published) {
                map.insert(&Key::new(prefix, key), published, 0).map_err(&failed)?;
                host.insert((key, prefix), *published);
            }
        }
        let gone: Vec<(PublishedKey, u32)> =
            host.keys().filter(|key| !desired.published.contains_key(key)).copied().collect();
        for (key, prefix) in gone {
            absent_is_fine(map.remove(&Key::new(prefix, key))).map_err(&failed)?;
            host.remove(&(key, prefix));
        }
        if host.is_empty() && self.config.has_published != 0 {
            self.config.has_published = 0;
            self.write_config()?;
        }
        Ok(())
    }
}

/// What an earlier agent wrote, so that the first plan is the difference to it.
pub(super) fn adopted_host(maps: &Maps) -> HostState {
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
    for (key, published) in maps.published.iter().filter_map(Result::ok) {
        host.published.insert(({ key.data() }, key.prefix_len()), published);
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
