//! Tries TCP connections from inside a namespace: each attempt is exactly one `connect()`, which is given up before
//! the kernel would repeat its SYN, so that what the agent counts can be compared with what was tried.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt,
};
use serde::Serialize;

use crate::netns::within;

/// How long a SYN may stay unanswered; the kernel sends its second one after a second.
const CONNECT_LIMIT: Duration = Duration::from_millis(700);
/// How long an open connection may stay without an answer. docker-proxy accepts before it knows whether the container does.
const ANSWER_LIMIT: Duration = Duration::from_millis(1000);
/// So many attempts are under way at once from one place: more would overrun the stand-ins' short queues.
const AT_ONCE: usize = 32;

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The service answered with this name.
    Open(String),
    /// Somebody took the connection, but no answer came: a proxy without a way on.
    Silent,
    Refused,
    Timeout,
    Unreachable,
}

impl Outcome {
    /// Whether the service behind the address was reached.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

/// One attempt: which, what came of it and from which port it was made.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub outcome: Outcome,
    pub from: Option<SocketAddr>,
}

/// Tries every address once from inside `place`, many at a time; the results stand in the order of `targets`.
pub fn attempts(place: &Path, targets: Vec<SocketAddr>) -> Result<Vec<Attempt>> {
    within(place, move || {
        let mut all = Vec::with_capacity(targets.len());
        for wave in targets.chunks(AT_ONCE) {
            all.extend(attempt_together(wave)?);
        }
        Ok(all)
    })?
}

enum Stage {
    Connecting,
    Asked(Vec<u8>),
    Done(Outcome),
}

struct Connection {
    socket: Option<OwnedFd>,
    stage: Stage,
    deadline: Instant,
    from: Option<SocketAddr>,
}

fn attempt_together(targets: &[SocketAddr]) -> Result<Vec<Attempt>> {
    let mut connections = targets.iter().map(|target| open(*target)).collect::<Result<Vec<_>>>()?;
    loop {
        let now = Instant::now();
        for connection in &mut connections {
            connection.expire(now);
        }
        let mut waiting: Vec<&mut Connection> =
            connections.iter_mut().filter(|connection| !matches!(connection.stage, Stage::Done(_))).collect();
        if waiting.is_empty() {
            break;
        }
        let mut events = Vec::with_capacity(waiting.len());
        for connection in &waiting {
            let interest =
                if matches!(connection.stage, Stage::Connecting) { PollFlags::OUT } else { PollFlags::IN };
            if let Some(socket) = &connection.socket {
                events.push(PollFd::new(socket, interest));
            }
        }
        poll(&mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }))
            .context("failed to wait for connections")?;
        let ready: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
        for (connection, ready) in waiting.iter_mut().zip(ready) {
            if ready {
                connection.advance();
            }
        }
    }
    Ok(connections
        .into_iter()
        .map(|connection| Attempt {
            outcome: if let Stage::Done(outcome) = connection.stage { outcome } else { Outcome::Timeout },
            from: connection.from,
        })
        .collect())
}

fn open(target: SocketAddr) -> Result<Connection> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
        .context("failed to open a socket")?;
    let stage = match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Stage::Connecting,
        Err(error) => Stage::Done(failure(error)),
    };
    let from = rustix::net::getsockname(&socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    Ok(Connection { socket: Some(socket), stage, deadline: Instant::now() + CONNECT_LIMIT, from })
}

impl Connection {
    fn finish(&mut self, outcome: Outcome) {
        self.stage = Stage::Done(outcome);
        // Closing an unanswered socket keeps the kernel from repeating its SYN.
        self.socket = None;
    }

    fn expire(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        match self.stage {
            Stage::Connecting => self.finish(Outcome::Timeout),
            Stage::Asked(_) => self.finish(Outcome::Silent),
            Stage::Done(_) => {}
        }
    }

    fn advance(&mut self) {
        let Some(socket) = &self.socket else { return };
        match &mut self.stage {
            Stage::Connecting => match sockopt::socket_error(socket) {
                Ok(Ok(())) => match send(socket, b"GET /name HTTP/1.0\r\n\r\n", SendFlags::NOSIGNAL) {
                    Ok(_) => {
                        self.stage = Stage::Asked(Vec::new());
                        self.deadline = Instant::now() + ANSWER_LIMIT;
                    }
                    Err(_) => self.finish(Outcome::Silent),
                },
                Ok(Err(error)) | Err(error) => self.finish(failure(error)),
            },
            Stage::Asked(answer) => {
                let mut buffer = [0_u8; 1024];
                match recv(socket, &mut buffer, RecvFlags::empty()) {
                    Ok((0, _)) | Err(Errno::CONNRESET) => {
                        let outcome = name_in(answer).map_or(Outcome::Silent, Outcome::Open);
                        self.finish(outcome);
                    }
                    Ok((read, _)) => answer.extend_from_slice(&buffer[..read.min(buffer.len())]),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => self.finish(Outcome::Silent),
                }
            }
            Stage::Done(_) => {}
        }
    }
}

fn failure(error: Errno) -> Outcome {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET => Outcome::Refused,
        Errno::TIMEDOUT => Outcome::Timeout,
        _ => Outcome::Unreachable,
    }
}

/// The body of the stand-in's answer.
fn name_in(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    (head.starts_with("HTTP/") && head.contains(" 200 ")).then(|| body.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_name_out_of_an_answer() {
        assert_eq!(name_in(b"HTTP/1.0 200 OK\r\nContent-length: 3\r\n\r\ndb\n"), Some("db".to_owned()));
        assert_eq!(name_in(b"HTTP/1.0 404 Not Found\r\n\r\n"), None);
        assert_eq!(name_in(b""), None);
    }
}
