//! Running commands to their end, and ending long-lived ones by process id within a bounded time.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Runs a command, captures what it says and fails with it when the command does.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed ({}): {}", shown(command), output.status, said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever it returns.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("failed to run `{}`", shown(command)))
}

/// A command from words; the words are fixed or made by the lab, never by a user.
pub fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn said(output: &Output) -> String {
    let both = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&both).trim().to_owned();
    let start = text.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    text[start..].to_owned()
}

/// When a process started, in clock ticks since boot: together with its id this names it for good.
#[must_use]
pub fn started_at(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets: fields are counted behind its last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Asks a process to end and kills it after `patience`; returns once it is gone.
pub fn stop(pid: u32, patience: Duration) {
    let Some(started) = started_at(pid) else { return };
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    for (signal, wait) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(5))] {
        if kill_process(target, signal).is_err() {
            return;
        }
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if started_at(pid) != Some(started) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Ends a child and collects it, so that no zombie stays.
pub fn stop_child(child: &mut Child, patience: Duration) {
    if matches!(child.try_wait(), Ok(None)) {
        stop(child.id(), patience);
    }
    // Killed or gone by now: this does not block, and there is nobody left to tell about a failure.
    drop(child.wait());
}

/// Every process of a container engine or an agent whose command line contains `needle`: a person's pager or editor
/// that looks into a lab's directory is nobody's to stop.
#[must_use]
pub fn with_argument(needle: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["containerd", "dockerd", "docker-proxy", "portcullis"]
                .iter()
                .any(|known| name.starts_with(known))
        })
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(needle))
        })
        .collect()
}
