//! nftables: the `nft` program for what is written and listed, netlink for what is asked again and again.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::net::netlink::NETFILTER;
use serde_json::Value;

use crate::netlink::{self, Ask, attributes};

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, linux/netfilter.h
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = NFTABLES | 1;
const NFT_MSG_GETGEN: u16 = NFTABLES | 16;
const NFT_MSG_GETOBJ: u16 = NFTABLES | 19;
const NFPROTO_BRIDGE: u8 = 7;
const NFTA_NAME: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFT_OBJECT_COUNTER: u32 = 1;

/// Where `nft` is when PATH has no system folders.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The `nft` program.
#[derive(Clone, Debug)]
pub(super) struct Nft {
    program: PathBuf,
}

impl Nft {
    pub(super) fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
        folders.map(|folder| folder.join("nft")).find(|file| file.is_file()).map(|program| Self { program })
    }

    /// Runs a script, as one transaction.
    pub(super) fn run(&self, script: &str) -> Result<(), String> {
        self.call(&["-f", "-"], script).map(drop)
    }

    /// Whether a script would run.
    pub(super) fn check(&self, script: &str) -> Result<(), String> {
        self.call(&["-c", "-f", "-"], script).map(drop)
    }

    /// Whether it can list in JSON, which is left out of some builds.
    pub(super) fn check_json(&self) -> Result<(), String> {
        self.call(&["-j", "list", "tables"], "").map(drop)
    }

    /// Everything in a table; `None` if there is no such table.
    pub(super) fn list(&self, table: &str) -> Result<Option<Value>, String> {
        if !exists(table) {
            return Ok(None);
        }
        let text = self.call(&["-j", "list", "table", "bridge", table], "")?;
        serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string())
    }

    /// What it printed, or the first line of what it complained of.
    fn call(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, String> {
        let text = |error: io::Error| format!("`{}`: {error}", self.program.display());
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(text)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read to the end says why below.
            drop(stdin.write_all(input.as_bytes()));
        }
        let output = child.wait_with_output().map_err(text)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().next().unwrap_or("it did not say why").to_owned())
    }
}

/// The number of the ruleset, which every change to any table moves.
pub(super) fn generation() -> io::Result<u32> {
    let answers = netlink::request(Some(NETFILTER), NFT_MSG_GETGEN, Ask::One, &header(0))?;
    let id = answers.iter().find_map(|answer| {
        let (_, id) = attributes(answer.get(4..)?).find(|&(kind, _)| kind == NFTA_GEN_ID)?;
        Some(u32::from_be_bytes(id.try_into().ok()?))
    });
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether there is a table of the bridge family. A kernel without nftables has none.
pub(super) fn exists(table: &str) -> bool {
    let request = [header(NFPROTO_BRIDGE).to_vec(), name(NFTA_NAME, table)].concat();
    netlink::request(Some(NETFILTER), NFT_MSG_GETTABLE, Ask::One, &request).is_ok()
}

/// The packets that a named counter has counted; `None` if there is no such counter.
pub(super) fn packets(table: &str, counter: &str) -> Option<u64> {
    let request = [
        header(NFPROTO_BRIDGE).to_vec(),
        name(NFTA_NAME, table),
        name(NFTA_OBJ_NAME, counter),
        attribute(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes()),
    ];
    let answers = netlink::request(Some(NETFILTER), NFT_MSG_GETOBJ, Ask::One, &request.concat()).ok()?;
    answers.iter().find_map(|answer| {
        let (_, data) = attributes(answer.get(4..)?).find(|&(kind, _)| kind == NFTA_OBJ_DATA)?;
        let (_, packets) = attributes(data).find(|&(kind, _)| kind == NFTA_COUNTER_PACKETS)?;
        Some(u64::from_be_bytes(packets.try_into().ok()?))
    })
}

/// `nfgenmsg`: family, version and a number that only batches use.
const fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn name(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Names are short.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
