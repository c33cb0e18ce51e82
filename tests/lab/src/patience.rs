//! How much longer than usual things may take: one factor for every limit of the tests, for machines that are slow.

use std::sync::LazyLock;
use std::time::Duration;

/// `PORTCULLIS_PATIENCE`: a machine that is emulated needs about ten times as long.
static FACTOR: LazyLock<u32> = LazyLock::new(|| {
    std::env::var("PORTCULLIS_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
});

/// What a limit comes to on this machine. For limits that end a wait for something that should happen; a wait that
/// should be in vain would only become longer.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    limit * *FACTOR
}
