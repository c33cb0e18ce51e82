//! The kernel side: programs, links and maps, and the plan that brings them to the desired state. The only room
//! that names aya.

pub mod attach;
pub mod counters;
pub mod detach;
pub mod kernel;
pub mod loader;
pub mod maps;
pub mod migrate;
pub mod pins;
pub mod plan;
pub mod sizes;
pub mod streams;

mod error;
mod filter;
mod heritage;
mod link;
mod options;
mod query;
mod raw;
mod watchdog;
mod writer;

pub use error::DatapathError;
pub use options::{DEFAULT_ADOPT, Options};
pub use writer::Datapath;

/// Reads what the kernel says of a filter, and forgets it.
#[cfg(fuzzing)]
pub(crate) fn read_filter(payload: &[u8]) {
    query::filter(payload);
}
