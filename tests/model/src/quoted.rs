//! The packet that an ICMP error quotes: only its IP header and eight bytes are sure to be there.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use crate::decision::{ICMP, TCP, UDP};
use crate::frame::{Read, invalid, require};
use crate::verdict::Reason;

/// What is quoted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Protocol and ports, as the quoted packet had them.
    pub(crate) tuple: Read<(u8, (u16, u16))>,
}

/// A quoted IPv4 packet, as a program would have forwarded it: no options, no later fragment.
pub(crate) fn ipv4(bytes: &[u8]) -> Read<Quoted> {
    require(bytes.len() >= 20 + 8, Reason::InvalidPacket)?;
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(invalid)?;
    let plain = header.options().is_empty() && header.fragments_offset().value() == 0;
    require(plain, Reason::InvalidPacket)?;
    Ok(Quoted {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        tuple: tuple(header.protocol(), &bytes[20..28], (IpNumber::ICMP, 8, 0)),
    })
}

/// A quoted IPv6 packet without extension headers.
pub(crate) fn ipv6(bytes: &[u8]) -> Read<Quoted> {
    require(bytes.len() >= 40 + 8, Reason::InvalidPacket)?;
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(invalid)?;
    Ok(Quoted {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        tuple: tuple(header.next_header(), &bytes[40..48], (IpNumber::IPV6_ICMP, 128, 129)),
    })
}

/// `echo` is the family's ICMP, with its types of request and reply.
fn tuple(protocol: IpNumber, bytes: &[u8], echo: (IpNumber, u8, u8)) -> Read<(u8, (u16, u16))> {
    let (icmp, request, reply) = echo;
    let identifier = u16::from_be_bytes([bytes[4], bytes[5]]);
    match protocol {
        IpNumber::TCP => Ok((TCP, ports(bytes))),
        IpNumber::UDP => Ok((UDP, ports(bytes))),
        _ if protocol == icmp && bytes[0] == request => Ok((ICMP, (identifier, 0))),
        _ if protocol == icmp && bytes[0] == reply => Ok((ICMP, (0, identifier))),
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// Source and destination port.
pub(crate) fn ports(bytes: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}
