//! Every branch of the decision, the precedence of its reasons, and that nothing is forwarded without an entry.

extern crate std;

use std::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    packet::{Address, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP},
    policy::Rule,
};

/// Exact matches only: prefixes belong to the maps.
#[derive(Debug, Default)]
struct Table {
    strictest: Option<Mode>,
    subjects: BTreeMap<u32, Subject>,
    classes: BTreeMap<(u32, Scope, Address), u32>,
    rules: BTreeMap<(u32, u32, Direction, u8, u16), Rule>,
}

impl PolicyTable for Table {
    fn strictest_mode(&self) -> Mode {
        self.strictest.unwrap_or(Mode::Enforce)
    }

    fn subject(&self, identity: u32) -> Option<Subject> {
        self.subjects.get(&identity).copied()
    }

    fn address_class(&self, subject: u32, scope: Scope, address: &Address) -> Option<u32> {
        self.classes.get(&(subject, scope, *address)).copied()
    }

    fn rule(&self, subject: u32, peer: u32, direction: Direction, protocol: u8, port: u16) -> Option<Rule> {
        self.rules.get(&(subject, peer, direction, protocol, port)).copied()
    }
}

const CLASS: u32 = identity::FIRST_ADDRESS_CLASS + 7;
const OFFICE: Address = Address::new([9; 16]);

fn row(mode: Mode, flags: u8) -> Subject {
    Subject { policy: 3, mode: mode as u8, severity: Severity::Critical as u8, flags, _pad: [0; 3] }
}

fn rule(number: u32, allow: u8) -> Rule {
    Rule { rule: number, port_first: 0, port_last: 0, allow, _pad: [0; 3] }
}

fn covered(identity: u32, instance: u32) -> Party {
    Party { kind: PartyKind::Covered, identity, instance }
}

/// 256 and 257 in instance 1, 258 in instance 2, 259 out of profile, 260 unnamed, 261 observing.
fn table() -> Table {
    let mut table = Table::default();
    for (identity, row) in [
        (256, row(Mode::Enforce, 0)),
        (257, row(Mode::Enforce, 0)),
        (258, row(Mode::Enforce, 0)),
        (259, row(Mode::Enforce, OUT_OF_PROFILE)),
        (260, row(Mode::Enforce, UNNAMED)),
        (261, row(Mode::Observe, 0)),
    ] {
        table.subjects.insert(identity, row);
    }
    table
}

fn attempt(source: Party, destination: Party) -> Attempt {
    Attempt {
        source,
        destination,
        source_address: Address::new([1; 16]),
        destination_address: Address::new([2; 16]),
        protocol: PROTOCOL_TCP,
        port: 80,
    }
}

#[track_caller]
fn assert_dropped(table: &Table, source: Party, destination: Party, reason: DropReason) {
    assert_eq!(decide(table, &attempt(source, destination)).verdict(), Verdict::Dropped(reason));
}

#[test]
fn where_nobody_is_covered_nothing_is_restricted() {
    for source in [Party::UNMANAGED, Party::HOST, Party::WORLD] {
        for destination in [Party::UNMANAGED, Party::HOST, Party::WORLD] {
            let decision = decide(&table(), &attempt(source, destination));
            assert_eq!((decision.verdict(), decision.policy, decision.rule), (Verdict::Forwarded, 0, 0));
            assert_eq!(decision.subject, identity::UNKNOWN);
        }
    }
}

#[test]
fn each_kind_of_source_has_its_reason() {
    let table = table();
    let destination = covered(256, 1);
    for (source, reason) in [
        (covered(257, 1), DropReason::NoRule),
        (covered(256, 1), DropReason::NoRule),
        (covered(258, 2), DropReason::CrossInstance),
        (covered(259, 1), DropReason::NotInProfile),
        (covered(259, 2), DropReason::NotInProfile),
        (covered(999, 1), DropReason::NoRule),
        (covered(999, 2), DropReason::CrossInstance),
        (Party::HOST, DropReason::HostDenied),
        (Party::WORLD, DropReason::NotExposed),
        (Party::UNMANAGED, DropReason::NoRule),
    ] {
        assert_dropped(&table, source, destination, reason);
    }
}

#[test]
fn flags_of_the_deciding_side_come_first() {
    let table = table();
    for source in [covered(258, 2), Party::HOST, Party::WORLD, Party::UNMANAGED] {
        assert_dropped(&table, source, covered(259, 1), DropReason::NotInProfile);
        assert_dropped(&table, source, covered(260, 1), DropReason::NoRule);
    }
    for destination in [Party::HOST, Party::WORLD, Party::UNMANAGED] {
        assert_dropped(&table, covered(256, 1), destination, DropReason::EgressDenied);
        assert_dropped(&table, covered(259, 1), destination, DropReason::NotInProfile);
        assert_dropped(&table, covered(260, 1), destination, DropReason::NoRule);
    }
}

#[test]
fn that_nobody_is_known_comes_before_what_the_policy_says() {
    let table = table();
    for own in [256, 259, 260].map(|identity| covered(identity, 1)) {
        assert_dropped(&table, Party::UNKNOWN, own, DropReason::UnknownSource);
        assert_dropped(&table, own, Party::UNKNOWN, DropReason::UnknownDestination);
    }
}

#[test]
fn an_endpoint_without_a_row_is_not_ready_under_the_strictest_mode() {
    let mut table = table();
    for (source, destination) in [(covered(256, 1), covered(999, 1)), (covered(999, 1), Party::WORLD)] {
        assert_dropped(&table, source, destination, DropReason::NotReady);
    }
    table.strictest = Some(Mode::Observe);
    let decision = decide(&table, &attempt(Party::WORLD, covered(999, 1)));
    assert_eq!(decision.verdict(), Verdict::Observed(DropReason::NotReady));
    assert_eq!((decision.policy, decision.subject), (0, 999));
}

#[test]
fn between_endpoints_only_the_destination_decides() {
    let mut table = table();
    table.rules.insert((257, 256, Direction::Egress, PROTOCOL_TCP, 80), rule(1, 1));
    assert_dropped(&table, covered(257, 1), covered(256, 1), DropReason::NoRule);
    table.rules.insert((256, 257, Direction::Ingress, PROTOCOL_TCP, 80), rule(2, 1));
    let decision = decide(&table, &attempt(covered(257, 1), covered(256, 1)));
    assert_eq!((decision.verdict(), decision.rule), (Verdict::Forwarded, 2));
    assert_eq!((decision.subject, decision.direction), (256, Direction::Ingress));
    assert_eq!((decision.policy, decision.severity), (3, Severity::Critical));
}

#[test]
fn a_rule_is_about_its_protocol_port_peer_and_direction() {
    let mut table = table();
    table.rules.insert((256, identity::HOST, Direction::Ingress, PROTOCOL_TCP, 80), rule(1, 1));
    let open = attempt(Party::HOST, covered(256, 1));
    assert_eq!(decide(&table, &open).verdict(), Verdict::Forwarded);
    for other in [
        Attempt { port: 81, ..open },
        Attempt { protocol: PROTOCOL_UDP, ..open },
        Attempt { protocol: PROTOCOL_ICMP, port: 0, ..open },
        Attempt { source: Party::WORLD, ..open },
        Attempt { destination: covered(257, 1), ..open },
        Attempt { source: covered(256, 1), destination: Party::HOST, ..open },
    ] {
        assert!(matches!(decide(&table, &other).verdict(), Verdict::Dropped(_)), "{other:?}");
    }
}

#[test]
fn an_entry_that_denies_names_its_line() {
    let mut table = table();
    table.rules.insert((256, 257, Direction::Ingress, PROTOCOL_TCP, 80), rule(5, 0));
    let decision = decide(&table, &attempt(covered(257, 1), covered(256, 1)));
    assert_eq!((decision.verdict(), decision.rule), (Verdict::Dropped(DropReason::NoRule), 5));
}

#[test]
fn observing_reports_and_forwards() {
    let table = table();
    let decision = decide(&table, &attempt(Party::WORLD, covered(261, 1)));
    assert_eq!(decision.verdict(), Verdict::Observed(DropReason::NotExposed));
    let decision = decide(&table, &attempt(covered(261, 1), Party::WORLD));
    assert_eq!(decision.verdict(), Verdict::Observed(DropReason::EgressDenied));
    // The mode is the destination's.
    assert_dropped(&table, covered(261, 1), covered(256, 1), DropReason::NoRule);
    let decision = decide(&table, &attempt(covered(256, 1), covered(261, 1)));
    assert_eq!(decision.verdict(), Verdict::Observed(DropReason::NoRule));
}

#[test]
fn addresses_are_looked_up_only_under_their_flag_and_scope() {
    let scopes = [
        (Scope::FromWorld, Party::WORLD, covered(256, 1)),
        (Scope::ToWorld, covered(256, 1), Party::WORLD),
        (Scope::ToHost, covered(256, 1), Party::HOST),
        (Scope::ToUnmanaged, covered(256, 1), Party::UNMANAGED),
    ];
    for (scope, source, destination) in scopes {
        let direction = if scope == Scope::FromWorld { Direction::Ingress } else { Direction::Egress };
        let mut table = table();
        table.rules.insert((256, CLASS, direction, PROTOCOL_TCP, 80), rule(4, 1));
        table.classes.insert((256, scope, OFFICE), CLASS);
        let mut tried = attempt(source, destination);
        (tried.source_address, tried.destination_address) = if scope == Scope::FromWorld {
            (OFFICE, Address::new([2; 16]))
        } else {
            (Address::new([1; 16]), OFFICE)
        };
        let verdict = |table: &Table, tried: &Attempt| decide(table, tried).verdict();
        assert!(matches!(verdict(&table, &tried), Verdict::Dropped(_)), "{scope:?} without its flag");
        for (other, ..) in scopes {
            table.subjects.insert(256, row(Mode::Enforce, other.flag()));
            let open = verdict(&table, &tried) == Verdict::Forwarded;
            assert_eq!(open, other == scope, "{scope:?} under the flag of {other:?}");
        }
        table.subjects.insert(256, row(Mode::Enforce, scope.flag()));
        (tried.source_address, tried.destination_address) = (tried.destination_address, tried.source_address);
        assert!(
            matches!(verdict(&table, &tried), Verdict::Dropped(_)),
            "{scope:?}: the other side's address"
        );
    }
}

#[test]
fn an_address_without_a_class_is_its_plain_peer() {
    let mut table = table();
    table.subjects.insert(256, row(Mode::Enforce, Scope::FromWorld.flag()));
    table.rules.insert((256, identity::WORLD, Direction::Ingress, PROTOCOL_TCP, 80), rule(1, 1));
    let open = attempt(Party::WORLD, covered(256, 1));
    assert_eq!(decide(&table, &open).verdict(), Verdict::Forwarded);
    table.classes.insert((256, Scope::FromWorld, open.source_address), CLASS);
    assert_dropped(&table, open.source, open.destination, DropReason::NotExposed);
}

#[test]
fn unmanaged_peers_that_a_policy_names_have_entries_of_their_own() {
    let mut table = table();
    let named = Party { kind: PartyKind::Unmanaged, identity: 300, instance: 0 };
    table.rules.insert((256, 300, Direction::Ingress, PROTOCOL_TCP, 80), rule(1, 1));
    table.rules.insert((256, 300, Direction::Egress, PROTOCOL_TCP, 80), rule(2, 1));
    assert_eq!(decide(&table, &attempt(named, covered(256, 1))).verdict(), Verdict::Forwarded);
    assert_eq!(decide(&table, &attempt(covered(256, 1), named)).verdict(), Verdict::Forwarded);
    assert_dropped(&table, Party::UNMANAGED, covered(256, 1), DropReason::NoRule);
    assert_dropped(&table, covered(256, 1), Party::UNMANAGED, DropReason::EgressDenied);
}

fn any_party() -> impl Strategy<Value = Party> {
    prop_oneof![
        Just(Party::HOST),
        Just(Party::WORLD),
        Just(Party::UNMANAGED),
        (254u32..264, 0u32..3).prop_map(|(identity, instance)| covered(identity, instance)),
        (254u32..264).prop_map(|identity| Party { kind: PartyKind::Unmanaged, identity, instance: 0 }),
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<(u32, u32, bool, u16, u8)>> {
    let peer = prop_oneof![0u32..5, 254u32..264, Just(CLASS)];
    proptest::collection::vec((254u32..264, peer, any::<bool>(), 79u16..82, 0u8..2), 0..40)
}

proptest! {
    #[test]
    fn nothing_reaches_or_leaves_an_enforcing_endpoint_without_an_entry(
        source in any_party(),
        destination in any_party(),
        port in 79u16..82,
        address in prop_oneof![Just(OFFICE), Just(Address::new([1; 16]))],
        flags in any::<u8>(),
        rules in any_rules(),
    ) {
        let mut table = table();
        table.subjects.insert(256, row(Mode::Enforce, flags));
        for scope in [Scope::FromWorld, Scope::ToWorld, Scope::ToHost, Scope::ToUnmanaged] {
            table.classes.insert((256, scope, OFFICE), CLASS);
        }
        for (subject, peer, ingress, port, allow) in rules {
            let direction = if ingress { Direction::Ingress } else { Direction::Egress };
            table.rules.insert((subject, peer, direction, PROTOCOL_TCP, port), rule(1, allow));
        }
        let attempt = Attempt { source_address: address, destination_address: address, port, ..attempt(source, destination) };
        let decision = decide(&table, &attempt);
        let (deciding, peer, direction) = if destination.kind == PartyKind::Covered {
            (destination, source, Direction::Ingress)
        } else {
            (source, destination, Direction::Egress)
        };
        if deciding.kind != PartyKind::Covered {
            prop_assert_eq!(decision.verdict(), Verdict::Forwarded);
            return Ok(());
        }
        let allowed = |peer: u32| {
            table.rule(deciding.identity, peer, direction, PROTOCOL_TCP, port).is_some_and(|rule| rule.allow != 0)
        };
        match decision.verdict() {
            Verdict::Forwarded => {
                prop_assert!(allowed(peer.identity) || allowed(CLASS), "{:?}", attempt);
                prop_assert!(table.subject(deciding.identity).is_some());
            }
            Verdict::Observed(_) => prop_assert_eq!(deciding.identity, 261),
            Verdict::Dropped(reason) => {
                if table.subject(deciding.identity).is_none() {
                    prop_assert_eq!(reason, DropReason::NotReady);
                } else if direction == Direction::Egress {
                    let expected =
                        [DropReason::EgressDenied, DropReason::NotInProfile, DropReason::NoRule];
                    prop_assert!(expected.contains(&reason), "{:?}", reason);
                }
            }
        }
    }
}

#[test]
fn what_goes_on_is_what_is_forwarded_or_observed() {
    for (allowed, mode, goes_on) in [
        (true, Mode::Enforce, true),
        (true, Mode::Observe, true),
        (false, Mode::Observe, true),
        (false, Mode::Enforce, false),
    ] {
        let decision = Decision {
            allowed,
            reason: DropReason::NoRule,
            mode,
            subject: 256,
            direction: Direction::Ingress,
            rule: 0,
            policy: 3,
            severity: Severity::Warning,
        };
        assert_eq!(decision.goes_on(), goes_on, "{decision:?}");
        assert_eq!(matches!(decision.verdict(), Verdict::Dropped(_)), !goes_on, "{decision:?}");
    }
}
