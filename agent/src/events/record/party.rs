//! One side of a denied attempt.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use agent_common::{
    event::DeniedEvent,
    identity::{FIRST_ADDRESS_CLASS, HOST, UNKNOWN, UNMANAGED, WORLD},
    packet::{Address, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP},
};
use serde::{Deserialize, Serialize};

use crate::{inventory::snapshot::Endpoint, state::AgentState};

/// Who sent, or was to receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyRecord {
    /// `service`, `unmanaged`, `host`, `world` or `unknown`.
    pub kind: String,
    /// Of a covered service; of an unmanaged container too, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Left out where the frame has no IP header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Of TCP and UDP only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What the event says of one side.
struct Side {
    identity: u32,
    ifindex: u32,
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl PartyRecord {
    pub(super) fn source(event: &DeniedEvent, state: &AgentState) -> Self {
        Self::new(
            state,
            &Side {
                identity: event.source,
                ifindex: event.source_port_ifindex,
                address: address(event, &event.source_address),
                port: port(event, event.source_port),
            },
        )
    }

    pub(super) fn destination(event: &DeniedEvent, state: &AgentState) -> Self {
        Self::new(
            state,
            &Side {
                identity: event.destination,
                ifindex: event.destination_port_ifindex,
                address: address(event, &event.destination_address),
                port: port(event, event.destination_port),
            },
        )
    }

    fn new(state: &AgentState, side: &Side) -> Self {
        let mut party = Self { address: side.address, port: side.port, ..Self::default() };
        party.kind = match side.identity {
            UNKNOWN => "unknown",
            HOST => "host",
            WORLD => "world",
            UNMANAGED => "unmanaged",
            // An address class is a part of the world that some policy names.
            FIRST_ADDRESS_CLASS.. => "world",
            identity => match state.entries.identities.get(&identity) {
                Some(info) if !info.covered => "unmanaged",
                // One that is gone was an endpoint of its own; only its name is left.
                Some(_) => "service",
                None if state.identity_names(identity).is_some() => "service",
                None => "unknown",
            },
        }
        .to_owned();
        if matches!(party.kind.as_str(), "host" | "world") {
            return party;
        }
        let endpoint = Self::endpoint(state, side);
        party.container = endpoint.map(|endpoint| endpoint.container.clone());
        if let Some((instance, service)) = state.identity_names(side.identity) {
            party.project = Some(instance.to_owned());
            party.service = Some(service.to_owned());
        } else if let Some(endpoint) = endpoint {
            party.project.clone_from(&endpoint.project);
            party.service.clone_from(&endpoint.service);
        }
        party
    }

    fn endpoint<'a>(state: &'a AgentState, side: &Side) -> Option<&'a Endpoint> {
        if side.ifindex != 0 {
            return state.endpoint_at_port(side.ifindex);
        }
        state.endpoint_by_address(side.address?, side.identity)
    }

    /// As the sender in a line for people: `mailpit (qerds) 172.18.0.7:40112`.
    pub(super) fn from(&self) -> String {
        let mut text = self.name().to_owned();
        if let Some(project) = &self.project {
            text.push_str(&format!(" ({project})"));
        }
        match (self.address, self.port) {
            (Some(address), Some(port)) => text.push_str(&format!(" {}", SocketAddr::new(address, port))),
            (Some(address), None) => text.push_str(&format!(" {address}")),
            (None, _) => {}
        }
        text
    }

    /// As the receiver: `qerds-trust:8080`, the project only where it is not the sender's, the address where the
    /// name does not tell which one.
    pub(super) fn to(&self, sender_project: Option<&str>) -> String {
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        match (&self.project, self.address) {
            (Some(project), _) if sender_project == Some(project) => format!("{}{port}", self.name()),
            (Some(project), _) => format!("{}{port} ({project})", self.name()),
            (None, Some(address)) => match self.port {
                Some(port) => format!("{} {}", self.name(), SocketAddr::new(address, port)),
                None => format!("{} {address}", self.name()),
            },
            (None, None) => format!("{}{port}", self.name()),
        }
    }

    fn name(&self) -> &str {
        self.service.as_deref().or(self.container.as_deref()).unwrap_or(&self.kind)
    }
}

/// An address that was in the frame: no IPv4 address is all zeros in its 16-byte form, and `::` (duplicate address
/// detection) never stands on both sides.
fn address(event: &DeniedEvent, address: &Address) -> Option<IpAddr> {
    let nothing =
        event.source_address == Address::UNSPECIFIED && event.destination_address == Address::UNSPECIFIED;
    if *address == Address::UNSPECIFIED && (nothing || event.ethertype != ETHERTYPE_IPV6) {
        return None;
    }
    Some(Ipv6Addr::from(address.bytes()).to_canonical())
}

fn port(event: &DeniedEvent, number: u16) -> Option<u16> {
    // Neither side has port 0: a fragment, or a header that was not read.
    let known = event.source_port != 0 || event.destination_port != 0;
    (known && matches!(event.protocol, PROTOCOL_TCP | PROTOCOL_UDP)).then_some(number)
}
