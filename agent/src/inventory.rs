//! What exists on the host: containers and networks from the Docker Engine or a file, interfaces and
//! addresses from netlink, merged into one [`snapshot::Snapshot`]. Decides nothing about policy.

pub mod identity;
pub mod snapshot;
