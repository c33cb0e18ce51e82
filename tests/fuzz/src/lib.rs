//! The kernel as an oracle: sends hostile frames of every kind out of one namespace and looks where they turn up.
//! Without an agent this shows what Linux lets through; with one, nothing that is denied may reach anybody, and
//! everything that is allowed has to. Shares no code with the agent.

pub mod attacker;
pub mod corpus;
pub mod frame;
pub mod grammar;
pub mod lab;
pub mod maker;
pub mod packet_socket;
pub mod registry;
pub mod report;
pub mod rng;
pub mod run;
pub mod servers;
pub mod town;
pub mod traffic;
pub mod watchers;
pub mod wire;
