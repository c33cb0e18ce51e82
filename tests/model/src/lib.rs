//! A second opinion on what the kernel programs do with a packet.
//!
//! Written from the contract and the documents, to be compared with the programs packet by packet. So nothing of the
//! agent is used here: headers are read by another author's parser, policies are walked as they are written instead
//! of being resolved into entries, and a flow is the list of what has happened to it instead of a state. Slow and
//! plain on purpose. What the documents leave open is decided here as the programs do it, and says so.

pub mod attempts;
mod claims;
pub mod decision;
pub mod flows;
pub mod frame;
pub mod host;
pub mod model;
pub mod policy;
mod quoted;
pub mod verdict;

pub use model::{Model, Packet};
