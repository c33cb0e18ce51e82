//! Reads mappings, lists and words out of the tree, reporting whatever is not as expected and going on.

use std::collections::BTreeMap;

use super::super::{
    names,
    report::{Code, Mark, Report},
    tree::{Key, Node, Value},
};

/// The entries of one mapping with known keys.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    /// Where the mapping is, for keys that are missing.
    mark: Mark,
    found: BTreeMap<&'n str, (&'n Key, &'n Node)>,
}

/// What to do about the one thing that no key can allow.
const FRAGMENTS: &str = "fragments are always dropped: use smaller datagrams, or one MTU on all networks";

impl<'n> Fields<'n> {
    /// Takes a mapping that has only these keys. `None`, reported, if it is no mapping.
    pub(super) fn new(
        node: &'n Node,
        mark: Mark,
        known: &[&str],
        what: &str,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let entries = map(node, what, report)?;
        let mut found: BTreeMap<&str, (&Key, &Node)> = BTreeMap::new();
        for (key, value) in entries {
            if !known.contains(&key.name.as_str()) {
                let message = format!("unknown key `{}` in {what}", key.name);
                let hint = match key.name.as_str() {
                    "fragments" => Some(FRAGMENTS.to_owned()),
                    name => names::hint(name, known, "known keys are"),
                };
                report.add(Code::UnknownKey, key.mark, message, hint);
            } else if let Some((first, _)) = found.get(key.name.as_str()) {
                let hint = format!("it stands at {} already", report.at(first.mark));
                report.add(Code::DuplicateKey, key.mark, format!("duplicate key `{}`", key.name), Some(hint));
            } else {
                found.insert(&key.name, (key, value));
            }
        }
        Some(Self { mark, found })
    }

    /// The value of a key that may be left out.
    pub(super) fn get(&self, key: &str) -> Option<(&'n Key, &'n Node)> {
        self.found.get(key).copied()
    }

    /// The value of a key that has to be there.
    pub(super) fn require(
        &self,
        key: &str,
        what: &str,
        hint: &str,
        report: &mut Report<'_>,
    ) -> Option<(&'n Key, &'n Node)> {
        let found = self.get(key);
        if found.is_none() {
            let message = format!("{what} has no `{key}`");
            report.add(Code::MissingKey, self.mark, message, Some(hint.to_owned()));
        }
        found
    }
}

/// The entries of a mapping; nothing at all counts as an empty one.
pub(super) fn map<'n>(node: &'n Node, what: &str, report: &mut Report<'_>) -> Option<&'n [(Key, Node)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        Value::Null => Some(&[]),
        other => {
            let message = format!("{what} is a mapping, not {}", other.kind());
            report.add(Code::WrongType, node.mark, message, Some("write `key: value` pairs".to_owned()));
            None
        }
    }
}

/// The entries of a mapping from names to something, without duplicates and unusable names.
pub(super) fn named<'n>(
    node: &'n Node,
    what: &str,
    each: &str,
    report: &mut Report<'_>,
) -> Vec<(&'n Key, &'n Node)> {
    let mut found: BTreeMap<&str, Mark> = BTreeMap::new();
    let mut kept = Vec::new();
    for (key, value) in map(node, what, report).unwrap_or_default() {
        if let Some(&first) = found.get(key.name.as_str()) {
            let hint = format!("it is defined at {} already", report.at(first));
            report.add(Code::DuplicateKey, key.mark, format!("duplicate {each} `{}`", key.name), Some(hint));
            continue;
        }
        found.insert(&key.name, key.mark);
        name_is_usable(&key.name, key.mark, each, report);
        kept.push((key, value));
    }
    kept
}

/// Reports a name that cannot be one.
pub(super) fn name_is_usable(name: &str, mark: Mark, what: &str, report: &mut Report<'_>) {
    if names::RESERVED.contains(&name) && what != "policy" && what != "profile" {
        let message = format!("`{name}` is reserved and cannot name a {what}");
        let hint = "choose another name; `host`, `world`, `dns` and `any` stand for peers".to_owned();
        report.add(Code::BadName, mark, message, Some(hint));
    } else if !names::is_plain(name) || name.len() > MAX_SCALAR {
        let message = format!("`{name}` cannot name a {what}");
        let hint = "names are made of letters, digits, `.`, `_` and `-`".to_owned();
        report.add(Code::BadName, mark, message, Some(hint));
    }
}

/// The items of a list.
pub(super) fn list<'n>(node: &'n Node, what: &str, report: &mut Report<'_>) -> Option<&'n [Node]> {
    let (message, hint) = match &node.value {
        Value::List(items) => return Some(items),
        Value::Null => {
            (format!("`{what}` is a list, but nothing stands there"), format!("write `{what}: []`"))
        }
        Value::Scalar(text) => {
            (format!("`{what}` is a list, not a single value"), format!("write `{what}: [{text}]`"))
        }
        Value::Map(_) => {
            (format!("`{what}` is a list, not a mapping"), "put `- ` in front of each item".to_owned())
        }
    };
    report.add(Code::WrongType, node.mark, message, Some(hint));
    None
}

/// Longer than any name of a container, project or label.
const MAX_SCALAR: usize = 512;

/// A single value as it is written.
pub(super) fn scalar<'n>(node: &'n Node, what: &str, report: &mut Report<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar(text) if text.len() > MAX_SCALAR => {
            report.add(Code::Limit, node.mark, format!("`{what}` is longer than {MAX_SCALAR} bytes"), None);
            None
        }
        Value::Scalar(text) if !text.is_empty() => Some(text),
        other => {
            let kind = if matches!(other, Value::Scalar(_)) { "nothing" } else { other.kind() };
            report.add(Code::WrongType, node.mark, format!("`{what}` is a single value, not {kind}"), None);
            None
        }
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(
    node: &Node,
    what: &str,
    words: &[(&str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let text = scalar(node, what, report)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let message = format!("`{text}` is no {what}");
    report.add(Code::BadValue, node.mark, message, names::hint(text, &known, "it is one of"));
    None
}
