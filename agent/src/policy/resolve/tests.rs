//! What policies come down to, asked through the decision itself.

use std::net::IpAddr;

use agent_common::{
    decision::{Attempt, Decision, Party, PartyKind, decide},
    identity::{PORT_LABEL, UNMANAGED},
    packet::{Address, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP},
    policy::{PolicyTable, Scope},
    verdict::{Direction, DropReason, Severity, Verdict},
};
use proptest::prelude::*;

use super::*;
use crate::{
    inventory::snapshot::{Bridge, Endpoint, Interface},
    policy::{Source, load, networks::address_in_key_form},
};

mod addresses;
mod ports;
mod residents;

const TCP: u8 = PROTOCOL_TCP;
const UDP: u8 = PROTOCOL_UDP;

fn policies(texts: &[&str], profile: Option<&str>) -> PolicySet {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| Source { name: format!("{index}.yaml"), text: (*text).to_owned() })
        .collect();
    let loaded = load(&sources, profile);
    loaded.policies.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics))
}

fn policy(services: &str) -> String {
    format!("version: 1\npolicy: p\napplies_to: {{ project: \"p*\" }}\n{services}")
}

fn container(project: &str, service: &str, address: &str) -> Endpoint {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Endpoint {
        container_id: format!("{project}-{service}-{address}"),
        container: format!("{project}-{service}-1"),
        project: some(project),
        service: some(service),
        labels: std::collections::BTreeMap::new(),
        network: "n".to_owned(),
        bridge: "br0".to_owned(),
        port: None,
        mac: None,
        addresses: vec![address.parse().unwrap()],
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}

/// A host with its entries.
#[derive(Debug)]
struct Host {
    snapshot: Snapshot,
    entries: Entries,
}

impl Host {
    fn new(policies: &PolicySet, endpoints: Vec<Endpoint>) -> Self {
        let bridge = Bridge {
            interface: Interface { ifindex: 9, name: "br0".to_owned() },
            network: "n".to_owned(),
            subnets: vec!["172.18.0.0/16".parse().unwrap()],
        };
        let snapshot = Snapshot {
            endpoints,
            bridges: vec![bridge],
            host_addresses: vec!["172.18.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            ..Snapshot::default()
        };
        let entries = resolve(policies, &snapshot, &mut IdentityRegistry::default()).unwrap();
        Self { snapshot, entries }
    }

    fn simple(services: &str, endpoints: &[(&str, &str)]) -> Self {
        let endpoints = endpoints
            .iter()
            .enumerate()
            .map(|(index, (project, service))| {
                container(project, service, &format!("172.18.0.{}", index + 2))
            })
            .collect();
        Self::new(&policies(&[&policy(services)], None), endpoints)
    }

    /// `project/service`, `host`, `world`, or an address of the world.
    fn side(&self, name: &str) -> (Party, Address) {
        let address = |text: &str| address_in_key_form(text.parse::<IpAddr>().unwrap());
        match name {
            "host" => (Party::HOST, address("172.18.0.1")),
            "world" => (Party::WORLD, address("203.0.113.77")),
            "unmanaged" => (Party::UNMANAGED, address("172.18.9.9")),
            _ if name.contains('/') => {
                let found = self.snapshot.endpoints.iter().position(|endpoint| {
                    let project = endpoint.project.as_deref().unwrap_or_default();
                    let service = endpoint.service.as_deref().unwrap_or_default();
                    format!("{project}/{service}") == name
                });
                let index = found.unwrap_or_else(|| panic!("no {name}"));
                let address = address_in_key_form(self.snapshot.endpoints[index].addresses[0]);
                (self.entries.endpoints[index].party, address)
            }
            text => {
                let parsed: IpAddr = text.parse().unwrap();
                let kind =
                    if self.snapshot.host_addresses.contains(&parsed) { Party::HOST } else { Party::WORLD };
                (kind, address_in_key_form(parsed))
            }
        }
    }

    fn decide(&self, from: &str, to: &str, protocol: u8, port: u16) -> Decision {
        let ((source, source_address), (destination, destination_address)) = (self.side(from), self.side(to));
        let attempt = Attempt { source, destination, source_address, destination_address, protocol, port };
        decide(&self.entries, &attempt)
    }

    #[track_caller]
    fn opens(&self, from: &str, to: &str, protocol: u8, port: u16) {
        let decision = self.decide(from, to, protocol, port);
        assert_eq!(decision.verdict(), Verdict::Forwarded, "{from} to {to}:{port}/{protocol}");
    }

    #[track_caller]
    fn denies(&self, from: &str, to: &str, protocol: u8, port: u16, reason: DropReason) {
        let decision = self.decide(from, to, protocol, port);
        assert_eq!(decision.verdict(), Verdict::Dropped(reason), "{from} to {to}:{port}/{protocol}");
    }

    fn origin(&self, decision: &Decision) -> (&str, &str) {
        let origin = &self.entries.origins[decision.rule as usize - 1];
        (&origin.rule, &origin.at)
    }
}
