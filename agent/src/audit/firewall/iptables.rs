//! Rules as `iptables-save` prints them, table `filter`, from the chain `INPUT` on.

use std::collections::BTreeMap;

use super::{Action, Rule, Stranger, Truth, WayIn};

/// The way in, if there is a table `filter` at all.
pub(super) fn way_in(text: &str, stranger: &Stranger<'_>) -> Option<WayIn> {
    let filter = text.split("\n*").map(|table| table.trim_start_matches('*')).find_map(|table| {
        let (name, rules) = table.split_once('\n')?;
        (name.trim() == "filter").then_some(rules)
    })?;
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    let mut denies_in_the_end = false;
    for line in filter.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            denies_in_the_end |= words.next() == Some("INPUT") && words.next() == Some("DROP");
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            if let Some((chain, rest)) = words.split_first() {
                chains.entry(chain.clone()).or_default().push(parse(line, rest, stranger));
            }
        }
    }
    let name = format!("iptables-legacy {}, chain INPUT", stranger.family);
    Some(WayIn { chains, first: "INPUT".to_owned(), denies_in_the_end, name })
}

/// Words, quoted ones as one.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in line.chars() {
        let word = words.len() - 1;
        match character {
            _ if escaped => {
                words[word].push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words[word].push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse(text: &str, words: &[String], stranger: &Stranger<'_>) -> Rule {
    let mut matches = Truth::Yes;
    let mut action = Action::Nothing;
    let mut words = words.iter().map(String::as_str);
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        let truth = match word {
            "-j" => {
                action = match value() {
                    "ACCEPT" => Action::Accept,
                    "DROP" | "REJECT" => Action::Deny,
                    "RETURN" => Action::Return,
                    // Targets that are no chain are in capitals, and so may chains be: a chain that does not exist
                    // has no rules, which comes to the same.
                    other => Action::Jump(other.to_owned()),
                };
                continue;
            }
            "-g" => {
                action = Action::Goto(value().to_owned());
                continue;
            }
            // What names no condition: modules, and what belongs to targets.
            "-m" | "--comment" | "--reject-with" | "--log-prefix" | "--log-level" => {
                value();
                continue;
            }
            "-i" => stranger.comes_by(value()),
            "-s" => Stranger::comes_from(prefix_length(value())),
            "-p" => Truth::from(matches!(value(), "tcp" | "all" | "6" | "0")),
            "--dport" | "--sport" | "--dports" | "--sports" => covers_all(value()).into(),
            "--state" | "--ctstate" => value().split(',').any(|state| state == "NEW").into(),
            "--dst-type" => value().split(',').any(|kind| kind == "LOCAL").into(),
            "--pkt-type" => Truth::from(value() == "unicast"),
            "--icmp-type" | "--icmpv6-type" => {
                value();
                Truth::No
            }
            // A SYN.
            "--syn" => Truth::Yes,
            option if option.starts_with('-') => Truth::Unclear,
            // The value of an option that is not understood.
            _ => continue,
        };
        matches = matches.and(if negated { truth.not() } else { truth });
        negated = false;
    }
    Rule { matches, action, text: text.to_owned() }
}

/// `198.51.100.0/24` → 24; without a length, an address of its own.
fn prefix_length(range: &str) -> u8 {
    range.rsplit_once('/').and_then(|(_, length)| length.parse().ok()).unwrap_or(128)
}

/// `0:65535`, or `1:65535`.
fn covers_all(ports: &str) -> bool {
    ports
        .split_once(':')
        .is_some_and(|(first, last)| matches!(first, "0" | "1" | "") && matches!(last, "65535" | ""))
}
