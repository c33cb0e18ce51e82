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

mod filter;
mod heritage;
mod link;
mod query;
mod raw;
mod watchdog;
mod writer;

pub use writer::{DEFAULT_ADOPT, Datapath, DatapathError, Options};
