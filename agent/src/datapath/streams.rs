//! What the programs send up: denied attempts, and their own log lines.

use std::{io, time::Duration};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// How often log lines of the programs are looked for; they are for debugging.
const LOG_INTERVAL: Duration = Duration::from_millis(200);

/// The ring buffer of denied attempts.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring buffer owns its descriptor, and is owned by the result for as long.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(io::Error::other)?;
        Ok(Self { ring })
    }

    /// Waits for records and hands over all that are there, as bytes.
    pub async fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut guard = self.ring.readable_mut().await?;
        while let Some(record) = guard.get_inner_mut().next() {
            take(&record);
        }
        guard.clear_ready();
        Ok(())
    }
}

/// What the programs log about themselves.
pub struct Diagnostics {
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl std::fmt::Debug for Diagnostics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Diagnostics").finish_non_exhaustive()
    }
}

impl Diagnostics {
    pub(super) fn new(logger: EbpfLogger<&'static dyn log::Log>) -> Self {
        Self { logger }
    }

    /// Passes log lines on for as long as the process lives.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOG_INTERVAL).await;
            self.logger.flush();
        }
    }
}
