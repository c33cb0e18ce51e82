//! Records against the example of the contract, and the cases that it does not show.

use agent_common::{
    identity::{HOST, UNKNOWN, UNMANAGED, WORLD},
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, PROTOCOL_ICMP, PROTOCOL_UDP, TCP_ACK, TCP_SYN},
    verdict::DropReason,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    events::decode::decode,
    state::fixture::{self, CLOCK_OFFSET, GONE, MAILPIT},
};

fn record(event: &DeniedEvent) -> Record {
    Record::new(&decode(&fixture::bytes(event)).unwrap(), &fixture::state(), CLOCK_OFFSET)
}

fn value(event: &DeniedEvent) -> Value {
    serde_json::to_value(record(event)).unwrap()
}

/// The example of the contract and of docs/metrics.md.
fn example() -> Value {
    json!({
        "time": "2026-11-22T10:15:04.113Z", "verdict": "dropped", "reason": "no_rule", "severity": "critical",
        "direction": "ingress", "policy": "qerds", "rule": "default", "rule_at": "policies/qerds.yaml:31",
        "project": "qerds", "protocol": "tcp", "tcp_flags": "SYN", "hook": "to_endpoint",
        "interface": "veth3f1c", "revision": 12, "packets_suppressed": 0,
        "source": {
            "kind": "service", "project": "qerds", "service": "mailpit", "container": "qerds-mailpit-1",
            "address": "172.18.0.7", "port": 40112,
        },
        "destination": {
            "kind": "service", "project": "qerds", "service": "qerds-trust", "container": "qerds-trust-1",
            "address": "172.18.0.4", "port": 8080,
        },
    })
}

#[test]
fn the_example_of_the_contract() {
    assert_eq!(value(&fixture::event()), example());
    let line = serde_json::to_string(&record(&fixture::event())).unwrap();
    assert!(line.starts_with(r#"{"time":"2026-11-22T10:15:04.113Z","verdict":"dropped","reason":"no_rule""#));
    assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record(&fixture::event()));
}

#[test]
fn the_line_for_people() {
    assert_eq!(
        record(&fixture::event()).line(),
        "10:15:04 dropped no_rule tcp mailpit (qerds) 172.18.0.7:40112 → qerds-trust:8080 rule default at \
         policies/qerds.yaml:31"
    );
}

#[test]
fn a_rule_is_named_with_its_line() {
    let mut event = fixture::event();
    event.rule = 1;
    assert_eq!(value(&event)["rule"], "qerds-trust.from[0]");
    assert_eq!(value(&event)["rule_at"], "policies/qerds.yaml:33");
}

#[test]
fn a_rule_of_another_revision_is_not_misnamed() {
    let mut event = fixture::event();
    event.rule = 1;
    event.revision = 11;
    assert_eq!(value(&event).get("rule"), None);
    event.rule = 99;
    event.revision = 12;
    assert_eq!(value(&event).get("rule"), None);
}

#[test]
fn where_no_policy_decides_none_is_named() {
    let mut event = fixture::event();
    event.policy = 0;
    event.subject = UNKNOWN;
    event.reason = DropReason::UnknownDestination as u8;
    let value = value(&event);
    for field in ["policy", "rule", "rule_at", "project"] {
        assert_eq!(value.get(field), None, "{field}");
    }
}

#[test]
fn outside_parties_have_no_container_even_if_nat_lends_them_an_address() {
    for (identity, kind) in [(HOST, "host"), (WORLD, "world"), (0x8000_0001, "world")] {
        let mut event = fixture::event();
        event.source = identity;
        event.source_port_ifindex = 0;
        assert_eq!(value(&event)["source"], json!({"kind": kind, "address": "172.18.0.7", "port": 40112}));
    }
}

#[test]
fn an_unmanaged_container_is_found_by_its_port_or_address() {
    let mut event = fixture::event();
    event.source = UNMANAGED;
    event.source_address = agent_common::packet::Address::from_ipv4([172, 18, 0, 9]);
    event.source_port_ifindex = 0;
    let by_address = value(&event)["source"].clone();
    event.source_port_ifindex = 11;
    assert_eq!(by_address, value(&event)["source"]);
    assert_eq!(by_address["kind"], "unmanaged");
    assert_eq!(by_address["container"], "scratch");
}

#[test]
fn a_service_that_is_gone_keeps_its_name() {
    let mut event = fixture::event();
    event.source = GONE;
    event.source_port_ifindex = 99;
    assert_eq!(
        value(&event)["source"],
        json!({"kind": "service", "project": "shop", "service": "web", "address": "172.18.0.7", "port": 40112})
    );
}

#[test]
fn protocols_and_what_they_leave_out() {
    let mut udp = fixture::event();
    udp.protocol = PROTOCOL_UDP;
    assert_eq!(value(&udp)["protocol"], "udp");
    assert_eq!(value(&udp).get("tcp_flags"), None);

    let mut echo = fixture::event();
    echo.protocol = PROTOCOL_ICMP;
    assert_eq!(value(&echo)["protocol"], "icmp");
    assert_eq!(value(&echo)["source"].get("port"), None);

    let mut arp = fixture::event();
    arp.ethertype = ETHERTYPE_ARP;
    arp.protocol = 0;
    arp.source_address = agent_common::packet::Address::UNSPECIFIED;
    arp.destination_address = agent_common::packet::Address::UNSPECIFIED;
    assert_eq!(value(&arp)["protocol"], "arp");
    assert_eq!(value(&arp)["source"].get("address"), None);

    let mut detection = fixture::event();
    detection.ethertype = ETHERTYPE_IPV6;
    detection.source_address = agent_common::packet::Address::UNSPECIFIED;
    assert_eq!(value(&detection)["source"]["address"], "::");
}

#[test]
fn flags_observed_and_unknown_interfaces() {
    let mut event = fixture::event();
    event.tcp_flags = TCP_SYN | TCP_ACK;
    event.observed = 1;
    event.ifindex = 4242;
    event.packets_suppressed = 3;
    event.subject = MAILPIT;
    let value = value(&event);
    assert_eq!(value["tcp_flags"], "SYN|ACK");
    assert_eq!(value["verdict"], "observed");
    assert_eq!(value["interface"], "if4242");
    assert!(record(&event).line().ends_with("(+3 packets)"));
}

#[test]
fn a_label_cannot_write_to_the_terminal() {
    let mut record = record(&fixture::event());
    record.source.service = Some("mail\u{1b}[2Jpit\n10:15:05 forged".to_owned());
    assert!(record.line().contains("mail\u{fffd}[2Jpit\u{fffd}10:15:05 forged"));
}
