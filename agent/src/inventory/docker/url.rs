//! Which engine is meant when none, or only an environment variable, is given.

use std::path::PathBuf;

const DEFAULT_URL: &str = "unix:///var/run/docker.sock";

/// The URL to use: the given one, else what `DOCKER_HOST` names, else the usual socket.
pub(super) fn resolve(url: Option<&str>) -> String {
    let environment = || std::env::var("DOCKER_HOST").ok().filter(|url| !url.is_empty());
    url.map(str::to_owned).or_else(environment).unwrap_or_else(|| DEFAULT_URL.to_owned())
}

/// The path of the socket that `url`, or what stands in for it, names.
pub(super) fn socket_path(url: Option<&str>) -> Option<PathBuf> {
    resolve(url).strip_prefix("unix://").map(PathBuf::from)
}
