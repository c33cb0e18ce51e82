//! The service exposure policy: its text, its meaning, and what it comes down to on a given host. Pure: no I/O,
//! no clock; `cargo xtask tidy` rejects imports that would break this.

pub mod entries;
