//! The bounded queue between the reader of the ring buffer and a sink that may be slow or dead, with the thread
//! that empties it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use super::{record::Record, sink::Sink};

/// How many records may wait for the sink.
pub const CAPACITY: usize = 4_096;

/// The sending end. The thread ends when the last clone is dropped and the queue is empty.
#[derive(Clone, Debug)]
pub struct EventQueue {
    sender: SyncSender<Arc<Record>>,
    lost: Arc<AtomicU64>,
}

impl EventQueue {
    /// Starts the thread that writes to `sink`.
    pub fn start(sink: Box<dyn Sink>, capacity: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(capacity);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread =
            Builder::new().name("events".to_owned()).spawn(move || drain(&receiver, sink, &counted))?;
        Ok((Self { sender, lost }, thread))
    }

    /// Queues a record, or counts it as lost. Never blocks.
    pub fn push(&self, record: Arc<Record>) {
        if self.sender.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that never reached the sink: the queue was full, or writing failed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn drain(receiver: &Receiver<Arc<Record>>, mut sink: Box<dyn Sink>, lost: &AtomicU64) {
    let mut failing = false;
    while let Ok(record) = receiver.recv() {
        match sink.write(&record) {
            Ok(()) if failing => {
                failing = false;
                tracing::info!(sink = sink.name(), "events are written again");
            }
            Ok(()) => {}
            Err(error) => {
                lost.fetch_add(1, Ordering::Relaxed);
                // One line per outage, not per event.
                if !failing {
                    failing = true;
                    tracing::warn!(sink = sink.name(), %error, "cannot write events, they are counted as lost");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
