//! The records that the programs hand to the agent.

use crate::packet::Address;

/// One denied attempt, a record of the ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedEvent {
    /// Nanoseconds since boot, suspend included (CLOCK_BOOTTIME).
    pub time: u64,
    /// Unspecified where the frame has no addresses.
    pub source_address: Address,
    pub destination_address: Address,
    /// The identities of the two sides.
    pub source: u32,
    pub destination: u32,
    /// The ports (ifindexes) of the two sides where they are known endpoints, else 0.
    pub source_port_ifindex: u32,
    pub destination_port_ifindex: u32,
    /// The identity whose policy decided, 0 if none.
    pub subject: u32,
    /// The rule that decided, 0 for a default; see [`crate::policy::Rule::rule`].
    pub rule: u32,
    /// The revision that the decision was made under.
    pub revision: u32,
    /// The interface of the hook.
    pub ifindex: u32,
    /// Packets of this flow that were denied since its last event.
    pub packets_suppressed: u32,
    /// TCP and UDP ports, in host order; the identifier of an ICMP echo stands in `source_port`.
    pub source_port: u16,
    pub destination_port: u16,
    /// The number of the policy, 0 for none.
    pub policy: u16,
    /// In host order.
    pub ethertype: u16,
    /// IP protocol number; ICMPv6 is 1 where the message was understood, else 58. 0 where the frame has no IP header.
    pub protocol: u8,
    /// The flags byte of the TCP header.
    pub tcp_flags: u8,
    /// [`crate::verdict::DropReason`].
    pub reason: u8,
    /// [`crate::verdict::Hook`].
    pub hook: u8,
    /// [`crate::verdict::Direction`], of the deciding endpoint.
    pub direction: u8,
    /// [`crate::verdict::Severity`].
    pub severity: u8,
    /// 1 if the packet was forwarded all the same.
    pub observed: u8,
    // As numbers: see `FlowKey`.
    pub _pad: u8,
    pub _pad2: u32,
}

/// Key of the LRU map `ATTEMPTS`, which tells attempts from their retransmissions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptKey {
    pub source_address: Address,
    pub destination_address: Address,
    pub ifindex: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    pub reason: u8,
    pub hook: u8,
    /// 1 for a TCP SYN: only SYNs are told apart by their sequence numbers.
    pub syn: u8,
    pub _pad2: u32,
}

/// Value of the LRU map `ATTEMPTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptEntry {
    /// When the last attempt was counted, nanoseconds since boot.
    pub time: u64,
    /// The sequence number of the last SYN.
    pub sequence: u32,
    /// Packets since the last event.
    pub suppressed: u32,
}

const _: () = assert!(size_of::<DeniedEvent>() == 96);
const _: () = assert!(size_of::<AttemptKey>() == 48);
