//! What a frame is, as far as anybody cares. Headers are read by `etherparse`; the rules are the documents'.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice,
    TcpHeaderSlice, UdpHeaderSlice,
};

use crate::decision::{ICMP, TCP, UDP};
use crate::quoted;
use crate::verdict::Reason;

const IGMP: u8 = 2;
const ETHERNET: usize = 14;

/// The TCP flags that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

/// What a packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To open a connection: a SYN.
    Connect(Flags),
    /// To open an echo: a request.
    Ask,
    /// To go on, or to open if there is nothing to go on with: a datagram.
    Send,
    /// To go on with something: any other segment, an echo reply.
    GoOn(Flags),
    /// To complain about a packet, whose tuple it has, turned round. Its own sender is kept.
    Complain { sender: IpAddr },
}

/// What a frame is handled as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// TCP, UDP or ICMP.
    Flow(Wish),
    /// ARP or neighbour discovery: who says that an address is whose. Without an address it only asks. The `sender` is
    /// somebody that the IP header names beside that, the `target` whom a solicitation looks for.
    Claim {
        address: Option<IpAddr>,
        mac: [u8; 6],
        own_link_local: bool,
        sender: Option<IpAddr>,
        target: Option<IpAddr>,
    },
    /// A multicast listener message.
    Listener,
    /// What stacks send by themselves and nobody handles.
    Chatter,
    /// Of no kind that anybody knows.
    Nothing,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub source_mac: [u8; 6],
    /// Whether its MAC address is a group's.
    pub for_group: bool,
    pub ethertype: u16,
    pub addresses: Option<(IpAddr, IpAddr)>,
    pub ports: (u16, u16),
    /// As the header has it; ICMP for ICMPv6 that is understood.
    pub protocol: u8,
    pub tcp_flags: u8,
    pub sequence: u32,
    pub content: Content,
    /// Why it is refused whatever policies say.
    pub flaw: Option<Reason>,
}

pub(crate) type Read<T> = Result<T, Reason>;

/// Reads a frame that is not tagged by the hardware.
#[must_use]
pub fn read(bytes: &[u8]) -> Frame {
    let mut frame = Frame {
        source_mac: [0; 6],
        for_group: bytes.first().is_some_and(|first| first & 1 != 0),
        ethertype: 0,
        addresses: None,
        ports: (0, 0),
        protocol: 0,
        tcp_flags: 0,
        sequence: 0,
        content: Content::Nothing,
        flaw: None,
    };
    match frame.ethernet(bytes) {
        Ok(content) => frame.content = content,
        Err(reason) => frame.flaw = Some(reason),
    }
    frame
}

/// Everything that cannot be read to its end is invalid.
pub(crate) fn invalid<E>(_error: E) -> Reason {
    Reason::InvalidPacket
}

pub(crate) const fn require(holds: bool, else_reason: Reason) -> Read<()> {
    if holds { Ok(()) } else { Err(else_reason) }
}

impl Frame {
    fn ethernet(&mut self, bytes: &[u8]) -> Read<Content> {
        let header = Ethernet2HeaderSlice::from_slice(bytes).map_err(invalid)?;
        self.source_mac = header.source();
        self.ethertype = header.ether_type().0;
        let rest = &bytes[ETHERNET..];
        match header.ether_type() {
            EtherType::IPV4 => self.ipv4(rest),
            EtherType::IPV6 => self.ipv6(rest),
            EtherType::ARP => self.arp(rest),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    fn ipv4(&mut self, bytes: &[u8]) -> Read<Content> {
        // For the report also of a header that is refused.
        if let Some(addresses) = bytes.get(12..20).and_then(|bytes| bytes.first_chunk::<8>()) {
            let [a, b, c, d, e, f, g, h] = *addresses;
            self.addresses = Some(([a, b, c, d].into(), [e, f, g, h].into()));
            self.protocol = bytes[9];
        }
        let header = Ipv4HeaderSlice::from_slice(bytes).map_err(invalid)?;
        let (start, end) = (header.slice().len(), usize::from(header.total_len()));
        require(start <= end && end <= bytes.len(), Reason::InvalidPacket)?;
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let reserved_bit = header.slice()[6] & 0x80 != 0;
        let impossible_source = matches!(source.octets()[0], 0 | 127 | 224..);
        let impossible_destination =
            matches!(destination.octets()[0], 0 | 127 | 240..) && !destination.is_broadcast();
        require(!reserved_bit && !impossible_source && !impossible_destination, Reason::InvalidPacket)?;
        require(!header.is_fragmenting_payload(), Reason::Fragment)?;
        if self.protocol == IGMP && (destination.is_multicast() || destination.is_broadcast()) {
            self.content = Content::Chatter;
            return Err(Reason::UnsupportedProtocol);
        }
        require(header.options().is_empty(), Reason::UnsupportedProtocol)?;
        let payload = &bytes[start..end];
        match self.protocol {
            TCP => self.tcp(payload),
            UDP => self.udp(payload),
            ICMP => self.icmpv4(payload),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    fn ipv6(&mut self, bytes: &[u8]) -> Read<Content> {
        if let Some(fixed) = bytes.first_chunk::<40>() {
            let address = |at: usize| -> IpAddr {
                let mut octets = [0; 16];
                octets.copy_from_slice(&fixed[at..at + 16]);
                octets.into()
            };
            self.addresses = Some((address(8), address(24)));
            self.protocol = fixed[6];
        }
        let header = Ipv6HeaderSlice::from_slice(bytes).map_err(invalid)?;
        let end = 40 + usize::from(header.payload_length());
        require(end > 40 && end <= bytes.len(), Reason::InvalidPacket)?;
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let impossible = |address: std::net::Ipv6Addr| {
            matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..])
        };
        let nobody = source.is_unspecified();
        require(
            (nobody || !impossible(source)) && !source.is_multicast() && !impossible(destination),
            Reason::InvalidPacket,
        )?;
        let payload = &bytes[40..end];
        match header.next_header() {
            IpNumber::IPV6_ICMP => self.icmpv6(&header, payload),
            IpNumber::IPV6_HEADER_HOP_BY_HOP => listener(payload),
            IpNumber::IPV6_FRAGMENTATION_HEADER => Err(Reason::Fragment),
            // `::` asks for addresses and joins groups, no more.
            _ if nobody => Err(Reason::InvalidPacket),
            IpNumber::TCP => self.tcp(payload),
            IpNumber::UDP => self.udp(payload),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    fn tcp(&mut self, bytes: &[u8]) -> Read<Content> {
        // The fixed part is reported even if the whole makes no sense.
        if bytes.len() >= 20 {
            self.ports = quoted::ports(bytes);
            self.sequence = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            self.tcp_flags = bytes[13];
        }
        let header = TcpHeaderSlice::from_slice(bytes).map_err(invalid)?;
        require(header.source_port() != 0 && header.destination_port() != 0, Reason::InvalidPacket)?;
        let flags = Flags { syn: header.syn(), ack: header.ack(), fin: header.fin(), rst: header.rst() };
        match flags {
            Flags { syn: true, ack: false, fin: false, rst: false } => {
                Ok(Content::Flow(Wish::Connect(flags)))
            }
            Flags { syn: true, fin: true, .. }
            | Flags { syn: true, rst: true, .. }
            | Flags { fin: true, rst: true, .. }
            | Flags { ack: false, rst: false, .. } => Err(Reason::InvalidPacket),
            _ => Ok(Content::Flow(Wish::GoOn(flags))),
        }
    }

    fn udp(&mut self, bytes: &[u8]) -> Read<Content> {
        let header = UdpHeaderSlice::from_slice(bytes).map_err(invalid)?;
        self.ports = (header.source_port(), header.destination_port());
        let length = usize::from(header.length());
        require(length >= 8 && length <= bytes.len() && self.ports.1 != 0, Reason::InvalidPacket)?;
        Ok(Content::Flow(Wish::Send))
    }

    /// The identifier stands on the side of whoever asks.
    fn echo(&mut self, request: bool, code: u8, identifier: [u8; 2]) -> Read<Content> {
        require(code == 0, Reason::InvalidPacket)?;
        self.protocol = ICMP;
        let identifier = u16::from_be_bytes(identifier);
        if request {
            self.ports = (identifier, 0);
            return Ok(Content::Flow(Wish::Ask));
        }
        self.ports = (0, identifier);
        Ok(Content::Flow(Wish::GoOn(Flags::default())))
    }

    fn icmpv4(&mut self, bytes: &[u8]) -> Read<Content> {
        require(bytes.len() >= 8, Reason::InvalidPacket)?;
        let (kind, code, identifier) = (bytes[0], bytes[1], [bytes[4], bytes[5]]);
        match kind {
            0 | 8 => {
                let message = Icmpv4Slice::from_slice(bytes).map_err(invalid)?;
                debug_assert_eq!((message.type_u8(), message.code_u8()), (kind, code));
                self.echo(kind == 8, code, identifier)
            }
            3 | 11 | 12 => self.complaint(quoted::ipv4(&bytes[8..])?),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    fn icmpv6(&mut self, header: &Ipv6HeaderSlice<'_>, bytes: &[u8]) -> Read<Content> {
        let message = Icmpv6Slice::from_slice(bytes).map_err(invalid)?;
        let nobody = header.source_addr().is_unspecified();
        let [high, low, ..] = message.bytes5to8();
        match message.type_u8() {
            135 | 136 => self.neighbour(header, bytes),
            133 => {
                self.content = Content::Chatter;
                Err(Reason::UnsupportedProtocol)
            }
            _ if nobody => Err(Reason::InvalidPacket),
            kind @ (128 | 129) => self.echo(kind == 128, message.code_u8(), [high, low]),
            1..=4 => self.complaint(quoted::ipv6(&bytes[8..])?),
            _ => Err(Reason::UnsupportedProtocol),
        }
    }

    /// An error: as good as a packet of the flow that it quotes. Only the sender of that has a use for it.
    fn complaint(&mut self, quoted: quoted::Quoted) -> Read<Content> {
        let Some((sender, receiver)) = self.addresses else { return Err(Reason::InvalidPacket) };
        require(quoted.source == receiver, Reason::InvalidPacket)?;
        let (protocol, (source_port, destination_port)) = quoted.tuple?;
        self.addresses = Some((quoted.destination, receiver));
        self.protocol = protocol;
        self.ports = (destination_port, source_port);
        Ok(Content::Flow(Wish::Complain { sender }))
    }

    fn arp(&mut self, bytes: &[u8]) -> Read<Content> {
        let message = bytes.first_chunk::<28>().ok_or(Reason::InvalidPacket)?;
        require(matches!(message, [0, 1, 8, 0, 6, 4, 0, 1 | 2, ..]), Reason::InvalidPacket)?;
        let address = |at: usize| -> [u8; 4] { [0, 1, 2, 3].map(|byte| message[at + byte]) };
        let (sender, target) = (address(14), address(24));
        let claimed = (sender != [0; 4]).then(|| sender.into());
        self.addresses = Some((claimed.unwrap_or(IpAddr::from([0_u8; 16])), target.into()));
        let mac = [0, 1, 2, 3, 4, 5].map(|byte| message[8 + byte]);
        Ok(Content::Claim { address: claimed, mac, own_link_local: false, sender: None, target: None })
    }

    fn neighbour(&mut self, header: &Ipv6HeaderSlice<'_>, bytes: &[u8]) -> Read<Content> {
        self.protocol = ICMP;
        require(header.hop_limit() == 255 && bytes[1] == 0, Reason::InvalidPacket)?;
        let (message, options) = bytes.split_first_chunk::<24>().ok_or(Reason::InvalidPacket)?;
        let (solicits, source) = (message[0] == 135, header.source_addr());
        let mut target = [0; 16];
        target.copy_from_slice(&message[8..]);
        let target = std::net::Ipv6Addr::from(target);
        require(!target.is_multicast(), Reason::InvalidPacket)?;
        // One option at most, of the kind that belongs there: a nonce where nobody asks.
        let nonce = solicits && source.is_unspecified();
        let wanted = if nonce {
            14
        } else if solicits {
            1
        } else {
            2
        };
        let mac = match *options {
            [] => self.source_mac,
            [kind, 1, a, b, c, d, e, f] if kind == wanted => {
                if nonce {
                    self.source_mac
                } else {
                    [a, b, c, d, e, f]
                }
            }
            _ => return Err(Reason::InvalidPacket),
        };
        let claimed = if solicits { source } else { target };
        let address = (!claimed.is_unspecified()).then_some(IpAddr::V6(claimed));
        let own_link_local = claimed == link_local(mac);
        let sender = (!solicits && source != link_local(mac)).then_some(source.into());
        let target = solicits.then_some(target.into());
        Ok(Content::Claim { address, mac, own_link_local, sender, target })
    }
}

/// A multicast listener message behind a router alert, and nothing else behind extension headers.
fn listener(bytes: &[u8]) -> Read<Content> {
    let start = bytes.first_chunk::<16>().ok_or(Reason::InvalidPacket)?;
    match start {
        [58, 0, 5, 2, 0, 0, 1, 0, 130..=132 | 143, ..] => Ok(Content::Listener),
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// The address that an interface gives itself.
pub(crate) fn link_local([a, b, c, d, e, f]: [u8; 6]) -> std::net::Ipv6Addr {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f].into()
}
