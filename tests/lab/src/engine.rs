//! A Docker Engine of one's own: in its own network namespace, with its own data, sockets and containers. It never
//! shares anything with an engine that the machine may run.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::interrupt::wait_for;
use crate::netns::Netns;
use crate::process::{output, run, stop_child};
use crate::scratch::Scratch;
use crate::tools::Tools;
use crate::{image, sweep};

/// The host's address towards the outside.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The host's IPv6 address towards the outside.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

/// From this version on an engine loads `br_netfilter` only if it runs without its proxy or with `icc=false`.
const WITHOUT_BRIDGE_FILTER: (u32, u32) = (28, 0);

/// A running engine and the namespace that is its whole network.
#[derive(Debug)]
pub struct DockerHost {
    child: Child,
    directory: PathBuf,
    tools: Tools,
    version: (u32, u32),
    arguments: Vec<String>,
    kept: bool,
    // Dropped last: the engine is stopped before its namespace and directory go.
    netns: Netns,
    scratch: Scratch,
}

impl DockerHost {
    /// Starts an engine and waits until it answers; imports the stand-in image.
    pub fn start(tools: Tools) -> Result<Self> {
        Self::start_with(tools, &[])
    }

    /// The same with further arguments for the engine.
    pub fn start_with(tools: Tools, arguments: &[&str]) -> Result<Self> {
        let netns = Netns::create()?;
        // An engine that finds forwarding on leaves the FORWARD chain's policy as it is.
        netns.sysctl("net/ipv6/conf/all/forwarding=1 net/ipv4/ip_forward=1")?;
        Self::start_in(netns, tools, arguments)
    }

    /// The same on a host that does not forward by itself, as most: the engine turns forwarding on, and closes what it
    /// would open.
    pub fn start_closed(tools: Tools, arguments: &[&str]) -> Result<Self> {
        Self::start_in(Netns::create()?, tools, arguments)
    }

    fn start_in(netns: Netns, tools: Tools, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::create()?;
        // Addresses must be usable at once: duplicate detection would hold every IPv6 address back for a second.
        netns.sysctl("net/ipv6/conf/default/accept_dad=0")?;
        let directory = scratch.path().join("docker");
        fs::create_dir_all(&directory)?;
        // The machine's own settings, such as its data root, are none of ours.
        fs::write(directory.join("daemon.json"), "{}\n")?;
        let version = tools.version()?;
        if version >= WITHOUT_BRIDGE_FILTER {
            leave_bridges_alone(&netns)?;
        }
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = spawn(&netns, &scratch, &directory, &tools, &arguments)?;
        let mut host = Self { child, directory, tools, version, arguments, kept: false, netns, scratch };
        host.wait_until_ready()?;
        host.import_image()?;
        Ok(host)
    }

    /// Ends the engine as its service manager would. Its containers go on if it was started with `--live-restore`.
    pub fn stop(&mut self) {
        stop_child(&mut self.child, Duration::from_secs(30));
    }

    /// Starts it again after [`Self::stop`].
    pub fn resume(&mut self) -> Result<()> {
        self.child = spawn(&self.netns, &self.scratch, &self.directory, &self.tools, &self.arguments)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        wait_for("the Docker Engine", Duration::from_secs(60), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("dockerd ended ({status}): {}", self.log_tail());
            }
            // The socket is there before the engine answers, and `docker` itself would wait on it.
            if !socket(&self.directory).exists() {
                return Ok(None);
            }
            Ok(output(self.docker().arg("version"))?.status.success().then_some(()))
        })
        .with_context(|| format!("last words of dockerd: {}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.scratch.path().join("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn import_image(&self) -> Result<()> {
        let archive = image::archive(&self.tools.busybox, self.scratch.path())?;
        run(self.docker().args(["import", "--change", "ENV PATH=/bin"]).arg(archive).arg(image::NAME))?;
        Ok(())
    }

    /// The `docker` command of this engine.
    #[must_use]
    pub fn docker(&self) -> Command {
        let mut command = Command::new(&self.tools.docker);
        command
            .arg("--host")
            .arg(self.url())
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env("PATH", &self.tools.path);
        command
    }

    /// What the engine says of itself: its version and that of its API.
    pub fn description(&self) -> Result<String> {
        const FORMAT: &str = "{{.Server.Version}} (API {{.Server.APIVersion}})";
        Ok(run(self.docker().args(["version", "--format", FORMAT]))?.trim().to_owned())
    }

    /// Its version, such as 20.10.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", socket(&self.directory).display())
    }

    /// The namespace it lives in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The directory of the lab, for logs and sockets.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The programs it was started with.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Makes every path between containers, host and outside really open, so that whatever is blocked later was
    /// blocked by the agent. Docker's FORWARD policy, its isolation between networks and, from 28 on, its raw table
    /// would otherwise hide leaks. DOCKER-USER is the one chain that Docker keeps first and never writes to.
    pub fn open_paths(&self) -> Result<()> {
        for program in ["iptables", "ip6tables"] {
            let command = |arguments: &str| {
                let mut command = self.netns.command(program);
                command.args(["-w", "5"]).args(arguments.split_whitespace()).env("PATH", &self.tools.path);
                command
            };
            run(&mut command("-P FORWARD ACCEPT"))?;
            if output(&mut command("-n -L DOCKER-USER"))?.status.success() {
                run(&mut command("-I DOCKER-USER 1 -j ACCEPT"))?;
            } else {
                // 20.10 has none for IPv6, but isolates networks all the same once it is told to use ip6tables.
                run(&mut command("-I FORWARD 1 -j ACCEPT"))?;
            }
            if output(&mut command("-t raw -n -L PREROUTING"))?.status.success() {
                run(&mut command("-t raw -F PREROUTING"))?;
            }
        }
        Ok(())
    }

    /// Leaves engine, namespace and directory in place when the value goes.
    pub fn keep(&mut self) -> Result<()> {
        self.kept = true;
        self.netns.keep();
        self.scratch.keep()
    }
}

impl Drop for DockerHost {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Containers first and by force: nothing in them is worth a graceful end.
        if let Ok(ids) = run(self.docker().args(["ps", "-q"])) {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty()
                && let Err(error) = run(self.docker().arg("kill").args(ids))
            {
                eprintln!("lab: {error:#}");
            }
        }
        stop_child(&mut self.child, Duration::from_secs(20));
        sweep::remove_directory(self.scratch.path());
    }
}

fn spawn(
    netns: &Netns,
    scratch: &Scratch,
    directory: &Path,
    tools: &Tools,
    arguments: &[String],
) -> Result<Child> {
    let log = File::options().create(true).append(true).open(scratch.path().join("dockerd.log"))?;
    let mut command = netns.command(&tools.dockerd);
    command
        .arg("--data-root")
        .arg(directory.join("data"))
        .arg("--exec-root")
        .arg(directory.join("exec"))
        .arg("--pidfile")
        .arg(directory.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", socket(directory).display()))
        .arg("--config-file")
        .arg(directory.join("daemon.json"))
        .args(["--bip", "198.18.255.1/24"])
        .args(["--default-address-pool", "base=198.18.128.0/18,size=24"])
        .args(arguments)
        .env("PATH", &tools.path)
        .env_remove("DOCKER_HOST")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is for us: we then stop the engine in good order.
        .process_group(0);
    let child = command.spawn().context("failed to start dockerd")?;
    scratch.note_process(child.id())?;
    Ok(child)
}

/// As it is on a host where nobody has loaded `br_netfilter`. The engine turns it on where it needs it.
fn leave_bridges_alone(netns: &Netns) -> Result<()> {
    if !Path::new("/proc/sys/net/bridge").exists() {
        return Ok(());
    }
    netns.sysctl("net/bridge/bridge-nf-call-iptables=0 net/bridge/bridge-nf-call-ip6tables=0")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("docker.sock")
}
