//! `cargo xtask dashboards`: plays attacks in a lab whose containers are namespaces, asks a real Prometheus what the shipped dashboards
//! ask, and draws them with Grafana's own panels in a browser without a window. The pictures go to docs/images. No
//! Grafana server takes part: what it would do with variables and options is done here and in `dashboards/page`.

mod browser;
mod scenario;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lab::agent::{Agent, Inventory};
use lab::engine::DockerHost;
use lab::monitoring::Monitoring;
use lab::monitoring::dashboard::{self, Choice, Dashboard};
use lab::plain_lab::PlainLab;
use lab::tools::{Tools, repository};
use lab::{interrupt, sweep};
use serde_json::{Value, json};

use crate::{build, setup};

const PICTURES: &str = "docs/images";
/// By how much the shipped durations are divided: five minutes pass in twenty seconds, and a scrape has a second.
const FASTER: u32 = 15;
/// Seconds between two points of a curve.
const STEP: u64 = 1;
/// What Grafana would choose at such an interval of scrapes and points, made a little smoother.
const RATE_INTERVAL: &str = "6s";

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only check the types of the dashboards, which needs neither root nor a lab
    #[arg(long)]
    types: bool,
    /// Draw once more what the last run saw
    #[arg(long, conflicts_with = "types")]
    redraw: bool,
    /// Use this agent instead of building one
    #[arg(long, value_name = "BINARY")]
    agent: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::install();
    let dashboards = dashboard::all()?;
    let browser = browser::Browser::ensure(!arguments.types)?;
    if !browser.types_hold(&dashboards)? {
        return Ok(ExitCode::FAILURE);
    }
    println!("dashboards: the types of {} dashboards are Grafana's", dashboards.len());
    if arguments.types {
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.redraw {
        return draw(&browser, &dashboards);
    }
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the lab makes network namespaces and loads kernel programs, which needs root");
        return Ok(ExitCode::from(2));
    }
    sweep::dead()?;
    let agent = match &arguments.agent {
        Some(binary) => std::path::absolute(binary)?,
        None => build::agent(false)?,
    };
    let seen = play(&agent, &dashboards)?;
    for (dashboard, seen) in dashboards.iter().zip(&seen) {
        browser.write_page(short(dashboard), seen)?;
    }
    draw(&browser, &dashboards)
}

fn draw(browser: &browser::Browser, dashboards: &[Dashboard]) -> Result<ExitCode> {
    browser.bundle()?;
    for dashboard in dashboards {
        let picture = repository().join(PICTURES).join(format!("dashboard-{}.png", short(dashboard)));
        browser.draw(short(dashboard), height(dashboard), &picture)?;
        println!("dashboards: drew `{}`", picture.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn short(dashboard: &Dashboard) -> &str {
    dashboard.name.strip_prefix("portcullis-").unwrap_or(&dashboard.name)
}

/// Rows of a dashboard, as Grafana counts them.
fn height(dashboard: &Dashboard) -> u64 {
    let panels = dashboard.json["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bottom = |panel: &Value| {
        panel["gridPos"]["y"].as_u64().unwrap_or_default()
            + panel["gridPos"]["h"].as_u64().unwrap_or_default()
    };
    panels.iter().map(bottom).max().unwrap_or_default()
}

/// Plays the attacks; what each dashboard would show of them.
fn play(binary: &Path, dashboards: &[Dashboard]) -> Result<Vec<Value>> {
    let lab = PlainLab::start(&|step| println!("dashboards: {step}"))?;
    let policies = lab.scratch().path().join("policies");
    copy_policies(&policies)?;
    // For the audits; what is attacked is the lab.
    let engine = DockerHost::start(Tools::locate()?)?;
    let inventory = Inventory::Audited(lab.inventory(), engine.url());
    let agent = Agent::start(binary, lab.host(), lab.scratch(), &policies, &inventory, "production")?;
    let monitoring = Monitoring::start(lab.host(), lab.scratch(), FASTER)?;
    println!("dashboards: attacking for {} seconds", scenario::LENGTH.as_secs());
    // The beginning of what is shown has to know what came before, delays as well.
    std::thread::sleep(Duration::from_secs(5));
    scenario::restart(&lab)?;
    std::thread::sleep(Duration::from_secs(25));
    let from = now();
    scenario::play(&lab, &policies, &engine)?;
    let to = now();
    let choice =
        Choice { rate_interval: RATE_INTERVAL.to_owned(), range: format!("{}s", to.saturating_sub(from)) };
    let pages = dashboards.iter().map(|dashboard| page(&monitoring, dashboard, &choice, from, to));
    let pages = pages.collect();
    drop(monitoring);
    drop(agent);
    pages
}

fn copy_policies(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for name in ["app.yaml", "qerds.yaml"] {
        fs::copy(repository().join("policies").join(name), to.join(name))?;
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// All that a dashboard's page needs: the dashboard and the answers to its queries.
fn page(
    monitoring: &Monitoring,
    dashboard: &Dashboard,
    choice: &Choice,
    from: u64,
    to: u64,
) -> Result<Value> {
    let mut answers = serde_json::Map::new();
    for query in dashboard.queries(choice) {
        let series = if query.instant {
            monitoring.prometheus.query(&query.expression)?
        } else {
            monitoring.prometheus.query_range(&query.expression, from as f64, to as f64, STEP as f64)?
        };
        let answer = json!({
            "refId": query.reference, "legend": query.legend, "table": query.table, "series": series
        });
        let panel = answers.entry(query.id.to_string()).or_insert_with(|| json!([]));
        panel.as_array_mut().context("not a list of answers")?.push(answer);
    }
    let loaded = &dashboard.json["annotations"]["list"][0]["expr"];
    let loaded = choice.put_into(loaded.as_str().context("no annotation")?);
    let loaded = monitoring.prometheus.query_range(&loaded, from as f64, to as f64, STEP as f64)?;
    Ok(json!({
        "dashboard": dashboard.json, "answers": answers, "annotations": moments(&loaded),
        "from": from * 1000, "to": to * 1000, "step": STEP * 1000,
    }))
}

/// The different values of series whose values are points in time.
fn moments(series: &[Value]) -> Vec<f64> {
    let mut moments: Vec<f64> = series
        .iter()
        .filter_map(|series| series["values"].as_array())
        .flatten()
        .filter_map(|point| point[1].as_str()?.parse().ok())
        .collect();
    moments.dedup();
    moments
}
