//! Programs as filters of clsact, for kernels without TCX: put onto an interface, exchanged in place, moved to the front
//! and taken off again. A filter outlives its maker, and cannot be pinned: what was made is noted under the pins.

use std::{fs, io, os::unix::fs::MetadataExt};

use agent_common::verdict::Hook;
use aya::programs::{
    Link as _, ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use super::{
    attach::{AttachError, attach_type},
    pins::{FilterNote, Pins},
    query,
};
use crate::inventory::snapshot::Interface;

/// Ahead of every other filter that names a priority.
pub(super) const PRIORITY: u16 = 1;
/// Fixed, so that a later agent finds and replaces its filter.
pub(super) const HANDLE: u32 = 0x706f_7274;
/// Of the filter that acts while ours is moved.
const HANDLE_ASIDE: u32 = HANDLE + 1;

/// Attaches a program, in the place of an earlier agent's.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    port: &Interface,
    hook: Hook,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Program { program: hook.name(), interface: port.name.clone(), source };
    match tc::qdisc_add_clsact(&port.name) {
        Ok(()) => note(pins, port.ifindex, None),
        Err(error) if is_exists(&error) => {}
        Err(source) => {
            return Err(AttachError::Qdisc { interface: port.name.clone(), source });
        }
    }
    // Before there is anything to take off: what is noted and not there does no harm.
    note(pins, port.ifindex, Some(hook));
    let (kind, handle) = (attach_type(hook), TcHandle::from(HANDLE));
    // In place if there is one already: without a moment in which neither filter acts.
    let replaced = SchedClassifierLink::attached(&port.name, kind, PRIORITY, handle, None)
        .map_err(|error| failed(ProgramError::from(TcError::IoError(error))))
        .and_then(|link| program.attach_to_link(link).map_err(failed));
    let id = match replaced {
        Ok(id) => id,
        Err(_absent) => {
            let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle, classid: None });
            program.attach_with_options(&port.name, kind, options).map_err(failed)?
        }
    };
    // Dropping the link would detach the filter; it lives as long as the device, or until `detach`.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Puts a filter ahead of others of the same priority, where the newest comes first. A second one acts in between: what
/// it lets pass is counted twice for a moment, but there is no moment without one.
pub(super) fn move_to_front(
    program: &mut SchedClassifier,
    pins: &Pins,
    port: &Interface,
    hook: Hook,
) -> Result<(), AttachError> {
    let failed = |source| AttachError::Program { program: hook.name(), interface: port.name.clone(), source };
    let kind = attach_type(hook);
    let filter = |handle| {
        SchedClassifierLink::attached(&port.name, kind, PRIORITY, TcHandle::from(handle), None)
            .map_err(|error| failed(ProgramError::from(TcError::IoError(error))))
    };
    // An agent that was killed may have left one.
    drop(filter(HANDLE_ASIDE)?.detach());
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE_ASIDE.into(),
        classid: None,
    });
    let aside = program.attach_with_options(&port.name, kind, options).map_err(failed)?;
    filter(HANDLE)?.detach().map_err(failed)?;
    attach(program, pins, port, hook)?;
    program.detach(aside).map_err(failed)
}

fn is_exists(error: &TcError) -> bool {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        TcError::IoError(error) => error.kind() == io::ErrorKind::AlreadyExists,
        _ => false,
    }
}

/// Whether a filter is one of ours by its place: nobody else has reason to use these numbers.
pub(super) fn has_our_place(filter: &query::Filter) -> bool {
    filter.priority == PRIORITY && matches!(filter.handle, HANDLE | HANDLE_ASIDE)
}

/// Takes our filters off a hook, and the qdisc with them if it was made for them and nobody else uses it. Returns whether
/// there was one.
pub(super) fn remove(pins: &Pins, netns: u64, ifindex: u32, hook: Hook) -> io::Result<bool> {
    let kind = attach_type(hook);
    let ours: Vec<_> = query::filters(ifindex, kind)?.into_iter().filter(has_our_place).collect();
    for filter in &ours {
        query::remove_filter(ifindex, kind, filter)?;
    }
    forget(pins, FilterNote { netns, ifindex, hook: Some(hook) });
    remove_qdisc(pins, netns, ifindex)?;
    Ok(!ours.is_empty())
}

/// Removes the qdisc of an interface, if an agent made it and nothing hangs on it.
fn remove_qdisc(pins: &Pins, netns: u64, ifindex: u32) -> io::Result<()> {
    let qdisc = FilterNote { netns, ifindex, hook: None };
    if !pins.filter_note(qdisc).is_dir() {
        return Ok(());
    }
    for kind in [TcAttachType::Ingress, TcAttachType::Egress] {
        if query::has_filters(ifindex, kind)? {
            return Ok(());
        }
    }
    match query::remove_clsact(ifindex) {
        // Somebody was faster.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            return Err(error);
        }
        _ => {}
    }
    forget(pins, qdisc);
    Ok(())
}

/// Notes what is made. If that fails, `detach` finds the filter all the same where it is run in the same namespace.
fn note(pins: &Pins, ifindex: u32, hook: Option<Hook>) {
    let path = pins.filter_note(FilterNote { netns: netns(), ifindex, hook });
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::warn!(path = %path.display(), %error, "filter not noted");
        }
        _ => {}
    }
}

pub(super) fn forget(pins: &Pins, note: FilterNote) {
    let path = pins.filter_note(note);
    match fs::remove_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "note of a filter not removed");
        }
        _ => {}
    }
}

/// The number of this thread's network namespace; 0 if nobody says it.
pub(super) fn netns() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |data| data.ino())
}
