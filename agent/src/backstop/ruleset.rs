//! The nftables ruleset of the backstop: which interfaces it names, how it reads, and what of a listing matters. Pure.

use std::{collections::BTreeSet, path::Path};

use agent_common::{decision::PartyKind, verdict::Mode};
use serde_json::Value;

use crate::{config::DEFAULT_PIN_DIR, inventory::snapshot::Snapshot, policy::entries::Entries};

/// The counter of what was dropped.
pub(super) const COUNTER: &str = "dropped";
/// Before other chains of the bridge family, and before br_netfilter: they may write marks.
const PRIORITY: i32 = -300;

/// How the ruleset tells covered bridges from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The set names the covered bridges. Needs `CONFIG_NFT_BRIDGE_META`.
    Bridge,
    /// The set names the interfaces that are known to be elsewhere: frames between two that are not in it have to be
    /// stamped, whatever their bridge.
    Elsewhere,
}

/// What is to be enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) table: String,
    /// The bit of the mark that says that a program of ours has seen the frame.
    pub(super) stamp: u32,
    pub(super) by: By,
    pub(super) names: BTreeSet<String>,
}

/// The table of an agent. Several agents may share a network namespace, each with its own pins.
#[must_use]
pub(super) fn table_name(pin_dir: &Path) -> String {
    if pin_dir == Path::new(DEFAULT_PIN_DIR) {
        return "portcullis".to_owned();
    }
    // FNV-1a: short, and the same in every version.
    let hash =
        pin_dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("portcullis_{hash:016x}")
}

/// The names for the set; `None` if no bridge has a covered endpoint that enforces.
#[must_use]
pub(super) fn names(by: By, snapshot: &Snapshot, entries: &Entries) -> Option<BTreeSet<String>> {
    let covered: BTreeSet<&str> = snapshot
        .endpoints
        .iter()
        .zip(&entries.endpoints)
        .filter(|(_, resolved)| resolved.party.kind == PartyKind::Covered && resolved.mode == Mode::Enforce)
        .map(|(endpoint, _)| endpoint.bridge.as_str())
        .collect();
    if covered.is_empty() {
        return None;
    }
    if by == By::Bridge {
        return Some(covered.into_iter().map(str::to_owned).collect());
    }
    let inside: BTreeSet<u32> = snapshot
        .bridges
        .iter()
        .filter(|bridge| covered.contains(bridge.interface.name.as_str()))
        .map(|bridge| bridge.interface.ifindex)
        .collect();
    let outside = snapshot.ports.iter().filter(|port| !inside.contains(&port.bridge));
    // Not what is no port yet: it may become one of a covered bridge while no agent looks.
    let uplinks = snapshot.uplinks.iter().filter(|uplink| uplink.port);
    let elsewhere = outside.map(|port| &port.interface).chain(uplinks.map(|uplink| &uplink.interface));
    Some(elsewhere.map(|interface| interface.name.clone()).collect())
}

impl Ruleset {
    /// What `nft -f` makes of it is one transaction that adds what is missing and brings the rest up to date.
    #[must_use]
    pub(super) fn script(&self) -> String {
        let Self { table, stamp, by, names } = self;
        let mut text = format!(
            "add table bridge {table}
add counter bridge {table} {COUNTER}
add set bridge {table} names {{ type ifname; }}
add chain bridge {table} forward {{ type filter hook forward priority {PRIORITY}; policy accept; }}
flush chain bridge {table} forward
flush set bridge {table} names
"
        );
        let rules: &[&str] = match by {
            // The mark first: what is stamped, which is nearly everything, pays for no look into the set.
            By::Bridge => &["meta mark & STAMP == 0 meta ibrname @names counter name dropped drop"],
            By::Elsewhere => &[
                "meta mark & STAMP != 0 accept",
                "iifname @names accept",
                "oifname @names accept",
                "counter name dropped drop",
            ],
        };
        for rule in rules {
            let rule = rule.replace("STAMP", &format!("{stamp:#010x}"));
            text.push_str(&format!("add rule bridge {table} forward {rule}\n"));
        }
        for name in names.iter().filter(|name| is_plain(name)) {
            text.push_str(&format!("add element bridge {table} names {{ \"{name}\" }}\n"));
        }
        text
    }

    /// The same, from nothing: whatever somebody made of the table goes in the same transaction.
    #[must_use]
    pub(super) fn replacing_script(&self) -> String {
        format!("{}{}", removing_script(&self.table), self.script())
    }
}

/// Removes the table, if there is one.
#[must_use]
pub(super) fn removing_script(table: &str) -> String {
    format!("add table bridge {table}\ndelete table bridge {table}\n")
}

/// Interface names may hold nearly anything; Docker's, and everybody's, do not.
fn is_plain(name: &str) -> bool {
    name.len() < 16 && name.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_@:".contains(letter))
}

/// Whether a script tells bridges apart in this way.
#[must_use]
pub(super) fn is_by(script: &str, by: By) -> bool {
    script.contains("ibrname") == (by == By::Bridge)
}

/// The names that a script puts into the set.
#[must_use]
pub(super) fn names_in(script: &str) -> BTreeSet<String> {
    let elements = script.lines().filter(|line| line.starts_with("add element bridge "));
    elements.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

/// What of a listing in JSON says what the table does: neither the numbers that the kernel gives nor those it counts.
#[must_use]
pub(super) fn essence(mut listing: Value) -> Value {
    if let Some(objects) = listing.get_mut("nftables").and_then(Value::as_array_mut) {
        objects.retain(|object| object.get("metainfo").is_none());
        for object in objects {
            if let Some(counter) = object.get_mut("counter").and_then(Value::as_object_mut) {
                counter.remove("packets");
                counter.remove("bytes");
            }
            let elements = object.get_mut("set").and_then(|set| set.get_mut("elem"));
            if let Some(elements) = elements.and_then(Value::as_array_mut) {
                elements.sort_by_key(ToString::to_string);
            }
            for fields in object.as_object_mut().into_iter().flat_map(|object| object.values_mut()) {
                fields.as_object_mut().and_then(|fields| fields.remove("handle"));
            }
        }
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixture;

    fn ruleset(by: By, names: &[&str]) -> Ruleset {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Ruleset { table: "portcullis".to_owned(), stamp: 0x8000_0000, by, names }
    }

    #[test]
    fn one_rule_where_bridges_can_be_named() {
        insta::assert_snapshot!(ruleset(By::Bridge, &["docker0", "br-0123456789ab"]).script());
    }

    #[test]
    fn four_rules_where_they_cannot() {
        insta::assert_snapshot!(ruleset(By::Elsewhere, &["eth0"]).replacing_script());
    }

    #[test]
    fn a_script_gives_its_names_back() {
        let ruleset = ruleset(By::Bridge, &["docker0", "br-0123456789ab"]);
        assert_eq!(names_in(&ruleset.script()), ruleset.names);
        assert!(is_by(&ruleset.script(), By::Bridge) && !is_by(&ruleset.script(), By::Elsewhere));
    }

    #[test]
    fn a_name_cannot_end_the_statement() {
        let script = ruleset(By::Bridge, &["a\" }; flush ruleset #"]).script();
        assert!(!script.contains("flush ruleset"), "{script}");
    }

    #[test]
    fn bridges_count_where_something_enforces() {
        let mut state = fixture::state();
        let by_bridge = |state: &crate::state::AgentState| names(By::Bridge, &state.snapshot, &state.entries);
        assert_eq!(by_bridge(&state), Some(BTreeSet::from(["br-qerds".to_owned()])));
        let elsewhere =
            |state: &crate::state::AgentState| names(By::Elsewhere, &state.snapshot, &state.entries);
        // What is no port may become one of a covered bridge, what is one of another bridge does not.
        assert_eq!(elsewhere(&state), Some(BTreeSet::new()));
        std::sync::Arc::make_mut(&mut state.snapshot).uplinks[0].port = true;
        assert_eq!(elsewhere(&state), Some(BTreeSet::from(["eth0".to_owned()])));
        for resolved in &mut std::sync::Arc::make_mut(&mut state.entries).endpoints {
            resolved.mode = Mode::Observe;
        }
        assert_eq!(by_bridge(&state), None);
    }

    #[test]
    fn every_pin_directory_has_a_table_of_its_own() {
        assert_eq!(table_name(Path::new(DEFAULT_PIN_DIR)), "portcullis");
        assert_eq!(table_name(Path::new("/sys/fs/bpf/a")), table_name(Path::new("/sys/fs/bpf/a")));
        assert_ne!(table_name(Path::new("/sys/fs/bpf/a")), table_name(Path::new("/sys/fs/bpf/b")));
        assert!(table_name(Path::new("/a")).len() < 32);
    }

    #[test]
    fn counting_is_no_change_and_a_rule_is() {
        let listing = |handle: u32, packets: u32, rule: &str| {
            essence(serde_json::json!({ "nftables": [
                { "metainfo": { "version": "1.0.6" } },
                { "counter": { "name": "dropped", "handle": handle, "packets": packets, "bytes": 60 } },
                { "set": { "name": "names", "handle": handle, "elem": if packets > 0 { ["a", "b"] } else { ["b", "a"] } } },
                { "rule": { "handle": handle, "expr": [rule] } },
            ] }))
        };
        assert_eq!(listing(1, 0, "drop"), listing(2, 7, "drop"));
        assert_ne!(listing(1, 0, "drop"), listing(1, 0, "accept"));
    }
}
