//! Programs of others that judge what the agent writes, from the registries of their languages: fetched at first use
//! into `target/lab-tools`, each version once.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::process::run;
use lab::tools::{find, lab_tools};

/// A Python with these packages, such as `jsonschema==4.25.1`.
pub fn python(packages: &[&str]) -> Result<Command> {
    let folder = fetched("python", packages, |folder| {
        let mut command = Command::new(program("python3", "python3-pip")?);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        run(command.arg(folder).args(packages)).map(drop)
    })?;
    let mut command = Command::new(program("python3", "python3-pip")?);
    command.env("PYTHONPATH", folder);
    Ok(command)
}

/// A folder whose `node_modules` holds these packages, such as `typescript@5.9.3`.
pub fn node_modules(packages: &[&str]) -> Result<PathBuf> {
    fetched("node", packages, |folder| {
        let mut command = Command::new(program("npm", "npm")?);
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        run(command.arg(folder).args(packages)).map(drop)
    })
}

fn program(name: &str, package: &str) -> Result<PathBuf> {
    match find(name) {
        Some(program) => Ok(program),
        None => bail!("`{name}` is missing: install it (Debian's package is `{package}`)"),
    }
}

/// The folder for these packages; `fetch` fills it if nobody has yet. What was interrupted is fetched again.
fn fetched(kind: &str, packages: &[&str], fetch: impl FnOnce(&PathBuf) -> Result<()>) -> Result<PathBuf> {
    let name = packages.join("+").replace('/', "-");
    let folder = lab_tools().join(kind).join(&name);
    if folder.exists() {
        return Ok(folder);
    }
    let unfinished = folder.with_file_name(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    eprintln!("validators: fetching {}", packages.join(", "));
    fetch(&unfinished).with_context(|| format!("failed to fetch {}", packages.join(", ")))?;
    fs::rename(&unfinished, &folder)?;
    Ok(folder)
}
