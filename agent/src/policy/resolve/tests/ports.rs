//! Which of several entries decides for a port.

use super::*;

#[test]
fn narrower_ports_decide() {
    let host = Host::simple(
        "services:\n  a: {}\n  b: {}\n  s:\n    ports:\n      - { port: any, from: [a] }\n      - { port: 100-200/tcp, from: [b] }\n      - { port: 150/tcp, from: [a], exposure: public }\n",
        &[("p", "a"), ("p", "b"), ("p", "s")],
    );
    for (port, a, b, world) in [
        (99, true, false, false),
        (100, false, true, false),
        (149, false, true, false),
        (150, true, false, true),
        (151, false, true, false),
        (200, false, true, false),
        (201, true, false, false),
    ] {
        for (name, open) in [("p/a", a), ("p/b", b), ("world", world)] {
            let verdict = host.decide(name, "p/s", TCP, port).verdict();
            assert_eq!(verdict == Verdict::Forwarded, open, "{name} {port}");
        }
    }
    host.opens("p/a", "p/s", UDP, 150);
    let denied = host.decide("p/a", "p/s", TCP, 100);
    assert_eq!(host.origin(&denied).0, "s.ports[1]");
}

#[test]
fn labels_name_the_ports_of_the_policy_in_any_profile() {
    let host =
        Host::simple("services:\n  a: { only_in: [x], ports: [any, 10-20/tcp, 15/tcp] }\n", &[("p", "a")]);
    let (a, _) = host.side("p/a");
    for (protocol, port, expected) in
        [(TCP, 15, (15, 15)), (TCP, 16, (10, 20)), (TCP, 21, (0, 65535)), (UDP, 15, (0, 65535))]
    {
        let rule = host.entries.rule(a.identity, PORT_LABEL, Direction::Ingress, protocol, port).unwrap();
        assert_eq!((rule.port_first, rule.port_last, rule.allow), (expected.0, expected.1, 0));
    }
}

#[test]
fn ping_has_one_entry_for_all_of_icmp() {
    let host = Host::simple("services:\n  a: { ports: [1/tcp], exposure: localhost }\n", &[("p", "a")]);
    let (a, _) = host.side("p/a");
    let key = crate::policy::entries::RuleEntryKey {
        subject: a.identity,
        peer: agent_common::identity::HOST,
        direction: Direction::Ingress,
        protocol: PROTOCOL_ICMP,
        port: 0,
        prefix: 0,
    };
    assert_eq!(host.entries.rules[&key].allow, 1);
}

/// What the policy format says about one port, written once more without entries or prefixes.
fn expected(entries: &[(u8, u16, u16, bool)], port: u16) -> bool {
    entries
        .iter()
        .filter(|(_, first, last, _)| (*first..=*last).contains(&port))
        .max_by_key(|(width, ..)| *width)
        .is_some_and(|(.., allow)| *allow)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_port_is_decided_by_its_narrowest_entry(
        any in proptest::option::of(any::<bool>()),
        ranges in proptest::collection::vec((1u16..60_000, 1u16..2000, any::<bool>()), 0..3),
        exact in proptest::collection::btree_map(1u16..1000, any::<bool>(), 0..4),
        probes in proptest::collection::vec(1u16.., 8),
    ) {
        let mut entries = Vec::new();
        let mut text = "services:\n  a: {}\n  s:\n    ports:\n".to_owned();
        let mut add = |width: u8, first: u16, last: u16, allow: bool| {
            let overlaps = entries.iter().any(|&(w, f, l, _): &(u8, u16, u16, bool)| w == width && first <= l && f <= last);
            if overlaps {
                return;
            }
            entries.push((width, first, last, allow));
            let from = if allow { "[a]" } else { "[]" };
            let port = match width {
                0 => "any".to_owned(),
                1 => format!("{first}-{last}/tcp"),
                _ => format!("{first}/tcp"),
            };
            text += &format!("      - {{ port: {port}, from: {from} }}\n");
        };
        if let Some(allow) = any {
            add(0, 0, u16::MAX, allow);
        }
        for (first, length, allow) in ranges {
            add(1, first, first + length, allow);
        }
        for (port, allow) in exact {
            add(2, port, port, allow);
        }
        if entries.is_empty() {
            text = "services: { a: {}, s: {} }\n".to_owned();
        }
        let host = Host::simple(&text, &[("p", "a"), ("p", "s")]);
        let edges = entries.iter().flat_map(|&(_, first, last, _)| [first.wrapping_sub(1), first, last, last.wrapping_add(1)]);
        for port in edges.chain(probes) {
            let open = host.decide("p/a", "p/s", TCP, port).verdict() == Verdict::Forwarded;
            prop_assert_eq!(open, expected(&entries, port), "{} in\n{}", port, text);
        }
    }
}
