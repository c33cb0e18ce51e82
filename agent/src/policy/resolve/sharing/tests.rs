//! Which members of a shared network have other rights than its owner.

use std::collections::BTreeMap;

use crate::{
    inventory::{
        identity::IdentityRegistry,
        snapshot::{Endpoint, Obstacle, Snapshot, Unenforceable},
    },
    policy::{Source, load, resolve::resolve},
};

const POLICY: &str = r#"
version: 1
policy: shop
applies_to: { project: shop }
services:
  web: { exposure: public, ports: [443/tcp, 9100/tcp], egress: [world] }
  twin: { exposure: public, ports: [443/tcp, 9100/tcp], egress: [world] }
  exporter: { ports: [9100/tcp], from: [metrics] }
  watched: { mode: observe, exposure: public, ports: [443/tcp, 9100/tcp], egress: [world] }
  abroad: { exposure: public, ports: [443/tcp, 9100/tcp], egress: [192.0.2.0/24] }
  near: { exposure: public, ports: [443/tcp, 9100/tcp], egress: [198.51.100.0/24] }
  metrics: {}
  quiet: {}
  silent: {}
  db: { ports: [5432/tcp], from: [friend] }
  friend: {}
"#;

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn endpoint(project: &str, service: &str) -> Endpoint {
    Endpoint {
        container_id: "id-owner".to_owned(),
        container: "owner".to_owned(),
        project: some(project),
        service: some(service),
        labels: BTreeMap::new(),
        network: "n".to_owned(),
        bridge: "br0".to_owned(),
        port: None,
        mac: None,
        addresses: vec!["172.18.0.2".parse().unwrap()],
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}

/// Whether `member` is told of in the network of `owner`; both `project/service`.
fn is_told(owner: &str, member: &str) -> bool {
    let (owner_project, owner_service) = owner.split_once('/').unwrap();
    let (project, service) = member.split_once('/').unwrap();
    let shared = |owner_id: &str| Unenforceable {
        container: "member".to_owned(),
        project: some(project),
        service: some(service),
        labels: BTreeMap::new(),
        obstacle: Obstacle::SharedNetwork { owner_id: owner_id.to_owned(), owner: "owner".to_owned() },
    };
    let snapshot = Snapshot {
        endpoints: vec![endpoint(owner_project, owner_service)],
        unenforceable: vec![shared("id-gone"), shared("id-owner")],
        ..Snapshot::default()
    };
    let source = Source { name: "shop.yaml".to_owned(), text: POLICY.to_owned() };
    let policies = load(&[source], None).policies.unwrap();
    let entries = resolve(&policies, &snapshot, &mut IdentityRegistry::default()).unwrap();
    assert!(!entries.at_odds.contains(&0), "nothing is known of an owner that is gone");
    entries.at_odds.contains(&1)
}

#[test]
fn the_same_rights_are_no_problem() {
    for (owner, member) in [
        ("shop/web", "shop/web"),
        ("shop/web", "shop/twin"),
        ("shop/silent", "shop/quiet"),
        ("shop/quiet", "shop/unnamed"),
        ("other/web", "other/exporter"),
        ("other/web", "/"),
    ] {
        assert!(!is_told(owner, member), "{member} in the network of {owner}");
        assert!(!is_told(member, owner), "{owner} in the network of {member}");
    }
}

#[test]
fn other_rights_are_told() {
    for (owner, member) in [
        ("shop/web", "shop/exporter"),
        ("shop/web", "shop/watched"),
        ("shop/web", "shop/abroad"),
        ("shop/abroad", "shop/near"),
        ("shop/web", "shop/unnamed"),
        // Only another service's `from` tells the two apart.
        ("shop/quiet", "shop/friend"),
        ("shop/metrics", "shop/quiet"),
        ("other/web", "shop/web"),
        ("/", "shop/exporter"),
    ] {
        assert!(is_told(owner, member), "{member} in the network of {owner}");
        assert!(is_told(member, owner), "{owner} in the network of {member}");
    }
}
