//! Reads `audit`: what an audit is to ask from outside.

use super::{
    super::{
        probes::{self, Probes, PublicEndpoint},
        report::{Code, Report},
        tree::{Key, Node},
    },
    fields::{Fields, list, scalar},
};

/// The keys of `audit`.
pub(in super::super) const AUDIT_KEYS: [&str; 2] = ["endpoints", "debug_paths"];
/// Each takes up to a minute, and a path a request: nobody has more by intent.
const MOST: usize = 32;

pub(super) fn probes(key: &Key, node: &Node, report: &mut Report<'_>) -> Probes {
    let Some(fields) = Fields::new(node, key.mark, &AUDIT_KEYS, "`audit`", report) else {
        return Probes::default();
    };
    let endpoint = |text: &str| text.parse::<PublicEndpoint>();
    Probes {
        endpoints: each(&fields, "endpoints", "write `https://shop.example`", endpoint, report),
        debug_paths: each(&fields, "debug_paths", "write `/debug/pprof/`", probes::path, report),
    }
}

fn each<T>(
    fields: &Fields<'_>,
    key: &str,
    hint: &str,
    read: impl Fn(&str) -> Result<T, String>,
    report: &mut Report<'_>,
) -> Vec<T> {
    let Some((_, node)) = fields.get(key) else { return Vec::new() };
    let items = list(node, key, report).unwrap_or_default();
    if items.len() > MOST {
        report.add(Code::Limit, node.mark, format!("`{key}` has more than {MOST} entries"), None);
        return Vec::new();
    }
    let mut found = Vec::new();
    for item in items {
        match scalar(item, key, report).map(&read) {
            Some(Ok(value)) => found.push(value),
            Some(Err(message)) => report.add(Code::BadValue, item.mark, message, Some(hint.to_owned())),
            None => {}
        }
    }
    found
}
