//! The agent inside a lab, used as its users do: by its command line, its HTTP endpoints, its files and signals.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt::wait_for;
use crate::netns::{Netns, within};
use crate::observed::{self, Event, Sample};
use crate::patience::patient;
use crate::process::{output, run, shown, stop_child};
use crate::scratch::{Scratch, mount_bpffs};
use crate::tools::repository;

/// Where the agent listens; every lab has a network of its own, so the usual port is free.
pub const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 10477);

/// Where the agent learns about containers.
#[derive(Debug, Clone)]
pub enum Inventory {
    /// An engine at this URL.
    Docker(String),
    File(PathBuf),
    /// A file; and an engine at this URL is audited every ten seconds.
    Audited(PathBuf, String),
}

/// A running agent; it is stopped and detached when the value goes.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    binary: PathBuf,
    netns: PathBuf,
    directory: PathBuf,
    kept: bool,
}

impl Agent {
    /// Starts the agent in `host` and waits until it enforces all it found. Everything it writes lies in the lab's
    /// directory, also its pins: a bpffs of the lab's own is mounted there.
    pub fn start(
        binary: &Path,
        host: &Netns,
        scratch: &Scratch,
        policies: &Path,
        inventory: &Inventory,
        profile: &str,
    ) -> Result<Self> {
        Self::start_with(binary, host, scratch, policies, inventory, profile, &[])
    }

    /// The same, with more arguments for `run`.
    pub fn start_with(
        binary: &Path,
        host: &Netns,
        scratch: &Scratch,
        policies: &Path,
        inventory: &Inventory,
        profile: &str,
        more: &[&str],
    ) -> Result<Self> {
        let directory = scratch.path().join("agent");
        let pins = directory.join("bpf");
        fs::create_dir_all(directory.join("state"))?;
        if crate::sweep::mounts_below(&pins).is_empty() {
            mount_bpffs(&pins)?;
        }
        let mut command = host.command(binary);
        command.arg("run").arg("--policy").arg(policies);
        match inventory {
            Inventory::Docker(url) => command.args(["--inventory", "docker", "--docker-host", url]),
            Inventory::File(file) => command.arg("--inventory").arg(file),
            Inventory::Audited(file, engine) => {
                let settings = directory.join("agent.yaml");
                fs::write(&settings, "audit: { interval: 10s }\n")?;
                command.arg("--config").arg(settings).env("DOCKER_HOST", engine);
                command.arg("--inventory").arg(file)
            }
        };
        command
            .args(["--profile", profile, "--listen", &format!("{}:{}", LISTEN.0, LISTEN.1)])
            .arg("--control")
            .arg(directory.join("control.sock"))
            .arg("--pin-dir")
            .arg(pins.join("portcullis"))
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--events")
            .arg(directory.join("events.jsonl"))
            .args(more);
        let log = File::create(directory.join("agent.log"))?;
        fs::write(directory.join("command"), format!("{}\n", shown(&command)))?;
        // Relative paths of policies stay short, in what the agent prints as on its command line.
        command
            .current_dir(repository())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start `{}`", binary.display()))?;
        scratch.note_process(child.id())?;
        let mut agent =
            Self { child, binary: binary.to_path_buf(), netns: host.path(), directory, kept: false };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let waited = wait_for("the agent", Duration::from_secs(30), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status})");
            }
            Ok(self.get("/readyz").is_ok_and(|(status, _)| status == 200).then_some(()))
        });
        waited.with_context(|| format!("the agent's last words:\n{}", self.log_tail()))
    }

    /// The end of the agent's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// All of the agent's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }

    /// Status and body of a page.
    pub fn get(&self, page: &str) -> Result<(u16, String)> {
        get(&self.netns, page)
    }

    /// Every sample of `/metrics`.
    pub fn metrics(&self) -> Result<Vec<Sample>> {
        metrics(&self.netns)
    }

    /// Every event written so far.
    pub fn events(&self) -> Result<Vec<Event>> {
        observed::events(&fs::read_to_string(self.directory.join("events.jsonl")).unwrap_or_default())
    }

    /// What `portcullis status -o json` says.
    pub fn status(&self) -> Result<serde_json::Value> {
        let text = run(Command::new(&self.binary)
            .args(["status", "-o", "json", "--control"])
            .arg(self.directory.join("control.sock")))?;
        serde_json::from_str(&text).context("`status` did not print JSON")
    }

    /// Sends SIGHUP: the policy is to be read again.
    pub fn reload(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(pid, Signal::HUP).context("failed to signal the agent")
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its pins are.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.directory.join("bpf/portcullis")
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops the agent; what it enforces stays in force.
    pub fn stop(&mut self) {
        stop_child(&mut self.child, Duration::from_secs(10));
    }

    /// Ends the agent as a crash would; what it enforces is left to the next one.
    pub fn kill(&mut self) -> Result<()> {
        self.kept = true;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Removes what it enforces; works on a stopped agent too.
    pub fn detach(&self) -> Result<()> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg("--")
            .arg(&self.binary)
            .args(["detach", "--pin-dir"])
            .arg(self.pin_dir());
        let output = output(&mut command)?;
        if !output.status.success() {
            bail!("`{}` failed: {}", shown(&command), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Leaves the agent running when the value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.stop();
        // A lab may outlive its agent: the next one must find it as if there had been none.
        if let Err(error) = self.detach() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Status and body of a page of the agent that listens in a network namespace.
pub fn get(netns: &Path, page: &str) -> Result<(u16, String)> {
    let request = format!("GET {page} HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n");
    let text = within(netns, move || -> Result<String> {
        let limit = patient(Duration::from_secs(5));
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(LISTEN), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

/// Every sample of the `/metrics` of the agent that listens in a network namespace.
pub fn metrics(netns: &Path) -> Result<Vec<Sample>> {
    let (status, body) = get(netns, "/metrics")?;
    if status != 200 {
        bail!("/metrics answered {status}");
    }
    Ok(observed::samples(&body))
}
