//! Many TCP connections between two namespaces, both ends held by the test, so that each can be tried at any time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::netns::within;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A connection that is being opened has this long, one repeated SYN included.
const PATIENCE: Duration = Duration::from_secs(4);

/// Both ends of each connection.
#[derive(Debug, Default)]
pub struct Connections(Vec<[TcpStream; 2]>);

impl Connections {
    /// Opens so many more, one after the other; panics never, fails at the first that does not open.
    pub fn open(&mut self, from: &Path, to: &Path, target: SocketAddr, count: usize) -> Result<()> {
        allow_files(2 * (self.0.len() + count) as u64 + 256)?;
        let listener = within(to, move || TcpListener::bind(target))??;
        // A handshake whose last packet is dropped is complete for the client only.
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
        let pairs = within(from, move || -> Result<Vec<[TcpStream; 2]>> {
            (0..count)
                .map(|_| {
                    let client = TcpStream::connect_timeout(&target, PATIENCE)?;
                    let (server, _) = listener.accept()?;
                    for end in [&client, &server] {
                        end.set_read_timeout(Some(PATIENCE))?;
                        end.set_nodelay(true)?;
                    }
                    Ok([client, server])
                })
                .collect()
        })??;
        self.0.extend(pairs);
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many carry bytes both ways. All are written to first, so that one dead connection costs no more time than
    /// hundreds.
    pub fn alive(&mut self) -> Result<usize> {
        self.alive_within(PATIENCE)
    }

    /// The same, with another limit for each direction.
    pub fn alive_within(&mut self, limit: Duration) -> Result<usize> {
        let mut alive = 0;
        for end in [0, 1] {
            for pair in &mut self.0 {
                pair[end].write_all(b"x").context("a connection was closed")?;
            }
            let deadline = Instant::now() + limit;
            alive = 0;
            for pair in &mut self.0 {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                pair[1 - end].set_read_timeout(Some(left))?;
                alive += usize::from(pair[1 - end].read_exact(&mut [0]).is_ok());
            }
            if alive < self.0.len() {
                break;
            }
        }
        Ok(alive)
    }
}

/// How long one new connection took to open.
pub fn time_to_open(from: &Path, target: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    within(from, move || TcpStream::connect_timeout(&target, PATIENCE))??;
    Ok(start.elapsed())
}

fn allow_files(count: u64) -> Result<()> {
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    if limits.maximum.is_some_and(|maximum| maximum < count) {
        bail!("{count} open files are more than this process may have");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), ..limits })
        .context("failed to allow more files")
}
