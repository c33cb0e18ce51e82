//! Peers outside: groups, ranges, resolvers, the host.

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
