//! A small host for tests: the instance `qerds` with three services, one of them unnamed, beside an unmanaged
//! container and an instance that is gone.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use agent_common::{
    counter::{DeniedCount, DeniedKey, Total},
    decision::{Party, PartyKind},
    event::DeniedEvent,
    identity::PORT_LABEL,
    packet::{Address, ETHERTYPE_IPV4, PROTOCOL_TCP, TCP_SYN},
    policy::{Rule, Subject, UNNAMED},
    verdict::{Direction, DropReason, Hook, Mode, Severity},
};

use super::{AgentState, AttachKind, InventorySource, InventoryState, Names, PortState, ReloadState};
use crate::{
    interference::Interference,
    inventory::snapshot::{Bridge, Endpoint, Interface, Obstacle, Port, Snapshot, Unenforceable, Uplink},
    policy::entries::{Entries, IdentityInfo, PolicyInfo, ResolvedEndpoint, RuleEntryKey, RuleOrigin},
    telemetry::source::{CounterReading, MapUsage},
};

pub(crate) const TRUST: u32 = 256;
pub(crate) const MAILPIT: u32 = 257;
pub(crate) const CRON: u32 = 258;
/// `shop/web`, an instance that is gone.
pub(crate) const GONE: u32 = 259;

/// 2026-11-22T10:15:04.113Z for an event at `EVENT_TIME`.
pub(crate) const CLOCK_OFFSET: i64 = 1_795_342_504_113_000_000 - EVENT_TIME.cast_signed();
const EVENT_TIME: u64 = 86_400_000_000_000;

/// Seconds since 1970, when the fixture's agent started.
pub(crate) const STARTED_AT: u64 = 1_795_338_000;

fn interface(ifindex: u32, name: &str) -> Interface {
    Interface { ifindex, name: name.to_owned() }
}

fn endpoint(service: Option<&str>, container: &str, port: Option<(u32, &str)>, last: u8) -> Endpoint {
    Endpoint {
        container_id: format!("{container}-id"),
        container: container.to_owned(),
        project: service.map(|_| "qerds".to_owned()),
        service: service.map(str::to_owned),
        labels: BTreeMap::new(),
        network: "qerds_default".to_owned(),
        bridge: "br-qerds".to_owned(),
        port: port.map(|(ifindex, name)| interface(ifindex, name)),
        mac: Some([2, 0x42, 0xac, 0x12, 0, last]),
        addresses: vec![IpAddr::from([172, 18, 0, last])],
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}

fn origin(rule: &str, at: &str) -> RuleOrigin {
    RuleOrigin { policy: "qerds".to_owned(), rule: rule.to_owned(), at: at.to_owned() }
}

fn info(instance: &str, service: &str) -> IdentityInfo {
    IdentityInfo {
        instance: instance.to_owned(),
        instance_number: 1,
        service: service.to_owned(),
        covered: true,
    }
}

fn subject(mode: Mode, severity: Severity, flags: u8) -> Subject {
    Subject { policy: 1, mode: mode as u8, severity: severity as u8, flags, _pad: [0; 3] }
}

fn port_label(subject: u32, port: u16) -> (RuleEntryKey, Rule) {
    (
        RuleEntryKey {
            subject,
            peer: PORT_LABEL,
            direction: Direction::Ingress,
            protocol: PROTOCOL_TCP,
            port,
            prefix: 16,
        },
        Rule { rule: 1, port_first: port, port_last: port, allow: 0, _pad: [0; 3] },
    )
}

fn entries() -> Entries {
    let covered = |identity, mode| ResolvedEndpoint {
        party: Party { kind: PartyKind::Covered, identity, instance: 1 },
        mode,
    };
    Entries {
        subjects: BTreeMap::from([
            (TRUST, subject(Mode::Enforce, Severity::Critical, 0)),
            (MAILPIT, subject(Mode::Observe, Severity::Warning, 0)),
            (CRON, subject(Mode::Enforce, Severity::Warning, UNNAMED)),
        ]),
        rules: BTreeMap::from([port_label(TRUST, 8080), port_label(MAILPIT, 8025)]),
        origins: vec![origin("qerds-trust.from[0]", "policies/qerds.yaml:33")],
        defaults: BTreeMap::from([
            (TRUST, origin("default", "policies/qerds.yaml:31")),
            (MAILPIT, origin("default", "policies/qerds.yaml:40")),
            (CRON, origin("default", "policies/qerds.yaml:12")),
        ]),
        identities: BTreeMap::from([
            (TRUST, info("qerds", "qerds-trust")),
            (MAILPIT, info("qerds", "mailpit")),
            (CRON, info("qerds", "cron")),
        ]),
        policies: BTreeMap::from([(
            1,
            PolicyInfo { name: "qerds".to_owned(), mode: Mode::Enforce, profile: "production".to_owned() },
        )]),
        endpoints: vec![
            covered(TRUST, Mode::Enforce),
            covered(MAILPIT, Mode::Observe),
            covered(CRON, Mode::Enforce),
            ResolvedEndpoint { party: Party::UNMANAGED, mode: Mode::Enforce },
        ],
        strictest_mode: Some(Mode::Enforce),
        ..Entries::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        endpoints: vec![
            endpoint(Some("qerds-trust"), "qerds-trust-1", Some((7, "veth3f1c")), 4),
            endpoint(Some("mailpit"), "qerds-mailpit-1", Some((9, "veth77aa")), 7),
            endpoint(Some("cron"), "qerds-cron-1", None, 8),
            endpoint(None, "scratch", Some((11, "veth0e0e")), 9),
        ],
        bridges: vec![Bridge {
            interface: interface(5, "br-qerds"),
            network: "qerds_default".to_owned(),
            subnets: "172.18.0.0/16".parse().into_iter().collect(),
        }],
        ports: [(7, "veth3f1c"), (9, "veth77aa"), (11, "veth0e0e")]
            .map(|(ifindex, name)| Port { interface: interface(ifindex, name), bridge: 5 })
            .to_vec(),
        uplinks: vec![Uplink { interface: interface(2, "eth0"), ethernet: true, port: false }],
        host_addresses: vec![IpAddr::from([172, 18, 0, 1])],
        unenforceable: vec![Unenforceable {
            container: "node-exporter".to_owned(),
            project: None,
            service: None,
            labels: BTreeMap::new(),
            obstacle: Obstacle::HostNetwork,
        }],
    }
}

/// An agent that enforces everything but `cron`, whose port is not known yet.
pub(crate) fn state() -> AgentState {
    let port = |name: &str| PortState {
        name: name.to_owned(),
        bridge: "br-qerds".to_owned(),
        attached: true,
        ready: true,
        via: Some(AttachKind::Tcx),
    };
    let name = |instance: &str, service: &str| (instance.to_owned(), service.to_owned());
    AgentState {
        snapshot: Arc::new(snapshot()),
        entries: Arc::new(entries()),
        names: Arc::new(Names {
            policies: BTreeMap::from([(1, "qerds".to_owned()), (2, "shop".to_owned())]),
            identities: BTreeMap::from([
                (TRUST, name("qerds", "qerds-trust")),
                (MAILPIT, name("qerds", "mailpit")),
                (CRON, name("qerds", "cron")),
                (GONE, name("shop", "web")),
            ]),
        }),
        revision: 12,
        ports: BTreeMap::from([(7, port("veth3f1c")), (9, port("veth77aa")), (11, port("veth0e0e"))]),
        inventory: InventoryState {
            source: InventorySource::Docker,
            connected: true,
            complete: true,
            error: None,
        },
        reload: ReloadState { successful: true, last_success: STARTED_AT, last_error: None },
        interference: Interference::default(),
        strangers: Vec::new(),
        ready: true,
        started_at: STARTED_AT,
    }
}

/// mailpit's attempt to reach qerds-trust: the example of the contract.
pub(crate) fn event() -> DeniedEvent {
    DeniedEvent {
        time: EVENT_TIME,
        source_address: Address::from_ipv4([172, 18, 0, 7]),
        destination_address: Address::from_ipv4([172, 18, 0, 4]),
        source: MAILPIT,
        destination: TRUST,
        source_port_ifindex: 9,
        destination_port_ifindex: 7,
        subject: TRUST,
        rule: 0,
        revision: 12,
        ifindex: 7,
        packets_suppressed: 0,
        source_port: 40112,
        destination_port: 8080,
        policy: 1,
        ethertype: ETHERTYPE_IPV4,
        protocol: PROTOCOL_TCP,
        tcp_flags: TCP_SYN,
        reason: DropReason::NoRule as u8,
        hook: Hook::ToEndpoint as u8,
        direction: Direction::Ingress as u8,
        severity: Severity::Critical as u8,
        observed: 0,
        _pad: 0,
        _pad2: 0,
    }
}

/// The counter that counts [`event`].
pub(crate) fn denied_key() -> DeniedKey {
    DeniedKey {
        subject: TRUST,
        source: MAILPIT,
        destination: TRUST,
        port_first: 8080,
        port_last: 8080,
        policy: 1,
        protocol: PROTOCOL_TCP,
        reason: DropReason::NoRule as u8,
        severity: Severity::Critical as u8,
        observed: 0,
        _pad: [0; 2],
    }
}

/// Counters after a while.
pub(crate) fn reading() -> CounterReading {
    let mut reading = CounterReading {
        denied: vec![(denied_key(), DeniedCount { packets: 21, attempts: 7 })],
        maps: vec![MapUsage { name: "DENIED", entries: 1, capacity: 16_384 }],
        lost_in_agent: 2,
        suppressed_in_agent: 0,
        backstop_dropped: 5,
        ..CounterReading::default()
    };
    reading.totals[Total::ForwardedToEndpoint as usize] = 1_000;
    reading.totals[Total::ForwardedFromEndpoint as usize] = 1_010;
    reading.totals[Total::DroppedToEndpoint as usize] = 21;
    reading.totals[Total::EventsLost as usize] = 1;
    reading.totals[Total::EventsSuppressed as usize] = 14;
    reading
}

/// The bytes of an event, as the ring buffer holds them.
pub(crate) fn bytes(event: &DeniedEvent) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(event.time.to_ne_bytes());
    bytes.extend(event.source_address.bytes());
    bytes.extend(event.destination_address.bytes());
    for number in [
        event.source,
        event.destination,
        event.source_port_ifindex,
        event.destination_port_ifindex,
        event.subject,
        event.rule,
        event.revision,
        event.ifindex,
        event.packets_suppressed,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [event.source_port, event.destination_port, event.policy, event.ethertype] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend([
        event.protocol,
        event.tcp_flags,
        event.reason,
        event.hook,
        event.direction,
        event.severity,
        event.observed,
    ]);
    bytes.resize(size_of::<DeniedEvent>(), 0);
    bytes
}
