//! What a Prometheus knows, wherever in a lab it runs: asked inside its namespace.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http;

/// Where it listens.
pub const PORT: u16 = 9090;

/// A Prometheus that listens on its host's own address.
#[derive(Debug)]
pub struct Prometheus {
    netns: PathBuf,
}

impl Prometheus {
    /// The one in a namespace.
    #[must_use]
    pub fn within(netns: PathBuf) -> Self {
        Self { netns }
    }

    /// The series that an expression has now: each with its labels and value.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let page = format!("/api/v1/query?query={}", http::escaped(expression));
        result(self.api(&page).with_context(|| format!("asked for {expression}"))?)
    }

    /// The same over a while: seconds since 1970, and seconds between two values.
    pub fn query_range(&self, expression: &str, start: f64, end: f64, step: f64) -> Result<Vec<Value>> {
        let page = format!(
            "/api/v1/query_range?query={}&start={start:.3}&end={end:.3}&step={step}",
            http::escaped(expression)
        );
        result(self.api(&page).with_context(|| format!("asked for {expression}"))?)
    }

    /// The names of alerts that fire, each once.
    pub fn firing(&self) -> Result<Vec<String>> {
        let firing = self.query(r#"count by (alertname) (ALERTS{alertstate="firing"})"#)?;
        Ok(firing
            .iter()
            .filter_map(|series| series["metric"]["alertname"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// The names of the alerts that it has rules for, one for each rule.
    pub fn alerts(&self) -> Result<Vec<String>> {
        let mut answer = self.api("/api/v1/rules?type=alert")?;
        let Value::Array(groups) = answer["data"]["groups"].take() else { bail!("no groups of rules") };
        let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
        Ok(rules.filter_map(|rule| rule["name"].as_str()).map(str::to_owned).collect())
    }

    fn api(&self, page: &str) -> Result<Value> {
        serde_json::from_str(&http::get(&self.netns, PORT, page)?)
            .context("Prometheus did not answer with JSON")
    }
}

fn result(mut answer: Value) -> Result<Vec<Value>> {
    match answer["data"]["result"].take() {
        Value::Array(series) => Ok(series),
        other => bail!("not a list of series: {other}"),
    }
}
