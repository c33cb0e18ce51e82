//! What is counted about denied packets. Labels are closed sets, so the number of keys is bounded by the policy.

use crate::verdict::Hook;

/// Key of the per-CPU map `DENIED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeniedKey {
    /// The identity whose policy decided; [`crate::identity::UNKNOWN`] before any was found.
    pub subject: u32,
    /// The identity of the sender.
    pub source: u32,
    /// The identity of the receiver.
    pub destination: u32,
    /// The first and last port of the policy entry that the destination port belongs to; `0..=0` outside
    /// any (label `other`), `0..=65535` for `any`.
    pub port_first: u16,
    pub port_last: u16,
    /// The number of the policy, 0 for none.
    pub policy: u16,
    /// IP protocol number; ICMPv6 is 1 where the message was understood, else 58.
    pub protocol: u8,
    /// [`crate::verdict::DropReason`].
    pub reason: u8,
    /// [`crate::verdict::Severity`].
    pub severity: u8,
    /// 1 if the packet was forwarded all the same (verdict `observed`).
    pub observed: u8,
    pub _pad: [u8; 2],
}

/// Value of the per-CPU map `DENIED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeniedCount {
    pub packets: u64,
    pub attempts: u64,
}

/// Index into the per-CPU array `TOTALS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// Packets forwarded by `to_endpoint`, observed ones included.
    ForwardedToEndpoint = 0,
    /// Packets forwarded by `from_endpoint`, observed ones included.
    ForwardedFromEndpoint = 1,
    /// Packets dropped by `to_endpoint`.
    DroppedToEndpoint = 2,
    /// Packets dropped by `from_endpoint`.
    DroppedFromEndpoint = 3,
    /// Events that found the ring buffer full.
    EventsLost = 4,
    /// Denied packets for which no event was made because one was made shortly before.
    EventsSuppressed = 5,
    /// Denied packets that found `DENIED` full and are counted here only.
    DeniedUnlabelled = 6,
    /// Packets forwarded by `to_bridge`.
    ForwardedToBridge = 7,
    /// Packets forwarded by `from_bridge`.
    ForwardedFromBridge = 8,
    /// Packets forwarded by `from_uplink`, observed ones included.
    ForwardedFromUplink = 9,
    /// Packets dropped by `to_bridge`.
    DroppedToBridge = 10,
    /// Packets dropped by `from_bridge`.
    DroppedFromBridge = 11,
    /// Packets dropped by `from_uplink`.
    DroppedFromUplink = 12,
}

impl Total {
    /// What a hook lets through.
    #[inline(always)]
    #[must_use]
    pub const fn forwarded(hook: Hook) -> Self {
        match hook {
            Hook::ToEndpoint => Self::ForwardedToEndpoint,
            Hook::FromEndpoint => Self::ForwardedFromEndpoint,
            Hook::ToBridge => Self::ForwardedToBridge,
            Hook::FromBridge => Self::ForwardedFromBridge,
            Hook::FromUplink => Self::ForwardedFromUplink,
        }
    }

    /// What a hook drops.
    #[inline(always)]
    #[must_use]
    pub const fn dropped(hook: Hook) -> Self {
        match hook {
            Hook::ToEndpoint => Self::DroppedToEndpoint,
            Hook::FromEndpoint => Self::DroppedFromEndpoint,
            Hook::ToBridge => Self::DroppedToBridge,
            Hook::FromBridge => Self::DroppedFromBridge,
            Hook::FromUplink => Self::DroppedFromUplink,
        }
    }
}

/// The number of [`Total`]s.
pub const TOTALS: u32 = 13;

const _: () = assert!(size_of::<DeniedKey>() == 24);
