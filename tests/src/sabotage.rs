//! What somebody with root's rights can do to attached programs: get before them, take them off, put others in their
//! place.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use lab::netns::{Netns, within};

use crate::bpf;

const OBJ_GET: libc::c_long = 7;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
const BEFORE: u32 = 1 << 3;

/// Ends the row of programs, and lets the packet pass.
pub const PASS: i32 = 0;
/// Leaves the packet to whoever comes next.
pub const NEXT: i32 = -1;

/// The two hooks of an interface, as bpf(2) numbers them.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Ingress = 46,
    Egress = 47,
}

/// A program that returns this and does nothing else.
pub fn program(returns: i32) -> Result<OwnedFd> {
    bpf::returning(returns)
}

/// Pins a program.
pub fn pin(program: &OwnedFd, path: &Path) -> Result<()> {
    bpf::pin(program, path)
}

/// Attaches a program by TCX ahead of all that are there; it is detached when the value goes.
pub fn get_before(host: &Netns, ifindex: u32, way: Way, program: &OwnedFd) -> Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let mut attributes = [bpf::pair(program, ifindex), bpf::pair(way as u32, BEFORE), 0, 0];
    within(&host.path(), move || bpf::owned(bpf::call(LINK_CREATE, &mut attributes)))?
        .context("failed to attach a program")
}

/// Takes a pinned link off its interface.
pub fn take_off(pin: &Path) -> Result<()> {
    let link = open(pin)?;
    bpf::call(LINK_DETACH, &mut [u64::from(link.as_raw_fd().cast_unsigned())]).context("failed to detach")?;
    Ok(())
}

/// Puts another program into a pinned link.
pub fn exchange(pin: &Path, program: &OwnedFd) -> Result<()> {
    exchange_in(&open(pin)?, program)
}

/// Puts another program into a link.
pub fn exchange_in(link: &OwnedFd, program: &OwnedFd) -> Result<()> {
    let (link, program) = (link.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned());
    bpf::call(LINK_UPDATE, &mut [bpf::pair(link, program), 0]).context("failed to exchange a program")?;
    Ok(())
}

fn open(pin: &Path) -> Result<OwnedFd> {
    let path = std::ffi::CString::new(pin.as_os_str().as_bytes())?;
    bpf::owned(bpf::call(OBJ_GET, &mut [path.as_ptr() as u64, 0])).context("failed to open a pin")
}
