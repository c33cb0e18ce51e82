//! The queue never blocks its reader and counts what it loses.

use std::{sync::mpsc, time::Duration};

use super::*;
use crate::{
    events::{EventPipeline, recent::Recent},
    state::fixture::{self, CLOCK_OFFSET},
};

/// A sink that waits for permission for each record.
struct Slow(mpsc::Receiver<io::Result<()>>, mpsc::Sender<()>);

impl Sink for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn write(&mut self, _record: &Record) -> io::Result<()> {
        self.1.send(()).unwrap();
        self.0.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

#[test]
fn a_full_queue_counts_losses_and_the_ring_keeps_everything() {
    let (permit, permits) = mpsc::channel();
    let (busy, is_busy) = mpsc::channel();
    let (queue, thread) = EventQueue::start(Box::new(Slow(permits, busy)), 2).unwrap();
    let recent = Arc::new(Recent::new(5));
    let pipeline = EventPipeline::new(Arc::clone(&recent), Some(queue));
    let bytes = fixture::bytes(&fixture::event());
    let state = fixture::state();

    pipeline.handle(&bytes, &state, CLOCK_OFFSET).unwrap();
    is_busy.recv_timeout(Duration::from_secs(10)).unwrap();
    // One is with the sink, two fit into the queue, seven are lost.
    for _ in 0..9 {
        pipeline.handle(&bytes, &state, CLOCK_OFFSET).unwrap();
    }
    assert_eq!(pipeline.lost(), 7);
    let (records, next) = recent.since(0);
    assert_eq!((records.len(), next), (5, 10));
    assert_eq!(recent.since(8).0.len(), 2);
    assert_eq!(recent.since(10).0.len(), 0);
    assert_eq!(recent.since(1_000).0.len(), 5, "a number from before a restart starts over");

    permit.send(Ok(())).unwrap();
    permit.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    permit.send(Ok(())).unwrap();
    let lost = pipeline.queue.as_ref().map(|queue| Arc::clone(&queue.lost)).unwrap();
    drop(pipeline);
    thread.join().unwrap();
    assert_eq!(lost.load(Ordering::Relaxed), 8, "what the sink did not take is lost too");
}

#[test]
fn nonsense_is_refused_without_a_trace() {
    let recent = Arc::new(Recent::default());
    let pipeline = EventPipeline::new(Arc::clone(&recent), None);
    assert!(pipeline.handle(&[1, 2, 3], &fixture::state(), CLOCK_OFFSET).is_err());
    assert_eq!(recent.since(0).1, 0);
    assert_eq!(pipeline.lost(), 0);
}
