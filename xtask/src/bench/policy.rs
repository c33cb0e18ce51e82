//! Policies of a wanted size: one that allows the measured traffic, and around it other services, ports and address
//! ranges until the kernel's table has as many rules as wanted. Pure.

use std::collections::BTreeSet;

use super::stage::{NEIGHBOURS, PROJECT};

/// Ports of the measured traffic.
pub(super) const IPERF: u16 = 5201;
pub(super) const HTTP: u16 = 80;

/// Where the ports of all other rules begin.
const FIRST_PORT: usize = 10_000;
/// One rule in so many is the server's, the others are its neighbours': a list of a policy has 1,024 items at most.
const TURN: usize = 10;
const CLIENT: &str = "client";
/// Address ranges that the rules name.
const RANGES: usize = 16;

/// The rules so far, and what they come to in the kernel.
#[derive(Debug, Default)]
struct Rules {
    /// Lines of the policy, by service.
    lines: Vec<(String, String)>,
    /// A service that may be reached by somebody may be pinged by them: one entry more for each such pair.
    pairs: BTreeSet<(String, String)>,
    entries: usize,
}

impl Rules {
    fn add(&mut self, service: &str, port: &str, from: &[String]) {
        self.entries += self.cost(service, from);
        self.pairs.extend(from.iter().map(|peer| (service.to_owned(), peer.clone())));
        // The service's own `from` names the client.
        let line = if from == [CLIENT] {
            port.to_owned()
        } else {
            format!("{{ port: {port}, from: [{}] }}", from.join(", "))
        };
        self.lines.push((service.to_owned(), line));
    }

    /// The port itself, who may open it, and who may ping the service now and could not before.
    fn cost(&self, service: &str, from: &[String]) -> usize {
        let new = |peer: &&String| !self.pairs.contains(&(service.to_owned(), (*peer).clone()));
        1 + from.len() + from.iter().filter(new).count()
    }
}

/// A policy that comes to `wanted` entries of the kernel's rule table. The traffic itself takes 7, nothing takes 1.
pub(super) fn policy(wanted: usize) -> String {
    let rules = rules(wanted);
    let mut text = format!(
        "version: 1\npolicy: bench\napplies_to: {{ project: {PROJECT} }}\nprofile: bench\nservices:\n"
    );
    text.push_str("  client: {}\n");
    let neighbours = (0..NEIGHBOURS).map(neighbour);
    for service in std::iter::once("server".to_owned()).chain(neighbours) {
        let ports: Vec<&str> = rules
            .lines
            .iter()
            .filter(|(owner, _)| *owner == service)
            .map(|(_, line)| line.as_str())
            .collect();
        text.push_str(&if ports.is_empty() {
            format!("  {service}: {{}}\n")
        } else {
            format!("  {service}:\n    from: [{CLIENT}]\n    ports:\n      - {}\n", ports.join("\n      - "))
        });
    }
    text
}

/// What a service beside the measured ones is called.
pub(super) fn neighbour(number: usize) -> String {
    format!("neighbour-{number}")
}

fn rules(wanted: usize) -> Rules {
    let client = [CLIENT.to_owned()];
    let mut rules = Rules::default();
    for port in [format!("{IPERF}/tcp"), format!("{IPERF}/udp"), format!("{HTTP}/tcp")] {
        rules.add("server", &port, &client);
    }
    for number in 0.. {
        let left = wanted.saturating_sub(rules.entries);
        if left == 0 {
            break;
        }
        let (turn, place) = (number / TURN, number % TURN);
        let port = format!("{}/tcp", FIRST_PORT + number);
        let range = |at: usize| format!("192.0.2.{}/28", at % RANGES * 16);
        let usual = if place == 0 {
            ("server".to_owned(), vec![CLIENT.to_owned(), range(turn), range(turn + 1)])
        } else {
            (neighbour((number - turn) % NEIGHBOURS), client.to_vec())
        };
        // Towards the end whatever fits: no rule takes a single entry, so none may be left.
        let fitting = [
            usual,
            ("server".to_owned(), client.to_vec()),
            (neighbour(0), client.to_vec()),
            ("server".to_owned(), vec![CLIENT.to_owned(), range(0)]),
        ]
        .into_iter()
        .find(|(service, from)| left.checked_sub(rules.cost(service, from)).is_some_and(|left| left != 1));
        let Some((service, from)) = fitting else { break };
        rules.add(&service, &port, &from);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_comes_to_as_many_entries_as_wanted() {
        for wanted in [7, 9, 10, 11, 12, 999, 1_000, 10_000] {
            assert_eq!(rules(wanted).entries, wanted);
        }
    }

    #[test]
    fn the_measured_traffic_is_allowed_first() {
        let text = policy(7);
        let expected =
            "  server:\n    from: [client]\n    ports:\n      - 5201/tcp\n      - 5201/udp\n      - 80/tcp\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn no_service_names_a_port_twice_and_none_is_beyond_the_last() {
        let rules = rules(10_000);
        let ports: BTreeSet<(&str, &str)> =
            rules.lines.iter().map(|(service, line)| (service.as_str(), line.as_str())).collect();
        assert_eq!(ports.len(), rules.lines.len());
        assert!(FIRST_PORT + rules.lines.len() < usize::from(u16::MAX));
        for service in ["server", "neighbour-0", "neighbour-7"] {
            let many = ports.iter().filter(|(owner, _)| *owner == service).count();
            assert!((1..=1_024).contains(&many), "{many} ports of `{service}`");
        }
    }

    #[test]
    fn a_large_policy_has_every_kind_of_peer() {
        let text = policy(1_000);
        assert!(
            text.contains("from: [client, 192.0.2.240/28, 192.0.2.0/28]")
                && text.contains("  neighbour-7:\n    from: [client]\n    ports:")
        );
    }
}
