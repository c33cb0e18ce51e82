//! Random packets of a few conversations, so that flows develop, and what an attacker makes of them.

use agent_common::config::outsider_bit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath_model::decision::{ICMP, Known, Question, TCP, UDP};
use datapath_model::verdict::{Hook, Mode, Who};
use integration_tests::packet::{
    ACK, Arp, BROADCAST, Ethernet, FIN, Ipv4, Ipv6, PSH, RST, SYN, icmp, link_layer, neighbour,
};

use crate::mutate::mutate;
use crate::random::Random;
use crate::world::{
    BRIDGE_MAC, BRIDGES, MARK_MASK, NOBODY, NUMBERS, PORTS, UPLINKS, WORLD, address, mac, on_bridge,
};

/// One packet at one hook.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) hook: Hook,
    pub(crate) at: u32,
    pub(crate) from: u32,
    pub(crate) mark: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Who takes part in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Port(u32),
    Host,
    World(u32),
    Nobody,
}

/// A conversation of two.
#[derive(Clone, Debug)]
struct Talk {
    /// First whoever opens it.
    actors: [Actor; 2],
    addresses: [IpAddr; 2],
    ports: [u16; 2],
    protocol: u8,
    sequence: u32,
    step: usize,
}

/// The usual course of a connection: who sends what.
const COURSE: [(usize, u8); 9] = [
    (0, SYN),
    (1, SYN | ACK),
    (0, ACK),
    (0, ACK | PSH),
    (1, ACK),
    (1, ACK | PSH),
    (0, FIN | ACK),
    (1, FIN | ACK),
    (0, ACK),
];

/// What makes the packets.
#[derive(Debug)]
pub(crate) struct Traffic {
    talks: Vec<Talk>,
    /// Addresses that may be written where another belongs.
    addresses: Vec<IpAddr>,
    /// What is still to pass its second hook.
    pending: Option<Given>,
}

impl Traffic {
    pub(crate) fn new(known: &Known, random: &mut Random) -> Self {
        let mut addresses: Vec<IpAddr> = WORLD.map(address).to_vec();
        addresses.extend(&known.host.addresses);
        addresses.extend(known.host.containers().flat_map(|(_, each)| each.addresses.iter().copied()));
        addresses.extend(
            [
                "198.51.100.53",
                "2001:db8:53::53",
                "172.18.0.200",
                "2001:db8:12::c8",
                "224.0.0.251",
                "ff02::fb",
                "fe80::ff:fe00:c",
                "fe80::ff:fe00:ff",
            ]
            .map(address),
        );
        let mut traffic = Self { talks: Vec::new(), addresses, pending: None };
        for _ in 0..10 {
            traffic.talks.push(traffic.talk(known, random));
        }
        traffic
    }

    /// One that gets somewhere, most of the time.
    fn talk(&self, known: &Known, random: &mut Random) -> Talk {
        loop {
            let talk = self.any_talk(known, random);
            if talk.is_open(known) || random.chance(1, 60) {
                return talk;
            }
        }
    }

    fn any_talk(&self, known: &Known, random: &mut Random) -> Talk {
        let family = random.below(2);
        let containers: Vec<u32> = PORTS.collect();
        let client = match random.below(10) {
            0 => Actor::Host,
            1 | 2 => Actor::World(*random.pick(&UPLINKS)),
            3 if random.chance(1, 3) => Actor::Nobody,
            _ => Actor::Port(*random.pick(&containers)),
        };
        let server = match (client, random.below(8)) {
            (Actor::Port(_), 0) => Actor::Host,
            (Actor::Port(_), 1 | 2) => Actor::World(*random.pick(&UPLINKS)),
            _ => Actor::Port(*random.pick(&containers)),
        };
        let actors = [client, server];
        let addresses = actors.map(|actor| self.address(known, actor, family, random));
        Talk {
            actors,
            addresses,
            ports: [40_000 + random.next() as u16 % 4, *random.pick(&NUMBERS)],
            protocol: *random.pick(&[TCP, TCP, TCP, UDP, UDP, ICMP]),
            sequence: 1,
            step: 0,
        }
    }

    fn address(&self, known: &Known, actor: Actor, family: usize, random: &mut Random) -> IpAddr {
        let of_family: Vec<IpAddr> =
            self.addresses.iter().copied().filter(|address| address.is_ipv6() == (family == 1)).collect();
        let world: Vec<IpAddr> =
            WORLD.map(address).into_iter().filter(|each| of_family.contains(each)).collect();
        match actor {
            _ if random.chance(1, 20) => *random.pick(&of_family),
            Actor::Port(port) => {
                let bridge = known.host.bridge_of(port).unwrap_or(BRIDGES[0]);
                let own = known.host.container(port).map_or(&[][..], |each| &each.addresses);
                let own: Vec<IpAddr> = own.iter().copied().filter(|each| of_family.contains(each)).collect();
                if own.is_empty() {
                    return on_bridge(bridge, family, u8::try_from(port).unwrap());
                }
                *random.pick(&own)
            }
            Actor::Host => on_bridge(*random.pick(&BRIDGES), family, 1),
            Actor::World(_) | Actor::Nobody => *random.pick(&world),
        }
    }

    /// The next packet.
    pub(crate) fn next(&mut self, known: &Known, random: &mut Random) -> Given {
        if random.chance(1, 60) {
            let place = random.below(self.talks.len());
            self.talks[place] = self.talk(known, random);
        }
        let given = match self.pending.take() {
            Some(given) if random.chance(9, 10) => given,
            _ if random.chance(1, 12) => self.oddity(known, random),
            _ => self.step(known, random),
        };
        self.spoil(given, random)
    }

    /// A step of a conversation, mostly the next, and where it would be seen.
    fn step(&mut self, known: &Known, random: &mut Random) -> Given {
        let place = random.below(self.talks.len());
        let talk = &mut self.talks[place];
        let (side, flags) = match random.below(10) {
            0 => {
                (random.below(2), *random.pick(&[SYN, ACK, RST, RST | ACK, FIN | ACK, SYN | ACK, SYN | PSH]))
            }
            1 => (random.below(2), random.byte()),
            _ => {
                let step = COURSE[talk.step % COURSE.len()];
                talk.step += 1;
                step
            }
        };
        if random.chance(1, 30) {
            talk.sequence += 1;
        }
        let talk = talk.clone();
        if random.chance(1, 20) {
            return self.complaint(&talk, side, known, random);
        }
        let packet = talk.packet(side, flags, random);
        self.carried(&talk, side, &packet, known, random)
    }

    /// A packet on its way: at the sender's port, and next at the receiver's.
    fn carried(
        &mut self,
        talk: &Talk,
        side: usize,
        packet: &[u8],
        known: &Known,
        random: &mut Random,
    ) -> Given {
        let (sender, receiver) = (talk.actors[side], talk.actors[1 - side]);
        let sent = match sender {
            Actor::Port(port) => Some(Given {
                hook: Hook::FromEndpoint,
                at: port,
                from: port,
                mark: 0,
                bytes: Ethernet::new(mac(port), BRIDGE_MAC).ip(packet),
            }),
            _ => None,
        };
        let received = match receiver {
            Actor::Port(port) => {
                let (from, mark) = arrives(sender, port, known, random);
                let bytes = Ethernet::new(BRIDGE_MAC, mac(port)).ip(packet);
                Some(Given { hook: Hook::ToEndpoint, at: port, from, mark, bytes })
            }
            _ => None,
        };
        match (sent, received) {
            (Some(sent), received) => {
                self.pending = received;
                sent
            }
            (None, Some(received)) => received,
            (None, None) => unreachable!("one side of every conversation is a container"),
        }
    }

    /// An ICMP error about a packet that `side` has sent.
    fn complaint(&mut self, talk: &Talk, side: usize, known: &Known, random: &mut Random) -> Given {
        let mut quoted = talk.packet(side, ACK, random);
        if random.chance(1, 6) {
            mutate(&mut quoted, 0, random);
        }
        quoted.truncate(20 + random.below(80));
        let receiver = talk.addresses[side];
        let router = if random.chance(1, 3) {
            let family = usize::from(receiver.is_ipv6());
            self.address(known, Actor::Host, family, random)
        } else {
            talk.addresses[1 - side]
        };
        let (kind, code) = (random.below(5), random.byte() % 4);
        let packet = match (router, receiver) {
            (IpAddr::V4(router), IpAddr::V4(receiver)) => {
                let kind = [3, 11, 12, 3, 4][kind];
                Ipv4::new(router, receiver).carrying(1, &icmp(kind, code, [0; 4], &quoted))
            }
            (IpAddr::V6(router), IpAddr::V6(receiver)) => {
                let kind = [1, 2, 3, 4, 5][kind];
                Ipv6::new(router, receiver).carrying(58, &icmp(kind, code, [0; 4], &quoted))
            }
            _ => quoted,
        };
        let mut talk = talk.clone();
        if random.chance(1, 4) {
            talk.actors[1 - side] = Actor::Host;
        }
        if !talk.actors.iter().any(|actor| matches!(actor, Actor::Port(_))) {
            talk.actors[side] = Actor::Port(*PORTS.start());
        }
        self.carried(&talk, 1 - side, &packet, known, random)
    }

    /// What is no conversation: claims, groups, other protocols, headers that nobody needs.
    fn oddity(&mut self, known: &Known, random: &mut Random) -> Given {
        let ports: Vec<u32> = PORTS.collect();
        let port = *random.pick(&ports);
        let frame = self.odd_frame(known, port, random);
        if random.chance(1, 2) {
            return Given { hook: Hook::FromEndpoint, at: port, from: port, mark: 0, bytes: frame };
        }
        let at = *random.pick(&ports);
        let (from, mark) = arrives(Actor::Port(port), at, known, random);
        Given { hook: Hook::ToEndpoint, at, from, mark, bytes: frame }
    }

    fn odd_frame(&self, known: &Known, port: u32, random: &mut Random) -> Vec<u8> {
        let own_mac = mac(port);
        let ethernet = Ethernet::new(own_mac, if random.chance(1, 2) { BROADCAST } else { BRIDGE_MAC });
        let (IpAddr::V4(four), IpAddr::V6(six)) = (
            self.address(known, Actor::Port(port), 0, random),
            self.address(known, Actor::Port(port), 1, random),
        ) else {
            panic!("two families")
        };
        let other_four = match self.address(known, Actor::Host, 0, random) {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => four,
        };
        let other_six = match self.address(known, Actor::Host, 1, random) {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => six,
        };
        let [.., last] = own_mac;
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x00ff, 0xfe00, last.into());
        let claimed = *random.pick(&[six, link_local, other_six, Ipv6Addr::UNSPECIFIED]);
        let syn = Talk::segment(40_000, 443, SYN, 1, random);
        match random.below(14) {
            0 | 1 => {
                let sender = *random.pick(&[four, Ipv4Addr::UNSPECIFIED, other_four]);
                let mut arp = Arp::request(own_mac, sender, other_four);
                arp.operation = 1 + u16::from(random.byte() % 3);
                ethernet.carrying(0x0806, &arp.bytes())
            }
            2..=4 => {
                let kind = 135 + random.byte() % 2;
                let option = *random.pick(&[1, 2, 14]);
                let mut options = if random.chance(1, 2) { link_layer(option, own_mac) } else { Vec::new() };
                if random.chance(1, 6) {
                    options.resize(4 * random.below(6), 1);
                }
                let message = neighbour(kind, *random.pick(&[six, link_local, other_six]), &options);
                let hops = if random.chance(9, 10) { 255 } else { 64 };
                ethernet.ip(&Ipv6::new(claimed, other_six).hop_limit(hops).carrying(58, &message))
            }
            5 => {
                let kind = *random.pick(&[130, 131, 132, 133, 143, 134, 137]);
                let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
                let packet = Ipv6::new(claimed, group).hop_limit(1);
                let packet = if random.chance(3, 4) { packet.router_alert() } else { packet };
                ethernet.ip(&packet.carrying(58, &icmp(kind, 0, [0; 4], &[0; 16])))
            }
            6 => {
                let group = Ipv4Addr::new(224, 0, 0, 22);
                let packet = Ipv4::new(four, if random.chance(3, 4) { group } else { other_four });
                ethernet.ip(&packet.options(&[0x94, 4, 0, 0]).carrying(2, &[0x22; 16]))
            }
            7 => ethernet.ip(&Ipv4::new(four, other_four).carrying(random.byte(), &[0; 24])),
            8 => ethernet.ip(&Ipv6::new(six, other_six).carrying(random.byte(), &[0; 24])),
            9 => ethernet.carrying(*random.pick(&[0x8847, 0x88cc, 0x0026, 0x8863, 0x88e5]), &[0; 46]),
            10 => {
                let tag = ethernet.tag(*random.pick(&[0x8100, 0x88a8]), u16::from(random.byte() % 2));
                tag.ip(&Ipv4::new(four, other_four).carrying(6, &syn))
            }
            11 => {
                let packet = Ipv4::new(four, other_four);
                let packet = match random.below(4) {
                    0 => packet.fragment(0, true),
                    1 => packet.fragment(u16::from(random.byte()), random.chance(1, 2)),
                    2 => packet.evil(),
                    _ => packet.options(&[1, 1, 1, 0]),
                };
                ethernet.ip(&packet.carrying(6, &syn))
            }
            12 => {
                let packet = Ipv6::new(six, other_six);
                let packet = match random.below(4) {
                    0 => packet.fragment(0, random.chance(1, 2)),
                    1 => packet.fragment(u16::from(random.byte()), false),
                    2 => packet.destination_options(),
                    _ => packet.router_alert(),
                };
                ethernet.ip(&packet.carrying(6, &syn))
            }
            _ => {
                let strange = *random.pick(&self.addresses);
                match strange {
                    IpAddr::V4(strange) => ethernet.ip(&Ipv4::new(four, strange).carrying(6, &syn)),
                    IpAddr::V6(strange) => ethernet.ip(&Ipv6::new(six, strange).carrying(6, &syn)),
                }
            }
        }
    }

    /// Now and then something is wrong: who sends it, where it comes from, any of its bytes.
    fn spoil(&self, mut given: Given, random: &mut Random) -> Given {
        if given.hook == Hook::ToEndpoint && random.chance(1, 12) {
            let ports: Vec<u32> = PORTS.collect();
            let port = *random.pick(&ports);
            given.from = *random.pick(&[0, NOBODY, BRIDGES[0], BRIDGES[1], UPLINKS[0], port]);
        }
        if random.chance(1, 30) {
            given.mark = random.next() as u32;
        }
        if random.chance(1, 40) {
            // One of the bits that are the agent's, or one that is not.
            given.from = *random.pick(&BRIDGES);
            given.mark ^= 0x8000_0000_u32.rotate_left(u32::try_from(random.below(6)).unwrap());
        }
        // Whoever acts as an outsider has called a published port, of which this host has none.
        given.mark &= !outsider_bit(MARK_MASK);
        if random.chance(1, 40) {
            let ports: Vec<u32> = PORTS.collect();
            given.at = *random.pick(&ports);
        }
        if random.chance(1, 10) {
            mutate(&mut given.bytes, 14, random);
        }
        pad(&mut given.bytes);
        given
    }
}

/// By which interface and with which mark a packet arrives at a port.
fn arrives(sender: Actor, at: u32, known: &Known, random: &mut Random) -> (u32, u32) {
    match sender {
        Actor::Host => (0, 0),
        Actor::World(uplink) => (uplink, 0),
        Actor::Nobody => (NOBODY, 0),
        Actor::Port(port) => {
            let bridge = known.host.bridge_of(port);
            let mark = known.host.marks.get(&port).copied().unwrap_or(0) | (random.next() as u32 & 0xff);
            match bridge {
                Some(bridge) if bridge != known.host.bridge_of(at).unwrap_or(0) || random.chance(1, 20) => {
                    (bridge, mark)
                }
                _ => (port, mark),
            }
        }
    }
}

/// The kernel takes no test packet that is shorter than the header that its ethertype calls for.
fn pad(bytes: &mut Vec<u8>) {
    let least = match bytes.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 14,
    };
    if bytes.len() < least {
        bytes.resize(least, 0);
    }
}

impl Talk {
    /// Whether it is let in, or only observed.
    fn is_open(&self, known: &Known) -> bool {
        let [source, destination] = [0, 1].map(|side| match self.actors[side] {
            Actor::Port(port) => known.host.container(port).map_or(Who::Unknown, |own| {
                if own.addresses.contains(&self.addresses[side]) {
                    Who::Container(port)
                } else {
                    Who::Unknown
                }
            }),
            Actor::Host => Who::Host,
            Actor::World(_) => Who::World,
            Actor::Nobody => Who::Unknown,
        });
        if source == Who::Unknown || destination == Who::Unknown {
            return false;
        }
        let outside = self.addresses[usize::from(known.covered_who(destination).is_none())];
        let port = if self.protocol == ICMP { 0 } else { self.ports[1] };
        let ruling = known.decide(&Question { source, destination, outside, protocol: self.protocol, port });
        ruling.authority.subject.is_some() && (ruling.denied.is_none() || ruling.mode == Mode::Observe)
    }

    fn packet(&self, side: usize, flags: u8, random: &mut Random) -> Vec<u8> {
        let (source, destination) = (self.addresses[side], self.addresses[1 - side]);
        let (source_port, destination_port) = (self.ports[side], self.ports[1 - side]);
        let payload = match self.protocol {
            TCP => Self::segment(source_port, destination_port, flags, self.sequence, random),
            UDP => datagram(source_port, destination_port, random),
            _ => echo(side == 0, source.is_ipv6(), self.ports[0]),
        };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Ipv4::new(source, destination).carrying(self.protocol, &payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let protocol = if self.protocol == ICMP { 58 } else { self.protocol };
                Ipv6::new(source, destination).carrying(protocol, &payload)
            }
            _ => panic!("{self:?} is of two families"),
        }
    }

    fn segment(source: u16, destination: u16, flags: u8, sequence: u32, random: &mut Random) -> Vec<u8> {
        let words = u8::try_from(random.below(3)).unwrap();
        let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9, (5 + words) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.resize(20 + 4 * usize::from(words) + random.below(20), 1);
        bytes
    }
}

fn datagram(source: u16, destination: u16, random: &mut Random) -> Vec<u8> {
    let data = random.below(30);
    let length = u16::try_from(8 + data).unwrap();
    let mut bytes = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    bytes.resize(8 + data, 7);
    bytes
}

fn echo(request: bool, ipv6: bool, identifier: u16) -> Vec<u8> {
    let kind = match (ipv6, request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    let [high, low] = identifier.to_be_bytes();
    icmp(kind, 0, [high, low, 0, 1], b"portcullis")
}
