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
            "--dport" | "--dports" => is_for(value(), stranger),
            // Nobody knows what port it comes from.
            "--sport" | "--sports" => (range(value()) == Some((0, u16::MAX))).into(),
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

/// `22`, `22,80`, `1024:65535`.
fn is_for(ports: &str, stranger: &Stranger<'_>) -> Truth {
    let mut ranges = ports.split(',').filter_map(range);
    ranges.any(|(first, last)| stranger.is_for(first, last) == Truth::Yes).into()
}

/// A port, or the first and the last of several; either may be left out.
fn range(ports: &str) -> Option<(u16, u16)> {
    let number = |text: &str, other: u16| if text.is_empty() { Some(other) } else { text.parse().ok() };
    match ports.split_once(':') {
        Some((first, last)) => Some((number(first, 0)?, number(last, u16::MAX)?)),
        None => ports.parse().ok().map(|port| (port, port)),
    }
}
