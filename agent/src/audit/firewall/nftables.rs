//! Rules as `nft -j list ruleset` prints them (libnftables-json(5)), from each base chain of the hook `input` on.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Action, Family, FirewallError, Rule, Stranger, Truth, WayIn};

/// One way for each base chain that sees the family.
pub(super) fn ways_in(text: &str, stranger: &Stranger<'_>) -> Result<Vec<WayIn>, FirewallError> {
    let unexpected = |what: String| FirewallError::Unexpected { program: "nft", what };
    let ruleset: Value = serde_json::from_str(text).map_err(|error| unexpected(error.to_string()))?;
    let objects = ruleset["nftables"].as_array().ok_or_else(|| unexpected("no `nftables`".to_owned()))?;
    let family = match stranger.family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    };
    let sees =
        |object: &Value| matches!(object["family"].as_str(), Some(name) if name == "inet" || name == family);
    let mut tables: BTreeMap<(&str, &str), BTreeMap<String, Vec<Rule>>> = BTreeMap::new();
    for rule in objects.iter().filter_map(|object| object.get("rule")).filter(|rule| sees(rule)) {
        let (Some(table), Some(chain)) = (place(rule), rule["chain"].as_str()) else { continue };
        tables.entry(table).or_default().entry(chain.to_owned()).or_default().push(parse(rule, stranger));
    }
    let chains = objects.iter().filter_map(|object| object.get("chain")).filter(|chain| sees(chain));
    let base = chains.filter(|chain| chain["hook"] == "input" && chain["type"] == "filter");
    Ok(base
        .filter_map(|chain| {
            let (family, table) = place(chain)?;
            let first = chain["name"].as_str()?.to_owned();
            Some(WayIn {
                chains: tables.get(&(family, table)).cloned().unwrap_or_default(),
                denies_in_the_end: chain["policy"] == "drop",
                name: format!("nftables {family} {table}, chain {first}"),
                first,
            })
        })
        .collect())
}

/// Family and table.
fn place(object: &Value) -> Option<(&str, &str)> {
    Some((object["family"].as_str()?, object["table"].as_str()?))
}

fn parse(rule: &Value, stranger: &Stranger<'_>) -> Rule {
    let mut matches = Truth::Yes;
    let mut action = Action::Nothing;
    for expression in rule["expr"].as_array().into_iter().flatten() {
        let Some((kind, content)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "accept" => action = Action::Accept,
            "drop" | "reject" => action = Action::Deny,
            "return" => action = Action::Return,
            "jump" => action = Action::Jump(target(content)),
            "goto" => action = Action::Goto(target(content)),
            "match" => matches = matches.and(condition(content, stranger)),
            // Neither conditions nor verdicts.
            "counter" | "log" | "mangle" | "comment" | "notrack" | "ct helper" => {}
            // A verdict for each value: what is not understood may let in.
            "vmap" => {
                matches = matches.and(Truth::Unclear);
                action = vmap(content);
            }
            // Limits, quotas, extensions of iptables and what may come.
            _ => matches = matches.and(Truth::Unclear),
        }
    }
    Rule { matches, action, text: text(rule) }
}

fn target(content: &Value) -> String {
    content["target"].as_str().unwrap_or_default().to_owned()
}

/// A map of verdicts can let in only if one of them does. Those by port or state are for what somebody thought of.
fn vmap(content: &Value) -> Action {
    let key = &content["key"];
    let field = key["payload"]["field"].as_str().or(key["ct"]["key"].as_str()).unwrap_or_default();
    if matches!(field, "dport" | "sport" | "state") {
        return Action::Nothing;
    }
    let accepts = content.to_string().contains("\"accept\"") || content.to_string().contains("\"jump\"");
    if accepts { Action::Accept } else { Action::Nothing }
}

fn condition(content: &Value, stranger: &Stranger<'_>) -> Truth {
    let (left, right) = (&content["left"], &content["right"]);
    let truth =
        match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str(), left["payload"]["field"].as_str()) {
            (Some("iifname" | "iif"), _, _) => any(right, |name| match name.as_str() {
                Some(name) => stranger.comes_by(name),
                None => Truth::Unclear,
            }),
            (Some("l4proto"), _, _) => any(right, |value| Truth::from(*value == "tcp" || *value == 6)),
            (Some("nfproto"), _, _) => any(right, |value| {
                Truth::from(*value == if stranger.family == Family::Ipv4 { "ipv4" } else { "ipv6" })
            }),
            (Some("pkttype"), _, _) => {
                any(right, |value| Truth::from(*value == "unicast" || *value == "host"))
            }
            (_, Some("state"), _) => any(right, |value| Truth::from(*value == "new")),
            (_, Some("status"), _) => any(right, |value| match value.as_str() {
                Some("dnat") => Truth::No,
                _ => Truth::Unclear,
            }),
            (_, _, Some("saddr")) => any(right, |value| match value["prefix"]["len"].as_u64() {
                Some(length) => Stranger::comes_from(u8::try_from(length).unwrap_or(u8::MAX)),
                // An address, a range of them, a named set.
                None => Truth::No,
            }),
            (_, _, Some("dport" | "sport")) => any(right, |value| covers_all(value).into()),
            (_, _, Some("protocol" | "nexthdr")) => {
                any(right, |value| Truth::from(*value == "tcp" || *value == 6))
            }
            (_, _, Some("type" | "code")) => Truth::No,
            _ if left.get("fib").is_some() => any(right, |value| match value.as_str() {
                Some("local") => Truth::Yes,
                Some("broadcast" | "multicast" | "anycast") => Truth::No,
                _ => Truth::Unclear,
            }),
            _ => Truth::Unclear,
        };
    if content["op"] == "!=" { truth.not() } else { truth }
}

/// One of the values of a set, or of flags; else the value itself.
fn any(value: &Value, is: impl Fn(&Value) -> Truth) -> Truth {
    let values = value["set"].as_array().or_else(|| value.as_array());
    let Some(values) = values else { return is(value) };
    let truths: Vec<Truth> = values.iter().map(is).collect();
    if truths.contains(&Truth::Yes) {
        Truth::Yes
    } else if truths.contains(&Truth::Unclear) {
        Truth::Unclear
    } else {
        Truth::No
    }
}

fn covers_all(value: &Value) -> bool {
    let range = &value["range"];
    matches!(range[0].as_u64(), Some(0 | 1)) && range[1] == 65535
}

/// For people: the comment if there is one, else where it stands.
fn text(rule: &Value) -> String {
    match (rule["comment"].as_str(), rule["handle"].as_u64(), rule["chain"].as_str()) {
        (Some(comment), _, _) => format!("rule `{comment}`"),
        (None, Some(handle), Some(chain)) => format!("rule {handle} of chain {chain}"),
        _ => "a rule".to_owned(),
    }
}
