//! The audit that the agent makes at an interval: `portcullis audit --passive` as a process of its own, of low priority,
//! with bounded time and memory. Whatever becomes of it, what enforces does not notice.

use std::{io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit, setpriority_process};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::open::open_in;
use crate::{
    config::{Inventory, Settings},
    reconcile::Chain,
    state::AgentState,
    status::unix_seconds,
    telemetry::audit::{LastRun, Open, Runs},
};

/// How long one audit may take, how much it may say and how much memory it may use.
const LIMIT: Duration = Duration::from_secs(180);
const LARGEST_REPORT: u64 = 64 << 20;
const MEMORY: u64 = 512 << 20;
/// The lowest.
const PRIORITY: i32 = 19;
/// Sooner killed than anything else, where memory is short.
const OOM_SCORE: &str = "900";
/// How long after everything is enforced the first one begins.
const FIRST: Duration = Duration::from_secs(5);

/// What the agent is told about its audits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub interval: Duration,
    /// Findings that are accepted.
    pub baseline: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("failed to start `portcullis audit`")]
    Start(#[source] io::Error),
    #[error("failed to read what `portcullis audit` says")]
    Read(#[source] io::Error),
    #[error("it was not done within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error("{0}")]
    NoReport(String),
}

/// Audits for as long as somebody listens. Begins when everything is enforced.
pub async fn run(
    plan: Plan,
    settings: Settings,
    mut state: watch::Receiver<Arc<AgentState>>,
    runs: watch::Sender<Arc<Runs>>,
) {
    if state.wait_for(|state| state.ready).await.is_err() {
        return;
    }
    let mut ticks = interval_at(Instant::now() + FIRST, plan.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !runs.is_closed() {
        ticks.tick().await;
        let began = Instant::now();
        let came = once(&mut command(&plan, &settings)).await;
        let last = LastRun { ended: unix_seconds(), took: began.elapsed(), successful: came.is_ok() };
        let before = Arc::clone(&runs.borrow());
        tell(&before, &came);
        let open = came.ok().or_else(|| before.open.clone());
        runs.send_replace(Arc::new(Runs { interval: Some(plan.interval), last: Some(last), open }));
    }
}

/// The running program itself, whatever has become of its file.
fn command(plan: &Plan, settings: &Settings) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["audit", "--passive", "--output", "json", "--fail-on", "never"]);
    for policy in &settings.policy {
        command.arg("--policy").arg(policy);
    }
    if let Some(profile) = &settings.profile {
        command.arg("--profile").arg(profile);
    }
    if let Inventory::Docker { url: Some(url) } = &settings.inventory {
        command.arg("--docker-host").arg(url);
    }
    if let Some(baseline) = &plan.baseline {
        command.arg("--baseline").arg(baseline);
    }
    command.arg("--control").arg(&settings.control);
    // It is not the one that the service manager waits for.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn once(command: &mut Command) -> Result<Open, RunError> {
    let mut child = command.spawn().map_err(RunError::Start)?;
    restrain(&child);
    let (out, error) = (child.stdout.take(), child.stderr.take());
    // Whoever is too late is killed when `child` goes.
    let (report, said, _ended) = timeout(LIMIT, async { tokio::join!(read(out), read(error), child.wait()) })
        .await
        .map_err(|_late| RunError::TimedOut)?;
    let (report, said) = (report.map_err(RunError::Read)?, said.map_err(RunError::Read)?);
    if report.is_empty() {
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or("it ended without a word");
        return Err(RunError::NoReport(first.trim_start_matches("error: ").to_owned()));
    }
    open_in(&report).map_err(RunError::NoReport)
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(LARGEST_REPORT).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What the machine has is for others first. A limit that cannot be set is no reason not to look.
fn restrain(child: &Child) {
    let Some(id) = child.id() else { return };
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return };
    let memory = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    let set = [
        setpriority_process(Some(pid), PRIORITY).map_err(io::Error::from),
        prlimit(Some(pid), Resource::Data, memory).map(drop).map_err(io::Error::from),
        std::fs::write(format!("/proc/{id}/oom_score_adj"), OOM_SCORE),
    ];
    for error in set.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a limit of the audit was not set");
    }
}

/// Into the log what has changed: the metrics have the rest.
fn tell(before: &Runs, came: &Result<Open, RunError>) {
    let open = match came {
        Ok(open) => open,
        Err(error) => {
            if before.last.is_none_or(|last| last.successful) {
                tracing::warn!(error = %Chain(error), "the audit failed; what it found before stands");
            }
            return;
        }
    };
    let count = |open: Option<&Open>, key| open.and_then(|open| open.findings.get(key)).copied().unwrap_or(0);
    for (key @ (code, severity), &now) in &open.findings {
        let then = count(before.open.as_ref(), key);
        match now.cmp(&then) {
            std::cmp::Ordering::Greater => {
                tracing::warn!(
                    code,
                    severity,
                    open = now,
                    "the audit has found something; `portcullis audit` says what"
                );
            }
            std::cmp::Ordering::Less => tracing::info!(code, severity, open = now, "the audit finds less"),
            std::cmp::Ordering::Equal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(script: &str) -> Result<Open, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        once(&mut command).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_printed_is_counted() {
        let report = r#"{"error":null,"baseline":[],"instances":[{"findings":[{"code":"F009"},{"code":"F009"},{"code":"X"}]}],
            "lines":[{"code":"A19","outcome":"failed"},{"code":"A01","outcome":"failed","accepted":"a reason"},
                     {"code":"A22","outcome":"could_not_tell"},{"code":"A02","outcome":"passed"}]}"#;
        let open = says(&format!("echo '{report}'; exit 1")).await.unwrap();
        let found: Vec<_> = open.findings.iter().filter(|(_, count)| **count > 0).collect();
        assert_eq!(found, [(&("A19", "error"), &1), (&("F009", "error"), &2)]);
        assert_eq!(open.untold.iter().filter(|(_, count)| **count > 0).collect::<Vec<_>>(), [(&"A22", &1)]);
    }

    #[tokio::test]
    async fn without_a_report_it_says_why() {
        assert_eq!(
            says("echo 'error: a mistake' >&2; echo more >&2; exit 2").await,
            Err("a mistake".to_owned())
        );
        assert_eq!(says("exit 3").await, Err("it ended without a word".to_owned()));
        assert!(says("echo nonsense").await.unwrap_err().starts_with("no report: "));
        let unreachable = r#"{"error":"nobody answers","baseline":[],"instances":[],"lines":[]}"#;
        assert_eq!(says(&format!("echo '{unreachable}'")).await, Err("nobody answers".to_owned()));
    }

    #[tokio::test]
    async fn it_yields_to_everything_else() {
        let mut command = Command::new("/bin/sh");
        // Waits until it has been restrained.
        command.args(["-c", "read go; nice; ulimit -d; cat /proc/self/oom_score_adj"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        restrain(&child);
        drop(child.stdin.take());
        let said = read(child.stdout.take()).await.unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), format!("{PRIORITY}\n{}\n{OOM_SCORE}\n", MEMORY >> 10));
        assert!(child.wait().await.unwrap().success());
    }
}
