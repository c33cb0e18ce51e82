//! Flow state: which packets belong to something that was allowed, and how long.
//!
//! A flow belongs to one port and is the same entry for both of its hooks. The functions here are pure;
//! the kernel program owns the two tables that hold the entries.

use crate::{
    config::Timeouts,
    packet::{Address, PROTOCOL_ICMP, PROTOCOL_TCP, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
    verdict::Direction,
};

/// Key of the maps `FLOWS_OPENING` and `FLOWS`: a tuple as the port sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The container's side.
    pub local: Address,
    pub remote: Address,
    /// The ifindex of the port.
    pub port: u32,
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: u8,
    // As numbers: the compiler would clear bytes by calling `memset`.
    pub _pad: u8,
    pub _pad2: u16,
    pub _pad3: u32,
}

impl FlowKey {
    /// The key of a packet that crosses a port in this direction.
    #[inline(always)]
    #[must_use]
    pub fn new(port: u32, direction: Direction, packet: &Packet) -> Self {
        let mut key = Self {
            local: Address::UNSPECIFIED,
            remote: Address::UNSPECIFIED,
            port: 0,
            local_port: 0,
            remote_port: 0,
            protocol: 0,
            _pad: 0,
            _pad2: 0,
            _pad3: 0,
        };
        key.set(port, direction, packet);
        key
    }

    /// Where each CPU remembers the flow, below [`PLACES`]: a fold of the addresses' ends and the ports.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self) -> u32 {
        let ports = if cfg!(target_endian = "little") {
            self.port as u64 | (self.local_port as u64) << 32 | (self.remote_port as u64) << 48
        } else {
            (self.port as u64) << 32 | (self.local_port as u64) << 16 | self.remote_port as u64
        };
        let fold = self.local.words()[1] ^ self.remote.words()[1].rotate_left(16) ^ ports;
        (fold.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACES.trailing_zeros())) as u32
    }

    /// Makes this the key of a packet that crosses a port in this direction.
    #[inline(always)]
    pub fn set(&mut self, port: u32, direction: Direction, packet: &Packet) {
        self.port = port;
        self.protocol = packet.protocol;
        (self._pad, self._pad2, self._pad3) = (0, 0, 0);
        match direction {
            Direction::Ingress => {
                (self.local, self.remote) = (packet.destination, packet.source);
                (self.local_port, self.remote_port) = (packet.destination_port, packet.source_port);
            }
            Direction::Egress => {
                (self.local, self.remote) = (packet.source, packet.destination);
                (self.local_port, self.remote_port) = (packet.source_port, packet.destination_port);
            }
        }
    }
}

/// How many flows each CPU remembers at most, a power of two.
pub const PLACES: u32 = 1024;

/// Key of the maps `FLOWS_HELD` and `FLOWS_GONE`: the flows of one port that were opened in one direction, or those of one
/// published port at one uplink.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldKey {
    /// The ifindex of the port.
    pub port: u32,
    /// [`Direction`], seen from the port. At an uplink the published port's number, above the two.
    pub opened: u32,
}

impl HeldKey {
    /// Where a flow is counted.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &FlowKey, entry: &FlowEntry) -> Self {
        let opened =
            if entry.flags & AT_UPLINK != 0 { (key.local_port as u32) << 8 | 2 } else { entry.opened as u32 };
        Self { port: key.port, opened }
    }
}

/// Value of the flow maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// When the last packet passed, nanoseconds since boot.
    pub last_seen: u64,
    /// The revision under which the flow was last allowed.
    pub revision: u32,
    /// Who the other side is: the ifindex of its port, [`PEER_HOST`], [`PEER_WORLD`] or [`PEER_UNBOUND`].
    pub peer: u32,
    /// How the peer's packets were last seen to arrive: `skb->ingress_ifindex` and the agent's mark bits.
    /// An equal pair needs no further look at who sent a packet.
    pub peer_ifindex: u32,
    pub peer_mark: u32,
    /// [`FlowState`].
    pub state: u8,
    /// Which way the packet went that opened the flow: [`Direction`], seen from the port.
    pub opened: u8,
    /// [`FIN_LOCAL`], [`FIN_REMOTE`], [`OBSERVED`], [`REVOKED`], [`OUTSIDER`], [`LENT`].
    pub flags: u8,
    pub _pad: u8,
    /// `jiffies` when `last_seen` was written, the low 32 bits. Within [`FRESH`] of it the clock need not be read.
    pub refreshed: u32,
}

/// Jiffies within which a flow that was refreshed is surely alive: 0.064 to 0.64 seconds, as `CONFIG_HZ` goes from 1000
/// to 100, and no timeout is below a second. Reading the clock costs a hundred times what reading jiffies does.
pub const FRESH: u32 = 64;

/// The peer is the host's own stack.
pub const PEER_HOST: u32 = 0;
/// The peer is behind an uplink, whichever.
pub const PEER_WORLD: u32 = u32::MAX;
/// The peer has not sent anything yet; the first reply binds it.
pub const PEER_UNBOUND: u32 = u32::MAX - 1;
/// The peer is whoever answers at an address of the host: its own stack, or a container that it redirects to. The first
/// reply binds it, but for one from the world.
pub const PEER_LOCAL: u32 = u32::MAX - 2;
/// Added to the ifindex of a peer's port: the peer acts as an outsider. The kernel's numbers are below it.
pub const PEER_OUTSIDER: u32 = 1 << 31;

/// The container has sent a FIN.
pub const FIN_LOCAL: u8 = 1;
/// The peer has sent a FIN.
pub const FIN_REMOTE: u8 = 2;
/// The flow would have been denied: its packets are decided and counted one by one.
pub const OBSERVED: u8 = 4;
/// A later policy denies the flow: its packets are decided one by one, another policy may revive it.
pub const REVOKED: u8 = 8;
/// The container calls a published port of the host: its packets say so in their mark.
pub const OUTSIDER: u8 = 16;
/// The container's own port number is also a published one, which the replies to it from the world carry if the host
/// keeps it when it masquerades the container: they are expected at the uplinks as long as this flow sends.
pub const LENT: u8 = 32;

/// The flow is one of an uplink.
pub const AT_UPLINK: u8 = 64;

/// How far a flow has come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Only its opener has been heard.
    Opening = 1,
    /// TCP: the other side has answered, the handshake is not complete.
    Replied = 2,
    /// Both sides take part; the entry stands in `FLOWS`.
    Established = 3,
    /// TCP: reset, or closed by both sides.
    Closing = 4,
    /// The flow stands in `FLOWS` by now: no flow any more, but a place in `FLOWS_OPENING` to come back to.
    Moved = 5,
}

/// What a packet of a flow does to its entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The entry stays in its table.
    Stay,
    /// The flow moves from `FLOWS_OPENING` to `FLOWS`.
    Establish,
    /// It moves back: what is over needs no place that is never evicted.
    Close,
}

impl FlowEntry {
    /// The state as its type; unknown numbers are treated as closing, the shortest-lived.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> FlowState {
        match self.state {
            1 => FlowState::Opening,
            2 => FlowState::Replied,
            3 => FlowState::Established,
            5 => FlowState::Moved,
            _ => FlowState::Closing,
        }
    }

    /// The ifindex of the peer's port, if the peer has one.
    #[must_use]
    pub const fn peer_port(&self) -> Option<u32> {
        if self.peer == PEER_HOST || self.peer >= PEER_LOCAL {
            None
        } else {
            Some(self.peer & !PEER_OUTSIDER)
        }
    }

    /// Whether packets in this direction come from the side that opened the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_opener(&self, direction: Direction) -> bool {
        self.opened == direction as u8
    }

    /// Whether the flow has been silent for too long to still count. `now` in nanoseconds since boot.
    #[inline(always)]
    #[must_use]
    pub const fn is_expired(&self, protocol: u8, now: u64, timeouts: &Timeouts) -> bool {
        let seconds = match (protocol, self.state()) {
            (_, FlowState::Moved) => return true,
            (PROTOCOL_TCP, FlowState::Opening | FlowState::Replied) => timeouts.tcp_opening,
            (PROTOCOL_TCP, FlowState::Established) => timeouts.tcp_established,
            (PROTOCOL_TCP, FlowState::Closing) => timeouts.tcp_closing,
            (PROTOCOL_ICMP, _) => timeouts.icmp,
            (_, FlowState::Established) => timeouts.udp_established,
            (_, _) => timeouts.udp_opening,
        };
        // A clock read on another CPU may be slightly behind `last_seen`; that is not an expiry.
        now.saturating_sub(self.last_seen) > seconds as u64 * 1_000_000_000
    }

    /// Whether the flow was refreshed just now. `jiffies` are the low 32 bits of the kernel's; after 49 days without a
    /// packet, in which nobody removed the entry, they have come round.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(&self, jiffies: u32) -> bool {
        jiffies.wrapping_sub(self.refreshed) < FRESH
    }

    /// Follows a packet that belongs to the flow and has been allowed.
    #[inline(always)]
    pub const fn advance(&mut self, protocol: u8, direction: Direction, tcp_flags: u8) -> Step {
        let opener = self.is_opener(direction);
        if protocol == PROTOCOL_TCP {
            return self.advance_tcp(direction, opener, tcp_flags);
        }
        // An echo reply changes nothing: a ping never moves to the table that is never evicted.
        if protocol != PROTOCOL_ICMP && !opener && !matches!(self.state(), FlowState::Established) {
            self.state = FlowState::Established as u8;
            return Step::Establish;
        }
        Step::Stay
    }

    #[inline(always)]
    const fn advance_tcp(&mut self, direction: Direction, opener: bool, tcp_flags: u8) -> Step {
        if tcp_flags & TCP_RST != 0 {
            return self.close();
        }
        if tcp_flags & TCP_FIN != 0 {
            self.flags |= match direction {
                Direction::Ingress => FIN_REMOTE,
                Direction::Egress => FIN_LOCAL,
            };
            if self.flags & (FIN_LOCAL | FIN_REMOTE) == FIN_LOCAL | FIN_REMOTE {
                return self.close();
            }
        }
        match self.state() {
            FlowState::Opening if !opener && tcp_flags & TCP_ACK != 0 => {
                self.state = FlowState::Replied as u8;
                Step::Stay
            }
            // Only the third packet of the handshake proves that both sides mean it: a flood of SYNs that are
            // answered stays in the table that evicts.
            FlowState::Replied if opener && tcp_flags & (TCP_ACK | TCP_SYN) == TCP_ACK => {
                self.state = FlowState::Established as u8;
                Step::Establish
            }
            _ => Step::Stay,
        }
    }

    #[inline(always)]
    const fn close(&mut self) -> Step {
        let established = matches!(self.state(), FlowState::Established);
        self.state = FlowState::Closing as u8;
        if established { Step::Close } else { Step::Stay }
    }
}

const _: () = assert!(size_of::<FlowKey>() == 48);
const _: () = assert!(size_of::<FlowEntry>() == 32);
const _: () = assert!(size_of::<HeldKey>() == 8);

#[cfg(test)]
mod tests;
