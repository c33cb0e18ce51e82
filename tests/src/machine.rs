//! A machine of its own: a real systemd, the first process of new namespaces, with a disk that survives its end. Its
//! network is a lab's, its BPF file system is its own. It is no container engine and no virtual machine: the kernel is
//! this one.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::interrupt::wait_for;
use lab::netns::Netns;
use lab::process::{output, run, shown};
use lab::scratch::Scratch;
use lab::tools::repository;

/// How long a machine may take to boot, and a program on it to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Debian with systemd, made by `cargo xtask dist --check`.
const SYSTEM: &str = "dist-check/system";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a machine writes, above the system that all of them share.
#[derive(Debug)]
pub struct Disk {
    system: PathBuf,
    scratch: Scratch,
}

impl Disk {
    /// A disk with a fresh system on it.
    pub fn create() -> Result<Self> {
        let system = target().join(SYSTEM);
        if !system.exists() {
            bail!("`{}` is missing: run `cargo xtask dist --check`", system.display());
        }
        let scratch = Scratch::create()?;
        for part in ["upper", "work", "root"] {
            fs::create_dir(scratch.path().join(part))?;
        }
        Ok(Self { system, scratch })
    }

    fn part(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// Where builds end up.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// A running machine; the power goes off when the value does.
#[derive(Debug)]
pub struct Machine<'a> {
    shell: Child,
    /// Its first process, as this machine numbers it.
    leader: u32,
    cgroup: Cgroup,
    /// One machine writes on a disk at a time.
    _disk: &'a mut Disk,
}

impl<'a> Machine<'a> {
    /// Boots `disk` with the network of `host`, and waits until nothing is left to be started.
    pub fn boot(host: &Netns, disk: &'a mut Disk) -> Result<Self> {
        let cgroup = Cgroup::create()?;
        let log = File::create(disk.part("console"))?;
        let mut command = host.command("sh");
        command
            .args(["-c", r#"echo $$ >"$1"; shift; exec "$@""#, "sh"])
            .arg(cgroup.path.join("cgroup.procs"))
            .args([
                "unshare",
                "--fork",
                "--kill-child",
                "--pid",
                "--mount",
                "--uts",
                "--ipc",
                "--cgroup",
                "sh",
            ])
            .arg(repository().join("tests/src/machine/boot.sh"))
            .arg(&disk.system)
            .args(["upper", "work", "root"].map(|part| disk.part(part)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let shell = command.spawn().with_context(|| format!("failed to run `{}`", shown(&command)))?;
        disk.scratch.note_process(shell.id())?;
        let console = disk.part("console");
        let mut machine = Self { shell, leader: 0, cgroup, _disk: disk };
        machine.wait_until_up().with_context(|| fs::read_to_string(console).unwrap_or_default())?;
        Ok(machine)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let children = format!("/proc/{0}/task/{0}/children", self.shell.id());
        self.leader = wait_for("systemd", PATIENCE, || {
            if let Some(status) = self.shell.try_wait()? {
                bail!("the machine ended ({status})");
            }
            let children = fs::read_to_string(&children).unwrap_or_default();
            let leader = children.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
            // Before it is systemd it is the script that sets the machine up.
            Ok(leader.filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd")
            }))
        })?;
        wait_for("the end of the boot", PATIENCE, || {
            let state = output(&mut self.command("systemctl is-system-running"))?;
            match String::from_utf8_lossy(&state.stdout).trim() {
                "running" => Ok(Some(())),
                "degraded" => {
                    bail!("{}", self.run("systemctl --failed --no-pager; journalctl --no-pager -n 40")?)
                }
                _ => Ok(None),
            }
        })
    }

    /// A line of shell on the machine.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.leader.to_string())
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net", "--", "/bin/sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs it to its end; what it said, on either channel.
    pub fn run(&self, line: &str) -> Result<String> {
        run(&mut self.command(&format!("{{ {line}\n}} 2>&1")))
    }

    /// Where a file of the machine is to be found from here.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.path(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text).with_context(|| format!("failed to write `{path}` on the machine"))
    }

    /// Copies a file onto the machine.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.path(to))
            .map(drop)
            .with_context(|| format!("failed to copy `{}`", from.display()))
    }

    /// What systemd says of a unit, see `systemctl show`.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.run(&format!("systemctl show --value --property {name} {unit}"))?.trim().to_owned())
    }

    /// The same as a number, such as a moment in microseconds since this kernel's start.
    pub fn number(&self, unit: &str, name: &str) -> Result<u64> {
        let value = self.property(unit, name)?;
        value.parse().with_context(|| format!("`{name}` of `{unit}` is `{value}`"))
    }

    /// What a unit has logged.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.run(&format!("journalctl --no-pager --output=cat --unit={unit}"))
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // The power goes: `--kill-child` takes the first process along, and the kernel all others.
        drop(self.shell.kill());
        drop(self.shell.wait());
        if let Err(error) =
            wait_for("the machine's end", PATIENCE, || Ok(self.cgroup.is_empty().then_some(())))
        {
            eprintln!("machine: {error:#}");
        }
    }
}

/// A group of the unified hierarchy, which is there beside the older ones: the only one that such a machine sees.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn create() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let unified = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next()? == "cgroup2").then_some(place)
        });
        let unified = unified.context("cgroup2 is not mounted anywhere")?;
        let name = format!("pc-machine-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(unified).join(name);
        fs::create_dir(&path).with_context(|| format!("failed to create `{}`", path.display()))?;
        Ok(Self { path })
    }

    fn is_empty(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Groups within go first.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(group) {
        eprintln!("machine: failed to remove `{}`: {error}", group.display());
    }
}
