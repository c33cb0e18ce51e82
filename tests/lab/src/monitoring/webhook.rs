//! Who takes the messages of an Alertmanager: a small HTTP server inside a namespace that remembers what came and when.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::netns::within;

/// Where the shipped Alertmanager configuration sends messages.
pub const PORT: u16 = 9199;

/// One alert of a message.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// When the message came.
    pub at: SystemTime,
    /// Where it was sent to, `/pager` for instance.
    pub path: String,
    /// Whether it fires, or is over.
    pub firing: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Delivered {
    /// Whether it has all these labels.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(*key).is_some_and(|found| found == value))
    }
}

#[derive(Deserialize)]
struct Message {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// The server; it ends when the value goes.
#[derive(Debug)]
pub struct Webhook {
    delivered: Arc<Mutex<Vec<Delivered>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Listens where the shipped Alertmanager configuration sends messages.
    pub fn start(netns: &Path) -> Result<Self> {
        let listener = within(netns, move || TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)))?
            .context("failed to listen for messages")?;
        listener.set_nonblocking(true)?;
        let delivered = Arc::<Mutex<Vec<Delivered>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (kept, ended) = (Arc::clone(&delivered), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => match take(stream) {
                        Ok(alerts) => kept.lock().unwrap_or_else(PoisonError::into_inner).extend(alerts),
                        Err(error) => eprintln!("lab: a message was not understood: {error:#}"),
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Err(error) => {
                        eprintln!("lab: messages are not taken any more: {error}");
                        return;
                    }
                }
            }
        });
        Ok(Self { delivered, stop, thread: Some(thread) })
    }

    /// All that came so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and there is nobody to tell.
            drop(thread.join());
        }
    }
}

fn take(mut stream: TcpStream) -> Result<Vec<Delivered>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().context("no length")?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let message: Message = serde_json::from_slice(&body).context("not a message of an Alertmanager")?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let at = SystemTime::now();
    let delivered = message.alerts.into_iter().map(|alert| Delivered {
        at,
        path: path.clone(),
        firing: alert.status == "firing",
        labels: alert.labels,
        annotations: alert.annotations,
    });
    Ok(delivered.collect())
}
