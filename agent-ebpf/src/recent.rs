//! What each CPU remembers of the flows whose packets it has just let through, so that the next packet needs neither the
//! parser nor a lookup. Decides nothing: whatever is not just as it was goes the long way.
//!
//! A place holds one direction of a flow at one port: what the packets' headers look like, as they lie in the frame, and
//! all that letting them through depended on. It is good for as long as the flow's entry is fresh, which is as long as
//! the entry would be taken without a look at the clock.

use agent_common::{
    config::Config,
    flow::{FRESH, FlowEntry, FlowKey, FlowState, PLACES},
    packet::{
        Address, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_FIN,
        TCP_RST, TCP_SYN,
    },
    verdict::Direction,
};

use crate::{
    maps::{self, Scratch},
    parse::Frame,
    skb::Skb,
    track,
};

/// How many directions of flows each CPU remembers at most, a power of two.
pub(crate) const LANES: u32 = 2 * PLACES;

/// One remembered direction of a flow. Zeroes are nobody's: no port has the index 0.
pub(crate) struct Recent {
    header: Header,
    port: u32,
    direction: u32,
    revision: u32,
    /// The agent's bits of the mark: those that the container's packets get, or that the peer's come with.
    mark: u32,
    /// The interface that the peer's packets come in by.
    peer_ifindex: u32,
    opened_at: u32,
    /// How often a flow had been opened at `opened_at` when this one was found in the tables.
    openings: u64,
    /// [`track::ticks`] when the flow's entry was refreshed.
    refreshed: u64,
}

/// What all packets of a flow in one direction have in common, as it lies in the frame.
pub(crate) struct Header {
    /// Source MAC and ethertype; from the peer only the latter, for its MAC is nobody's concern.
    link: u64,
    /// Of IPv4 both in each word: the compiler would clear what is not used byte by byte.
    addresses: [u64; 4],
    ports: u32,
    protocol: u32,
    /// [`Config::epoch`] from before anything of the host was looked up.
    pub(crate) epoch: u32,
}

/// How often a flow had been opened at a flow's place before it was looked for.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    index: u32,
    openings: u64,
}

/// The place of a key.
#[inline(always)]
pub(crate) fn place(key: &FlowKey) -> Place {
    let index = key.place();
    Place { index, openings: maps::openings(index) }
}

/// Says on all CPUs that what is remembered at a key's place may be of an earlier flow with the same addresses.
#[inline(always)]
pub(crate) fn forget(key: &FlowKey) {
    maps::add_opening(key.place());
}

/// Offsets in a frame.
const MAC: usize = 6;
const IP: usize = 14;
const V4: usize = IP + 20;
const V6: usize = IP + 40;
/// What is read of a UDP header, and of a TCP header.
const UDP: usize = 6;
const TCP: usize = 14;
/// "Don't fragment", the only one of the flags that says nothing against a packet.
const DONT_FRAGMENT: u16 = 0x4000;
/// Longer than any packet.
const IMPOSSIBLE: u32 = 1 << 17;
/// The flags of a datagram are those of a segment that neither opens nor ends anything.
const DATAGRAM: u8 = TCP_ACK;
const ETHERTYPE: u64 = 0xffff_u64.to_be();

/// Whether a packet is like one that has just been let through, and would be again: then it has been marked. What may
/// differ between two of a flow is checked as it is there, and the rest has to be the same as it was.
#[inline(always)]
pub(crate) fn passes(skb: Skb, config: &Config, direction: Direction, header: &mut Header) -> bool {
    header.epoch = maps::epoch(config);
    let mut flags = DATAGRAM;
    if !header.read(skb, direction, &mut flags) || flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST) != TCP_ACK
    {
        return false;
    }
    let Some(recent) = at(header, skb.ifindex()) else {
        return false;
    };
    let mark = skb.mark() & config.mark_mask;
    if recent.port != skb.ifindex()
        || recent.direction != direction as u32
        || !recent.header.equals(header)
        || recent.revision != config.revision
        || track::ticks().wrapping_sub(recent.refreshed) >= u64::from(FRESH)
        || recent.openings != maps::openings(recent.opened_at)
    {
        return false;
    }
    match direction {
        Direction::Ingress => recent.mark == mark && recent.peer_ifindex == skb.ingress_ifindex(),
        Direction::Egress => {
            skb.set_mark_bits(recent.mark, config.mark_mask);
            true
        }
    }
}

/// This CPU's own place for a header, in which nobody else writes.
#[inline(always)]
fn at(header: &Header, port: u32) -> Option<&'static mut Recent> {
    let [first, second, _, last] = header.addresses;
    // The ends of IPv6 addresses differ.
    let fold = first ^ second ^ last.rotate_left(16) ^ (u64::from(header.ports) << 24) ^ u64::from(port);
    let place = (fold.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - LANES.trailing_zeros())) as u32;
    // SAFETY: see above.
    maps::recent(place).map(|recent| unsafe { &mut *recent })
}

impl Header {
    /// Reads a TCP or UDP packet's in its most usual form, and its TCP flags. False for any other, and where the parser
    /// would find fault with anything that is not compared.
    #[inline(always)]
    fn read(&mut self, skb: Skb, direction: Direction, flags: &mut u8) -> bool {
        let Some(head) = skb.head::<{ V4 + UDP }>() else {
            return false;
        };
        let link = head.word::<u64, MAC>();
        self.link = if matches!(direction, Direction::Egress) { link } else { link & ETHERTYPE };
        if skb.vlan_present() != 0 || (matches!(direction, Direction::Egress) && skb.is_for_group_mac()) {
            return false;
        }
        let (length, rest);
        match u64::from_be(link) as u16 {
            ETHERTYPE_IPV4 => {
                let protocol = head.word::<u8, { IP + 9 }>();
                rest = match protocol {
                    PROTOCOL_TCP => match skb.head::<{ V4 + TCP }>() {
                        Some(head) => {
                            *flags = head.word::<u8, { V4 + 13 }>();
                            tcp_length(head.word::<u8, { V4 + 12 }>())
                        }
                        None => return false,
                    },
                    PROTOCOL_UDP => udp_length(head.word::<u16, { V4 + 4 }>()),
                    _ => return false,
                };
                if head.word::<u8, IP>() != 0x45
                    || u16::from_be(head.word::<u16, { IP + 6 }>()) & !DONT_FRAGMENT != 0
                {
                    return false;
                }
                self.protocol = u32::from(protocol);
                self.ports = head.word::<u32, V4>();
                let both = head.word::<u64, { IP + 12 }>();
                self.set_addresses(both, both, both, both);
                // Behind the link header, as the frame's own length will be.
                length = u32::from(u16::from_be(head.word::<u16, { IP + 2 }>()));
                length >= rest + 20 && length + IP as u32 <= skb.len()
            }
            ETHERTYPE_IPV6 => {
                let Some(head) = skb.head::<{ V6 + UDP }>() else {
                    return false;
                };
                let protocol = head.word::<u8, { IP + 6 }>();
                rest = match protocol {
                    PROTOCOL_TCP => match skb.head::<{ V6 + TCP }>() {
                        Some(head) => {
                            *flags = head.word::<u8, { V6 + 13 }>();
                            tcp_length(head.word::<u8, { V6 + 12 }>())
                        }
                        None => return false,
                    },
                    PROTOCOL_UDP => udp_length(head.word::<u16, { V6 + 4 }>()),
                    _ => return false,
                };
                if head.word::<u8, IP>() >> 4 != 6 {
                    return false;
                }
                self.protocol = u32::from(protocol);
                self.ports = head.word::<u32, V6>();
                self.set_addresses(
                    head.word::<u64, { IP + 8 }>(),
                    head.word::<u64, { IP + 16 }>(),
                    head.word::<u64, { IP + 24 }>(),
                    head.word::<u64, { IP + 32 }>(),
                );
                length = u32::from(u16::from_be(head.word::<u16, { IP + 4 }>()));
                length >= rest && length + V6 as u32 <= skb.len()
            }
            _ => false,
        }
    }

    /// Makes this the header of the packets of a flow in one direction.
    #[inline(always)]
    fn set(&mut self, key: &FlowKey, direction: Direction, frame: &Frame) {
        let (source, destination, ports) = match direction {
            Direction::Ingress => (&key.remote, &key.local, in_memory(key.remote_port, key.local_port)),
            Direction::Egress => (&key.local, &key.remote, in_memory(key.local_port, key.remote_port)),
        };
        let mac = if matches!(direction, Direction::Egress) { frame.source_mac.number() } else { 0 };
        self.link = (mac << 16 | u64::from(frame.ethertype)).to_be();
        self.protocol = u32::from(key.protocol);
        self.ports = ports;
        if frame.ethertype == ETHERTYPE_IPV4 {
            let both = both_ipv4(source, destination);
            self.set_addresses(both, both, both, both);
        } else {
            let ([a, b], [c, d]) = (source.words(), destination.words());
            self.set_addresses(a, b, c, d);
        }
    }

    /// One by one: the compiler would put the array together byte by byte.
    #[inline(always)]
    const fn set_addresses(&mut self, a: u64, b: u64, c: u64, d: u64) {
        self.addresses[0] = a;
        self.addresses[1] = b;
        self.addresses[2] = c;
        self.addresses[3] = d;
    }

    /// Word by word: the compiler would compare an array byte by byte.
    #[inline(always)]
    fn equals(&self, other: &Self) -> bool {
        let mut index = 0;
        while index < self.addresses.len() {
            if self.addresses[index] != other.addresses[index] {
                return false;
            }
            index += 1;
        }
        self.link == other.link
            && self.ports == other.ports
            && self.protocol == other.protocol
            && self.epoch == other.epoch
    }
}

/// Length of a TCP header by its own account.
#[inline(always)]
const fn tcp_length(offset: u8) -> u32 {
    let length = (offset >> 4) as u32 * 4;
    if length < 20 { IMPOSSIBLE } else { length }
}

/// Length of a datagram by its own account.
#[inline(always)]
const fn udp_length(length_be: u16) -> u32 {
    let length = u16::from_be(length_be) as u32;
    if length < 8 { IMPOSSIBLE } else { length }
}

/// Two ports as they lie in the frame.
#[inline(always)]
const fn in_memory(source: u16, destination: u16) -> u32 {
    ((source as u32) << 16 | destination as u32).to_be()
}

/// Two IPv4 addresses as they lie in the frame.
#[inline(always)]
const fn both_ipv4(source: &Address, destination: &Address) -> u64 {
    let ([_, source], [_, destination]) = (source.words(), destination.words());
    (u64::from_be(source) << 32 | u64::from_be(destination) & 0xffff_ffff).to_be()
}

/// Remembers a packet that the entry of its flow has let through, if the next one in the same direction changes nothing:
/// TCP counts every step until it is established, and its end, and a ping is over too soon. `state` is how far the flow
/// has come.
#[inline(always)]
pub(crate) fn remember(
    skb: Skb,
    config: &Config,
    scratch: &mut Scratch,
    direction: Direction,
    place: Place,
    entry: &FlowEntry,
    state: u8,
) {
    let (frame, header) = (&scratch.frame, &mut scratch.header);
    // SAFETY: laid out before the flow was looked for.
    let key = unsafe { scratch.key.assume_init_ref() };
    let settled = match key.protocol {
        PROTOCOL_TCP => {
            frame.packet.tcp_flags & (TCP_FIN | TCP_RST) == 0
                && (state == FlowState::Established as u8
                    || (state == FlowState::Replied as u8 && !entry.is_opener(direction)))
        }
        protocol => protocol != PROTOCOL_ICMP,
    };
    if !settled {
        return;
    }
    header.set(key, direction, frame);
    let Some(recent) = at(header, key.port) else {
        return;
    };
    recent.header.link = header.link;
    let [a, b, c, d] = header.addresses;
    recent.header.set_addresses(a, b, c, d);
    recent.header.ports = header.ports;
    recent.header.protocol = header.protocol;
    recent.header.epoch = header.epoch;
    recent.port = key.port;
    recent.direction = direction as u32;
    recent.opened_at = place.index;
    recent.openings = place.openings;
    // Not from the entry, and how the packet arrives neither: it may have been evicted and be another flow's by now.
    recent.revision = scratch.case.revision;
    recent.peer_ifindex = skb.ingress_ifindex();
    recent.mark = skb.mark() & config.mark_mask;
    let now = track::ticks();
    recent.refreshed = now.wrapping_sub(u64::from((now as u32).wrapping_sub(entry.refreshed)));
}
