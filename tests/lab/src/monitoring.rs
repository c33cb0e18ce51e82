//! A real Prometheus and a real Alertmanager inside a lab's host, with the configuration and the rules that are
//! shipped. Only their durations are divided, all by one number, so that minutes pass in seconds.

pub mod dashboard;
mod http;
mod pace;
pub mod webhook;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::interrupt::wait_for;
use crate::netns::Netns;
use crate::process::{shown, stop_child};
use crate::scratch::Scratch;
use crate::tools::{find, lab_tools, repository};
use webhook::Webhook;

const PROMETHEUS: u16 = 9090;
const ALERTMANAGER: u16 = 9093;
/// Where the shipped Alertmanager configuration sends messages.
const WEBHOOK: u16 = 9199;
const SHIPPED: [&str; 3] = ["portcullis.rules.yml", "prometheus.yml", "alertmanager.yml"];

/// Both of them, and somebody who takes the messages.
#[derive(Debug)]
pub struct Monitoring {
    prometheus: Child,
    alertmanager: Child,
    pub webhook: Webhook,
    netns: PathBuf,
}

impl Monitoring {
    /// Starts them in `host`, where the agent listens, and waits until they are ready.
    pub fn start(host: &Netns, scratch: &Scratch, faster: u32) -> Result<Self> {
        let directory = scratch.path().join("monitoring");
        fs::create_dir_all(&directory)?;
        for name in SHIPPED {
            let shipped = fs::read_to_string(repository().join("deploy/prometheus").join(name))
                .with_context(|| format!("failed to read `{name}`"))?;
            fs::write(directory.join(name), pace::faster(&shipped, faster)?)?;
        }
        let webhook = Webhook::start(&host.path(), WEBHOOK)?;
        let file = |name: &str| format!("={}", directory.join(name).display());
        let alertmanager = spawn(
            host,
            scratch,
            "prometheus-alertmanager",
            &[
                format!("--config.file{}", file("alertmanager.yml")),
                format!("--storage.path{}", file("alerts")),
                format!("--web.listen-address=127.0.0.1:{ALERTMANAGER}"),
                // One alone needs no cluster.
                "--cluster.listen-address=".to_owned(),
            ],
        )?;
        let prometheus = spawn(
            host,
            scratch,
            "prometheus",
            &[
                format!("--config.file{}", file("prometheus.yml")),
                format!("--storage.tsdb.path{}", file("series")),
                format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"),
            ],
        )?;
        let mut monitoring = Self { prometheus, alertmanager, webhook, netns: host.path() };
        monitoring.wait_until_ready(&directory)?;
        Ok(monitoring)
    }

    fn wait_until_ready(&mut self, directory: &Path) -> Result<()> {
        for (port, name) in [(PROMETHEUS, "prometheus"), (ALERTMANAGER, "prometheus-alertmanager")] {
            let ready = || Ok(http::get(&self.netns, port, "/-/ready").is_ok().then_some(()));
            wait_for(name, Duration::from_secs(20), ready).with_context(|| {
                let log = directory.join(format!("{name}.log"));
                format!("its last words:\n{}", fs::read_to_string(log).unwrap_or_default())
            })?;
        }
        Ok(())
    }

    /// The series that an expression has now: each with its labels and value.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let page = format!("/api/v1/query?query={}", http::escaped(expression));
        result(self.api(&page, expression)?)
    }

    /// The same over a while: seconds since 1970, and seconds between two values.
    pub fn query_range(&self, expression: &str, start: f64, end: f64, step: f64) -> Result<Vec<Value>> {
        let page = format!(
            "/api/v1/query_range?query={}&start={start:.3}&end={end:.3}&step={step}",
            http::escaped(expression)
        );
        result(self.api(&page, expression)?)
    }

    /// The values of a label, of series that match.
    pub fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        let page = format!("/api/v1/label/{label}/values?match[]={}", http::escaped(selector));
        let mut answer = self.api(&page, selector)?;
        serde_json::from_value(answer["data"].take()).context("not a list of label values")
    }

    fn api(&self, page: &str, expression: &str) -> Result<Value> {
        let body =
            http::get(&self.netns, PROMETHEUS, page).with_context(|| format!("asked for {expression}"))?;
        serde_json::from_str(&body).context("Prometheus did not answer with JSON")
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
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        stop_child(&mut self.prometheus, Duration::from_secs(5));
        stop_child(&mut self.alertmanager, Duration::from_secs(5));
    }
}

fn result(mut answer: Value) -> Result<Vec<Value>> {
    match answer["data"]["result"].take() {
        Value::Array(series) => Ok(series),
        other => bail!("not a list of series: {other}"),
    }
}

fn spawn(host: &Netns, scratch: &Scratch, program: &str, arguments: &[String]) -> Result<Child> {
    let path = find(program).with_context(|| format!("`{program}` is missing: run `cargo xtask setup`"))?;
    let log = File::create(scratch.path().join("monitoring").join(format!("{program}.log")))?;
    let mut command = at_home(host, &path);
    command.args(arguments).arg("--log.level=warn");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = command.spawn().with_context(|| format!("failed to start `{}`", shown(&command)))?;
    scratch.note_process(child.id())?;
    Ok(child)
}

/// A command for a program that may only be unpacked: Debian's Alertmanager reads files below `/usr/share` by their
/// absolute path, so it gets to see that folder of the package there, it alone.
fn at_home(host: &Netns, program: &Path) -> Command {
    let unpacked = lab_tools();
    if !program.starts_with(&unpacked) {
        return host.command(program);
    }
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /usr/share && exec "$@""#]);
    command.arg(unpacked.join("usr/share")).arg(program);
    command
}
