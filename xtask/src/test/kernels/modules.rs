//! Which modules a guest has to load, in which order, read from the modules themselves: a package brings no list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What the tests need; what is built into a kernel has no file.
const NEEDED: [&str; 9] = [
    "bridge",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_meta_bridge",
    "nft_counter",
    "nft_objref",
    "nf_tables_set",
];

/// A module and its contents.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules, each after those that it depends on.
pub(super) fn in_order(folder: &Path) -> Result<Vec<Module>> {
    let mut files = Vec::new();
    list(&folder.join("kernel"), &mut files)?;
    let mut loaded = Vec::new();
    for name in NEEDED {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(name: &str, files: &[PathBuf], loaded: &mut Vec<Module>) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| module_name(file).as_deref() == Some(name)) else {
        return Ok(());
    };
    let bytes = read(file)?;
    for dependency in dependencies(&bytes) {
        add(&dependency, files, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("no modules in `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// `cls_bpf` of `cls_bpf.ko` and `cls-bpf.ko.xz`.
fn module_name(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|kind| kind.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("failed to read `{}`", file.display())),
    };
    let output = Command::new(program)
        .args(["-dc"])
        .arg(file)
        .output()
        .with_context(|| format!("`{program}` is missing"))?;
    Ok(output.stdout)
}

/// The names behind `depends=` in a module's information section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[start + KEY.len()..];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF\0license=GPL\0depends=stp,llc\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["stp", "llc"]);
        assert!(dependencies(b"\0depends=\0name=llc\0").is_empty());
    }

    #[test]
    fn a_file_is_known_by_its_modules_name() {
        assert_eq!(module_name(Path::new("net/sched/cls_bpf.ko.xz")).as_deref(), Some("cls_bpf"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
