//! The words for what happens to a packet, and everything that is said about a denied one.

use std::net::IpAddr;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What would enter a container.
    ToEndpoint,
    /// What a container sends.
    FromEndpoint,
}

/// Why a packet is not allowed, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    InvalidPacket = 1,
    Fragment,
    UnsupportedProtocol,
    SpoofedSource,
    NotReady,
    UnknownSource,
    UnknownDestination,
    NotInProfile,
    CrossInstance,
    HostDenied,
    NotExposed,
    EgressDenied,
    NoRule,
    NotTracked,
    Revoked,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::InvalidPacket,
        Self::Fragment,
        Self::UnsupportedProtocol,
        Self::SpoofedSource,
        Self::NotReady,
        Self::UnknownSource,
        Self::UnknownDestination,
        Self::NotInProfile,
        Self::CrossInstance,
        Self::HostDenied,
        Self::NotExposed,
        Self::EgressDenied,
        Self::NoRule,
        Self::NotTracked,
        Self::Revoked,
    ];
}

/// Which way a packet goes, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// How much a denial matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
}

/// Whether denials are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

/// Somebody, as counters and events name him.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Unknown,
    Host,
    World,
    /// An address in a Docker subnet that no known container has.
    SomeContainer,
    /// The container behind this port.
    Container(u32),
}

/// One denied packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: Reason,
    /// Whether the packet went on all the same.
    pub observed: bool,
    pub source: Who,
    pub destination: Who,
    /// The container whose policy decided, by its port.
    pub subject: Option<u32>,
    pub policy: Option<String>,
    pub severity: Severity,
    pub direction: Direction,
    /// The ports of the policy entry that the destination port belongs to.
    pub label: Option<(u16, u16)>,
    pub protocol: u8,
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub ports: (u16, u16),
    pub tcp_flags: u8,
    pub ethertype: u16,
    /// Whether it counts as an attempt.
    pub attempt: bool,
    /// With how many packets before it that were not told, if it is told.
    pub told: Option<u32>,
}

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub forwarded: bool,
    pub denial: Option<Denial>,
    /// What `skb->mark` is afterwards.
    pub mark: u32,
}
