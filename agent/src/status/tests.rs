//! What `portcullis status` says about the fixture.

use std::sync::Arc;

use super::*;
use crate::{
    interference::{Finding, Ledger},
    state::fixture::{self, STARTED_AT},
};

fn status() -> Status {
    Status::new(&fixture::state(), Some(&fixture::reading()), STARTED_AT + 7_380)
}

fn troubled() -> Status {
    let mut state = fixture::state();
    state.ready = false;
    state.inventory.connected = false;
    state.inventory.error = Some("connect `/var/run/docker.sock`: connection refused".to_owned());
    state.reload.successful = false;
    state.reload.last_error = Some("qerds.yaml:7:3: unknown key `prots`".to_owned());
    let port = state.ports.get_mut(&9).unwrap();
    (port.attached, port.ready, port.via) = (false, false, None);
    let mut ledger = Ledger::default();
    ledger.take(vec![shadowed()], 5, STARTED_AT + 5);
    state.interference = ledger.report(12);
    Status::new(&state, None, STARTED_AT + 12)
}

fn shadowed() -> Finding {
    Finding {
        interface: "veth3f1c".to_owned(),
        hook: "to_endpoint".to_owned(),
        fault: Fault::Shadowed,
        found: "program 123 runs before it".to_owned(),
        done: "moved to the front".to_owned(),
        repaired: true,
    }
}

#[test]
fn text() {
    insta::assert_snapshot!("text", text::render(&status()));
}

#[test]
fn text_of_an_agent_in_trouble() {
    insta::assert_snapshot!("trouble", text::render(&troubled()));
}

#[test]
fn text_of_an_agent_that_has_just_started() {
    let status = Status::new(&AgentState::default(), Some(&CounterReading::default()), 3);
    insta::assert_snapshot!("started", text::render(&status));
}

#[test]
fn json() {
    let json = serde_json::to_string_pretty(&status()).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    insta::assert_snapshot!("json", json.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn tables_stay_within_the_width() {
    let mut state = fixture::state();
    let snapshot = Arc::make_mut(&mut state.snapshot);
    for endpoint in &mut snapshot.endpoints {
        endpoint.container = format!("{}-{}", endpoint.container, "long".repeat(12));
        endpoint.addresses.push("2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap());
    }
    let text = text::render(&Status::new(&state, None, STARTED_AT));
    let tables = text.lines().filter(|line| !line.starts_with('!'));
    for line in tables {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_label_cannot_write_to_the_terminal() {
    let mut state = fixture::state();
    Arc::make_mut(&mut state.snapshot).endpoints[0].service = Some("a\u{1b}[31mb".to_owned());
    let text = text::render(&Status::new(&state, None, STARTED_AT));
    assert!(!text.contains('\u{1b}'), "{text}");
}
