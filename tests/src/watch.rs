//! Programs of a few instructions that note what the kernel says of a packet, or mark it: for facts that have to hold
//! before any program of ours runs. Attached by clsact, which every supported kernel has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use lab::netns::Netns;
use lab::process::run;
use lab::scratch::Scratch;
use lab::tools;
use rustix::process::{Resource, Rlimit, setrlimit};

/// What was said of one packet, in this order: `ingress_ifindex`, `mark`, `vlan_present`, `protocol` as it lies in the
/// packet.
type Said = [u32; 4];

/// Offsets of those fields in `__sk_buff` (linux/bpf.h).
const FIELDS: [i16; 4] = [36, 8, 20, 16];
const MARK: i16 = 8;

/// Where programs are pinned.
#[derive(Debug)]
pub struct Watch {
    /// By its path: busybox's `nsenter` would run a `tc` of its own, which knows too little.
    tc: PathBuf,
    folder: PathBuf,
    /// The directory of the file system, which goes with the value.
    _scratch: Scratch,
}

/// Which way packets go, seen from the host.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// Out of the port: into the container.
    Egress,
    /// Into the port: out of the container.
    Ingress,
}

impl Watch {
    /// Loads the program that notes packets.
    pub fn new() -> Result<Self> {
        // Before 5.11 memory of maps counts against this limit; where it matters and may not be raised, making one
        // fails.
        setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).ok();
        let tc = tools::find("tc").context("`tc` is missing: it is part of iproute2")?;
        let scratch = Scratch::create()?;
        let folder = scratch.path().join("bpf");
        fs::create_dir_all(&folder)?;
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&folder))?;
        let map = bpf::hash_map(4, u32::try_from(size_of::<Said>())?, 4096)?;
        bpf::pin(&map, &folder.join("said"))?;
        bpf::pin(&bpf::classifier(&noting(map.as_raw_fd()))?, &folder.join("noting"))?;
        Ok(Self { tc, folder, _scratch: scratch })
    }

    /// Notes what passes an interface of `host` that way.
    pub fn note(&self, host: &Netns, interface: &str, way: Way) -> Result<()> {
        self.attach(host, interface, way, "noting")
    }

    /// Marks what passes an interface of `host` that way.
    pub fn mark(&self, host: &Netns, interface: &str, way: Way, mark: u32) -> Result<()> {
        let name = format!("marking-{mark:x}");
        bpf::pin(&bpf::classifier(&marking(mark))?, &self.folder.join(&name))?;
        self.attach(host, interface, way, &name)
    }

    fn attach(&self, host: &Netns, interface: &str, way: Way, program: &str) -> Result<()> {
        // Fails when it is there already.
        drop(run(host.command(&self.tc).args(["qdisc", "add", "dev", interface, "clsact"])));
        let way = match way {
            Way::Egress => "egress",
            Way::Ingress => "ingress",
        };
        run(host
            .command(&self.tc)
            .args(["filter", "add", "dev", interface, way, "bpf", "da", "object-pinned"])
            .arg(self.folder.join(program)))?;
        Ok(())
    }

    /// Everything noted so far, by length of the packet, Ethernet header included.
    pub fn said(&self) -> Result<BTreeMap<u32, Said>> {
        let map: HashMap<MapData, u32, Said> =
            Map::HashMap(MapData::from_pin(self.folder.join("said"))?).try_into()?;
        map.iter().map(|entry| entry.context("failed to read the notes")).collect()
    }
}

/// One instruction: code, destination and source register, offset, number.
pub(crate) type Instruction = (u8, u8, u8, i16, i32);

const MOVE: u8 = 0xbf;
pub(crate) const MOVE_NUMBER: u8 = 0xb7;
const MOVE_NUMBER_32: u8 = 0xb4;
const ADD_NUMBER: u8 = 0x07;
const LOAD_32: u8 = 0x61;
const STORE_32: u8 = 0x63;
const LOAD_WIDE: u8 = 0x18;
const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;
const UPDATE: i32 = 2;

fn noting(map: i32) -> Vec<Instruction> {
    let mut program = vec![(MOVE, 6, 1, 0, 0), (LOAD_32, 1, 6, 0, 0), (STORE_32, 10, 1, -4, 0)];
    for (place, field) in (-20..).step_by(4).zip(FIELDS) {
        program.extend([(LOAD_32, 1, 6, field, 0), (STORE_32, 10, 1, place, 0)]);
    }
    program.extend([
        // The number is a map's descriptor: source 1.
        (LOAD_WIDE, 1, 1, 0, map),
        (0, 0, 0, 0, 0),
        (MOVE, 2, 10, 0, 0),
        (ADD_NUMBER, 2, 0, 0, -4),
        (MOVE, 3, 10, 0, 0),
        (ADD_NUMBER, 3, 0, 0, -20),
        (MOVE_NUMBER, 4, 0, 0, 0),
        (CALL, 0, 0, 0, UPDATE),
    ]);
    program.extend(GO_ON);
    program
}

fn marking(mark: u32) -> Vec<Instruction> {
    let mut program = vec![(MOVE_NUMBER_32, 2, 0, 0, mark.cast_signed()), (STORE_32, 1, 2, MARK, 0)];
    program.extend(GO_ON);
    program
}

/// Leaves the packet to whoever comes next.
const GO_ON: [Instruction; 2] = [(MOVE_NUMBER, 0, 0, 0, -1), (EXIT, 0, 0, 0, 0)];

/// bpf(2), as far as these programs need it: the loader wants objects, not instructions.
pub(crate) mod bpf {
    use super::{AsRawFd, FromRawFd, Instruction, OwnedFd, Path, Result, io};
    use anyhow::Context;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    const MAP_CREATE: libc::c_long = 0;
    const PROG_LOAD: libc::c_long = 5;
    const OBJ_PIN: libc::c_long = 6;
    const HASH: u32 = 1;
    const SCHED_CLS: u32 = 3;

    pub(crate) fn call(command: libc::c_long, attributes: &[u64]) -> io::Result<i32> {
        // SAFETY: the attributes, and what they point to, live until the call returns; their size is told.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
        i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
    }

    pub(crate) fn owned(result: io::Result<i32>) -> io::Result<OwnedFd> {
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn pair(low: u32, high: u32) -> u64 {
        u64::from(low) | u64::from(high) << 32
    }

    pub(super) fn hash_map(key: u32, value: u32, entries: u32) -> Result<OwnedFd> {
        owned(call(MAP_CREATE, &[pair(HASH, key), pair(value, entries)])).context("failed to make a map")
    }

    pub(crate) fn classifier(program: &[Instruction]) -> Result<OwnedFd> {
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
            &[pair(SCHED_CLS, count), words.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0],
        ))
        .context("failed to load a program")
    }

    pub(crate) fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        call(OBJ_PIN, &[path.as_ptr() as u64, u64::from(object.as_raw_fd().cast_unsigned())])
            .context("failed to pin")?;
        Ok(())
    }
}
