//! Bytes to a [`Frame`]: the only place that knows header offsets. Whatever is not fully understood is an
//! error with its own reason; nothing is skipped or guessed.

mod icmp;
mod ipv4;
mod ipv6;
mod locate;
mod neighbour;
mod transport;

use agent_common::{
    packet::{Address, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Intent, Mac, Packet},
    verdict::DropReason,
};

pub(crate) use self::locate::{Ports, locate};
use crate::{maps, skb::Skb};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Where the source address stands in it, right before the ethertype.
const SOURCE_MAC: usize = 6;
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
    /// The number of the reason for which the frame is refused whatever policies say, 0 for none.
    flaw: u8,
    /// [`Ports`], for [`locate`] alone.
    ports: u8,
    /// The addresses are those of the IP header for every IP frame; the rest only counts for
    /// [`FrameKind::Flow`].
    pub(crate) packet: Packet,
    /// For ARP and ND: the address that the frame says belongs to `claim_mac`. For ICMP errors: who sends it.
    pub(crate) claim: Address,
    pub(crate) claim_mac: Mac,
    /// For ND: the address that is asked for, or told of.
    pub(crate) target: Address,
}

/// What a frame is handled as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// TCP, UDP or ICMP: `packet` is complete.
    Flow,
    /// An ARP request or reply for IPv4 over Ethernet.
    Arp,
    /// A neighbour solicitation: it claims its sender's address, and asks for another.
    Solicitation,
    /// A neighbour advertisement.
    Advertisement,
    /// A multicast listener message: for the bridge only.
    Listener,
    /// A router solicitation or an IGMP message: for nobody, but stacks and bridges send some by themselves.
    Chatter,
}

impl FrameKind {
    /// Whether stacks send such frames by themselves and the bridge copies them to every port: refusing one is no
    /// attempt of anybody's.
    #[inline(always)]
    pub(crate) const fn is_chatter(self) -> bool {
        matches!(self, Self::Listener | Self::Chatter)
    }
}

impl Frame {
    /// What is wrong with the frame itself.
    #[inline(always)]
    pub(crate) const fn flaw(&self) -> Option<DropReason> {
        match self.flaw {
            0 => None,
            1 => Some(DropReason::InvalidPacket),
            2 => Some(DropReason::Fragment),
            _ => Some(DropReason::UnsupportedProtocol),
        }
    }

    /// Whether a receiver that knows of no flow may take the packet for the first of one.
    #[inline(always)]
    pub(crate) const fn may_open(&self) -> bool {
        self.flaw != 0 || self.packet.intent.opens()
    }

    /// Forgets the previous packet, as far as anything is read before it is written.
    #[inline(always)]
    fn reset(&mut self) {
        self.kind = FrameKind::Flow;
        let words = (&raw mut self.packet).cast::<u64>();
        for index in 0..size_of::<Packet>() / size_of::<u64>() {
            // One word at a time, which the compiler may not gather into a call of `memset`.
            // SAFETY: the packet consists of that many words, all of which may be 0.
            unsafe { words.add(index).write_volatile(0) }
        }
        self.packet.intent = Intent::Continue;
        self.ethertype = 0;
        self.source_mac = Mac::new([0; 6]);
    }
}

/// Parses a frame into `frame`. To be called from one place only, since it is most of each program.
///
/// What the compiler knows on each way out is forgotten on purpose: it would go on with a copy of the program for
/// each, and the verifier would have to follow them all. It is read back from `frame` instead.
#[inline(always)]
pub(crate) fn parse(skb: Skb, frame: &mut Frame) {
    frame.flaw = match headers(skb, frame) {
        Ok(()) => 0,
        Err(reason) => reason as u8,
    };
    maps::forget();
}

#[inline(always)]
fn headers(skb: Skb, frame: &mut Frame) -> Result<(), DropReason> {
    frame.reset();
    let [word]: [u64; 1] = skb.load(SOURCE_MAC).ok_or(DropReason::InvalidPacket)?;
    let word = u64::from_be(word);
    frame.source_mac = Mac::from_number(word >> 16);
    frame.ethertype = word as u16;
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
