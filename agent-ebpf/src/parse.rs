//! Bytes to a [`Frame`]: the only place that knows header offsets. Whatever is not fully understood is an
//! error with its own reason; nothing is skipped or guessed.

mod icmp;
mod ipv4;
mod ipv6;
mod neighbour;
mod transport;

use agent_common::{
    packet::{Address, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Intent, Mac, Packet},
    verdict::DropReason,
};

use crate::skb::Skb;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
const IPV4: usize = 20;
/// Length of the IPv6 header.
const IPV6: usize = 40;

/// What is known of a frame. Filled as far as parsing gets, so that a report of an error has what there is.
pub(crate) struct Frame {
    pub(crate) source_mac: Mac,
    /// In host order.
    pub(crate) ethertype: u16,
    pub(crate) kind: FrameKind,
    /// The addresses are those of the IP header for every IP frame; the rest only counts for
    /// [`FrameKind::Flow`].
    pub(crate) packet: Packet,
    /// For ARP and ND: the address that the frame says belongs to `claim_mac`. For ICMP errors: who sends it.
    pub(crate) claim: Address,
    pub(crate) claim_mac: Mac,
    /// Room for headers that are too long for the stack.
    ipv6_header: [u64; IPV6 / 8],
    /// The same for what an ICMP error quotes.
    quoted: [u64; IPV6 / 8 + 1],
}

/// What a frame is handled as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// TCP, UDP or ICMP: `packet` is complete.
    Flow,
    /// An ARP request or reply for IPv4 over Ethernet.
    Arp,
    /// A neighbour solicitation or advertisement.
    Neighbour,
    /// A multicast listener message: for the bridge only.
    Listener,
    /// A router solicitation: for nobody, but every IPv6 stack sends some when it starts.
    RouterSolicitation,
}

impl FrameKind {
    /// Whether stacks send such frames by themselves and the bridge copies them to every port: refusing one is no
    /// attempt of anybody's.
    #[inline(always)]
    pub(crate) const fn is_chatter(self) -> bool {
        matches!(self, Self::Listener | Self::RouterSolicitation)
    }
}

impl Frame {
    /// Forgets the previous packet, as far as anything is read before it is written.
    #[inline(always)]
    fn reset(&mut self) {
        self.kind = FrameKind::Flow;
        self.packet = Packet {
            source: Address::UNSPECIFIED,
            destination: Address::UNSPECIFIED,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            tcp_flags: 0,
            intent: Intent::Continue,
            _pad: 0,
            sequence: 0,
            _pad2: 0,
        };
        self.ethertype = 0;
    }
}

/// Parses a frame into `frame`.
///
/// A function of its own in the kernel too: it is called from several places, and is most of each program.
#[inline(never)]
pub(crate) fn parse(skb: Skb, frame: &mut Frame) -> Result<(), DropReason> {
    frame.reset();
    let ethernet: [u16; 7] = skb.load(0).ok_or(DropReason::InvalidPacket)?;
    frame.source_mac = Mac::from_shorts([ethernet[3], ethernet[4], ethernet[5]]);
    frame.ethertype = u16::from_be(ethernet[6]);
    // A receiver strips any number of priority tags, of which at most the outermost shows in the metadata:
    // tagged frames are dropped, never unwrapped and judged.
    if skb.vlan_present() != 0 {
        return Err(DropReason::UnsupportedProtocol);
    }
    match frame.ethertype {
        ETHERTYPE_IPV4 => ipv4::parse(skb, frame),
        ETHERTYPE_IPV6 => ipv6::parse(skb, frame),
        ETHERTYPE_ARP => neighbour::parse_arp(skb, frame),
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

/// Byte `index` of a word as it lies in the packet, counted as it goes over the wire.
#[inline(always)]
const fn byte(word_be: u32, index: u32) -> u8 {
    (u32::from_be(word_be) >> (24 - 8 * index)) as u8
}

/// The first two bytes of a word as it lies in the packet, in host order.
#[inline(always)]
const fn high(word_be: u32) -> u16 {
    (u32::from_be(word_be) >> 16) as u16
}

/// The last two bytes of a word as it lies in the packet, in host order.
#[inline(always)]
const fn low(word_be: u32) -> u16 {
    u32::from_be(word_be) as u16
}

/// The two halves of a long word, each as it lies in the packet.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    if cfg!(target_endian = "little") {
        [word as u32, (word >> 32) as u32]
    } else {
        [(word >> 32) as u32, word as u32]
    }
}
