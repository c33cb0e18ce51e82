//! Allowed connections on which numbered bytes go both ways without a pause: whether one broke, or lost a packet.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::small_lab::SmallLab;
use crate::soak::Durations;

/// A connection that stays silent this long is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two exchanges.
const PACE: Duration = Duration::from_millis(4);

/// What came of the connections.
#[derive(Debug, Default)]
pub struct Outcome {
    pub connections: usize,
    /// Those that ended or said something else than they were told.
    pub broken: usize,
    /// Packets that had to be sent again, on all of them.
    pub repeated: u64,
    /// How long one exchange took.
    pub exchanges: Durations,
}

/// Connections that are being talked on.
#[derive(Debug)]
pub struct Conversations {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Conversations {
    /// Opens so many from `web` to `api`, and from `api` to `db`.
    pub fn start(lab: &SmallLab, each: usize) -> Result<Self> {
        let mut streams = Vec::new();
        for (from, to, port) in [("web", "api", 8000), ("api", "db", 5432)] {
            for _ in 0..each {
                let stream = lab.connect_within(PATIENCE, from, to, port)?;
                let stream = stream.with_context(|| format!("{from} does not reach {to}"))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
        }
        let ended = Arc::<AtomicBool>::default();
        let told = Arc::clone(&ended);
        Ok(Self { ended, thread: Some(std::thread::spawn(move || talk(streams, &told))) })
    }

    /// Ends them; what came of them.
    pub fn stop(mut self) -> Result<Outcome> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("already ended")?;
        thread.join().ok().context("the conversations panicked")
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn talk(mut streams: Vec<TcpStream>, ended: &AtomicBool) -> Outcome {
    let mut outcome = Outcome { connections: streams.len(), ..Outcome::default() };
    let mut number = 0_u64;
    while !ended.load(Ordering::Relaxed) {
        streams.retain_mut(|stream| {
            number += 1;
            let start = Instant::now();
            let alive = exchange(stream, number);
            if alive {
                outcome.exchanges.push(start.elapsed());
            } else {
                outcome.broken += 1;
                outcome.repeated += repeated(stream);
            }
            alive
        });
        std::thread::sleep(PACE);
    }
    outcome.repeated += streams.iter().map(repeated).sum::<u64>();
    outcome
}

/// Whether the other side sends the number back.
fn exchange(stream: &mut TcpStream, number: u64) -> bool {
    let mut answer = [0; 8];
    stream.write_all(&number.to_be_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == number.to_be_bytes()
}

/// How many packets the kernel has sent again.
fn repeated(stream: &TcpStream) -> u64 {
    // SAFETY: a structure of numbers, for which zeroes are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length that it is told, which is the structure's.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { info.tcpi_total_retrans.into() } else { 0 }
}
