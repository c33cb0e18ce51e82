//! A few denied attempts as a person would read them, and the metric lines that count them.

use std::collections::BTreeSet;

use anyhow::Result;
use lab::agent::Agent;
use lab::observed::{Event, Peer, Sample};

const ATTEMPTS: &str = "portcullis_denied_connection_attempts_total";
const SHOWN: usize = 6;

/// Prints both.
pub(super) fn tell(agent: &Agent) -> Result<()> {
    let events = agent.events()?;
    let told = various(&events);
    println!("\nDenied attempts, {} of {} events:", told.len(), events.len());
    for event in &told {
        println!("  {}", event.sentence());
    }
    println!("\nThe counters behind them:");
    let samples = agent.metrics()?;
    let mut shown = BTreeSet::new();
    for event in told {
        if let Some(sample) = samples.iter().find(|sample| counts(sample, event))
            && shown.insert(&sample.line)
        {
            println!("  {}", sample.line);
        }
    }
    Ok(())
}

/// One event for each reason and kind of source first: a story should not repeat itself.
fn various(events: &[Event]) -> Vec<&Event> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<&Event> =
        events.iter().filter(|event| seen.insert((&event.reason, &event.source.kind))).take(SHOWN).collect();
    let pairs: BTreeSet<(String, String)> =
        told.iter().map(|event| (event.source.label(), event.destination.label())).collect();
    let room = SHOWN - told.len();
    told.extend(
        events
            .iter()
            .filter(|event| !pairs.contains(&(event.source.label(), event.destination.label())))
            .take(room),
    );
    told
}

/// Whether a sample counts that event.
fn counts(sample: &Sample, event: &Event) -> bool {
    let is = |label: &str, wanted: &str| sample.labels.get(label).is_some_and(|found| found == wanted);
    sample.name == ATTEMPTS
        && sample.value > 0.0
        && is("reason", &event.reason)
        && is("project", &event.project)
        && is("destination", party(&event.destination, &event.project).as_str())
        && is("source", party(&event.source, &event.project).as_str())
        && event.destination.port.is_none_or(|port| is("port", &port.to_string()) || is("port", "other"))
}

/// A party's name in the metrics: its service, with its project where that is not the deciding one's; otherwise its
/// kind.
fn party(party: &Peer, project: &str) -> String {
    match (party.kind.as_str(), &party.project, &party.service) {
        ("service", Some(own), Some(service)) if own == project => service.clone(),
        ("service", Some(own), Some(service)) => format!("{own}/{service}"),
        (kind, ..) => kind.to_owned(),
    }
}
