//! What each CPU remembers of the flows whose packets it has just let through, so that the next packet needs neither the
//! parser nor, mostly, a lookup. Decides nothing: whatever is not just as it was goes the long way.
//!
//! A place holds one direction of a flow at one port: what the packets' headers looked like, as they lie in the frame,
//! and all that letting them through depended on. Once packets change nothing about the flow any more, they pass for as
//! long as its entry is fresh, which is as long as the tables' own entry would be taken without a look at the clock.
//! Until then, and for packets that do, the flow is looked for in the tables, but nothing is parsed.

use agent_common::{
    config::Config,
    endpoint::Interface,
    flow::{FRESH, FlowEntry, FlowKey, FlowState, PLACES},
    packet::{
        Address, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Intent, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK,
        TCP_FIN, TCP_RST, TCP_SYN, tcp_intent,
    },
    verdict::Direction,
};

use crate::{maps, parse::Frame, skb::Skb, track};

/// How many directions of flows each CPU remembers at most, a power of two.
pub(crate) const LANES: u32 = 2 * PLACES;

/// One remembered direction of a flow. Zeroes are nobody's: no port has the index 0.
pub(crate) struct Recent {
    header: Header,
    port: u32,
    direction: u32,
    key: FlowKey,
    /// Whether packets change nothing about the flow. The rest only counts if so.
    settled: u32,
    opened_at: u32,
    /// How often a flow had been opened at `opened_at` when this one was found in the tables.
    openings: u64,
    revision: u32,
    refreshed: u32,
    /// How the packets arrive, if it is the peer who sends them.
    peer_ifindex: u32,
    peer_mark: u32,
    /// What the port's packets are marked with, if it is the container who sends them.
    mark: u32,
    epoch: u32,
}

/// What all packets of a flow in one direction have in common, as it lies in the frame.
pub(crate) struct Header {
    /// Source MAC and ethertype; from the peer only the latter, for its MAC is nobody's concern.
    link: u64,
    /// Of IPv4 both in each word: the compiler would clear what is not used byte by byte.
    addresses: [u64; 4],
    ports: u32,
    protocol: u32,
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

/// What is known of a packet by its header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    No = 0,
    /// It is sound, and which flow it belongs to, if to any: the key is laid out, and what of the frame is needed to find
    /// and follow the flow.
    Flow = 1,
    /// It passes and changes nothing. It has been marked.
    Passes = 2,
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

/// Reads what the parser reads of a packet like those before: what may differ between two of a flow is checked as it is
/// there, and the rest has to be the same as it was.
#[inline(always)]
pub(crate) fn known(
    skb: Skb,
    config: &Config,
    direction: Direction,
    header: &mut Header,
    key: &mut core::mem::MaybeUninit<FlowKey>,
    frame: &mut Frame,
) -> Known {
    let mut flags = DATAGRAM;
    if !header.read(skb, direction, &mut flags) {
        return Known::No;
    }
    let Some(recent) = at(header, skb.ifindex()) else {
        return Known::No;
    };
    if recent.port != skb.ifindex()
        || recent.direction != direction as u32
        || recent.epoch != u32::from(config.epoch)
        || !recent.header.equals(header)
    {
        return Known::No;
    }
    let plain = flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST) == TCP_ACK;
    if plain && recent.is_settled(skb, config, direction) {
        if matches!(direction, Direction::Egress) {
            skb.set_mark_bits(recent.mark, config.mark_mask);
        }
        return Known::Passes;
    }
    if recent.header.protocol as u8 != PROTOCOL_TCP || !matches!(tcp_intent(flags), Some(Intent::Continue)) {
        return Known::No;
    }
    if matches!(direction, Direction::Egress) {
        skb.set_mark_bits(recent.mark, config.mark_mask);
    }
    frame.packet.protocol = PROTOCOL_TCP;
    frame.packet.tcp_flags = flags;
    frame.packet.intent = Intent::Continue;
    copy(&recent.key, key.as_mut_ptr());
    Known::Flow
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
        if skb.vlan_present() != 0 {
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
    fn set(&mut self, key: &FlowKey, direction: Direction, link: u64) {
        let (source, destination, ports) = match direction {
            Direction::Ingress => (&key.remote, &key.local, in_memory(key.remote_port, key.local_port)),
            Direction::Egress => (&key.local, &key.remote, in_memory(key.local_port, key.remote_port)),
        };
        self.link = link;
        self.protocol = u32::from(key.protocol);
        self.ports = ports;
        if u64::from_be(link) as u16 == ETHERTYPE_IPV4 {
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
        self.link == other.link && self.ports == other.ports && self.protocol == other.protocol
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

impl Recent {
    /// Whether packets pass without a look into the tables, and this one is from whom those before were.
    #[inline(always)]
    fn is_settled(&self, skb: Skb, config: &Config, direction: Direction) -> bool {
        self.settled != 0
            && self.revision == config.revision
            && track::jiffies().wrapping_sub(self.refreshed) < FRESH
            && self.openings == maps::openings(self.opened_at)
            && (matches!(direction, Direction::Egress)
                || (self.peer_ifindex == skb.ingress_ifindex()
                    && self.peer_mark == skb.mark() & config.mark_mask))
    }
}

/// What a hook that keeps flows knows of its packets.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) direction: Direction,
    /// [`Header::link`] of the direction's packets; 0 if they cannot be remembered.
    pub(crate) link: u64,
    /// The port's mark, if the container sends.
    pub(crate) mark: u32,
    /// [`Config::epoch`] from before anything of this was looked up.
    pub(crate) epoch: u32,
}

impl Lane {
    /// That of a packet whose header is known: it has been marked.
    #[inline(always)]
    pub(crate) fn of_known(
        skb: Skb,
        config: &Config,
        direction: Direction,
        header: &Header,
        epoch: u32,
    ) -> Self {
        Self { direction, link: header.link, mark: skb.mark() & config.mark_mask, epoch }
    }

    /// What a port sends, in frames like this one, or what it is sent.
    #[inline(always)]
    pub(crate) fn of(direction: Direction, port: &Interface, frame: &Frame, epoch: u32) -> Self {
        let ethertype = u64::from(frame.ethertype);
        match direction {
            Direction::Egress => {
                let mac = port.expected_mac(frame.source_mac).number();
                Self { direction, link: (mac << 16 | ethertype).to_be(), mark: port.mark, epoch }
            }
            Direction::Ingress => Self { direction, link: ethertype.to_be(), mark: 0, epoch },
        }
    }
}

/// How much a flow that is remembered is good for.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    settled: bool,
    revision: u32,
    refreshed: u32,
}

impl Standing {
    /// Each packet is looked up.
    pub(crate) const OPEN: Self = Self { settled: false, revision: 0, refreshed: 0 };

    /// That of a flow which has come to `state` with a packet that its entry let through.
    ///
    /// Settled is a flow of which the next packet in the same direction changes nothing: TCP counts every step until it is
    /// established, and its end, and a ping is over too soon.
    #[inline(always)]
    pub(crate) const fn of(protocol: u8, entry: &FlowEntry, state: u8, direction: Direction) -> Self {
        let settled = match protocol {
            PROTOCOL_TCP => {
                state == FlowState::Established as u8
                    || (state == FlowState::Replied as u8 && !entry.is_opener(direction))
            }
            protocol => protocol != PROTOCOL_ICMP,
        };
        Self { settled, revision: entry.revision, refreshed: entry.refreshed }
    }
}

/// Remembers both directions of a TCP flow that has just been opened at a port: the headers of what is to come are known.
#[inline(always)]
pub(crate) fn expect(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    port: &Interface,
    frame: &Frame,
    epoch: u32,
    header: &mut Header,
) {
    if key.protocol != PROTOCOL_TCP {
        return;
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if matches!(direction, Direction::Egress) && !port.has_known_mac() {
            return;
        }
        let lane = Lane::of(direction, port, frame, epoch);
        remember(skb, config, key, lane, Place { index: 0, openings: 0 }, Standing::OPEN, header);
    }
}

/// Remembers a direction of a flow, of which a packet has just been let through if it is settled.
#[inline(always)]
pub(crate) fn remember(
    skb: Skb,
    config: &Config,
    key: &FlowKey,
    lane: Lane,
    place: Place,
    standing: Standing,
    header: &mut Header,
) {
    header.set(key, lane.direction, lane.link);
    let Some(recent) = at(header, key.port) else {
        return;
    };
    recent.header.link = header.link;
    let [a, b, c, d] = header.addresses;
    recent.header.set_addresses(a, b, c, d);
    recent.header.ports = header.ports;
    recent.header.protocol = header.protocol;
    recent.port = key.port;
    recent.direction = lane.direction as u32;
    copy(key, &raw mut recent.key);
    recent.epoch = lane.epoch;
    recent.mark = lane.mark;
    recent.settled = u32::from(standing.settled);
    if standing.settled {
        recent.opened_at = place.index;
        recent.openings = place.openings;
        recent.revision = standing.revision;
        recent.refreshed = standing.refreshed;
        // From the packet: by now the entry may have been evicted and be another flow's.
        recent.peer_ifindex = skb.ingress_ifindex();
        recent.peer_mark = skb.mark() & config.mark_mask;
    }
}

/// Word by word: the compiler would call `memcpy`.
#[inline(always)]
fn copy(from: &FlowKey, to: *mut FlowKey) {
    let (from, to) = (core::ptr::from_ref(from).cast::<u64>(), to.cast::<u64>());
    for index in 0..size_of::<FlowKey>() / size_of::<u64>() {
        // SAFETY: both consist of that many aligned words, without padding.
        unsafe { to.add(index).write(from.add(index).read_volatile()) }
    }
}
