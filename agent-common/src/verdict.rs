//! Verdicts and their reasons, the words and numbers of contract and documentation.
//! Numbers are part of the map layout: a reason is never renumbered or reused.

/// Why a packet is not allowed. The order is the order of precedence: the first that applies is reported.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Truncated, contradictory or impossible headers or addresses.
    InvalidPacket = 1,
    /// An IPv4 or IPv6 fragment.
    Fragment = 2,
    /// An ethertype, extension header, IP protocol or ICMP type that is not handled, or a VLAN tag.
    UnsupportedProtocol = 3,
    /// A source MAC, IP, ARP or ND address that does not belong to the sending port.
    SpoofedSource = 4,
    /// The port, or the policy row of its endpoint, is not known yet.
    NotReady = 5,
    /// The interface that the packet came from stands for nobody.
    UnknownSource = 6,
    /// The destination address is not one of the receiving endpoint, or stands for nobody.
    UnknownDestination = 7,
    /// One of the two services does not belong to the profile in force.
    NotInProfile = 8,
    /// From another instance, without a rule that names it.
    CrossInstance = 9,
    /// From the host to a port that is not exposed to it.
    HostDenied = 10,
    /// From the world to a port that is not public.
    NotExposed = 11,
    /// To the host, the world or an unmanaged container, without an egress rule.
    EgressDenied = 12,
    /// From a container that no rule allows.
    NoRule = 13,
    /// Belongs to no flow and opens none.
    NotTracked = 14,
    /// Belongs to a flow that the policy in force no longer allows.
    Revoked = 15,
    /// Allowed, but there is no room to remember the flow.
    TableFull = 16,
}

impl DropReason {
    /// Every reason, by number.
    pub const ALL: [Self; 16] = [
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
        Self::TableFull,
    ];

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The word used in metrics, events and documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidPacket => "invalid_packet",
            Self::Fragment => "fragment",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::SpoofedSource => "spoofed_source",
            Self::NotReady => "not_ready",
            Self::UnknownSource => "unknown_source",
            Self::UnknownDestination => "unknown_destination",
            Self::NotInProfile => "not_in_profile",
            Self::CrossInstance => "cross_instance",
            Self::HostDenied => "host_denied",
            Self::NotExposed => "not_exposed",
            Self::EgressDenied => "egress_denied",
            Self::NoRule => "no_rule",
            Self::NotTracked => "not_tracked",
            Self::Revoked => "revoked",
            Self::TableFull => "table_full",
        }
    }
}

/// What happens to one packet at one hook.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the next program.
    Forwarded,
    /// Ends here.
    Dropped(DropReason),
    /// Goes on, because the deciding policy only observes; it would have been dropped.
    Observed(DropReason),
}

impl Verdict {
    /// The verdict on a packet that is not allowed, under the mode that applies to it.
    pub const fn denied(reason: DropReason, mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Dropped(reason),
            Mode::Observe => Self::Observed(reason),
        }
    }
}

/// Whether a policy's denials are carried out or only reported.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Denied packets are dropped.
    Enforce = 0,
    /// Denied packets are forwarded, counted and reported.
    Observe = 1,
}

impl Mode {
    /// The mode with this number; any other number enforces.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        if number == Self::Observe as u8 { Self::Observe } else { Self::Enforce }
    }

    /// The word used in policies and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Where a program is attached.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// tc egress of a bridge port: what would enter the container.
    ToEndpoint = 0,
    /// tc ingress of a bridge port: what the container sends.
    FromEndpoint = 1,
    /// tc egress of a bridge device: what the host sends or forwards to the containers.
    ToBridge = 2,
    /// tc ingress of a bridge device: what the containers send to the host or through it.
    FromBridge = 3,
    /// tc ingress of any other interface: what the world sends.
    FromUplink = 4,
}

impl Hook {
    /// Every hook, by number.
    pub const ALL: [Self; 5] =
        [Self::ToEndpoint, Self::FromEndpoint, Self::ToBridge, Self::FromBridge, Self::FromUplink];
    /// What is attached to a port of a watched bridge.
    pub const OF_PORT: [Self; 2] = [Self::ToEndpoint, Self::FromEndpoint];
    /// What is attached to a watched bridge itself.
    pub const OF_BRIDGE: [Self; 2] = [Self::ToBridge, Self::FromBridge];
    /// What is attached to any other interface but loopback.
    pub const OF_UPLINK: [Self; 1] = [Self::FromUplink];

    /// Whether the program stands at tc ingress of its interface, else at egress.
    #[must_use]
    pub const fn is_tc_ingress(self) -> bool {
        matches!(self, Self::FromEndpoint | Self::FromBridge | Self::FromUplink)
    }

    /// The program's name, which is also the label in metrics and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToEndpoint => "to_endpoint",
            Self::FromEndpoint => "from_endpoint",
            Self::ToBridge => "to_bridge",
            Self::FromBridge => "from_bridge",
            Self::FromUplink => "from_uplink",
        }
    }
}

/// Seen from the endpoint whose policy decides.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the deciding endpoint.
    Ingress = 0,
    /// Away from the deciding endpoint.
    Egress = 1,
}

impl Direction {
    /// The word used in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// How much a denial at an endpoint matters to its owner.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth a look.
    Info = 0,
    /// The default.
    Warning = 1,
    /// Wakes somebody up.
    Critical = 2,
}

impl Severity {
    /// The severity with this number; any other number is the default.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Info,
            2 => Self::Critical,
            _ => Self::Warning,
        }
    }

    /// The word used in policies, metrics and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_container_or_comes_from_outside_is_tc_ingress() {
        let ingress = Hook::ALL.map(Hook::is_tc_ingress);
        assert_eq!(ingress, [false, true, false, true, true]);
    }

    #[test]
    fn reasons_are_numbered_from_one_in_order_of_precedence() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index + 1);
            assert_eq!(DropReason::from_number(reason as u8), Some(reason));
        }
        assert!(DropReason::ALL.is_sorted());
        assert_eq!(DropReason::from_number(0), None);
        assert_eq!(DropReason::from_number(17), None);
    }

    #[test]
    fn unknown_numbers_are_the_strict_and_the_ordinary() {
        for number in 0..=u8::MAX {
            let mode = Mode::from_number(number);
            assert_eq!(mode == Mode::Observe, number == 1, "{number}");
            let severity = Severity::from_number(number);
            assert!(severity as u8 == number || severity == Severity::Warning, "{number}");
        }
    }

    #[test]
    fn the_mode_decides_what_a_denial_does() {
        let reason = DropReason::NoRule;
        assert_eq!(Verdict::denied(reason, Mode::Enforce), Verdict::Dropped(reason));
        assert_eq!(Verdict::denied(reason, Mode::Observe), Verdict::Observed(reason));
    }

    /// The words of the contract, which policies, metrics and events share.
    #[test]
    fn words_are_those_of_the_contract() {
        let reasons = DropReason::ALL.map(DropReason::name);
        let wanted = "invalid_packet fragment unsupported_protocol spoofed_source not_ready unknown_source \
                      unknown_destination not_in_profile cross_instance host_denied not_exposed egress_denied \
                      no_rule not_tracked revoked table_full";
        assert!(reasons.into_iter().eq(wanted.split(' ')), "{reasons:?}");
        assert_eq!([Mode::Enforce, Mode::Observe].map(Mode::name), ["enforce", "observe"]);
        assert_eq!([Hook::ToEndpoint, Hook::FromEndpoint].map(Hook::name), ["to_endpoint", "from_endpoint"]);
        assert_eq!([Direction::Ingress, Direction::Egress].map(Direction::name), ["ingress", "egress"]);
        let severities = [Severity::Info, Severity::Warning, Severity::Critical];
        assert_eq!(severities.map(Severity::name), ["info", "warning", "critical"]);
        assert_eq!([0, 1, 2].map(Severity::from_number), severities);
    }
}
