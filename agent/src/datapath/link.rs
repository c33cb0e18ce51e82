//! Pinned links by what the kernel says of them: aya keeps a link's descriptor to itself, so the pin is opened here.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The interface of a pinned link, from the kernel's own account of the descriptor; `None` for one whose device is
/// gone.
pub(super) fn ifindex(path: &Path) -> io::Result<Option<u32>> {
    let link = open(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let ifindex =
        info.lines().find_map(|line| line.strip_prefix("ifindex:")).and_then(|text| text.trim().parse().ok());
    Ok(ifindex.filter(|&ifindex| ifindex != 0))
}

/// Takes the program of a pinned link off its interface, whoever else has the link open.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: u32,
    }
    let link = open(path)?;
    let link_fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    bpf(BPF_LINK_DETACH, &Attributes { link_fd }).map(drop)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    own(bpf(BPF_OBJ_GET, &attributes)?)
}

#[expect(unsafe_code, reason = "no library exposes these calls by themselves")]
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes, and what they point to, live until the call returns; the kernel only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[expect(unsafe_code, reason = "a descriptor comes out of a system call as a number")]
fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
