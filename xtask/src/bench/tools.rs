//! The programs that a measurement runs, installed when they are missing. The web server is only unpacked below
//! `target/`: its package would start it as a service.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lab::tools::find;

use crate::setup;

/// Programs and their packages in Debian.
const INSTALLED: [(&str, &str); 5] = [
    ("perf", "linux-perf"),
    ("iperf3", "iperf3"),
    ("ab", "apache2-utils"),
    ("taskset", "util-linux"),
    ("chrt", "util-linux"),
];
const NGINX: (&str, &str) = ("nginx", "nginx");

/// Where they are.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) perf: PathBuf,
    pub(super) iperf3: PathBuf,
    pub(super) ab: PathBuf,
    pub(super) nginx: PathBuf,
}

/// Finds all of them, and installs what is missing where that is possible.
pub(super) fn ensure() -> Result<Tools> {
    let missing: Vec<(&str, &str)> =
        INSTALLED.into_iter().filter(|(program, _)| find(program).is_none()).collect();
    let nginx = find(NGINX.0).is_some();
    if !missing.is_empty() || !nginx {
        let wanted: Vec<(&str, &str)> = missing.iter().copied().chain((!nginx).then_some(NGINX)).collect();
        if find("apt-get").is_none() || find("dpkg-deb").is_none() {
            let wanted: Vec<String> = wanted
                .iter()
                .map(|(program, package)| format!("`{program}` (Debian's package is `{package}`)"))
                .collect();
            bail!("a measurement needs {}", wanted.join(", "));
        }
        setup::install(&missing.iter().map(|(_, package)| (*package).to_owned()).collect::<Vec<_>>())?;
        if !nginx {
            setup::unpack(NGINX.1)?;
        }
    }
    let found = |program: &str| find(program).with_context(|| format!("`{program}` is still missing"));
    Ok(Tools { perf: found("perf")?, iperf3: found("iperf3")?, ab: found("ab")?, nginx: found(NGINX.0)? })
}
