//! A second build of the agent: the kernel programs inside differ from the first build's in their bytes, and so in their
//! tags, but not in what they do. An upgrade between the two exchanges every program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// ELF, 64 bits, little endian.
const MAGIC: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const MACHINE_BPF: u64 = 247;
/// A section of symbols, its entries' size, and a symbol that is a function.
const SYMBOLS: u64 = 2;
const SYMBOL: usize = 24;
const FUNCTION: u64 = 2;
/// The codes of `r = number` for all 64 bits, and for the lower 32, which clears the upper ones.
const MOVE_64: u8 = 0xb7;
const MOVE_32: u8 = 0xb4;

/// Writes the other build of `agent` to `to`; returns in how many programs it differs.
///
/// One instruction of each program is replaced: a small number is moved into a register by 32 bits instead of 64, which
/// comes to the same.
pub fn write(agent: &Path, to: &Path) -> Result<usize> {
    let mut binary = fs::read(agent).with_context(|| format!("failed to read `{}`", agent.display()))?;
    let object = (0..binary.len().saturating_sub(64))
        .find(|&at| binary[at..].starts_with(&MAGIC) && number(&binary, at + 18, 2) == MACHINE_BPF)
        .context("there is no object of kernel programs in the agent")?;
    let mut changed = 0;
    for (offset, size) in programs(&binary, object) {
        let code =
            binary.get_mut(object + offset..object + offset + size).context("the object is cut off")?;
        let Some(instruction) = code.chunks_exact_mut(8).find(|instruction| is_small_move(instruction))
        else {
            bail!("a program without any number in it");
        };
        instruction[0] = MOVE_32;
        changed += 1;
    }
    fs::write(to, binary)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(changed)
}

/// Offset within the object, and size, of each program.
fn programs(binary: &[u8], object: usize) -> Vec<(usize, usize)> {
    let header = |index: u64| {
        let (table, entry) = (number(binary, object + 40, 8), number(binary, object + 58, 2));
        object + (table + index * entry) as usize
    };
    let sections = (0..number(binary, object + 60, 2)).map(header);
    let symbols = sections.filter(|&section| number(binary, section + 4, 4) == SYMBOLS).flat_map(|section| {
        let (offset, size) = (number(binary, section + 24, 8), number(binary, section + 32, 8));
        (0..size as usize / SYMBOL).map(move |index| object + offset as usize + index * SYMBOL)
    });
    symbols
        .filter(|&symbol| number(binary, symbol + 4, 1) & 0xf == FUNCTION)
        .map(|symbol| {
            let section = header(number(binary, symbol + 6, 2));
            let offset = number(binary, section + 24, 8) + number(binary, symbol + 8, 8);
            (offset as usize, number(binary, symbol + 16, 8) as usize)
        })
        .collect()
}

/// Whether a number that is not negative, and needs no relocation, is moved into a register.
fn is_small_move(instruction: &[u8]) -> bool {
    instruction[0] == MOVE_64 && instruction[7] < 0x80
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let bytes = bytes.get(at..at + size).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
