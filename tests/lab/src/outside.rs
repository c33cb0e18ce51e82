//! The outside: a host on the other end of the lab's uplink that knows the way to every container, as a neighbour on
//! the same LAN could. It has no other way out.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::engine::{HOST_V4, HOST_V6};
use crate::netns::{Netns, join};

/// The outside host's address.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Its IPv6 address.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2);
/// What the host calls the interface towards it.
pub const UPLINK: &str = "uplink0";

/// All container networks of a lab lie in these two ranges.
pub const CONTAINERS_V4: &str = "198.18.0.0/16";
/// The IPv6 networks are `2001:db8:30:N::/64`.
pub const CONTAINERS_V6: &str = "2001:db8:30::/48";

/// The namespace of the outside host.
#[derive(Debug)]
pub struct Outside {
    netns: Netns,
}

impl Outside {
    /// Joins an outside host to `host` and routes the container networks through it.
    pub fn attach(host: &Netns) -> Result<Self> {
        let netns = Netns::create()?;
        for side in [host, &netns] {
            side.sysctl("net/ipv6/conf/default/accept_dad=0")?;
        }
        join(host, UPLINK, &netns, "lan0")?;
        host.ip_lines(&format!(
            "address add {HOST_V4}/24 dev {UPLINK}
             address add {HOST_V6}/64 dev {UPLINK} nodad"
        ))?;
        netns.ip_lines(&format!(
            "address add {OUTSIDE_V4}/24 dev lan0
             address add {OUTSIDE_V6}/64 dev lan0 nodad
             route add {CONTAINERS_V4} via {HOST_V4}
             route add {CONTAINERS_V6} via {HOST_V6}"
        ))?;
        Ok(Self { netns })
    }

    /// The namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Leaves it in place when the value goes.
    pub fn keep(&mut self) {
        self.netns.keep();
    }
}
