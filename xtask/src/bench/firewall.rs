//! The same enforcement as rules of nftables and iptables, for comparison. Pure: what to feed to the tools as text.

use super::policy::{HTTP, IPERF};
use super::stage::Family;

/// Elements of a set that are not the measured traffic.
const SET_SIZE: usize = 1_000;

const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

/// One rule that matches nothing, as a backstop would be on a host in order.
pub(super) fn nft_mark() -> String {
    "table bridge bench {
        chain forward {
            type filter hook forward priority 0; policy accept;
            meta mark & 0x80000000 == 0x80000000 drop
        }
    }"
    .to_owned()
}

/// A set that allows the traffic both ways, without state.
pub(super) fn nft_set(family: Family) -> String {
    let (ip, address, ether, neighbours) = nft_words(family);
    format!(
        "table bridge bench {{
            set allowed {{ type {address} . {address} . inet_proto . inet_service; elements = {{ {} }}; }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                {neighbours}
                ether type {ether} {ip} saddr . {ip} daddr . meta l4proto . th dport @allowed accept
                ether type {ether} {ip} daddr . {ip} saddr . meta l4proto . th sport @allowed accept
            }}
        }}",
        elements(family)
    )
}

/// The same set behind connection tracking; bridged packets come here through br_netfilter.
pub(super) fn nft_conntrack(family: Family) -> String {
    let (ip, address, _, _) = nft_words(family);
    // Unlike ARP, what finds neighbours is IP here and comes by.
    let neighbours = match family {
        Family::V4 => "",
        Family::V6 => NEIGHBOURS,
    };
    format!(
        "table {ip} bench {{
            set allowed {{ type {address} . {address} . inet_proto . inet_service; elements = {{ {} }}; }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                {neighbours}
                ct state established,related accept
                {ip} saddr . {ip} daddr . meta l4proto . th dport @allowed accept
            }}
        }}",
        elements(family)
    )
}

/// So many rules in one chain, as they are usually written: what is established first, what the traffic needs last.
pub(super) fn iptables(family: Family, rules: usize) -> String {
    let (client, server) = family.addresses();
    let mut text = String::from(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    let mut needed: Vec<String> = [("tcp", IPERF), ("udp", IPERF), ("tcp", HTTP)]
        .map(|(protocol, port)| {
            format!("-A FORWARD -s {client} -d {server} -p {protocol} --dport {port} -j ACCEPT\n")
        })
        .to_vec();
    if family == Family::V6 {
        needed.insert(0, "-A FORWARD -p icmpv6 -j ACCEPT\n".to_owned());
    }
    for number in 0..rules.saturating_sub(1 + needed.len()) {
        let (stranger, port) = (stranger(family, number), 10_000 + number);
        text.push_str(&format!("-A FORWARD -s {client} -d {stranger} -p tcp --dport {port} -j ACCEPT\n"));
    }
    text.push_str(&needed.concat());
    text.push_str("COMMIT\n");
    text
}

/// Protocol, type of an address, ethertype, and what finds neighbours.
fn nft_words(family: Family) -> (&'static str, &'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "ipv4_addr", "ip", "ether type arp accept"),
        Family::V6 => ("ip6", "ipv6_addr", "ip6", NEIGHBOURS),
    }
}

fn elements(family: Family) -> String {
    let (client, server) = family.addresses();
    let mut elements = vec![
        format!("{client} . {server} . tcp . {IPERF}"),
        format!("{client} . {server} . udp . {IPERF}"),
        format!("{client} . {server} . tcp . {HTTP}"),
    ];
    elements.extend(
        (0..SET_SIZE)
            .map(|number| format!("{client} . {} . tcp . {}", stranger(family, number), 10_000 + number)),
    );
    elements.join(", ")
}

/// An address that no measured packet has.
fn stranger(family: Family, number: usize) -> String {
    match family {
        Family::V4 => format!("203.0.113.{}", number % 250 + 1),
        Family::V6 => format!("2001:db8:ff::{:x}", number % 250 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_as_many_rules_as_wanted_and_the_needed_ones_last() {
        for (wanted, family) in [(10, Family::V4), (1_000, Family::V6)] {
            let text = iptables(family, wanted);
            let rules: Vec<&str> = text.lines().filter(|line| line.starts_with("-A ")).collect();
            assert_eq!(rules.len(), wanted);
            assert!(rules[0].contains("ESTABLISHED"));
            assert!(rules[rules.len() - 1].ends_with("-p tcp --dport 80 -j ACCEPT"));
        }
    }

    #[test]
    fn a_set_holds_the_traffic_and_many_others() {
        let text = nft_set(Family::V4);
        assert!(text.contains("198.51.100.2 . 198.51.100.3 . udp . 5201"));
        assert_eq!(text.matches(". tcp .").count(), SET_SIZE + 2);
        assert!(nft_conntrack(Family::V6).contains("table ip6 bench"));
    }
}
