//! bpf(2), as far as small programs and maps of the tests' own need it: the loader wants objects, not instructions.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

/// One instruction: code, destination and source register, offset, number.
pub type Instruction = (u8, u8, u8, i16, i32);

pub const MOVE: u8 = 0xbf;
pub const MOVE_NUMBER: u8 = 0xb7;
pub const MOVE_NUMBER_32: u8 = 0xb4;
pub const ADD_NUMBER: u8 = 0x07;
pub const SUBTRACT: u8 = 0x1f;
pub const LOAD_32: u8 = 0x61;
pub const STORE_32: u8 = 0x63;
pub const STORE_64: u8 = 0x7b;
pub const ATOMIC_64: u8 = 0xdb;
pub const LOAD_WIDE: u8 = 0x18;
pub const SKIP_UNLESS_ZERO: u8 = 0x55;
pub const CALL: u8 = 0x85;
pub const EXIT: u8 = 0x95;
/// Helpers.
pub const LOOK_UP: i32 = 1;
pub const UPDATE: i32 = 2;
pub const TIME: i32 = 5;
pub const LOAD_BYTES: i32 = 26;
pub const RING_OUTPUT: i32 = 130;

/// Kinds of maps.
pub const HASH: u32 = 1;
pub const ARRAY: u32 = 2;
pub const LRU_HASH: u32 = 9;
pub const LPM_TRIE: u32 = 11;
pub const RING: u32 = 27;
/// Flags of maps and of their entries.
pub const NO_PREALLOC: u32 = 1;
pub const NOEXIST: u64 = 1;

const MAP_CREATE: libc::c_long = 0;
const LOOK_UP_ENTRY: libc::c_long = 1;
const UPDATE_ENTRY: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const TEST_RUN: libc::c_long = 10;
const SCHED_CLS: u32 = 3;

pub(crate) fn call(command: libc::c_long, attributes: &mut [u64]) -> io::Result<i32> {
    // Before 5.11 memory of maps and programs counts against this limit; where it matters and may not be raised, making
    // one fails.
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).ok();
    // SAFETY: the attributes, and what they point to, live until the call returns; their size is told.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

pub(crate) fn owned(result: io::Result<i32>) -> io::Result<OwnedFd> {
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn number(object: &OwnedFd) -> u64 {
    u64::from(object.as_raw_fd().cast_unsigned())
}

/// Makes a map of a kind, with the sizes of key and value and the number of entries.
pub fn map(kind: u32, [key, value, entries]: [u32; 3], flags: u32) -> Result<OwnedFd> {
    owned(call(MAP_CREATE, &mut [pair(kind, key), pair(value, entries), pair(flags, 0)]))
        .context("failed to make a map")
}

/// Sets an entry.
pub fn update<K, V>(map: &OwnedFd, key: &K, value: &V, flags: u64) -> io::Result<()> {
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_ref(value) as u64);
    call(UPDATE_ENTRY, &mut [number(map), key, value, flags]).map(drop)
}

/// Reads an entry.
pub fn look_up<K, V: Default>(map: &OwnedFd, key: &K) -> io::Result<V> {
    let mut value = V::default();
    let (key, into) = (std::ptr::from_ref(key) as u64, std::ptr::from_mut(&mut value) as u64);
    call(LOOK_UP_ENTRY, &mut [number(map), key, into, 0]).map(|_| value)
}

/// Loads a program for the hooks of interfaces.
pub fn classifier(program: &[Instruction]) -> Result<OwnedFd> {
    let words: Vec<u64> = program
        .iter()
        .map(|&(code, to, from, offset, number)| {
            let [low, high] = offset.to_le_bytes();
            let [a, b, c, d] = number.to_le_bytes();
            u64::from_le_bytes([code, to | from << 4, low, high, a, b, c, d])
        })
        .collect();
    let license = CString::new("GPL")?;
    let count = u32::try_from(words.len())?;
    owned(call(
        PROG_LOAD,
        &mut [pair(SCHED_CLS, count), words.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0],
    ))
    .context("failed to load a program")
}

/// A program that returns this and does nothing else.
pub fn returning(returns: i32) -> Result<OwnedFd> {
    classifier(&[(MOVE_NUMBER, 0, 0, 0, returns), (EXIT, 0, 0, 0, 0)])
}

/// Runs a program this often on an empty frame, and says what it returned last.
pub fn run(program: &OwnedFd, times: u32) -> Result<i32> {
    let frame = [0_u8; 64];
    let length = u32::try_from(frame.len())?;
    let mut attributes =
        [number(program), pair(length, 0), frame.as_ptr() as u64, 0, pair(times, 0), 0, 0, 0];
    call(TEST_RUN, &mut attributes).context("failed to run a program")?;
    Ok(u32::try_from(attributes[0] >> 32)?.cast_signed())
}

/// Runs a program on an empty frame and what it is to be told of it: a `struct __sk_buff`.
pub fn run_told(program: &OwnedFd, context: &[u8]) -> io::Result<()> {
    let frame = [0_u8; 64];
    let sizes = [&frame[..], context].map(|bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let (frame, told) = (frame.as_ptr() as u64, context.as_ptr() as u64);
    let mut attributes =
        [number(program), pair(sizes[0], 0), frame, 0, pair(1, 0), pair(sizes[1], 0), told, 0];
    call(TEST_RUN, &mut attributes).map(drop)
}

/// Pins a program or a map.
pub fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(OBJ_PIN, &mut [path.as_ptr() as u64, number(object)]).context("failed to pin")?;
    Ok(())
}
