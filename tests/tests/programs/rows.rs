//! Short ways to say which packet goes where.

use std::net::IpAddr;

use integration_tests::packet::{ACK, Payload, SYN, Tcp, Udp};

use crate::bench::Row;
use crate::town::{UPLINK, address, delivered_to, sent_by, v4, v6};

pub(crate) fn tcp(port: u16) -> Payload {
    Payload::Tcp(Tcp::new(40_000, port))
}

pub(crate) fn udp(port: u16) -> Payload {
    Payload::Udp(Udp::new(40_000, port))
}

pub(crate) fn echo() -> Payload {
    Payload::Echo { request: true, identifier: 77 }
}

/// From one port's container to another's, as it arrives there.
pub(crate) fn between(from: u32, to: u32, payload: &Payload) -> Row {
    let name = format!("{from} to {to}: {payload:?}");
    Row::to(to, name, delivered_to(to, v4(from), v4(to), payload)).by(from)
}

/// From the world to a port's container.
pub(crate) fn incoming(from: IpAddr, to: u32, payload: &Payload) -> Row {
    let to_address = if from.is_ipv4() { v4(to) } else { v6(to) };
    Row::to(to, format!("{from} to {to}: {payload:?}"), delivered_to(to, from, to_address, payload))
        .by(UPLINK)
}

/// From a port's container to an address.
pub(crate) fn outgoing(from: u32, to: IpAddr, payload: &Payload) -> Row {
    let source = if to.is_ipv4() { v4(from) } else { v6(from) };
    Row::from(from, format!("{from} to {to}: {payload:?}"), sent_by(from, source, to, payload))
}

/// A TCP connection between two containers, packet by packet, at either one's port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) client: u32,
    pub(crate) server: u32,
    pub(crate) client_port: u16,
    pub(crate) server_port: u16,
    /// 0 for IPv4, 1 for IPv6.
    pub(crate) family: usize,
}

impl Talk {
    pub(crate) const fn new(client: u32, server: u32, server_port: u16) -> Self {
        Self { client, server, client_port: 40_000, server_port, family: 0 }
    }

    fn name(&self, at: &str, flags: u8) -> String {
        format!("{} {at} {} port {}, flags {flags:#04x}", self.client, self.server, self.server_port)
    }

    fn there(&self, flags: u8) -> Payload {
        Payload::Tcp(Tcp::new(self.client_port, self.server_port).flags(flags))
    }

    fn back(&self, flags: u8) -> Payload {
        Payload::Tcp(Tcp::new(self.server_port, self.client_port).flags(flags))
    }

    const fn ends(&self) -> (u32, u32, usize) {
        (self.client, self.server, self.family)
    }

    /// The client's packet leaves it.
    pub(crate) fn leaves(&self, flags: u8) -> Row {
        let (client, server, family) = self.ends();
        let packet = sent_by(client, address(client, family), address(server, family), &self.there(flags));
        Row::from(client, self.name("to", flags), packet)
    }

    /// The client's packet arrives.
    pub(crate) fn arrives(&self, flags: u8) -> Row {
        let (client, server, family) = self.ends();
        let packet =
            delivered_to(server, address(client, family), address(server, family), &self.there(flags));
        Row::to(server, self.name("into", flags), packet).by(client)
    }

    /// The server's packet leaves it.
    pub(crate) fn answers(&self, flags: u8) -> Row {
        let (client, server, family) = self.ends();
        let packet = sent_by(server, address(server, family), address(client, family), &self.back(flags));
        Row::from(server, self.name("answered by", flags), packet)
    }

    /// The server's packet arrives.
    pub(crate) fn returns(&self, flags: u8) -> Row {
        let (client, server, family) = self.ends();
        let packet =
            delivered_to(client, address(server, family), address(client, family), &self.back(flags));
        Row::to(client, self.name("hears from", flags), packet).by(server)
    }

    /// The three packets of a handshake, each at both ports.
    pub(crate) fn handshake(&self) -> [Row; 6] {
        [
            self.leaves(SYN),
            self.arrives(SYN),
            self.answers(SYN | ACK),
            self.returns(SYN | ACK),
            self.leaves(ACK),
            self.arrives(ACK),
        ]
    }
}
