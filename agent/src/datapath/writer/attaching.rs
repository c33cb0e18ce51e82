//! Which interfaces get programs when: new ports first, what an earlier agent left last.

use std::{sync::Arc, time::Instant};

use agent_common::verdict::Hook;

use super::{
    super::{
        attach::{self, AttachError},
        heritage, plan,
    },
    Datapath,
};
use crate::{inventory::snapshot::Snapshot, reconcile::Chain};

impl Datapath {
    /// Lets new ports be guarded as soon as the kernel can, ahead of [`Self::attach`], which takes longer.
    pub fn guard(&mut self, snapshot: &Snapshot) {
        for port in snapshot.ports.iter().map(|port| &port.interface) {
            // What a known port sends and gets would be counted twice, or is guarded by an earlier agent's programs.
            if self.is_ready(port.ifindex) || self.is_attached(port.ifindex) {
                continue;
            }
            match self.attachments.attach_stopgaps(&mut self.ebpf, port) {
                Ok(()) => self.note_guarded(port.ifindex),
                // The port has gone, or the kernel lacks clsact. Then the links come without it.
                Err(error) => {
                    tracing::debug!(interface = port.name, error = %Chain(&error), "no filters ahead of links");
                }
            }
        }
    }

    /// Ports that nobody guarded before and that have got both of their programs since this was asked last.
    pub fn take_guarded(&mut self) -> Vec<(u32, Instant)> {
        std::mem::take(&mut self.guarded)
    }

    fn note_guarded(&mut self, ifindex: u32) {
        if self.is_attached(ifindex) && !self.is_ready(ifindex) {
            self.guarded.push((ifindex, Instant::now()));
        }
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
}
