//! What productions are written with: a stream of random numbers, the tags, and the frames made so far.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::frame::{Expected, Frame, Tag, Way};
use crate::grammar::Production;
use crate::rng::Rng;
use crate::town::{ALLOWED, CLOSED, OPENING, Points, TCP_PORTS, UDP_PORTS, Who};
use crate::wire::{self, BROADCAST, Ends, Mac, SYN, Tcp};

/// Makes frames.
#[derive(Debug)]
pub struct Maker {
    pub rng: Rng,
    made: u32,
    offset: u32,
    class: &'static str,
    variant: Option<String>,
    frames: Vec<Frame>,
}

/// What a packet carries, with the protocol number of it.
pub type Message = (u8, Vec<u8>);

impl Maker {
    /// The frames of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let offset = rng.number() as u32;
        Self { rng, made: 0, offset, class: "", variant: None, frames: Vec::new() }
    }

    /// Runs one production; a few frames come of it, in the order in which they are to be sent.
    pub fn run(&mut self, production: &Production) -> Vec<Frame> {
        self.class = production.name;
        self.variant = None;
        (production.make)(self);
        std::mem::take(&mut self.frames)
    }

    /// A number for one more frame: no two are the same within four milliards.
    pub const fn tag(&mut self) -> Tag {
        self.made = self.made.wrapping_add(1);
        Tag(self.made.wrapping_mul(0x9e37_79b1).wrapping_add(self.offset))
    }

    /// Names what comes next more closely.
    pub fn variant(&mut self, name: impl Into<String>) {
        self.variant = Some(name.into());
    }

    /// One more frame.
    pub fn frame(&mut self, bytes: Vec<u8>, expected: Expected) {
        let label = match &self.variant {
            Some(variant) => Cow::Owned(format!("{}: {variant}", self.class)),
            None => Cow::Borrowed(self.class),
        };
        // A ring takes no frame that is nothing but an Ethernet header.
        let way = if bytes.len() > 14 && self.rng.percent(40) { Way::Ring } else { Way::Message };
        self.frames.push(Frame { bytes, label, expected, way });
    }

    /// One more that nobody may get.
    pub fn denied(&mut self, bytes: Vec<u8>) {
        self.frame(bytes, Expected::DENIED);
    }

    /// The frames made so far, for a production that builds upon another.
    pub fn taken(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.frames)
    }

    /// `Hostile`'s address and somebody's, of either family.
    pub fn ends(&mut self, to: Who) -> Ends {
        if self.rng.percent(50) { Self::v6(to) } else { Self::v4(to) }
    }

    #[must_use]
    pub const fn v4(to: Who) -> Ends {
        Ends { source: IpAddr::V4(Who::Hostile.v4()), destination: IpAddr::V4(to.v4()) }
    }

    #[must_use]
    pub const fn v6(to: Who) -> Ends {
        Ends { source: IpAddr::V6(Who::Hostile.v6()), destination: IpAddr::V6(to.v6()) }
    }

    /// A port that flows may be opened from.
    pub const fn opening_port(&mut self) -> u16 {
        self.rng.between(OPENING.0, OPENING.1)
    }

    /// A port that no flow of `Hostile` has.
    pub const fn closed_port(&mut self) -> u16 {
        self.rng.between(CLOSED.0, CLOSED.1)
    }

    /// Somebody other than `Victim`, none of whom `Hostile` may call.
    pub const fn other(&mut self) -> Who {
        self.rng.pick(&[Who::Friend, Who::Friend, Who::Stray, Who::Far, Who::Gateway])
    }

    /// Whom a frame is for: mostly `Victim`.
    pub const fn anybody(&mut self) -> Who {
        if self.rng.percent(65) { Who::Victim } else { self.other() }
    }

    /// A message that the policy allows from `Hostile` to `Victim`.
    pub fn allowed(&mut self, ends: &Ends) -> Message {
        let tag = self.tag();
        match self.rng.below(3) {
            0 => (wire::TCP, self.syn(ends, tag, ALLOWED)),
            1 => {
                let data = self.data(tag);
                (wire::UDP, ends.udp(self.opening_port(), ALLOWED, &data))
            }
            _ => {
                let (id, sequence) = (self.rng.short() & 0xff, self.rng.short());
                (ends.icmp_protocol(), ends.echo(true, id, sequence, &self.data(tag)))
            }
        }
    }

    /// A UDP datagram that the policy allows: what arrives of it is sure to reach a socket.
    pub fn allowed_datagram(&mut self, ends: &Ends) -> Message {
        let tag = self.tag();
        let data = self.data(tag);
        (wire::UDP, ends.udp(self.opening_port(), ALLOWED, &data))
    }

    /// A message that opens a flow which the policy does not allow, to whomever.
    pub fn forbidden(&mut self, ends: &Ends, to: Who) -> Message {
        let tag = self.tag();
        match self.rng.below(if to == Who::Victim { 2 } else { 3 }) {
            0 => {
                let port = self.forbidden_port(&TCP_PORTS, to);
                (wire::TCP, self.syn(ends, tag, port))
            }
            1 => {
                let port = self.forbidden_port(&UDP_PORTS, to);
                let data = self.data(tag);
                (wire::UDP, ends.udp(self.closed_port(), port, &data))
            }
            _ => {
                let (id, sequence) = (self.rng.short(), self.rng.short());
                (ends.icmp_protocol(), ends.echo(true, id, sequence, &self.data(tag)))
            }
        }
    }

    /// One of several ports that `Hostile` may not open there.
    pub const fn forbidden_port(&mut self, ports: &[u16], to: Who) -> u16 {
        let port = self.rng.pick(ports);
        if port == ALLOWED && matches!(to, Who::Victim) { ports[0] } else { port }
    }

    /// Either: whatever carries it is what is wrong.
    pub fn message(&mut self, ends: &Ends, to: Who) -> Message {
        if to == Who::Victim && self.rng.percent(70) { self.allowed(ends) } else { self.forbidden(ends, to) }
    }

    /// A SYN as stacks send them.
    pub fn syn(&mut self, ends: &Ends, tag: Tag, port: u16) -> Vec<u8> {
        let (sequence, acknowledgement) = tag.opening();
        let options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
        let source = self.opening_port();
        let header = Tcp {
            source,
            destination: port,
            sequence,
            acknowledgement,
            flags: SYN,
            options,
            ..Tcp::default()
        };
        ends.tcp(&header, &[])
    }

    /// Some bytes that begin with a tag.
    pub fn data(&mut self, tag: Tag) -> Vec<u8> {
        let mut data = tag.bytes();
        let more = if self.rng.percent(5) { self.rng.below(1200) } else { self.rng.below(40) };
        data.extend(self.rng.bytes(more));
        data
    }

    /// The MAC that a frame for somebody is sent to: the neighbour's own, seldom the bridge's, which routes, or
    /// everybody's.
    pub fn mac_for(&mut self, to: Who) -> Mac {
        match self.rng.below(20) {
            0 => Who::Gateway.mac(),
            1 => BROADCAST,
            _ => to.next_hop().mac(),
        }
    }

    /// The frame from `Hostile`'s own MAC that carries an IP packet.
    pub fn carry(&mut self, to: Who, ends: &Ends, packet: &[u8]) -> Vec<u8> {
        wire::ethernet(self.mac_for(to), Who::Hostile.mac(), ends.ethertype(), packet)
    }

    /// A plain frame to the neighbour itself.
    #[must_use]
    pub fn plain(to: Who, ends: &Ends, (protocol, message): &Message) -> Vec<u8> {
        let packet = ends.packet(*protocol, message);
        wire::ethernet(to.next_hop().mac(), Who::Hostile.mac(), ends.ethertype(), &packet)
    }

    /// A plain frame to `Victim` that a harmless change has been made to: nobody else gets it.
    pub fn tolerated(&mut self, bytes: Vec<u8>) {
        self.frame(bytes, Expected::at_most(Points::VICTIM));
    }
}
