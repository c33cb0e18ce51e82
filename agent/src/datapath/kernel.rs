//! Whether this process on this kernel can do the job, asked before anything is touched.

use std::io;

use super::{attach::Via, query};
use crate::privileges;

/// The oldest supported kernel.
pub const OLDEST: (u32, u32) = (5, 10);
/// The first kernel with TCX.
const TCX: (u32, u32) = (6, 6);
/// What clsact takes.
const QDISC: &str = "the queueing discipline `clsact` (module `sch_ingress`)";
const CLASSIFIER: &str = "the classifier `bpf` (module `cls_bpf`)";
/// The number of `lo`, which every network namespace has.
const LOOPBACK: u32 = 1;

/// The job cannot be done here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("kernel `{release}` is older than {}.{}, the oldest that is supported", OLDEST.0, OLDEST.1)]
    TooOld { release: String },
    #[error("missing {}", missing.join(", "))]
    Capabilities { missing: Vec<String> },
    #[error("the kernel lacks {feature}, without which nothing can be attached by clsact")]
    Feature { feature: &'static str },
}

impl KernelError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::TooOld { .. } => {
                "ring buffers and CAP_BPF came with 5.8; run a kernel that your distribution still supports"
            }
            Self::Capabilities { .. } => {
                "run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            }
            Self::Feature { .. } => {
                "load the module with `modprobe`, or run a kernel that has it; from 6.6 on `attach: tcx` needs neither"
            }
        }
    }
}

/// Checks capabilities and kernel, and says how programs will be attached: as it is `wanted`, or else as the kernel can.
pub fn probe(wanted: Option<Via>) -> Result<Via, KernelError> {
    let missing: Vec<String> = privileges::missing().iter().map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(KernelError::Capabilities { missing });
    }
    let best = choose(&rustix::system::uname().release().to_string_lossy())?;
    let via = wanted.unwrap_or(best);
    if via == Via::Clsact
        && let Some(feature) = lacking()
    {
        return Err(KernelError::Feature { feature });
    }
    Ok(via)
}

/// What of clsact the kernel has neither built in nor found as a module. Only making one tells; it is made where it meets
/// nobody's packets but the host's own, holds nothing, and goes at once.
fn lacking() -> Option<&'static str> {
    let is_unknown =
        |answer: &io::Result<()>| matches!(answer, Err(error) if error.raw_os_error() == Some(libc::ENOENT));
    let made = query::add_clsact(LOOPBACK);
    if is_unknown(&made) {
        return Some(QDISC);
    }
    let answer = query::add_empty_filter(LOOPBACK);
    if made.is_ok()
        && let Err(error) = query::remove_clsact(LOOPBACK)
    {
        tracing::debug!(%error, "the qdisc of `lo` stays");
    }
    is_unknown(&answer).then_some(CLASSIFIER)
}

fn choose(release: &str) -> Result<Via, KernelError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(KernelError::TooOld { release: release.to_owned() });
    }
    Ok(if version >= TCX { Via::Tcx } else { Via::Clsact })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_decides() {
        assert_eq!(choose("6.18.44-fc").unwrap(), Via::Tcx);
        assert_eq!(choose("6.6.0").unwrap(), Via::Tcx);
        assert_eq!(choose("6.1.0-42-cloud-amd64").unwrap(), Via::Clsact);
        assert_eq!(choose("5.10.0-35-amd64").unwrap(), Via::Clsact);
        assert!(matches!(choose("5.4.0-100-generic"), Err(KernelError::TooOld { .. })));
        let old = choose("5.4.0-100-generic").unwrap_err();
        assert_eq!(
            old.to_string(),
            "kernel `5.4.0-100-generic` is older than 5.10, the oldest that is supported"
        );
        assert!(old.hint().contains("run a kernel that"), "{}", old.hint());
        assert!(matches!(choose("nonsense"), Err(KernelError::TooOld { .. })));
    }
}
