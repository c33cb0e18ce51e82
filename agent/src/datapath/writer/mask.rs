//! Another `mark_mask` than the earlier agent's: the numbers of ports move to other bits of the mark. A number of one
//! mask read by the other would be another port's, so in between no port sends anything.

use std::time::Duration;

use agent_common::{
    config::MarkLayout,
    endpoint::InterfaceKind,
    flow::{FlowEntry, FlowKey},
};
use aya::maps::{HashMap, MapData, MapError};

use super::{Datapath, DatapathError, remove, write_error};

/// Longer than a packet takes from one port through the host to another.
const DRAINED: Duration = Duration::from_millis(50);
/// No interface has this number.
const NOWHERE: u32 = u32::MAX;

impl Datapath {
    /// Renumbers what an earlier agent left, and puts the new mask into force.
    pub(super) fn change_mask(&mut self, old: u32) -> Result<(), DatapathError> {
        let new = self.layout.mask();
        tracing::info!(old = format!("{old:#x}"), new = format!("{new:#x}"), "the mark mask has changed");
        let ports: Vec<u32> = self
            .host
            .interfaces
            .iter()
            .filter(|(_, interface)| interface.kind == InterfaceKind::Port as u8)
            .map(|(&ifindex, _)| ifindex)
            .collect();
        let mut unknown = Vec::new();
        for &ifindex in &ports {
            remove(&mut self.maps.interfaces, &ifindex).map_err(write_error("INTERFACES"))?;
            unknown.extend(self.host.interfaces.remove(&ifindex).map(|interface| (ifindex, interface)));
        }
        self.config.mark_mask = old;
        self.move_epoch()?;
        std::thread::sleep(DRAINED);
        forget_arrivals(&mut self.maps.flows).map_err(write_error("FLOWS"))?;
        forget_arrivals(&mut self.maps.flows_opening).map_err(write_error("FLOWS_OPENING"))?;
        let beyond: Vec<u32> = self.host.slots.range(self.layout.slots()..).map(|(&slot, _)| slot).collect();
        for slot in beyond {
            self.maps.slots.set(slot, 0, 0).map_err(write_error("SLOTS"))?;
            self.host.slots.remove(&slot);
        }
        self.config.mark_mask = new;
        self.move_epoch()?;
        for (ifindex, mut interface) in unknown {
            // One that finds no number is told of when the host is looked at.
            let Some(slot) = self.slots.slot(ifindex) else { continue };
            interface.mark = self.layout.of_slot(slot);
            self.maps.slots.set(slot, ifindex, 0).map_err(write_error("SLOTS"))?;
            self.host.slots.insert(slot, ifindex);
            self.maps.interfaces.insert(ifindex, interface, 0).map_err(write_error("INTERFACES"))?;
            self.host.interfaces.insert(ifindex, interface);
        }
        Ok(())
    }
}

/// Makes the programs look again at who sends the packets of each flow. No port writes to them now.
fn forget_arrivals(flows: &mut HashMap<MapData, FlowKey, FlowEntry>) -> Result<(), MapError> {
    let marked: Vec<(FlowKey, FlowEntry)> =
        flows.iter().filter_map(Result::ok).filter(|(_, entry)| entry.peer_mark != 0).collect();
    for (key, entry) in marked {
        flows.insert(key, FlowEntry { peer_ifindex: NOWHERE, peer_mark: 0, ..entry }, 0)?;
    }
    Ok(())
}

/// Whether a mask that is in force may be replaced: a mask that nobody set is none.
pub(super) fn is_another(in_force: u32, wanted: u32) -> bool {
    MarkLayout::new(in_force).is_some_and(|layout| layout.mask() != wanted)
}
