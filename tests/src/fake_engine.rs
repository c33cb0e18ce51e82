//! Something that answers like a Docker Engine about the containers of a [`SmallLab`], and can be told to misbehave as
//! engines do: silent, cut short, out of its mind, slow, or without a word of what happens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::small_lab::SmallLab;

const NETWORK: &str = "0f7e3c1d2b4a0f7e3c1d2b4a0f7e3c1d2b4a0f7e3c1d2b4a0f7e3c1d2b4a0f7e";
const IMAGE: &str = "sha256:1111";

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Honest,
    /// Takes connections and says nothing, nor on those that are open.
    Silent,
    /// Breaks off in the middle.
    Half,
    /// Says what is no JSON.
    Mad,
    /// Says it byte by byte, for longer than anybody waits.
    Slow,
    /// Answers, but keeps events to itself.
    Discreet,
}

/// A container: the member of the lab whose namespace it has, and the project and service that it belongs to.
#[derive(Clone, Debug)]
struct Container {
    name: String,
    labels: Value,
    sandbox: PathBuf,
    mac: String,
    address: String,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    containers: BTreeMap<String, Container>,
    events: Vec<Value>,
}

/// The engine; it ends when the value goes.
#[derive(Debug)]
pub struct FakeEngine {
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    url: String,
}

impl FakeEngine {
    /// Starts to answer on a socket in the lab's directory. No container runs yet.
    pub fn start(lab: &SmallLab) -> Result<Self> {
        let path = lab.path().join("docker.sock");
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let state = State { mood: Mood::Honest, containers: BTreeMap::new(), events: Vec::new() };
        let (state, ended) = (Arc::new(Mutex::new(state)), Arc::<AtomicBool>::default());
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let connection = Connection { state: Arc::clone(&shared), ended: Arc::clone(&end) };
                        // A peer that has gone is no trouble.
                        connections.push(std::thread::spawn(move || drop(connection.serve(stream))));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            for connection in connections {
                drop(connection.join());
            }
        });
        Ok(Self { state, ended, thread: Some(thread), url: format!("unix://{}", path.display()) })
    }

    /// For `--docker-host`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it answers this way.
    pub fn become_of(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// A container runs in a member's namespace, as this service of `shop`, and it is told.
    pub fn run(&self, lab: &SmallLab, member: &str, service: Option<&str>) -> Result<()> {
        let address = lab.address(member)?.to_string();
        let number: u8 = address.rsplit('.').next().unwrap_or_default().parse()?;
        let labels = service.map_or_else(
            || json!({}),
            |service| json!({ "com.docker.compose.project": "shop", "com.docker.compose.service": service }),
        );
        let container = Container {
            name: format!("{member}-1"),
            labels,
            sandbox: lab.place(member)?,
            mac: format!("02:00:00:00:07:{number:02x}"),
            address,
        };
        let mut state = self.lock();
        let id = format!("{:064x}", usize::from(number) << 8 | state.events.len());
        state.containers.retain(|_, known| known.name != container.name);
        state.containers.insert(id.clone(), container);
        state.events.push(json!({ "Type": "container", "Action": "start", "Actor": { "ID": id } }));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One connection, which ends with its answer.
struct Connection {
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl Connection {
    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone()?);
        reader.read_line(&mut line)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let target = line.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        // `/v1.41/…`
        let path =
            path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')).map_or(path, |(_, path)| path);
        let path = path.trim_start_matches('/');
        if self.mood() == Mood::Silent {
            return self.wait_while(|mood| mood == Mood::Silent);
        }
        if path == "events" {
            return self.tell(&mut stream);
        }
        let (status, body) = match self.answer(path) {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", json!({ "message": "no such thing" }).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nApi-Version: 1.41\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        match self.mood() {
            Mood::Half => write!(stream, "{head}{}", &body[..body.len() / 2]),
            Mood::Mad => write!(stream, "{head}{}", "[".repeat(body.len())),
            Mood::Slow => self.drip(&mut stream, &(head + &body)),
            _ => write!(stream, "{head}{body}"),
        }
    }

    fn mood(&self) -> Mood {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).mood
    }

    fn wait_while(&self, wanted: impl Fn(Mood) -> bool) -> std::io::Result<()> {
        while wanted(self.mood()) && !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(ErrorKind::ConnectionAborted.into())
    }

    fn drip(&self, stream: &mut UnixStream, text: &str) -> std::io::Result<()> {
        for byte in text.bytes() {
            if self.mood() != Mood::Slow || self.ended.load(Ordering::Relaxed) {
                break;
            }
            stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn answer(&self, path: &str) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match path.split('/').collect::<Vec<_>>()[..] {
            ["_ping"] => return Some("OK".to_owned()),
            ["version"] => json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" }),
            ["networks"] => json!([{
                "Name": "shop", "Id": NETWORK, "Driver": "bridge",
                "Options": { "com.docker.network.bridge.name": "lab0" },
                "IPAM": { "Config": [{ "Subnet": "198.18.7.0/24" }] },
            }]),
            ["containers", "json"] => state
                .containers
                .iter()
                .map(|(id, container)| json!({ "Id": id, "Names": [format!("/{}", container.name)], "State": "running" }))
                .collect(),
            ["containers", id, "json"] => inspected(id, state.containers.get(id)?),
            ["images", ..] => json!({ "Id": IMAGE, "Config": { "Labels": {} } }),
            _ => return None,
        };
        Some(value.to_string())
    }

    /// Streams what happens for as long as the mood allows.
    fn tell(&self, stream: &mut UnixStream) -> std::io::Result<()> {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let mut told = self.state.lock().unwrap_or_else(PoisonError::into_inner).events.len();
        while !self.ended.load(Ordering::Relaxed) {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (mood, news) = (state.mood, state.events[told..].to_vec());
            told = state.events.len();
            drop(state);
            match mood {
                Mood::Honest => {
                    for event in news {
                        let line = format!("{event}\n");
                        write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
                    }
                }
                Mood::Half => return write!(stream, "80\r\n{{\"Type\":\"contai"),
                Mood::Mad => return write!(stream, "5\r\n]]]]\n\r\n"),
                // Every other connection ends too.
                Mood::Slow => return Ok(()),
                Mood::Silent | Mood::Discreet => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn inspected(id: &str, container: &Container) -> Value {
    json!({
        "Id": id, "Name": format!("/{}", container.name), "Image": IMAGE,
        "State": { "Running": true, "Restarting": false },
        "Config": { "Labels": container.labels },
        "HostConfig": { "NetworkMode": "shop" },
        "NetworkSettings": {
            "SandboxKey": container.sandbox,
            "Ports": {},
            "Networks": { "shop": {
                "NetworkID": NETWORK, "MacAddress": container.mac, "IPAddress": container.address,
            } },
        },
    })
}
