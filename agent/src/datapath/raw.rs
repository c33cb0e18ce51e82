//! Maps and programs as the kernel knows them, by bytes and numbers: also those whose layout this version does not
//! know. Raw calls of bpf(2).

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::Pod;

use super::link::{self, bpf};

/// Commands of bpf(2).
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;

/// Types of maps that have a value for each CPU.
const PER_CPU: [u32; 3] = [5, 6, 10];

/// What there is to say of a map but what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, key, value, entries, flags } = self;
        write!(formatter, "type {kind}, {key} + {value} bytes, {entries} entries, flags {flags:#x}")
    }
}

/// An open map.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
    pub(super) id: u32,
    pub(super) shape: Shape,
    /// The kernel's name for it, 15 bytes at most.
    pub(super) name: String,
}

/// `bpf_map_info`, as far as it is of interest.
#[derive(Default)]
#[repr(C)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// `bpf_prog_info`, as far as it is of interest.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: u64,
    _lengths: [u32; 2],
    _instructions: [u64; 2],
    _loaded: u64,
    _uid: u32,
    map_count: u32,
    maps: u64,
    _name: [u8; 16],
}

/// What a pinned program is and which maps it uses, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) id: u32,
    pub(super) maps: Vec<u32>,
}

impl RawMap {
    /// Opens a pinned map; anything else that is pinned there is an error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::new(open_kind(path, "bpf-map")?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        ask(fd.as_fd(), &mut info)?;
        let length = info.name.iter().position(|&byte| byte == 0).unwrap_or(info.name.len());
        Ok(Self {
            fd,
            id: info.id,
            shape: Shape {
                kind: info.kind,
                key: info.key,
                value: info.value,
                entries: info.entries,
                flags: info.flags,
            },
            name: String::from_utf8_lossy(&info.name[..length]).into_owned(),
        })
    }

    pub(super) fn is_per_cpu(&self) -> bool {
        PER_CPU.contains(&self.shape.kind)
    }

    /// All bytes of one value, which a map for each CPU has one of for each CPU that there may be.
    fn room(&self) -> io::Result<usize> {
        let value = self.shape.value as usize;
        if !self.is_per_cpu() {
            return Ok(value);
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(value.next_multiple_of(8) * cpus)
    }

    /// The values of one entry, one for each CPU or only one.
    pub(super) fn values<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let value = self.shape.value as usize;
        let stride = if self.is_per_cpu() { value.next_multiple_of(8) } else { value };
        bytes.chunks_exact(stride.max(1)).map(move |chunk| &chunk[..value])
    }

    /// Calls `visit` with every key and value. A map that is written to meanwhile may show an entry twice, or begin
    /// again: the number of steps is bounded.
    pub(super) fn walk(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut key: Option<Vec<u8>> = None;
        for _ in 0..u64::from(self.shape.entries) * 4 {
            let Some(next) = self.next(key.as_deref())? else { return Ok(()) };
            if let Some(value) = self.get(&next)? {
                visit(&next, &value)?;
            }
            key = Some(next);
        }
        Ok(())
    }

    fn next(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.shape.key as usize];
        let key = key.map_or(0, |key| key.as_ptr() as u64);
        let mut attributes = [self.number()?, key, next.as_mut_ptr() as u64];
        Ok(found(bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes))?.then_some(next))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.room()?];
        let mut attributes = [self.number()?, self.key(key)?, value.as_mut_ptr() as u64, 0];
        Ok(found(bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes))?.then_some(value))
    }

    /// Writes an entry, whether it is there or not.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if value.len() != self.room()? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut attributes = [self.number()?, self.key(key)?, value.as_ptr() as u64, 0];
        bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }

    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        let mut attributes = [self.number()?, self.key(key)?, 0, 0];
        found(bpf(BPF_MAP_DELETE_ELEM, &mut attributes)).map(drop)
    }

    /// The address of a key, which has to be as long as the kernel believes.
    fn key(&self, key: &[u8]) -> io::Result<u64> {
        if key.len() != self.shape.key as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(key.as_ptr() as u64)
    }

    fn number(&self) -> io::Result<u64> {
        u64::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes an entry out of a map of those types, nothing if there is none: in one step, which hashes take since 5.14.
#[expect(unsafe_code, reason = "the kernel writes through a pointer")]
pub(super) fn take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let number = u64::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let mut attributes = [number, std::ptr::from_ref(key) as u64, value.as_mut_ptr() as u64, 0];
    let taken = found(bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes))?;
    // SAFETY: the kernel has written all of it; the map was opened with this type of value.
    Ok(taken.then(|| unsafe { value.assume_init() }))
}

/// Whether there was such an entry.
fn found(result: io::Result<libc::c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Who a program is.
pub(super) fn program(program: BorrowedFd<'_>) -> io::Result<Program> {
    let mut maps = vec![0_u32; 64];
    let count = u32::try_from(maps.len()).map_err(io::Error::other)?;
    let mut info = ProgramInfo { map_count: count, maps: maps.as_mut_ptr() as u64, ..ProgramInfo::default() };
    ask(program, &mut info)?;
    maps.truncate(info.map_count as usize);
    Ok(Program { id: info.id, maps })
}

/// Opens a pinned program and says who it is.
pub(super) fn pinned_program(path: &Path) -> io::Result<Program> {
    program(open_kind(path, "bpf-prog")?.as_fd())
}

/// Opens what is pinned, if it is of this kind. What is of another is [`io::ErrorKind::InvalidData`].
pub(super) fn open_kind(path: &Path, kind: &str) -> io::Result<OwnedFd> {
    let other = || io::Error::new(io::ErrorKind::InvalidData, format!("it is no {kind}"));
    // Every pin is a file.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(other());
    }
    let fd = link::open(path)?;
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    // `anon_inode:bpf-map`, `anon_inode:bpf-prog`, `anon_inode:bpf_link`; newer kernels put brackets around the name.
    let same = name.to_string_lossy().replace('_', "-").contains(kind);
    if same { Ok(fd) } else { Err(other()) }
}

/// What the kernel says of an object.
fn ask<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    let fd = u32::try_from(object.as_raw_fd()).map_err(io::Error::other)?;
    let length = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let info = std::ptr::from_mut(info) as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut Attributes { fd, length, info }).map(drop)
}
