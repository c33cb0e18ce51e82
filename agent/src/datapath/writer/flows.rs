//! Removes from the flow tables what has expired, and what belongs to ports that are gone, and settles how many flows each port holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
};

use agent_common::flow::{FlowEntry, FlowKey, FlowState, HeldKey};
use aya::maps::{HashMap, IterableMap, MapData, MapError};

use super::{Datapath, DatapathError, remove, write_error};
use crate::datapath::{counters::Filled, raw};

impl Datapath {
    /// Removes flows that have expired, and those of and with ports that are gone. Their entries count for nothing in the
    /// kernel any more; this frees the room.
    pub fn collect_flows(&mut self, now: u64) -> Result<usize, DatapathError> {
        let timeouts = self.config.timeouts;
        let attached = self.attachments.held().into_iter().map(|(ifindex, _)| ifindex);
        // What is attached may become known again, what is known may not be attached yet.
        let interfaces: BTreeSet<u32> = self.host.interfaces.keys().copied().chain(attached).collect();
        let is_over = |key: &FlowKey, entry: &FlowEntry| {
            entry.is_expired(key.protocol, now, &timeouts)
                || !interfaces.contains(&key.port)
                || entry.peer_port().is_some_and(|peer| !interfaces.contains(&peer))
        };
        let opening = collect(&mut self.maps.flows_opening, is_over).map_err(write_error("FLOWS_OPENING"))?;
        let held: BTreeMap<HeldKey, u64> = self.maps.flows_held.iter().filter_map(Result::ok).collect();
        let established = collect(&mut self.maps.flows, is_over).map_err(write_error("FLOWS"))?;
        self.departed.retain(|ifindex, _| interfaces.contains(ifindex));
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
        let attached: BTreeSet<u32> = self.attachments.held().iter().map(|(ifindex, _)| *ifindex).collect();
        for (key, count) in held {
            let living = living.get(key).copied().unwrap_or(0);
            if living == 0 && !attached.contains(&key.port) {
                remove(&mut self.maps.flows_gone, key).map_err(write_error("FLOWS_GONE"))?;
                remove(&mut self.maps.flows_held, key).map_err(write_error("FLOWS_HELD"))?;
                continue;
            }
            let gone = count.wrapping_sub(living);
            self.maps.flows_gone.insert(key, gone, 0).map_err(write_error("FLOWS_GONE"))?;
        }
        Ok(())
    }
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
    is_over: impl Fn(&FlowKey, &FlowEntry) -> bool,
) -> Result<Collected, MapError> {
    let mut left = 0;
    let mut living = BTreeMap::new();
    let mut over = Vec::new();
    for (key, entry) in flows.iter().filter_map(Result::ok) {
        if is_over(&key, &entry) {
            over.push((key, entry.state() != FlowState::Moved));
        } else {
            left += 1;
            *living.entry(HeldKey::new(&key, &entry)).or_default() += 1;
        }
    }
    let mut removed = 0;
    for (key, is_flow) in &over {
        // Another flow with the same addresses may have begun since the walk.
        if flows.get(key, 0).is_ok_and(|entry| is_over(key, &entry)) && take(flows, key, &is_over)? {
            removed += usize::from(*is_flow);
        }
    }
    Ok(Collected { removed, left, living })
}

/// Removes a flow that is over. If another has begun in its place since it was looked at, that one is put back at once. A
/// kernel of before 5.14 cannot tell: there such a flow is lost, and the next packet that opens it makes it anew.
fn take(
    flows: &mut HashMap<MapData, FlowKey, FlowEntry>,
    key: &FlowKey,
    is_over: impl Fn(&FlowKey, &FlowEntry) -> bool,
) -> Result<bool, MapError> {
    /// Of the kernel's bpf.h: what has come meanwhile stays.
    const NOEXIST: u64 = 1;
    match raw::take::<FlowKey, FlowEntry>(IterableMap::map(flows).fd().as_fd(), key) {
        Ok(Some(entry)) if !is_over(key, &entry) => {
            // Full: so it would be if the flow had begun now.
            drop(flows.insert(key, entry, NOEXIST));
            Ok(false)
        }
        Ok(entry) => Ok(entry.is_some()),
        Err(_unsupported) => remove(flows, key).map(|()| true),
    }
}
