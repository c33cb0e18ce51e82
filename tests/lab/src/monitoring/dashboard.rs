//! The shipped Grafana dashboards as far as queries go: their panels' expressions with the variables put in, as Grafana
//! would before it asks Prometheus.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tools::repository;

/// One dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    pub name: String,
    pub json: Value,
}

/// One query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    pub panel: String,
    /// The panel's number.
    pub id: u64,
    pub reference: String,
    pub expression: String,
    /// A value of now instead of a curve.
    pub instant: bool,
    /// The name of each series, with labels in double braces.
    pub legend: String,
    /// All series as rows of one table.
    pub table: bool,
}

/// What is chosen in the dashboard's head, and what Grafana knows by itself.
#[derive(Debug, Clone)]
pub struct Choice {
    pub rate_interval: String,
    pub range: String,
}

impl Choice {
    /// The expression with every variable put in. Those for which everything is chosen stand for any value.
    #[must_use]
    pub fn put_into(&self, expression: &str) -> String {
        expression
            .replace("$__rate_interval", &self.rate_interval)
            .replace("$__range", &self.range)
            .replace("$job", ".+")
            .replace("$instance", ".+")
            .replace("$project", ".+")
    }
}

/// Every shipped dashboard, by name.
pub fn all() -> Result<Vec<Dashboard>> {
    let folder = repository().join("deploy/grafana/dashboards");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("failed to read `{}`", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "json")).map(read).collect()
}

fn read(file: &PathBuf) -> Result<Dashboard> {
    let text = fs::read_to_string(file)?;
    let json = serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Dashboard { name, json })
}

impl Dashboard {
    /// The panels without the rows that only hold them together.
    #[must_use]
    pub fn panels(&self) -> Vec<&Value> {
        let panels = self.json["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
        panels.iter().filter(|panel| panel["type"] != "row").collect()
    }

    /// Every query of every panel.
    #[must_use]
    pub fn queries(&self, choice: &Choice) -> Vec<Query> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query {
                    panel: text(&panel["title"]),
                    id: panel["id"].as_u64().unwrap_or_default(),
                    reference: text(&target["refId"]),
                    expression: choice.put_into(&text(&target["expr"])),
                    instant: target["instant"].as_bool().unwrap_or_default(),
                    legend: text(&target["legendFormat"]),
                    table: target["format"] == "table",
                });
            }
        }
        queries
    }
}
