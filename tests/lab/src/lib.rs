//! Private hosts for the demo and the integration tests: namespaces, a Docker Engine of one's own, an outside host,
//! a probe that tries every connection and the tables that say which of them may open. Knows nothing of kernel programs.

pub mod agent;
pub mod beyond;
pub mod compose;
pub mod docker_lab;
pub mod engine;
pub mod expectation;
pub mod image;
pub mod interrupt;
pub mod matrix;
pub mod monitoring;
pub mod netns;
pub mod observed;
pub mod outside;
pub mod patience;
pub mod plain_lab;
pub mod probe;
pub mod process;
pub mod raid;
pub mod scratch;
pub mod sweep;
pub mod tools;
