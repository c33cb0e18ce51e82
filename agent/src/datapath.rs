//! The kernel side: programs, links and maps, and the plan that brings them to the desired state. The only room
//! that names aya.

pub mod attach;
pub mod counters;
pub mod kernel;
pub mod loader;
pub mod maps;
pub mod pins;
pub mod plan;
pub mod sizes;
pub mod streams;

mod link;
mod query;
mod watchdog;
mod writer;

pub use writer::{DEFAULT_ADOPT, Datapath, DatapathError, Options};

/// Reads what the kernel says of a filter, and forgets it.
#[cfg(fuzzing)]
pub(crate) fn read_filter(payload: &[u8]) {
    query::filter(payload);
}
