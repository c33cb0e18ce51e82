//! The few rights that the agent keeps. It reads what containers are called and what they send; whoever takes it over by
//! that has no more than enforcing takes.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use rustix::process::{Resource, Rlimit, setrlimit};

/// What loading programs, attaching them and reading packets in them takes, see capabilities(7).
pub const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// A right that could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("failed to give up capabilities")]
    Capabilities(#[from] CapsError),
    #[error("failed to refuse new privileges")]
    NoNewPrivileges(#[source] rustix::io::Errno),
}

/// Which of [`NEEDED`] this thread lacks.
#[must_use]
pub fn missing() -> Vec<Capability> {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    NEEDED.into_iter().filter(|&capability| !suffices(&effective, capability)).collect()
}

/// Gives up every capability that enforcing does not take, also for programs that are run later. Rights belong to a
/// thread and are inherited: call it before there is another one.
pub fn drop_unneeded() -> Result<(), PrivilegeError> {
    // Kernels before 5.11 count maps against it, and raising it takes a right that is about to go. Where that is not
    // allowed, creating the maps says so.
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept = kept(&permitted);
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    // A service manager that has given no more than these may also forbid the call.
    for (set, kept) in
        [(CapSet::Inheritable, &CapsHashSet::new()), (CapSet::Effective, &kept), (CapSet::Permitted, &kept)]
    {
        if caps::read(None, set)? != *kept {
            caps::set(None, set, kept)?;
        }
    }
    rustix::thread::set_no_new_privs(true).map_err(PrivilegeError::NoNewPrivileges)
}

/// `CAP_SYS_ADMIN` includes the other two, and stands in where there is nothing finer.
fn suffices(held: &CapsHashSet, capability: Capability) -> bool {
    held.contains(&capability)
        || (capability != Capability::CAP_NET_ADMIN && held.contains(&Capability::CAP_SYS_ADMIN))
}

fn kept(permitted: &CapsHashSet) -> CapsHashSet {
    let mut kept: CapsHashSet = NEEDED.into_iter().filter(|needed| permitted.contains(needed)).collect();
    if NEEDED.iter().any(|needed| !kept.contains(needed) && suffices(permitted, *needed)) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_rights_three_are_kept() {
        assert_eq!(kept(&caps::all()), NEEDED.into_iter().collect());
    }

    #[test]
    fn the_coarse_one_is_kept_only_where_it_stands_in() {
        let coarse = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN, Capability::CAP_CHOWN];
        assert_eq!(
            kept(&coarse.into_iter().collect()),
            [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN].into_iter().collect()
        );
        assert_eq!(kept(&[Capability::CAP_CHOWN].into_iter().collect()), CapsHashSet::new());
    }
}
