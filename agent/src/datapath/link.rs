//! Links of TCX by their descriptors, which aya keeps to itself: who they are, where they are pinned, and how they are
//! moved. Raw calls of bpf(2).

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const SCHED_CLS: u32 = 3;
const BPF_LINK_TYPE_TCX: u32 = 11;
/// Without a program to stand before: before all.
const BPF_F_BEFORE: u32 = 1 << 3;

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    /// The program's id.
    pub(super) program: u32,
    /// 0 if the device is gone, or the link was taken off it.
    pub(super) ifindex: u32,
    /// Which way, as bpf(2) numbers it.
    pub(super) attach_type: u32,
}

/// Opens what is pinned, a link or a map.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    own(bpf(BPF_OBJ_GET, &mut Attributes { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })?)
}

/// Who a link is.
pub(super) fn info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// `bpf_link_info`, as far as links of TCX fill it.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _pad: u32,
        ifindex: u32,
        attach_type: u32,
        _rest: [u64; 4],
    }
    let mut info = Info::default();
    let length = u32::try_from(size_of::<Info>()).map_err(io::Error::other)?;
    let pointer = (&raw mut info) as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Attributes { fd: number(link)?, length, info: pointer })?;
    let Info { id, program, ifindex, attach_type, .. } = info;
    // Only links of TCX fill the rest this way.
    let is_tcx = info.kind == BPF_LINK_TYPE_TCX;
    Ok(LinkInfo { id, program, ifindex: if is_tcx { ifindex } else { 0 }, attach_type })
}

/// Attaches a program ahead of every other on that hook.
pub(super) fn create_first(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let mut attributes = Attributes {
        program: number(program)?,
        ifindex,
        attach_type,
        flags: BPF_F_BEFORE,
        relative: 0,
        _pad: 0,
        expected_revision: 0,
    };
    own(bpf(BPF_LINK_CREATE, &mut attributes)?)
}

/// Exchanges the program of a link, which keeps its place: no packet meets neither.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut attributes =
        Attributes { link: number(link)?, program: number(program)?, flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// Takes the program of a link off its interface, whoever else has the link open.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
    }
    bpf(BPF_LINK_DETACH, &mut Attributes { link: number(link)? }).map(drop)
}

/// Pins a link or a map where nothing is yet.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes =
        Attributes { pathname: path.as_ptr() as u64, bpf_fd: number(object)?, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// Pins a link or a map, in the place of whatever is there: at no moment is nothing pinned. `aside` is a name in the
/// same directory.
pub(super) fn pin_over(object: BorrowedFd<'_>, aside: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    pin(object, aside)?;
    fs::rename(aside, path)
}

/// Loads a program that drops every packet.
pub(super) fn load_drop() -> io::Result<OwnedFd> {
    /// `r0 = TCX_DROP; exit`.
    const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        _log: [u64; 2],
        _version_and_flags: u64,
        name: [u8; 16],
    }
    let mut attributes = Attributes {
        kind: SCHED_CLS,
        count: 2,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        _log: [0; 2],
        _version_and_flags: 0,
        name: *b"portcullis_drop\0",
    };
    own(bpf(BPF_PROG_LOAD, &mut attributes)?)
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// Calls bpf(2), which reads and writes the attributes.
#[expect(unsafe_code, reason = "no library exposes these calls by themselves")]
pub(super) fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes, and what they point to, live until the call returns; the kernel is told their size, and
    // where it writes through a pointer in them it was given the size of that too.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[expect(unsafe_code, reason = "a descriptor comes out of a system call as a number")]
pub(super) fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
