//! An agent process with any flags, and commands that have to end by themselves: what they say and how they end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::interrupt::wait_for;
use lab::netns::Netns;
use lab::observed::{self, Event, Sample, sum};
use lab::patience::patient;
use lab::process::{shown, stop_child};
use lab::scratch::Scratch;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that should happen at once.
pub const SOON: Duration = Duration::from_secs(15);

/// A running agent. It is stopped when the value goes; what it enforces stays.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    netns: PathBuf,
    directory: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, an agent inside `host` that writes into the directory of `scratch`.
    pub fn spawn(command: &mut Command, host: &Netns, scratch: &Scratch) -> Result<Self> {
        let directory = scratch.path().to_path_buf();
        let log = (0..)
            .map(|number| directory.join(format!("agent-{number}.log")))
            .find(|path| !path.exists())
            .context("no free name for a log")?;
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start `{}`", shown(command)))?;
        scratch.note_process(child.id())?;
        Ok(Self { child, netns: host.path(), directory, log })
    }

    /// What the kernel says of each of its threads: `/proc/PID/task/*/status`.
    pub fn threads(&self) -> Result<Vec<String>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        threads.map(|thread| Ok(fs::read_to_string(thread?.path().join("status"))?)).collect()
    }

    /// Waits until `/readyz` says so.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let waited = wait_for("the agent", SOON, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status})");
            }
            Ok(self.get("/readyz").is_ok_and(|(status, _)| status == 200).then_some(()))
        });
        waited.with_context(|| format!("the agent's last words:\n{}", self.log()))
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines of the log hold these words.
    #[must_use]
    pub fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Status and body of a page.
    pub fn get(&self, page: &str) -> Result<(u16, String)> {
        lab::agent::get(&self.netns, page)
    }

    /// Every sample of `/metrics`.
    pub fn metrics(&self) -> Result<Vec<Sample>> {
        lab::agent::metrics(&self.netns)
    }

    /// The sum of a metric's samples with these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(sum(&self.metrics()?, name, labels))
    }

    /// Waits until a metric has a value.
    pub fn wait_for_metric(&self, name: &str, wanted: f64) -> Result<()> {
        wait_for(
            &format!("`{name}` {wanted}"),
            SOON,
            || Ok((self.metric(name, &[])? == wanted).then_some(())),
        )
        .with_context(|| format!("the agent's last words:\n{}", self.log()))
    }

    /// The number of the entries in force.
    pub fn revision(&self) -> Result<u64> {
        let samples = self.metrics()?;
        let info = samples.iter().find(|sample| sample.name == "portcullis_policy_info");
        let revision = info.and_then(|info| info.labels.get("revision")).context("no revision")?;
        revision.parse().context("not a number")
    }

    /// Waits until the revision is another than this.
    pub fn wait_for_another_revision(&self, than: u64) -> Result<u64> {
        wait_for("another revision", SOON, || {
            let revision = self.revision()?;
            Ok((revision != than).then_some(revision))
        })
        .with_context(|| format!("the agent's last words:\n{}", self.log()))
    }

    /// Every event written so far.
    pub fn events(&self) -> Result<Vec<Event>> {
        observed::events(&fs::read_to_string(self.directory.join("events.jsonl")).unwrap_or_default())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Keeps it from running until [`Self::resume`]; returns once no thread of it runs.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let threads = format!("/proc/{}/task", self.child.id());
        wait_for("the agent to stop", SOON, || {
            for thread in fs::read_dir(&threads)? {
                let status = fs::read_to_string(thread?.path().join("status"))?;
                if !status.contains("\nState:\tT") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Lets it run on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(pid, signal).context("failed to signal the agent")
    }

    /// Stops it as a service manager does; how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait_for("the end of the agent", SOON, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        stop_child(&mut self.child, Duration::from_secs(10));
    }
}

/// A command that has ended: its exit code and what it said.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub data: String,
    pub said: String,
}

impl Refusal {
    /// Runs a command that has to end soon.
    pub fn of(command: &mut Command) -> Result<Self> {
        let name = shown(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("failed to start `{name}`"))?;
        let deadline = Instant::now() + patient(SOON);
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                stop_child(&mut child, Duration::from_secs(5));
                let output = child.wait_with_output()?;
                bail!("`{name}` did not end: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output()?;
        Ok(Self {
            code: output.status.code(),
            data: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Panics unless the command could not do its job, said all these words, and said it once.
    pub fn assert_refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{}", self.said);
        for word in words {
            assert!(self.said.contains(word), "`{word}` is not in: {}", self.said);
        }
        assert!(!self.said.contains("panicked"), "{}", self.said);
        assert!(self.said.lines().count() < 40, "too much to read: {}", self.said);
    }
}

/// Every file below a directory.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
