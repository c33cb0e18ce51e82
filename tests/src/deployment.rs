//! What the agent is given when it runs as a container, whoever runs it. The container tests give it just this, and the
//! compose file and the DaemonSet are compared with it.

/// A path of the host that the agent sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    pub path: &'static str,
    pub read_only: bool,
    /// What is mounted there later has to be seen too.
    pub follows: bool,
}

/// All of them, by path.
pub const MOUNTS: [Mount; 5] = [
    Mount { path: "/etc/portcullis/policy.d", read_only: true, follows: false },
    Mount { path: "/run/docker.sock", read_only: false, follows: false },
    Mount { path: "/run/docker/netns", read_only: true, follows: true },
    Mount { path: "/sys/fs/bpf", read_only: false, follows: false },
    Mount { path: "/var/lib/portcullis", read_only: false, follows: false },
];

/// Where it has a place of its own in memory.
pub const MEMORY: &str = "/run/portcullis";

/// Its capabilities, as engines and Kubernetes write them.
#[must_use]
pub fn capabilities() -> Vec<String> {
    let mut names: Vec<String> = portcullis::privileges::NEEDED
        .iter()
        .map(|capability| capability.to_string().trim_start_matches("CAP_").to_owned())
        .collect();
    names.sort();
    names
}
