//! Datagrams that nobody may receive, without a pause: one that arrives shows a moment without enforcement.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::patience::patient;

use crate::small_lab::{CLOSED_UDP, SmallLab};

/// A test that hangs must not flood for ever.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// Between two datagrams of a sender. A slow machine has other things to do as well.
const PAUSE: Duration = Duration::from_micros(300);

/// Sends for as long as it lives.
#[derive(Debug)]
pub struct Flood {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// Starts to send from `web` and `stray` to `db`.
    pub fn start(lab: &SmallLab) -> Result<Self> {
        let sockets = ["web", "stray"].map(|from| lab.datagram_socket(from));
        let target = SocketAddr::new(lab.address("db")?, CLOSED_UDP);
        Ok(Self::from(sockets.into_iter().collect::<Result<_>>()?, target))
    }

    /// Starts to send from these sockets.
    #[must_use]
    pub fn from(sockets: Vec<UdpSocket>, target: SocketAddr) -> Self {
        let (ended, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut threads = Vec::new();
        for socket in sockets {
            let (ended, sent) = (Arc::clone(&ended), Arc::clone(&sent));
            threads.push(std::thread::spawn(move || {
                let start = Instant::now();
                while !ended.load(Ordering::Relaxed) && start.elapsed() < LONGEST {
                    if socket.send_to(b"x", target).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(patient(PAUSE));
                }
            }));
        }
        Self { ended, sent, threads }
    }

    /// Ends it; how many were sent.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}
