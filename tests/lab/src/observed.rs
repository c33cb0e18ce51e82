//! What the agent tells the world, read as a user's scripts would: event lines and the Prometheus text format.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One denied attempt; only the fields that labs look at.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    pub time: String,
    pub verdict: String,
    pub reason: String,
    pub severity: String,
    pub protocol: String,
    #[serde(default)]
    pub hook: String,
    #[serde(default)]
    pub policy: String,
    #[serde(default)]
    pub project: String,
    #[serde(default)]
    pub rule_at: String,
    pub source: Peer,
    pub destination: Peer,
}

/// One end of an attempt.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    pub kind: String,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
}

impl Peer {
    /// The name that a person knows it by.
    #[must_use]
    pub fn label(&self) -> String {
        match (&self.project, &self.service) {
            (Some(project), Some(service)) => format!("{project}/{service}"),
            _ => match (&self.container, &self.address) {
                (Some(container), _) => format!("{} {container}", self.kind),
                (None, Some(address)) => format!("{} {address}", self.kind),
                (None, None) => self.kind.clone(),
            },
        }
    }
}

impl Event {
    /// The event as one line for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let clock = self.time.split(['T', '.', 'Z']).nth(1).unwrap_or(&self.time);
        let port = self.destination.port.map(|port| format!(":{port}")).unwrap_or_default();
        let at = if self.rule_at.is_empty() { String::new() } else { format!(", {}", self.rule_at) };
        format!(
            "{clock}  {} {} -> {}{port}/{}  ({}{at})",
            self.verdict,
            self.source.label(),
            self.destination.label(),
            self.protocol,
            self.reason,
        )
    }
}

/// Reads event lines; a last line without its end is still being written and is left out.
pub fn events(text: &str) -> Result<Vec<Event>> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n') && !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("not an event: {line}")))
        .collect()
}

/// One sample of the Prometheus text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    /// The line as it stood.
    pub line: String,
}

/// Reads the text format; comments are left out.
#[must_use]
pub fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()?, line: line.to_owned() })
}

fn labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"")?;
        // No label of the agent holds a quote: names are compose names, ports and words of its own.
        let (value, rest) = rest.split_once('"')?;
        labels.insert(key.to_owned(), value.to_owned());
        text = rest.trim_start_matches(',');
    }
    Some(labels)
}

/// The sum of all samples of a metric that carry these labels.
#[must_use]
pub fn sum(samples: &[Sample], name: &str, wanted: &[(&str, &str)]) -> f64 {
    samples
        .iter()
        .filter(|sample| sample.name == name)
        .filter(|sample| {
            wanted.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
        .map(|sample| sample.value)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_samples_with_the_wanted_labels() {
        let text = "# HELP a b\na_total{policy=\"app\",port=\"5432\"} 3\na_total{policy=\"app\",port=\"80\"} 4\nup 1\n";
        let read = samples(text);
        assert_eq!(sum(&read, "a_total", &[("policy", "app")]), 7.0);
        assert_eq!(sum(&read, "a_total", &[("port", "80")]), 4.0);
        assert_eq!(sum(&read, "up", &[]), 1.0);
    }

    #[test]
    fn an_event_reads_as_a_sentence() {
        let line = r#"{"time":"2026-11-22T10:15:04.113Z","verdict":"dropped","reason":"no_rule","severity":"critical","policy":"qerds","rule_at":"policies/qerds.yaml:31","project":"qerds","protocol":"tcp","source":{"kind":"service","project":"qerds","service":"mailpit","address":"198.18.0.7","port":40112},"destination":{"kind":"service","project":"qerds","service":"qerds-trust","port":8080}}"#;
        let read = events(&format!("{line}\n{{\"unfinished")).unwrap();
        assert_eq!(
            read[0].sentence(),
            "10:15:04  dropped qerds/mailpit -> qerds/qerds-trust:8080/tcp  (no_rule, policies/qerds.yaml:31)"
        );
        assert_eq!(read.len(), 1);
    }
}
