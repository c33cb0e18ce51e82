//! Firewalls as people really set them up, and what lets strangers in.

use super::*;

fn uplinks() -> Vec<String> {
    vec!["eth0".to_owned(), "wlan0".to_owned()]
}

fn iptables(rules: &str) -> Default {
    let text = format!("# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*filter\n{rules}COMMIT\n");
    let nftables = Some("{\"nftables\": []}".to_owned());
    let printed = Printed { nftables, iptables: BTreeMap::from([(Family::Ipv4, text)]) };
    printed.defaults(&uplinks()).unwrap().remove(&Family::Ipv4).unwrap()
}

fn nftables(objects: &str) -> BTreeMap<Family, Default> {
    let printed = Printed { nftables: Some(format!("{{\"nftables\": [{objects}]}}")), ..Printed::default() };
    printed.defaults(&uplinks()).unwrap()
}

/// An image without `nft` says nothing about the host's rules, unless older ones deny already.
#[test]
fn who_cannot_ask_does_not_say_that_there_are_no_rules() {
    let fate = |policy: &str| {
        let text = format!("*filter\n:INPUT {policy} [0:0]\nCOMMIT\n");
        let printed = Printed { nftables: None, iptables: BTreeMap::from([(Family::Ipv4, text)]) };
        printed.defaults(&uplinks()).unwrap()
    };
    assert!(fate("ACCEPT").values().all(|answer| matches!(answer, Default::Unclear(_))));
    assert!(is_denied(&fate("DROP")[&Family::Ipv4]));
}

fn is_denied(answer: &Default) -> bool {
    matches!(answer, Default::Denied(_))
}

/// The example of the operators' document, with its last rule or without.
#[test]
fn the_rules_of_the_document_deny_by_default() {
    let rules = ":INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n\
                 -A INPUT -p tcp -m tcp --dport 443 -j ACCEPT\n-A INPUT -s 198.51.100.0/24 -p tcp -m tcp --dport 22 -j ACCEPT\n";
    assert!(is_denied(&iptables(&format!("{rules}-A INPUT -j DROP\n"))));
    assert!(matches!(iptables(rules), Default::Allowed(why) if why.contains("nothing turns it away")));
    assert!(is_denied(&iptables(&rules.replace("INPUT ACCEPT", "INPUT DROP"))));
}

/// As ufw lays it out: the policy denies, chains are gone through on the way.
#[test]
fn chains_are_followed() {
    let rules = ":INPUT DROP [0:0]\n:ufw-before-input - [0:0]\n:ufw-not-local - [0:0]\n:ufw-user-input - [0:0]\n\
                 -A INPUT -j ufw-before-input\n-A INPUT -j ufw-user-input\n\
                 -A ufw-before-input -i lo -j ACCEPT\n-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A ufw-before-input -j ufw-not-local\n\
                 -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n-A ufw-not-local -j DROP\n\
                 -A ufw-user-input -p tcp -m tcp --dport 443 -m comment --comment \"the \\\"shop\\\"\" -j ACCEPT\n";
    assert!(is_denied(&iptables(rules)));
    let open = rules.replace("-p tcp -m tcp --dport 443", "-i eth+");
    assert!(matches!(iptables(&open), Default::Allowed(why) if why.contains("-i eth+")), "{open}");
}

#[test]
fn what_lets_everybody_in_is_named() {
    for (rule, denied) in [
        ("-A INPUT -j ACCEPT", false),
        ("-A INPUT -i eth0 -j ACCEPT", false),
        ("-A INPUT ! -i docker0 -j ACCEPT", false),
        ("-A INPUT -i docker0 -j ACCEPT", true),
        ("-A INPUT -s 0.0.0.0/0 -p tcp -j ACCEPT", false),
        ("-A INPUT -p tcp -m tcp --dport 1:65535 -j ACCEPT", false),
        ("-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT", true),
        ("-A INPUT -p udp -j ACCEPT", true),
        ("-A INPUT -m conntrack --ctstate NEW -j ACCEPT", false),
        ("-A INPUT ! -s 198.51.100.0/24 -j ACCEPT", false),
        ("-A INPUT -j LOG --log-prefix \"denied \"", true),
    ] {
        let answer = iptables(&format!(":INPUT DROP [0:0]\n{rule}\n"));
        assert_eq!(is_denied(&answer), denied, "{rule}: {answer:?}");
    }
    // What is not understood is not called safe.
    let unclear = iptables(":INPUT DROP [0:0]\n-A INPUT -m set --match-set friends src -j ACCEPT\n");
    assert!(matches!(unclear, Default::Unclear(why) if why.contains("friends")));
}

#[test]
fn no_rules_are_no_firewall() {
    let printed = Printed { nftables: Some("{\"nftables\": []}".to_owned()), ..Printed::default() };
    for answer in printed.defaults(&uplinks()).unwrap().into_values() {
        assert_eq!(answer, Default::Allowed("there are no rules for what comes in".to_owned()));
    }
}

const CHAIN: &str = r#"{"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "POLICY"}},"#;

/// A chain with this policy and these expressions, one list a rule.
fn chain(policy: &str, rules: &[&str]) -> String {
    let mut text = CHAIN.replace("POLICY", policy);
    for (handle, expressions) in rules.iter().enumerate() {
        text.push_str(&format!(
            r#"{{"rule": {{"family": "inet", "table": "filter", "chain": "input", "handle": {handle}, "expr": [{expressions}]}}}},"#
        ));
    }
    text.pop();
    text
}

const LOOPBACK: &str =
    r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}"#;
const ESTABLISHED: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}"#;
const HTTPS: &str = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [80, 443]}}}, {"accept": null}"#;
const REJECT: &str = r#"{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}"#;

#[test]
fn nftables_by_policy_and_by_last_rule() {
    for text in [
        chain("drop", &[LOOPBACK, ESTABLISHED, HTTPS]),
        chain("accept", &[LOOPBACK, ESTABLISHED, HTTPS, REJECT]),
    ] {
        let answers = nftables(&text);
        assert!(answers.values().all(is_denied), "{answers:?}");
    }
    let open = nftables(&chain("accept", &[LOOPBACK, ESTABLISHED, HTTPS]));
    assert!(open.values().all(|answer| matches!(answer, Default::Allowed(_))), "{open:?}");
}

#[test]
fn one_family_may_be_open_alone() {
    let only_ipv4 = chain("drop", &[LOOPBACK]).replace("\"inet\"", "\"ip\"");
    let answers = nftables(&only_ipv4);
    assert!(is_denied(&answers[&Family::Ipv4]));
    assert!(!is_denied(&answers[&Family::Ipv6]));
}

#[test]
fn one_chain_that_denies_is_enough_and_a_wide_rule_undoes_it() {
    let harmless = chain("accept", &[LOOPBACK]).replace("\"filter\", \"name\"", "\"other\", \"name\"");
    let both = format!("{harmless}, {}", chain("drop", &[LOOPBACK]));
    assert!(nftables(&both).values().all(is_denied));
    let wide = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["eth0", "br-lan"]}}}, {"accept": null}"#;
    let answers = nftables(&chain("drop", &[wide]));
    assert_eq!(
        answers[&Family::Ipv4],
        Default::Allowed("nftables inet filter, chain input: rule 0 of chain input".to_owned())
    );
    let limited = r#"{"limit": {"rate": 5, "per": "minute"}}, {"accept": null}"#;
    assert!(matches!(nftables(&chain("drop", &[limited]))[&Family::Ipv4], Default::Unclear(_)));
    let chosen = r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}]]}}}"#;
    assert!(nftables(&chain("drop", &[chosen])).values().all(is_denied));
}

#[test]
fn nonsense_is_an_error() {
    let printed = Printed { nftables: Some("Error: no".to_owned()), ..Printed::default() };
    assert!(matches!(printed.defaults(&uplinks()), Err(FirewallError::Unexpected { .. })));
}
