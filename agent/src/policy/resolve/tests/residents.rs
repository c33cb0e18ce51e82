//! Which container is whom: who is covered, selected, labelled, and in which instance.

use super::*;

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
