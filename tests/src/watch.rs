//! Programs of a few instructions that note what the kernel says of a packet, or mark it: for facts that have to hold
//! before any program of ours runs. Attached by clsact, which every supported kernel has.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use lab::netns::Netns;
use lab::process::run;
use lab::scratch::{Scratch, mount_bpffs};
use lab::tools;

use crate::bpf::{self, Instruction};

/// What was said of one packet, in this order: `ingress_ifindex`, `mark`, `vlan_present`, `protocol` as it lies in the
/// packet.
type Said = [u32; 4];

/// Offsets of those fields in `__sk_buff` (linux/bpf.h).
const FIELDS: [i16; 4] = [36, 8, 20, 16];
const MARK: i16 = 8;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

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
        let tc = tools::find("tc").context("`tc` is missing: it is part of iproute2")?;
        let scratch = Scratch::create()?;
        let folder = scratch.path().join("bpf");
        mount_bpffs(&folder)?;
        let map = bpf::map(bpf::HASH, [4, u32::try_from(size_of::<Said>())?, 4096], 0)?;
        bpf::pin(&map, &folder.join("said"))?;
        bpf::pin(&bpf::classifier(&noting(map.as_raw_fd()))?, &folder.join("noting"))?;
        bpf::pin(&bpf::classifier(&measuring(map.as_raw_fd()))?, &folder.join("measuring"))?;
        Ok(Self { tc, folder, _scratch: scratch })
    }

    /// Notes what passes an interface of `host` that way.
    pub fn note(&self, host: &Netns, interface: &str, way: Way) -> Result<()> {
        self.attach(host, interface, way, "noting")
    }

    /// Notes something else of what passes: how much of it lies in the first piece of memory, the result of reading
    /// the first four bytes behind an Ethernet header, and these bytes.
    pub fn measure(&self, host: &Netns, interface: &str, way: Way) -> Result<()> {
        self.attach(host, interface, way, "measuring")
    }

    /// Puts a program that returns this in front of all filters of an interface, in the place of the last such one.
    pub fn first(&self, host: &Netns, interface: &str, way: Way, returns: i32) -> Result<()> {
        // Each time another program, though it may do the same.
        let name = format!("returning-{}", fs::read_dir(&self.folder)?.count());
        bpf::pin(&bpf::returning(returns)?, &self.folder.join(&name))?;
        self.filter(host, interface, way, &name, &["replace", "pref", "1", "handle", "1"])
    }

    /// Marks what passes an interface of `host` that way.
    pub fn mark(&self, host: &Netns, interface: &str, way: Way, mark: u32) -> Result<()> {
        let name = format!("marking-{mark:x}");
        bpf::pin(&bpf::classifier(&marking(mark))?, &self.folder.join(&name))?;
        self.attach(host, interface, way, &name)
    }

    fn attach(&self, host: &Netns, interface: &str, way: Way, program: &str) -> Result<()> {
        self.filter(host, interface, way, program, &["add"])
    }

    fn filter(&self, host: &Netns, interface: &str, way: Way, program: &str, how: &[&str]) -> Result<()> {
        // Fails when it is there already.
        drop(run(host.command(&self.tc).args(["qdisc", "add", "dev", interface, "clsact"])));
        let way = match way {
            Way::Egress => "egress",
            Way::Ingress => "ingress",
        };
        run(host
            .command(&self.tc)
            .args(["filter", how[0], "dev", interface, way])
            .args(&how[1..])
            .args(["bpf", "da", "object-pinned"])
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

fn noting(map: i32) -> Vec<Instruction> {
    let mut program =
        vec![(bpf::MOVE, 6, 1, 0, 0), (bpf::LOAD_32, 1, 6, 0, 0), (bpf::STORE_32, 10, 1, -4, 0)];
    for (place, field) in (-20..).step_by(4).zip(FIELDS) {
        program.extend([(bpf::LOAD_32, 1, 6, field, 0), (bpf::STORE_32, 10, 1, place, 0)]);
    }
    program.extend(kept(map));
    program.extend(GO_ON);
    program
}

fn measuring(map: i32) -> Vec<Instruction> {
    let mut program = vec![
        (bpf::MOVE, 6, 1, 0, 0),
        (bpf::LOAD_32, 1, 6, 0, 0),
        (bpf::STORE_32, 10, 1, -4, 0),
        (bpf::LOAD_32, 2, 6, DATA, 0),
        (bpf::LOAD_32, 3, 6, DATA_END, 0),
        (bpf::SUBTRACT, 3, 2, 0, 0),
        (bpf::STORE_32, 10, 3, -20, 0),
        (bpf::MOVE_NUMBER, 1, 0, 0, 0),
        (bpf::STORE_32, 10, 1, -12, 0),
        (bpf::STORE_32, 10, 1, -8, 0),
        (bpf::MOVE, 1, 6, 0, 0),
        (bpf::MOVE_NUMBER, 2, 0, 0, 14),
        (bpf::MOVE, 3, 10, 0, 0),
        (bpf::ADD_NUMBER, 3, 0, 0, -12),
        (bpf::MOVE_NUMBER, 4, 0, 0, 4),
        (bpf::CALL, 0, 0, 0, bpf::LOAD_BYTES),
        (bpf::STORE_32, 10, 0, -16, 0),
    ];
    program.extend(kept(map));
    program.extend(GO_ON);
    program
}

/// Puts the 16 bytes at -20 under the key at -4.
fn kept(map: i32) -> [Instruction; 8] {
    [
        // The number is a map's descriptor: source 1.
        (bpf::LOAD_WIDE, 1, 1, 0, map),
        (0, 0, 0, 0, 0),
        (bpf::MOVE, 2, 10, 0, 0),
        (bpf::ADD_NUMBER, 2, 0, 0, -4),
        (bpf::MOVE, 3, 10, 0, 0),
        (bpf::ADD_NUMBER, 3, 0, 0, -20),
        (bpf::MOVE_NUMBER, 4, 0, 0, 0),
        (bpf::CALL, 0, 0, 0, bpf::UPDATE),
    ]
}

fn marking(mark: u32) -> Vec<Instruction> {
    let mut program =
        vec![(bpf::MOVE_NUMBER_32, 2, 0, 0, mark.cast_signed()), (bpf::STORE_32, 1, 2, MARK, 0)];
    program.extend(GO_ON);
    program
}

/// Leaves the packet to whoever comes next.
const GO_ON: [Instruction; 2] = [(bpf::MOVE_NUMBER, 0, 0, 0, -1), (bpf::EXIT, 0, 0, 0, 0)];
