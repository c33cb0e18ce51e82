//! What the programs tell about themselves when `datapath_log` asks for it: rare events only, never a packet's usual
//! way. Otherwise the level is a constant 0 that the verifier reads, and none of this gets into the kernel.
//!
//! Each is a function of its own, so that a log line's values do not lie on the stack of a hook.

use aya_log_ebpf::debug;

/// A packet reached a port that the agent has not described yet.
#[inline(never)]
pub(crate) fn port_without_entry(ifindex: u32) {
    debug!((), "port {} has no entry", ifindex);
}

/// Nobody knows who sent a packet: its interface is not described, or its mark is nobody's.
#[inline(never)]
pub(crate) fn unknown_sender(ifindex: u32, ingress_ifindex: u32, mark: u32) {
    debug!((), "port {}: sender unknown, came in by {} with mark {:x}", ifindex, ingress_ifindex, mark);
}

/// A flow table took no more.
#[inline(never)]
pub(crate) fn flow_not_kept(ifindex: u32) {
    debug!((), "port {}: no room in a flow table", ifindex);
}

/// A packet of a connection that was allowed once and is not any more.
#[inline(never)]
pub(crate) fn flow_revoked(ifindex: u32, revision: u32) {
    debug!(
        (),
        "port {}: packet belongs to a flow that the policy does not allow any more, revision {}",
        ifindex,
        revision
    );
}
