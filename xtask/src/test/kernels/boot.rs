//! Boots a guest by emulation and lets its serial console through, for a bounded time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::process::stop_child;
use lab::{interrupt, tools};

use super::EMULATOR;
use super::packages::Kernel;

/// By emulation, also where there is /dev/kvm: nested virtualisation hangs on some machines. One processor, since
/// guests run side by side. The plain one is emulated fastest.
const MACHINE: [&str; 8] =
    ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64", "-smp", "1", "-m", "2048"];
const DEVICES: [&str; 11] = [
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-display",
    "none",
    "-nic",
    "none",
    "-monitor",
    "none",
    "-serial",
    "stdio",
];
/// Nobody attacks a guest, so that it needs no mitigations; and how long a grace period takes is not tested. By the last
/// word a test knows that the clock is not that of a real machine.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=2 panic=-1 mitigations=off init_on_alloc=0 rcupdate.rcu_expedited=1 portcullis.guest";

/// Boots and returns every line that the guest said. A guest that takes too long is ended, which its missing last
/// words show.
pub(super) fn boot(
    kernel: &Kernel,
    image: &Path,
    lockdown: Option<&str>,
    limit: Duration,
) -> Result<Vec<String>> {
    let lockdown = lockdown.map_or_else(String::new, |mode| format!(" lockdown={mode}"));
    let emulator = tools::find(EMULATOR.0).with_context(|| format!("`{}` is missing", EMULATOR.0))?;
    let mut child = Command::new(emulator)
        .args(MACHINE)
        .args(DEVICES)
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!("{COMMAND_LINE}{lockdown}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("the guest has no console")?;
    let (sender, lines) = mpsc::channel();
    // Ends with the emulator, whose end of the pipe it reads.
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                println!("{:<5}{:>4} | {line}", kernel.line(), start.elapsed().as_secs());
                said.push(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if start.elapsed() > limit || interrupt::arrived() {
            println!("{:<9} | ended after {} s", kernel.line(), start.elapsed().as_secs());
            break;
        }
    }
    stop_child(&mut child, Duration::from_secs(2));
    drop(reader.join());
    Ok(said)
}
