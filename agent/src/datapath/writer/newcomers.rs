//! Ports that have just come: guarded at once, and told when they are.

use std::time::Instant;

use super::Datapath;
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

    pub(super) fn note_guarded(&mut self, ifindex: u32) {
        if self.is_attached(ifindex) && !self.is_ready(ifindex) {
            self.guarded.push((ifindex, Instant::now()));
        }
    }
}
