//! Whether this process on this kernel can do the job, asked before anything is touched.

use super::attach::Via;
use crate::privileges;

/// The oldest supported kernel.
pub const OLDEST: (u32, u32) = (5, 10);
/// The first kernel with TCX.
const TCX: (u32, u32) = (6, 6);

/// The job cannot be done here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("kernel `{release}` is older than {}.{}, the oldest that is supported", OLDEST.0, OLDEST.1)]
    TooOld { release: String },
    #[error("missing {}", missing.join(", "))]
    Capabilities { missing: Vec<String> },
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
        }
    }
}

/// Checks capabilities and kernel, and says how programs will be attached.
pub fn probe() -> Result<Via, KernelError> {
    let missing: Vec<String> = privileges::missing().iter().map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(KernelError::Capabilities { missing });
    }
    choose(&rustix::system::uname().release().to_string_lossy())
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
