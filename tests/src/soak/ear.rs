//! Who is heard at a port: datagrams that begin with the number of whoever sent them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use lab::netns::within;

/// What was heard of one sender.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    pub first: Instant,
    pub last: Instant,
    pub count: u64,
    /// How long before the first arrival the sender had started, if it says so: nanoseconds since 1970 behind its number.
    pub age: Option<Duration>,
}

type Notes = Arc<Mutex<BTreeMap<u64, Note>>>;

/// Listens for as long as it lives.
#[derive(Debug)]
pub struct Ear {
    ended: Arc<AtomicBool>,
    notes: Notes,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    /// Listens on an address inside `place`.
    pub fn open(place: &Path, address: SocketAddr) -> Result<Self> {
        let socket = within(place, move || UdpSocket::bind(address))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (ended, notes) = (Arc::<AtomicBool>::default(), Notes::default());
        let told = (Arc::clone(&ended), Arc::clone(&notes));
        let thread = std::thread::spawn(move || listen(&socket, &told.0, &told.1));
        Ok(Self { ended, notes, thread: Some(thread) })
    }

    /// What was heard of a sender so far.
    #[must_use]
    pub fn note(&self, sender: u64) -> Option<Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).get(&sender).copied()
    }

    /// How many datagrams were heard of a sender.
    #[must_use]
    pub fn count(&self, sender: u64) -> u64 {
        self.note(sender).map_or(0, |note| note.count)
    }

    /// Waits until a sender is heard; when that was.
    #[must_use]
    pub fn wait_for(&self, sender: u64, limit: Duration) -> Option<Instant> {
        let start = Instant::now();
        loop {
            let note = self.note(sender);
            if note.is_some() || start.elapsed() > limit {
                return note.map(|note| note.first);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn listen(socket: &UdpSocket, ended: &AtomicBool, notes: &Mutex<BTreeMap<u64, Note>>) {
    let mut datagram = [0; 16];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length @ 8.., _)) = socket.recv_from(&mut datagram) {
            let now = Instant::now();
            let (sender, started) = (word(&datagram[..8]), word(&datagram[8..]));
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            let note = notes.entry(sender).or_insert_with(|| Note {
                first: now,
                last: now,
                count: 0,
                age: (length == 16).then(|| age(started)).flatten(),
            });
            (note.last, note.count) = (now, note.count + 1);
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The time since then, nanoseconds since 1970.
fn age(then: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    now.checked_sub(Duration::from_nanos(then))
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
