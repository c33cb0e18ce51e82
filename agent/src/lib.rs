//! The Portcullis agent. The modules below are its rooms; ARCHITECTURE.md is the map.

pub mod agent;
pub mod audit;
pub mod backstop;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod diagnostics;
pub mod events;
pub mod http;
pub mod interference;
pub mod inventory;
pub mod policy;
pub mod privileges;
pub mod reconcile;
pub mod service;
pub mod sources;
pub mod state;
pub mod status;
pub mod telemetry;

#[cfg(fuzzing)]
pub mod inputs;

mod netlink;
