//! A real Prometheus and a real Alertmanager inside a lab's host, with the configuration and the rules that are
//! shipped. Only their durations are divided, all by one number, so that minutes pass in seconds.

pub mod dashboard;
pub mod http;
mod pace;
pub mod prometheus;
pub mod webhook;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::interrupt::wait_for;
use crate::netns::Netns;
use crate::process::{shown, stop_child};
use crate::scratch::Scratch;
use crate::tools::{find, lab_tools, repository};
use prometheus::Prometheus;
use webhook::Webhook;

const ALERTMANAGER: u16 = 9093;
const SHIPPED: [&str; 3] = ["portcullis.rules.yml", "prometheus.yml", "alertmanager.yml"];

/// Both of them, and somebody who takes the messages.
#[derive(Debug)]
pub struct Monitoring {
    pub prometheus: Prometheus,
    pub webhook: Webhook,
    servers: [Child; 2],
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
        let webhook = Webhook::start(&host.path())?;
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
        let server = spawn(
            host,
            scratch,
            "prometheus",
            &[
                format!("--config.file{}", file("prometheus.yml")),
                format!("--storage.tsdb.path{}", file("series")),
                format!("--web.listen-address=127.0.0.1:{}", prometheus::PORT),
            ],
        )?;
        let prometheus = Prometheus::within(host.path());
        let monitoring = Self { prometheus, webhook, servers: [server, alertmanager] };
        wait_until_ready(&host.path(), &directory)?;
        Ok(monitoring)
    }
}

fn wait_until_ready(netns: &Path, directory: &Path) -> Result<()> {
    for (port, name) in [(prometheus::PORT, "prometheus"), (ALERTMANAGER, "prometheus-alertmanager")] {
        let ready = || Ok(http::get(netns, port, "/-/ready").is_ok().then_some(()));
        wait_for(name, Duration::from_secs(20), ready).with_context(|| {
            let log = directory.join(format!("{name}.log"));
            format!("its last words:\n{}", fs::read_to_string(log).unwrap_or_default())
        })?;
    }
    Ok(())
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        for server in &mut self.servers {
            stop_child(server, Duration::from_secs(5));
        }
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
