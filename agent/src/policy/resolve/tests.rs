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

#[test]
fn only_what_is_named_is_open() {
    let host = Host::simple(
        "services:\n  web: { exposure: public, ports: [80/tcp] }\n  db:\n    severity: critical\n    ports: [5432/tcp]\n    from: [web]\n",
        &[("p1", "web"), ("p1", "db"), ("p2", "web"), ("other", "x")],
    );
    host.opens("p1/web", "p1/db", TCP, 5432);
    host.opens("world", "p1/web", TCP, 80);
    host.opens("host", "p1/web", TCP, 80);
    host.opens("world", "p1/web", PROTOCOL_ICMP, 0);
    host.opens("p1/web", "p1/db", PROTOCOL_ICMP, 0);
    host.denies("p1/web", "p1/db", UDP, 5432, DropReason::NoRule);
    host.denies("p1/web", "p1/db", TCP, 5433, DropReason::NoRule);
    host.denies("p1/db", "p1/web", TCP, 80, DropReason::NoRule);
    host.denies("p1/db", "p1/web", PROTOCOL_ICMP, 0, DropReason::NoRule);
    host.denies("p2/web", "p1/db", TCP, 5432, DropReason::CrossInstance);
    host.denies("other/x", "p1/db", TCP, 5432, DropReason::NoRule);
    host.denies("host", "p1/db", TCP, 5432, DropReason::HostDenied);
    host.denies("world", "p1/db", TCP, 5432, DropReason::NotExposed);
    host.denies("p1/web", "world", TCP, 443, DropReason::EgressDenied);
    host.opens("other/x", "world", TCP, 443);
    let decision = host.decide("p1/web", "p1/db", TCP, 5432);
    assert_eq!(host.origin(&decision), ("db.from[0]", "0.yaml:9"));
    let denied = host.decide("world", "p1/db", TCP, 5432);
    assert_eq!((denied.rule, denied.severity), (0, Severity::Critical));
    assert_eq!(host.entries.defaults[&denied.subject].at, "0.yaml:6");
}

#[test]
fn containers_without_a_service_of_the_policy_get_and_send_nothing() {
    let host = Host::simple(
        "services:\n  a: { ports: [any], from: [host, world, { project: \"*\", service: \"*\" }], egress: [world] }\n",
        &[("p1", "a"), ("p1", "stray"), ("p1", ""), ("q", "b")],
    );
    for name in ["p1/stray", "p1/"] {
        host.denies("p1/a", name, TCP, 1, DropReason::NoRule);
        host.denies("host", name, TCP, 1, DropReason::NoRule);
        host.denies(name, "world", TCP, 1, DropReason::NoRule);
        host.denies(name, "p1/a", TCP, 1, DropReason::NoRule);
    }
    host.opens("q/b", "p1/a", TCP, 1);
    let (stray, _) = host.side("p1/stray");
    assert_eq!(host.entries.identities[&stray.identity].service, "stray");
}

#[test]
fn selected_by_two_services_means_by_none() {
    let text = "version: 1\npolicy: p\napplies_to: { project: p }\nservices:\n  a: { select: { container: \"p-x*\" }, ports: [any], from: [b] }\n  b: { select: { label: { role: b } }, ports: [any], from: [a] }\n  c: { ports: [any], from: [a, b, c] }\n";
    let mut plain = container("p", "x1", "172.18.0.2");
    let mut both = container("p", "x2", "172.18.0.3");
    let mut also_c = container("p", "c", "172.18.0.4");
    both.labels.insert("role".to_owned(), "b".to_owned());
    also_c.labels.insert("role".to_owned(), "b".to_owned());
    plain.labels.insert("role".to_owned(), "a".to_owned());
    let host = Host::new(&policies(&[text], None), vec![plain, both, also_c]);
    let names: Vec<&str> = host
        .entries
        .endpoints
        .iter()
        .map(|endpoint| host.entries.identities[&endpoint.party.identity].service.as_str())
        .collect();
    assert_eq!(names, ["a", "a|b", "b|c"]);
    host.denies("p/x1", "p/x2", TCP, 1, DropReason::NoRule);
    host.denies("p/x2", "p/x1", TCP, 1, DropReason::NoRule);
}

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
fn groups_and_ranges_match_only_the_world_and_add_up() {
    let host = Host::simple(
        "groups:\n  admin: [198.51.100.0/24, \"2001:db8:ad::/48\"]\nservices:\n  s:\n    ports:\n      - { port: 22/tcp, from: [admin] }\n      - { port: 80/tcp, from: [world] }\n      - { port: 90/tcp, from: [198.51.100.128/25] }\n      - { port: 99/tcp, from: [\"::/0\", 172.18.0.0/16] }\n",
        &[("p", "s"), ("q", "x")],
    );
    for (source, open) in [
        ("198.51.100.1", vec![22, 80]),
        ("198.51.100.200", vec![22, 80, 90]),
        ("2001:db8:ad::5", vec![22, 80, 99]),
        ("2001:db8::5", vec![80, 99]),
        ("203.0.113.1", vec![80]),
    ] {
        for port in [22, 80, 90, 99] {
            let verdict = host.decide(source, "p/s", TCP, port).verdict();
            assert_eq!(verdict == Verdict::Forwarded, open.contains(&port), "{source} {port}");
        }
    }
    host.denies("q/x", "p/s", TCP, 99, DropReason::NoRule);
    host.denies("host", "p/s", TCP, 22, DropReason::HostDenied);
}

#[test]
fn overlays_replace_keys_and_profiles_leave_services_out() {
    let text = policy(
        "profile: production\nservices:\n  a:\n    ports: [1/tcp, { port: 2/tcp, exposure: internal }]\n    from: [tool]\n    severity: info\n    profiles:\n      development: { exposure: localhost, severity: critical }\n      open: { exposure: public, from: [] }\n  tool: { only_in: [development], ports: [9/tcp], exposure: public, egress: [world] }\n",
    );
    let host = |profile| {
        let endpoints = vec![container("p", "a", "172.18.0.2"), container("p", "tool", "172.18.0.3")];
        Host::new(&policies(&[&text], profile), endpoints)
    };
    let production = host(None);
    production.denies("host", "p/a", TCP, 1, DropReason::HostDenied);
    production.denies("p/tool", "p/a", TCP, 1, DropReason::NotInProfile);
    production.denies("p/a", "p/tool", TCP, 9, DropReason::NotInProfile);
    production.denies("world", "p/tool", TCP, 9, DropReason::NotInProfile);
    production.denies("p/tool", "world", TCP, 9, DropReason::NotInProfile);
    assert_eq!(production.decide("host", "p/a", TCP, 1).severity, Severity::Info);
    let development = host(Some("development"));
    development.opens("host", "p/a", TCP, 1);
    development.denies("host", "p/a", TCP, 2, DropReason::HostDenied);
    development.opens("p/tool", "p/a", TCP, 2);
    development.opens("p/tool", "world", TCP, 9);
    assert_eq!(development.decide("host", "p/a", TCP, 1).severity, Severity::Critical);
    let rule = development.decide("host", "p/a", TCP, 1);
    assert_eq!(development.origin(&rule).0, "a.profiles.development.exposure");
    let open = host(Some("open"));
    open.opens("world", "p/a", TCP, 1);
    open.denies("world", "p/a", TCP, 2, DropReason::NotExposed);
}

#[test]
fn egress_reaches_what_it_names_and_never_a_covered_service() {
    let host = Host::simple(
        "groups: { mail: [198.51.100.0/24] }\nservices:\n  a: { egress: [{ to: mail, ports: [25/tcp] }, { to: world, ports: [443/tcp] }, { project: q, service: x }, { project: p, service: b }] }\n  b: { ports: [80/tcp], egress: [host] }\n",
        &[("p", "a"), ("p", "b"), ("q", "x"), ("q", "y")],
    );
    host.opens("p/a", "198.51.100.9", TCP, 25);
    host.opens("p/a", "198.51.100.9", TCP, 443);
    host.opens("p/a", "world", TCP, 443);
    host.opens("p/a", "world", PROTOCOL_ICMP, 0);
    host.opens("p/a", "q/x", UDP, 7);
    host.opens("p/b", "host", TCP, 22);
    host.denies("p/a", "world", TCP, 25, DropReason::EgressDenied);
    host.denies("p/a", "q/y", TCP, 7, DropReason::EgressDenied);
    host.denies("p/a", "host", TCP, 443, DropReason::EgressDenied);
    host.denies("p/b", "world", TCP, 443, DropReason::EgressDenied);
    host.denies("p/a", "p/b", TCP, 80, DropReason::NoRule);
}

#[test]
fn dns_is_port_53_of_the_resolvers_and_nothing_else() {
    let text = policy(
        "services:\n  a: { egress: [dns] }\n  b: { egress: [dns, { to: world, ports: [443/tcp] }, { to: host, ports: [22/tcp] }, { project: q, service: resolver }] }\n",
    );
    let resolvers: Vec<IpAddr> =
        ["127.0.0.11", "172.18.0.1", "172.18.0.9", "203.0.113.53"].map(|text| text.parse().unwrap()).to_vec();
    let mut a = container("p", "a", "172.18.0.2");
    a.resolvers = resolvers.clone();
    let mut b = container("p", "b", "172.18.0.3");
    b.resolvers = resolvers;
    let resolver = container("q", "resolver", "172.18.0.9");
    let host = Host::new(&policies(&[&text], None), vec![a, b, resolver]);
    for from in ["p/a", "p/b"] {
        for to in ["172.18.0.1", "q/resolver", "203.0.113.53"] {
            host.opens(from, to, UDP, 53);
            host.opens(from, to, TCP, 53);
        }
        host.denies(from, "192.0.2.1", UDP, 53, DropReason::EgressDenied);
        host.denies(from, "world", UDP, 53, DropReason::EgressDenied);
        host.denies(from, "unmanaged", UDP, 53, DropReason::EgressDenied);
    }
    host.denies("p/a", "q/resolver", TCP, 80, DropReason::EgressDenied);
    host.denies("p/a", "203.0.113.53", TCP, 443, DropReason::EgressDenied);
    host.opens("p/b", "203.0.113.53", TCP, 443);
    host.opens("p/b", "172.18.0.1", TCP, 22);
    host.opens("p/b", "q/resolver", TCP, 80);
    let loopback = address_in_key_form("127.0.0.11".parse().unwrap());
    assert!(host.entries.addresses.keys().all(|key| key.address != loopback));
    let (a, _) = host.side("p/a");
    let flags = host.entries.subjects[&a.identity].flags;
    assert_eq!(flags, Scope::ToHost.flag() | Scope::ToUnmanaged.flag() | Scope::ToWorld.flag());
}

#[test]
fn peers_by_labels_are_found_whether_covered_or_not() {
    let shop = "version: 1\npolicy: shop\napplies_to: { project: shop }\nservices:\n  web: {}\n  off: { only_in: [x] }\n";
    let host_policy = policy(
        "services:\n  api:\n    ports: [1/tcp]\n    from: [{ project: shop, service: web }, { project: shop, service: off }, { project: tools, service: probe }]\n",
    );
    let endpoints = vec![
        container("p", "api", "172.18.0.2"),
        container("shop", "web", "172.18.0.3"),
        container("shop", "off", "172.18.0.4"),
        container("tools", "probe", "172.18.0.5"),
        container("tools", "other", "172.18.0.6"),
    ];
    let host = Host::new(&policies(&[&host_policy, shop], None), endpoints);
    host.opens("shop/web", "p/api", TCP, 1);
    host.opens("tools/probe", "p/api", TCP, 1);
    host.denies("shop/off", "p/api", TCP, 1, DropReason::NotInProfile);
    host.denies("tools/other", "p/api", TCP, 1, DropReason::NoRule);
    host.denies("p/api", "shop/web", TCP, 1, DropReason::CrossInstance);
    let (probe, _) = host.side("tools/probe");
    assert!(!host.entries.identities[&probe.identity].covered);
    assert_eq!(host.side("tools/other").0.identity, UNMANAGED);
}

#[test]
fn a_container_policy_is_one_instance_apart_from_a_project_of_its_name() {
    let legacy = "version: 1\npolicy: legacy\napplies_to: { container: \"old-*\" }\nservices:\n  db: { select: { container: old-db }, ports: [1/tcp], from: [app] }\n  app: { select: { container: \"old-app*\" } }\n";
    let project = "version: 1\npolicy: other\napplies_to: { project: legacy }\nservices:\n  app: {}\n";
    let bare =
        |name: &str, address: &str| Endpoint { container: name.to_owned(), ..container("", "", address) };
    let endpoints = vec![
        bare("old-db", "172.18.0.2"),
        bare("old-app2", "172.18.0.3"),
        container("legacy", "app", "172.18.0.4"),
        bare("new-app", "172.18.0.5"),
    ];
    let host = Host::new(&policies(&[legacy, project], None), endpoints);
    let party = |index: usize| host.entries.endpoints[index].party;
    let verdict = |source: usize| {
        let attempt = Attempt {
            source: party(source),
            destination: party(0),
            source_address: Address::UNSPECIFIED,
            destination_address: Address::UNSPECIFIED,
            protocol: TCP,
            port: 1,
        };
        decide(&host.entries, &attempt).verdict()
    };
    assert_eq!(verdict(1), Verdict::Forwarded);
    assert_eq!(verdict(2), Verdict::Dropped(DropReason::CrossInstance));
    assert_eq!(verdict(3), Verdict::Dropped(DropReason::NoRule));
    assert_eq!(party(3).kind, PartyKind::Unmanaged);
}

#[test]
fn modes_are_per_service_and_the_strictest_holds_for_strangers() {
    let host = Host::simple(
        "mode: observe\nservices:\n  a: { ports: [1/tcp] }\n  b: { mode: enforce, ports: [1/tcp] }\n",
        &[("p", "a"), ("p", "b")],
    );
    assert_eq!(host.decide("world", "p/a", TCP, 1).verdict(), Verdict::Observed(DropReason::NotExposed));
    host.denies("world", "p/b", TCP, 1, DropReason::NotExposed);
    assert_eq!(host.entries.strictest_mode, Some(Mode::Enforce));
    assert_eq!(
        Host::simple("mode: observe\nservices: {}\n", &[]).entries.strictest_mode,
        Some(Mode::Observe)
    );
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
fn entries_do_not_depend_on_unrelated_containers_or_their_order() {
    let text = policy("services:\n  a: { ports: [1/tcp], from: [b, { project: q, service: x }] }\n  b: {}\n");
    let set = policies(&[&text], None);
    let mut registry = IdentityRegistry::default();
    let mut snapshot = Snapshot {
        endpoints: vec![container("p", "a", "172.18.0.2"), container("p", "b", "172.18.0.3")],
        ..Snapshot::default()
    };
    let before = resolve(&set, &snapshot, &mut registry).unwrap();
    snapshot.endpoints.insert(0, container("q", "x", "172.18.0.4"));
    snapshot.endpoints.insert(0, container("z", "y", "172.18.0.5"));
    let after = resolve(&set, &snapshot, &mut registry).unwrap();
    assert_eq!((before.rules, before.subjects, before.origins), (after.rules, after.subjects, after.origins));
}

#[test]
fn many_instances_are_resolved_without_delay() {
    let text = policy(
        "groups: { a: [192.0.2.0/24, 198.51.100.0/24] }\nservices:\n  db: { ports: [5432/tcp], from: [api, worker, a] }\n  api: { ports: [8000-8100/tcp], from: [proxy], egress: [dns] }\n  worker: {}\n  proxy: { exposure: public, ports: [80/tcp, 443/tcp], egress: [world] }\n",
    );
    let endpoints = (0..250)
        .flat_map(|project| {
            ["db", "api", "worker", "proxy"]
                .map(|service| container(&format!("p{project}"), service, &format!("172.18.{project}.9")))
        })
        .collect();
    let host = Host::new(&policies(&[&text], None), endpoints);
    assert_eq!(host.entries.subjects.len(), 1000);
    host.opens("p7/api", "p7/db", TCP, 5432);
    host.denies("p7/api", "p8/db", TCP, 5432, DropReason::CrossInstance);
}

#[test]
fn a_label_does_not_make_a_container_the_service_that_selects_others() {
    let text = "version: 1\npolicy: p\napplies_to: { project: p }\nservices:\n  db: { select: { container: p-db-1 }, ports: [1/tcp], from: [host, web] }\n  web: { ports: [1/tcp], from: [db] }\n";
    let mut real = container("p", "store", "172.18.0.2");
    real.container = "p-db-1".to_owned();
    let mut imposter = container("p", "db", "172.18.0.3");
    imposter.container = "p-other-1".to_owned();
    let web = container("p", "web", "172.18.0.4");
    let host = Host::new(&policies(&[text], None), vec![real, imposter, web]);
    host.opens("p/store", "p/web", TCP, 1);
    host.opens("host", "p/store", TCP, 1);
    host.denies("p/db", "p/web", TCP, 1, DropReason::NoRule);
    host.denies("host", "p/db", TCP, 1, DropReason::NoRule);
}

#[test]
fn an_identity_is_named_by_labels_only_if_all_its_containers_have_them() {
    let shop = "version: 1\npolicy: shop\napplies_to: { project: shop }\nservices:\n  web: { select: { container: \"shop-*\" } }\n";
    let text = policy("services:\n  api: { ports: [1/tcp], from: [{ project: shop, service: front }] }\n");
    let set = policies(&[&text, shop], None);
    let api = container("p", "api", "172.18.0.2");
    let front = container("shop", "front", "172.18.0.3");
    let back = container("shop", "back", "172.18.0.4");
    let alone = Host::new(&set, vec![api.clone(), front.clone()]);
    alone.opens("shop/front", "p/api", TCP, 1);
    let mixed = Host::new(&set, vec![api, front, back]);
    mixed.denies("shop/front", "p/api", TCP, 1, DropReason::CrossInstance);
    mixed.denies("shop/back", "p/api", TCP, 1, DropReason::CrossInstance);
}

#[test]
fn ping_has_one_entry_for_all_of_icmp() {
    let host = Host::simple("services:\n  a: { ports: [1/tcp], exposure: localhost }\n", &[("p", "a")]);
    let (a, _) = host.side("p/a");
    let key = super::super::entries::RuleEntryKey {
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

    #[test]
    fn an_address_may_do_what_all_its_ranges_may(
        ranges in proptest::collection::vec((any::<u32>(), 0u8..=32), 1..5),
        probes in proptest::collection::vec(any::<u32>(), 4),
    ) {
        let networks: Vec<ipnet::Ipv4Net> = ranges
            .iter()
            .map(|&(address, length)| ipnet::Ipv4Net::new((address & 0x3fff_ffff | 0x4000_0000).into(), length.max(2)).unwrap().trunc())
            .filter(|network| network.network().octets()[0] != 127)
            .collect();
        prop_assume!(!networks.is_empty());
        let ports: String = networks
            .iter()
            .enumerate()
            .map(|(index, network)| format!("      - {{ port: {}/tcp, from: [{network}] }}\n", index + 1))
            .collect();
        let host = Host::simple(&format!("services:\n  s:\n    ports:\n{ports}"), &[("p", "s")]);
        let own = networks.iter().flat_map(|network| [network.network(), network.broadcast()]);
        for address in own.chain(probes.into_iter().map(Into::into)) {
            if host.snapshot.host_addresses.contains(&IpAddr::V4(address)) {
                continue;
            }
            for (index, network) in networks.iter().enumerate() {
                let port = u16::try_from(index + 1).unwrap();
                let open = host.decide(&address.to_string(), "p/s", TCP, port).verdict() == Verdict::Forwarded;
                prop_assert_eq!(open, network.contains(&address), "{} {}", address, network);
            }
        }
    }
}
