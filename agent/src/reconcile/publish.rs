//! What the loop tells the rest of the agent.

use std::{collections::BTreeMap, sync::Arc};

use super::Reconciler;
use crate::{
    datapath::attach::Via,
    state::{AttachKind, InventoryState, Names, PortState},
};

impl Reconciler {
    /// Publishes what is in force now.
    pub(super) fn publish(&self) {
        let before = self.state.borrow().clone();
        let mut state = (*before).clone();
        if let Some((snapshot, entries)) = &self.applied {
            state.snapshot = Arc::clone(snapshot);
            state.entries = Arc::clone(entries);
        }
        let names = Names::from_registry(self.registry.numbers());
        if *state.names != names {
            state.names = Arc::new(names);
        }
        state.revision = self.datapath.revision();
        state.strangers.clone_from(&self.strangers);
        state.reload = self.policies.state().clone();
        if let Some(update) = &self.update {
            state.inventory = InventoryState {
                source: state.inventory.source,
                connected: update.connected,
                complete: update.complete,
                error: update.error.clone(),
            };
            state.ports = self.ports(update);
            state.ready = update.is_settled()
                && self.last_error.is_none()
                && state.ports.values().all(|port| port.attached);
        }
        if state != *before {
            self.state.send_replace(Arc::new(state));
        }
    }

    fn ports(&self, update: &crate::inventory::Update) -> BTreeMap<u32, PortState> {
        let bridges: BTreeMap<u32, &str> = update
            .snapshot
            .bridges
            .iter()
            .map(|bridge| (bridge.interface.ifindex, bridge.interface.name.as_str()))
            .collect();
        let via = match self.datapath.via() {
            Via::Tcx => AttachKind::Tcx,
            Via::Clsact => AttachKind::Clsact,
        };
        update
            .snapshot
            .ports
            .iter()
            .map(|port| {
                let attached = self.datapath.is_attached(port.interface.ifindex);
                let state = PortState {
                    name: port.interface.name.clone(),
                    bridge: bridges.get(&port.bridge).copied().unwrap_or_default().to_owned(),
                    attached,
                    ready: self.datapath.is_ready(port.interface.ifindex),
                    via: attached.then_some(via),
                };
                (port.interface.ifindex, state)
            })
            .collect()
    }
}
