//! docs/metrics.md lists what names.rs lists. `UPDATE_DOCS=1` rewrites the generated part.

use std::{fmt::Write, fs, path::Path};

use super::names::{ALL, AUDIT, Metric};

const START: &str =
    "<!-- metrics: generated from agent/src/telemetry/names.rs by UPDATE_DOCS=1 cargo test -->\n";
const END: &str = "<!-- end of generated part -->\n";

fn table() -> String {
    let mut text = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for Metric { name, kind, help, labels } in ALL.into_iter().chain(AUDIT) {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| `{name}` | {} | {labels} | {help} |", kind.name()).unwrap();
    }
    text.push('\n');
    text
}

#[test]
fn the_list_of_metrics_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).expect("the start of the generated part");
    let (_, after) = rest.split_once(END).expect("the end of the generated part");
    let current = format!("{before}{START}{}{END}{after}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, current).unwrap();
        return;
    }
    assert_eq!(text, current, "docs/metrics.md is out of date: UPDATE_DOCS=1 cargo test -p portcullis docs");
}

#[test]
fn the_documentation_names_every_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(path).unwrap();
    for reason in agent_common::verdict::DropReason::ALL {
        assert!(text.contains(&format!("| {} | `{}` |", reason as u8, reason.name())), "{}", reason.name());
    }
}
