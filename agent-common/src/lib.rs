//! What the kernel programs and the agent share: the layout of every map, the parsed packet, and the
//! decision itself. Pure values and functions only: no I/O, no clock, no allocation.

#![no_std]

pub mod config;
pub mod counter;
pub mod decision;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod identity;
pub mod packet;
pub mod policy;
pub mod verdict;

#[cfg(feature = "user")]
mod user;
