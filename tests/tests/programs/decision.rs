//! Every source against every destination, protocol and port: what the kernel does is what `decide` says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_common::decision::{Attempt, Decision, Party, decide};
use agent_common::packet::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use agent_common::verdict::Verdict;
use integration_tests::packet::{Payload, Tcp, Udp};
use portcullis::datapath::plan;

use crate::bench::{Bench, Row, is_covered};
use crate::town::{
    BRIDGE_1, COVERED, ELSEWHERE, HOST, HOST_ADDRESS, OFFICE, RESOLVER, UNMANAGED, UPLINK, address,
    bridge_of, delivered_to, gateway, parsed, sent_by,
};

/// Ports that the policy names, their neighbours, and the ends of the range.
const INTERESTING: [u16; 20] = [
    1, 22, 53, 80, 442, 443, 444, 1025, 5000, 5432, 7999, 8000, 8005, 8010, 8011, 8080, 9000, 9001, 9100,
    65535,
];

/// What is tried from one side to another.
fn questions() -> Vec<(u8, u16)> {
    let tcp = INTERESTING.map(|port| (PROTOCOL_TCP, port));
    let udp = INTERESTING.map(|port| (PROTOCOL_UDP, port));
    [&tcp[..], &udp, &[(PROTOCOL_ICMP, 0)]].concat()
}

/// A tally of what was compared.
#[derive(Debug, Default)]
struct Tally {
    attempts: usize,
    denied: BTreeMap<Option<String>, usize>,
    mismatches: Vec<String>,
    /// Never used twice, so that no attempt meets the flow of another.
    port: u16,
}

impl Tally {
    fn payload(&mut self, protocol: u8, port: u16) -> Payload {
        self.port = self.port.checked_add(1).unwrap();
        match protocol {
            PROTOCOL_TCP => Payload::Tcp(Tcp::new(self.port, port)),
            PROTOCOL_UDP => Payload::Udp(Udp::new(self.port, port)),
            _ => Payload::Echo { request: true, identifier: self.port },
        }
    }

    fn compare(&mut self, bench: &mut Bench, row: &Row, expected: &Decision) {
        self.attempts += 1;
        let ran = bench.run(row);
        let said: Vec<_> = ran
            .events
            .iter()
            .map(|event| {
                (
                    event.reason,
                    event.observed,
                    event.subject,
                    event.rule,
                    event.policy,
                    event.severity,
                    event.direction,
                )
            })
            .collect();
        let (returned, told) = match expected.verdict() {
            Verdict::Forwarded => (-1, None),
            Verdict::Observed(reason) => (-1, Some((reason, 1))),
            Verdict::Dropped(reason) => (2, Some((reason, 0))),
        };
        let wanted: Vec<_> = told
            .iter()
            .map(|&(reason, observed)| {
                (
                    reason as u8,
                    observed,
                    expected.subject,
                    expected.rule,
                    expected.policy,
                    expected.severity as u8,
                    expected.direction as u8,
                )
            })
            .collect();
        if ran.returned != returned || said != wanted {
            self.mismatches
                .push(format!("{}: returned {}, said {said:?}, not {expected:?}", row.name, ran.returned));
        }
        let word = match expected.verdict() {
            Verdict::Forwarded => None,
            Verdict::Dropped(reason) => Some(reason.name().to_owned()),
            Verdict::Observed(reason) => Some(format!("{} observed", reason.name())),
        };
        *self.denied.entry(word).or_default() += 1;
    }

    /// Nothing was counted beside what was told, and enough was tried to mean something.
    fn finish(self, bench: &Bench, least: usize) {
        eprintln!("{} attempts, {} mismatches: {:?}", self.attempts, self.mismatches.len(), self.denied);
        assert!(
            self.mismatches.is_empty(),
            "{} of {}, first:\n{}",
            self.mismatches.len(),
            self.attempts,
            self.mismatches.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(self.attempts >= least, "only {} attempts", self.attempts);
        let reading = bench.read();
        let counted: u64 = reading.denied.values().map(|count| count.attempts).sum();
        let told: usize =
            self.denied.iter().filter(|(reason, _)| reason.is_some()).map(|(_, count)| count).sum();
        assert_eq!(counted, told as u64, "attempts counted");
    }
}

/// One way for a packet to get to a port's egress.
struct Way {
    name: String,
    party: Party,
    /// By family.
    addresses: [IpAddr; 2],
    ifindex: u32,
    mark: u32,
}

/// Every way into a container: from each port of the same bridge, from each port by way of the host, from the host,
/// from the world.
fn ways(bench: &mut Bench) -> Vec<Way> {
    let mut ways = Vec::new();
    let bridge_mark: Vec<(u32, u32)> =
        COVERED.iter().chain(&UNMANAGED).map(|&port| (port, bench.mark_of(port))).collect();
    for (port, mark) in bridge_mark {
        let party = bench.party(port);
        let addresses = [address(port, 0), address(port, 1)];
        ways.push(Way { name: format!("port {port}"), party, addresses, ifindex: port, mark });
        // MASQUERADE leaves only the mark to tell who it is.
        let masked = [gateway(BRIDGE_1, 0), gateway(BRIDGE_1, 1)];
        let name = format!("port {port} masqueraded");
        ways.push(Way { name, party, addresses: masked, ifindex: bridge_of(port), mark });
    }
    ways.push(Way {
        name: "host".to_owned(),
        party: Party::HOST,
        addresses: [gateway(BRIDGE_1, 0), gateway(BRIDGE_1, 1)],
        ifindex: HOST,
        mark: 0,
    });
    for (name, addresses) in [("office", OFFICE), ("elsewhere", ELSEWHERE)] {
        let addresses = addresses.map(parsed);
        ways.push(Way { name: name.to_owned(), party: Party::WORLD, addresses, ifindex: UPLINK, mark: 0 });
    }
    ways
}

#[test]
fn every_attempt_into_a_covered_endpoint_is_decided_as_on_the_host() {
    let mut bench = Bench::start();
    let ways = ways(&mut bench);
    let counted_before: u64 = bench.read().denied.values().map(|count| count.attempts).sum();
    let mut tally = Tally { port: 1023, ..Tally::default() };
    for way in &ways {
        for destination in COVERED.into_iter().filter(|&port| port != way.ifindex) {
            for family in 0..2 {
                for (protocol, port) in questions() {
                    let payload = tally.payload(protocol, port);
                    let (from, to) = (way.addresses[family], address(destination, family));
                    let row = Row::to(
                        destination,
                        format!("{} to {destination}, {to} {protocol}/{port}", way.name),
                        delivered_to(destination, from, to, &payload),
                    )
                    .by(way.ifindex)
                    .marked(way.mark);
                    let expected = decide(
                        &bench.entries,
                        &Attempt {
                            source: way.party,
                            destination: bench.party(destination),
                            source_address: plan::address(from),
                            destination_address: plan::address(to),
                            protocol,
                            port,
                        },
                    );
                    tally.compare(&mut bench, &row, &expected);
                }
            }
        }
    }
    *tally.denied.entry(Some("to learn the marks".to_owned())).or_default() +=
        usize::try_from(counted_before).unwrap();
    tally.finish(&bench, 15_000);
}

#[test]
fn every_attempt_out_of_a_covered_endpoint_is_decided_as_on_the_host() {
    let mut bench = Bench::start();
    let world = [("office", OFFICE), ("elsewhere", ELSEWHERE), ("resolver", RESOLVER)]
        .map(|(name, addresses)| (name.to_owned(), Party::WORLD, addresses.map(parsed)));
    let host = [
        ("host".to_owned(), Party::HOST, HOST_ADDRESS.map(parsed)),
        ("gateway".to_owned(), Party::HOST, [gateway(BRIDGE_1, 0), gateway(BRIDGE_1, 1)]),
    ];
    let known = COVERED
        .iter()
        .chain(&UNMANAGED)
        .map(|&port| (format!("port {port}"), bench.party(port), [address(port, 0), address(port, 1)]));
    let nobody = [(
        "stranger in a subnet".to_owned(),
        Party::UNMANAGED,
        ["172.18.9.9", "2001:db8:12::99"].map(parsed),
    )];
    let targets: Vec<(String, Party, [IpAddr; 2])> =
        world.into_iter().chain(host).chain(known).chain(nobody).collect();
    let mut tally = Tally { port: 1023, ..Tally::default() };
    for source in COVERED {
        for (name, party, addresses) in &targets {
            for (family, &to) in addresses.iter().enumerate() {
                let from = address(source, family);
                if from == to {
                    continue;
                }
                for (protocol, port) in questions() {
                    let payload = tally.payload(protocol, port);
                    let row = Row::from(
                        source,
                        format!("{source} to {name}, {to} {protocol}/{port}"),
                        sent_by(source, from, to, &payload),
                    );
                    let mut expected = decide(
                        &bench.entries,
                        &Attempt {
                            source: bench.party(source),
                            destination: *party,
                            source_address: plan::address(from),
                            destination_address: plan::address(to),
                            protocol,
                            port,
                        },
                    );
                    if is_covered(party) {
                        // The destination's own hook drops and counts.
                        expected.allowed = true;
                    }
                    tally.compare(&mut bench, &row, &expected);
                }
            }
        }
    }
    tally.finish(&bench, 10_000);
}
