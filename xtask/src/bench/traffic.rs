//! The two workloads: datagrams of 64 bytes, and HTTP connections. Client and server share one processor and a
//! real-time priority, so that neither is interrupted by what else runs and no datagram is lost between them.

use std::fs::{self, File};
use std::net::{IpAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::interrupt::{self, wait_for};
use lab::netns::{Netns, within};
use lab::process::{output, shown, stop_child};
use rustix::process::{Pid, Signal, kill_process_group};

use super::counters::{self, Counted, Meter};
use super::policy::{HTTP, IPERF};
use super::stage::Stage;
use super::tools::Tools;

/// A measurement that loses more than this, in per cent, is none: a lost datagram does not reach its reader.
const MOST_LOST: f64 = 0.5;
/// A measurement that others disturbed is taken again so often.
const ATTEMPTS: usize = 4;
/// A client takes a second or two. iperf3's hangs now and then, if something held it up and it could not keep its pace:
/// it then waits for the server without pausing, and the server waits for the processor.
const LIMIT: Duration = Duration::from_secs(15);
/// A port of the server that nothing listens on.
const UNUSED: u16 = 9;
/// Bursts that a socket's default buffer holds, with pauses in which the server reads them.
const PACE: &str = "20M/100";

/// How much of each, and how it is measured.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) datagrams: u32,
    pub(super) connections: u32,
    /// The processor for both ends.
    pub(super) cpu: u32,
    pub(super) meter: Meter,
    /// Both ends may have a real-time priority.
    pub(super) real_time: bool,
}

/// Whether programs may be given a real-time priority here.
pub(super) fn real_time_is_allowed() -> bool {
    output(Command::new("chrt").args(["-f", "1", "true"])).is_ok_and(|output| output.status.success())
}

/// Whether a connection that nothing allows and nobody expects is dropped; if it is not, it is refused at once.
pub(super) fn is_dropped(stage: &Stage) -> Result<bool> {
    let (_, server) = stage.family().addresses();
    let limit = Duration::from_millis(300);
    let attempt =
        within(&stage.client().path(), move || TcpStream::connect_timeout(&(server, UNUSED).into(), limit))?;
    Ok(attempt.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut))
}

/// Measures both workloads on a stage.
pub(super) fn measure(stage: &Stage, load: &Load, tools: &Tools) -> Result<(Counted, Counted)> {
    let web = Server::web(stage, load, tools)?;
    let (_, server) = stage.family().addresses();
    let netns = stage.client().path();
    // Also teaches both ends where the other one is.
    wait_for("the first connection", Duration::from_secs(10), || {
        let attempt = move || TcpStream::connect_timeout(&(server, HTTP).into(), Duration::from_secs(1));
        Ok(within(&netns, attempt)?.ok())
    })?;
    let connections = connections(stage, load, tools, &web)?;
    drop(web);
    for _ in 0..ATTEMPTS {
        if let Some((sample, lost)) = datagrams(stage, load, tools)?
            && lost <= MOST_LOST
        {
            return Ok((sample, connections));
        }
    }
    bail!("{ATTEMPTS} times datagrams were lost or came to no end: something keeps the processor busy")
}

/// What each datagram cost, and how many of them were lost, in per cent; nothing if the client hung.
fn datagrams(stage: &Stage, load: &Load, tools: &Tools) -> Result<Option<(Counted, f64)>> {
    let server = Server::iperf(stage, load, tools)?;
    let (_, address) = stage.family().addresses();
    let command: Vec<String> = [
        tools.iperf3.display().to_string(),
        "-c".to_owned(),
        address.to_string(),
        "-u".to_owned(),
        "-J".to_owned(),
    ]
    .into_iter()
    .chain(["-l", "64", "-b", PACE, "-k"].map(str::to_owned))
    .chain([load.datagrams.to_string()])
    .collect();
    let Some((text, counted)) = client(stage, load, tools, &server, command)? else { return Ok(None) };
    let result = Transfer::read(&text)?;
    Ok(Some((counted.each(result.units), result.lost)))
}

fn connections(stage: &Stage, load: &Load, tools: &Tools, server: &Server) -> Result<Counted> {
    let (_, address) = stage.family().addresses();
    let url = match address {
        IpAddr::V4(address) => format!("http://{address}/"),
        IpAddr::V6(address) => format!("http://[{address}]/"),
    };
    let command = [tools.ab.display().to_string()]
        .into_iter()
        .chain(["-q", "-c", "8", "-n"].map(str::to_owned))
        .chain([load.connections.to_string(), url])
        .collect();
    let (text, counted) = client(stage, load, tools, server, command)?
        .with_context(|| format!("ab took more than {} s", LIMIT.as_secs()))?;
    let result = Transfer::read_ab(&text)?;
    if result.lost > 0.0 {
        bail!("{:.0} HTTP requests failed", result.lost);
    }
    Ok(counted.each(result.units))
}

/// Runs a client to its end: what it said, and what was counted; nothing if it came to none.
fn client(
    stage: &Stage,
    load: &Load,
    tools: &Tools,
    server: &Server,
    command: Vec<String>,
) -> Result<Option<(String, Counted)>> {
    let directory = stage.scratch().path();
    let inside =
        [String::from("nsenter"), format!("--net={}", stage.client().path().display()), "--".to_owned()];
    let words: Vec<String> = inside.into_iter().chain(pinned(load)).chain(command).collect();
    let mut others = vec![server.child.id()];
    // Packets are handed to this thread when there are too many at once.
    others.extend(softirq_thread(load.cpu));
    let words = counters::around(load.meter, &tools.perf, &others, directory, words);
    let said = directory.join("client.out");
    if !bounded(&words, &said)? {
        return Ok(None);
    }
    Ok(Some((fs::read_to_string(said)?, counters::sum(load.meter, directory)?)))
}

/// What puts a program on the processor, before its own words.
fn pinned(load: &Load) -> Vec<String> {
    let cpu = load.cpu.to_string();
    let mut words: Vec<&str> = vec!["taskset", "-c", &cpu];
    if load.real_time {
        // One priority for both: neither interrupts the other, so datagrams are read in bursts as on a busy host.
        words.extend(["chrt", "-f", "1"]);
    }
    words.into_iter().map(str::to_owned).collect()
}

fn softirq_thread(cpu: u32) -> Option<u32> {
    let wanted = format!("ksoftirqd/{cpu}\n");
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == wanted))
}

/// Runs words to their end with what they say in a file. Ends them on an interrupt, and if they take too long, which is
/// `false`.
fn bounded(words: &[String], said: &Path) -> Result<bool> {
    let (program, arguments) = words.split_first().context("no command")?;
    let file = File::create(said)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let mut child = command.spawn().with_context(|| format!("failed to run `{}`", shown(&command)))?;
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let stopped = interrupt::check();
        if stopped.is_err() || Instant::now() > deadline {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL).context("failed to end a client")?;
            }
            child.wait()?;
            return stopped.map(|()| false);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        bail!("`{}` failed ({status}): {}", shown(&command), fs::read_to_string(said)?.trim());
    }
    Ok(true)
}

/// A server inside its namespace; it ends with the value.
#[derive(Debug)]
struct Server {
    child: Child,
}

impl Server {
    fn iperf(stage: &Stage, load: &Load, tools: &Tools) -> Result<Self> {
        let port = IPERF.to_string();
        Self::start(stage, load, &tools.iperf3, &["-s", "-1", "-p", &port], IPERF)
    }

    fn web(stage: &Stage, load: &Load, tools: &Tools) -> Result<Self> {
        let directory = stage.scratch().path();
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx(directory))?;
        let arguments =
            ["-p".into(), directory.display().to_string(), "-c".into(), configuration.display().to_string()];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Self::start(stage, load, &tools.nginx, &arguments, HTTP)
    }

    fn start(stage: &Stage, load: &Load, program: &PathBuf, arguments: &[&str], port: u16) -> Result<Self> {
        let log = File::create(stage.scratch().path().join("server.log"))?;
        let pinned = pinned(load);
        let mut command = stage.server().command(&pinned[0]);
        command
            .args(&pinned[1..])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start `{}`", program.display()))?;
        let mut server = Self { child };
        stage.scratch().note_process(server.child.id())?;
        wait_for(&program.display().to_string(), Duration::from_secs(10), || {
            if let Some(status) = server.child.try_wait()? {
                let log = fs::read_to_string(stage.scratch().path().join("server.log")).unwrap_or_default();
                bail!("it ended ({status}): {}", log.trim());
            }
            Ok(listens(stage.server(), port)?.then_some(()))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop_child(&mut self.child, Duration::from_secs(2));
    }
}

/// Whether something listens on a TCP port inside a namespace; asking by a connection would use the server up.
fn listens(netns: &Netns, port: u16) -> Result<bool> {
    let tables = within(&netns.path(), || {
        ["tcp", "tcp6"]
            .map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default())
    })?;
    let local = format!(":{port:04X}");
    Ok(tables.iter().flat_map(|table| table.lines()).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|address| address.ends_with(&local)) && fields.get(3) == Some(&"0A")
    }))
}

/// One process, no files: what is measured is connections.
fn nginx(directory: &Path) -> String {
    let at = directory.display();
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {at}/nginx-{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/nginx.log;\nevents {{ worker_connections 64; }}\n\
         http {{\n  access_log off;\n{folders}  server {{ listen {HTTP}; listen [::]:{HTTP}; location / {{ return 200 ok; }} }}\n}}\n"
    )
}

/// What a client says of its work.
#[derive(Debug, PartialEq)]
struct Transfer {
    units: f64,
    /// Datagrams in per cent, or requests.
    lost: f64,
}

impl Transfer {
    fn read(iperf: &str) -> Result<Self> {
        let result: serde_json::Value = serde_json::from_str(iperf).context("iperf3 printed no JSON")?;
        if let Some(error) = result["error"].as_str() {
            bail!("iperf3: {error}");
        }
        let number =
            |name: &str| result["end"]["sum"][name].as_f64().with_context(|| format!("iperf3: no `{name}`"));
        // Newer versions count what arrived apart from what was sent.
        let received = result["end"]["sum_received"]["lost_percent"].as_f64().unwrap_or(0.0);
        let transfer = Self { units: number("packets")?, lost: number("lost_percent")?.max(received) };
        if transfer.units < 1.0 {
            bail!("iperf3 sent nothing");
        }
        Ok(transfer)
    }

    fn read_ab(text: &str) -> Result<Self> {
        let number = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok())
                .with_context(|| format!("ab: no `{name}` in:\n{text}"))
        };
        Ok(Self { units: number("Complete requests:")?, lost: number("Failed requests:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iperf_says_is_read() {
        let text = r#"{"end":{"sum":{"seconds":1.28,"packets":40000,"lost_percent":0.5},"sum_received":{"lost_percent":1.5}}}"#;
        assert_eq!(Transfer::read(text).unwrap(), Transfer { units: 40_000.0, lost: 1.5 });
        let error = Transfer::read(r#"{"error":"unable to connect"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect");
    }

    #[test]
    fn what_ab_says_is_read() {
        let text = "Time taken for tests:   1.271 seconds\nComplete requests:      5000\nFailed requests:        2\n   (Connect: 0, Receive: 2)\n";
        assert_eq!(Transfer::read_ab(text).unwrap(), Transfer { units: 5_000.0, lost: 2.0 });
        assert!(Transfer::read_ab("apr_socket_recv: Connection refused").is_err());
    }
}
