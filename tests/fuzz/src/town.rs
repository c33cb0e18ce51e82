//! Who lives in the lab, under which addresses, and what the policy lets `hostile` do there. The addresses are fixed,
//! so that a frame kept from one run means the same in the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Mac;

/// Somebody with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Sends the frames. May call [`ALLOWED`] of `Victim` by TCP and UDP, and ping it. Serves [`SERVED`] to `Victim`.
    Hostile,
    Victim,
    /// Calls `Victim` as well; nobody calls it but `Victim`.
    Friend,
    /// A container that no policy covers.
    Stray,
    /// Behind another bridge.
    Far,
    /// The host, as the gateway of the first bridge.
    Gateway,
}

/// The one port that `Hostile` may open at `Victim`.
pub const ALLOWED: u16 = 9000;
/// What `Friend` opens at `Victim`.
pub const DATABASE: u16 = 5432;
/// What `Victim` may open at `Friend`.
pub const FRIENDLY: u16 = 7000;
/// What `Victim` may open at `Hostile`.
pub const SERVED: u16 = 8000;
/// TCP ports with a listener in every namespace, but for [`ALLOWED`] none that `Hostile` may open.
pub const TCP_PORTS: [u16; 6] = [22, 80, DATABASE, FRIENDLY, SERVED, ALLOWED];
/// UDP ports with a socket in every namespace, the same.
pub const UDP_PORTS: [u16; 14] =
    [53, 67, 68, 123, 137, 1900, 3702, 4789, 5353, 5355, DATABASE, FRIENDLY, SERVED, ALLOWED];
/// Who serves what, to whom the policy says; these answer.
pub const SERVING: [(Who, u16); 4] =
    [(Who::Victim, ALLOWED), (Who::Victim, DATABASE), (Who::Friend, FRIENDLY), (Who::Hostile, SERVED)];
/// Source ports of frames that may open a flow. Few, since each is remembered for minutes.
pub const OPENING: (u16, u16) = (20_000, 20_255);
/// Source ports that no flow of `Hostile` ever has.
pub const CLOSED: (u16, u16) = (1024, 19_999);
/// Ports that the kernels of the lab choose for their own connections.
pub const EPHEMERAL: (u16, u16) = (50_000, 60_999);

/// Everybody in a namespace of their own.
pub const MEMBERS: [Who; 5] = [Who::Hostile, Who::Victim, Who::Friend, Who::Stray, Who::Far];

impl Who {
    /// The service's and the namespace's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hostile => "hostile",
            Self::Victim => "victim",
            Self::Friend => "friend",
            Self::Stray => "stray",
            Self::Far => "far",
            Self::Gateway => "gateway",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Gateway => 1,
            Self::Hostile => 10,
            Self::Victim => 11,
            Self::Friend => 12,
            Self::Stray => 13,
            Self::Far => 14,
        }
    }

    /// 0 or 1.
    #[must_use]
    pub const fn bridge(self) -> u8 {
        matches!(self, Self::Far) as u8
    }

    #[must_use]
    pub const fn mac(self) -> Mac {
        [2, 0, 0, 0, 40 + self.bridge(), self.number()]
    }

    #[must_use]
    pub const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 40 + self.bridge(), self.number())
    }

    #[must_use]
    pub const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x40 + self.bridge() as u16, 0, 0, 0, 0, self.number() as u16)
    }

    /// The address that its interface gives itself.
    #[must_use]
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac();
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair_of(a ^ 2, b), pair_of(c, 0xff), pair_of(0xfe, d), pair_of(e, f))
    }

    /// The address of one family.
    #[must_use]
    pub const fn address(self, v6: bool) -> IpAddr {
        if v6 { IpAddr::V6(self.v6()) } else { IpAddr::V4(self.v4()) }
    }

    /// Where its frames are looked for; `Hostile` sees what it likes.
    #[must_use]
    pub const fn point(self) -> Points {
        match self {
            Self::Hostile => Points::NONE,
            Self::Victim => Points::VICTIM,
            Self::Friend => Points::FRIEND,
            Self::Stray => Points::STRAY,
            Self::Far => Points::FAR,
            Self::Gateway => Points::HOST,
        }
    }

    /// Whose MAC a neighbour puts on frames for it.
    #[must_use]
    pub const fn next_hop(self) -> Self {
        if self.bridge() == 0 { self } else { Self::Gateway }
    }

    /// Whether the sender's own hook leaves it to the receiver's to deny a new connection.
    #[must_use]
    pub const fn is_covered(self) -> bool {
        matches!(self, Self::Hostile | Self::Victim | Self::Friend | Self::Far)
    }
}

const fn pair_of(high: u8, low: u8) -> u16 {
    ((high as u16) << 8) | low as u16
}

/// A set of places where frames are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Points(pub u8);

impl Points {
    pub const NONE: Self = Self(0);
    pub const VICTIM: Self = Self(1);
    pub const FRIEND: Self = Self(2);
    pub const STRAY: Self = Self(4);
    pub const FAR: Self = Self(8);
    /// What a bridge hands up to the host's own stack.
    pub const HOST: Self = Self(16);
    /// Whoever gets a copy of a frame for a group.
    pub const BRIDGE: Self = Self(1 | 2 | 4 | 16);

    const NAMED: [(Self, &'static str); 5] = [
        (Self::VICTIM, "victim"),
        (Self::FRIEND, "friend"),
        (Self::STRAY, "stray"),
        (Self::FAR, "far"),
        (Self::HOST, "host"),
    ];

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, `-` for none.
    #[must_use]
    pub fn names(self) -> String {
        let names: Vec<&str> = Self::NAMED
            .into_iter()
            .filter(|(point, _)| self.0 & point.0 != 0)
            .map(|(_, name)| name)
            .collect();
        if names.is_empty() { "-".to_owned() } else { names.join(",") }
    }

    /// Reads what [`Self::names`] has written.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if text == "-" {
            return Some(Self::NONE);
        }
        text.split(',').try_fold(Self::NONE, |points, name| {
            let (point, _) = Self::NAMED.into_iter().find(|(_, known)| *known == name)?;
            Some(points.and(point))
        })
    }
}
