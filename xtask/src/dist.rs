//! `cargo xtask dist`: what users install. One static binary in a `.deb`, an `.rpm` and a container image, with checksums
//! and a list of what it is made of, in `target/dist`.

mod changelog;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use lab::process::run as run_quietly;
use lab::tools::repository;
use sha2::{Digest, Sha256};

use crate::setup;

/// Programs of others that make packages, by name and version.
const MAKERS: [(&str, &str); 3] =
    [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1"), ("cargo-cyclonedx", "0.5.9")];

/// What to make.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Make only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Product>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Product {
    Binary,
    Deb,
    Rpm,
    Image,
    Sbom,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let wanted = |product| arguments.only.is_empty() || arguments.only.contains(&product);
    let mut made = Vec::new();
    let binary = static_binary()?;
    if wanted(Product::Binary) {
        let file = folder.join(format!("portcullis-{}-{}-linux", version(), std::env::consts::ARCH));
        fs::copy(&binary, &file)?;
        made.push(file);
    }
    if wanted(Product::Deb) || wanted(Product::Rpm) {
        documents(&folder)?;
    }
    if wanted(Product::Deb) {
        made.push(package("cargo-deb", &["deb", "--no-build", "--package", "portcullis"], &folder, "deb")?);
    }
    if wanted(Product::Rpm) {
        made.push(package("cargo-generate-rpm", &["generate-rpm", "--package", "agent"], &folder, "rpm")?);
    }
    if wanted(Product::Image) {
        println!("dist: container image");
        let file = folder.join(format!("portcullis-{}-image.tar", version()));
        image::write(&binary, version(), &file)?;
        made.push(file);
    }
    if wanted(Product::Sbom) {
        made.push(bill_of_materials(&folder)?);
    }
    checksums(&folder, &made)?;
    for file in &made {
        println!("{:>10} KiB  {}", file.metadata()?.len() / 1024, file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where everything ends up.
pub(crate) fn folder() -> PathBuf {
    target().join("dist")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

const fn version() -> &'static str {
    // All crates of the workspace have one version.
    env!("CARGO_PKG_VERSION")
}

/// The agent without shared libraries, so that it runs on any distribution and on none.
pub(crate) fn static_binary() -> Result<PathBuf> {
    println!("dist: building the agent without shared libraries");
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--package", "portcullis", "--target", &triple()])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(repository());
    if !command.status().context("failed to run cargo")?.success() {
        bail!("the agent does not build");
    }
    let binary = target().join(triple()).join("release/portcullis");
    let headers = run_quietly(Command::new("readelf").arg("--program-headers").arg(&binary))?;
    if headers.contains("INTERP") {
        bail!("`{}` needs shared libraries", binary.display());
    }
    Ok(binary)
}

/// Manual pages, completions and the changelog, as packages want them.
fn documents(folder: &Path) -> Result<()> {
    println!("dist: manual pages and completions");
    let manual = folder.join("manual");
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--package", "portcullis", "--example", "manual", "--"]).arg(&manual);
    if !command.current_dir(repository()).status()?.success() {
        bail!("the manual pages cannot be made");
    }
    let changes = fs::read_to_string(repository().join("CHANGELOG.md"))?;
    fs::write(folder.join("changelog"), changelog::debian(&changes, version()))?;
    Ok(())
}

/// Makes one package and moves it to the others.
fn package(maker: &str, arguments: &[&str], folder: &Path, kind: &str) -> Result<PathBuf> {
    println!("dist: {kind}");
    let made = folder.join("made");
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    fs::create_dir_all(&made)?;
    let mut command = Command::new(self::maker(maker)?);
    command.args(arguments).args(["--target", &triple(), "--output"]).arg(&made).current_dir(repository());
    run_quietly(&mut command)?;
    let file = fs::read_dir(&made)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == kind))
        .with_context(|| format!("`{maker}` has made nothing"))?;
    let name = file.file_name().context("no name")?;
    let moved = folder.join(name);
    fs::rename(&file, &moved)?;
    fs::remove_dir(&made)?;
    Ok(moved)
}

fn bill_of_materials(folder: &Path) -> Result<PathBuf> {
    println!("dist: bill of materials");
    let mut command = Command::new(maker("cargo-cyclonedx")?);
    command
        .args(["cyclonedx", "--manifest-path", "agent/Cargo.toml", "--format", "json", "--no-build-deps"])
        .args(["--override-filename", "portcullis.cdx"])
        .current_dir(repository());
    run_quietly(&mut command)?;
    // It writes one beside every manifest of the workspace.
    let mut found = None;
    for manifest in
        ["agent", "agent-common", "agent-ebpf", "xtask", "tests", "tests/fuzz", "tests/lab", "tests/model"]
    {
        let file = repository().join(manifest).join("portcullis.cdx.json");
        if !file.exists() {
            continue;
        }
        if manifest == "agent" {
            let moved = folder.join(format!("portcullis-{}.cdx.json", version()));
            fs::copy(&file, &moved)?;
            found = Some(moved);
        }
        fs::remove_file(&file)?;
    }
    found.context("`cargo-cyclonedx` has made nothing")
}

/// A maker of packages, built from its source at first use.
fn maker(name: &str) -> Result<PathBuf> {
    let (_, version) = MAKERS.iter().find(|(other, _)| *other == name).context("not one of ours")?;
    let root = target().join("dist-tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    println!("dist: building {name} {version}");
    let mut command = Command::new("cargo");
    command
        .args(["install", "--quiet", "--locked", "--version", version, name, "--root"])
        .arg(&root)
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null());
    if !command.status()?.success() {
        bail!("`{name}` does not build");
    }
    Ok(program)
}

/// `SHA256SUMS`, for `sha256sum --check`.
fn checksums(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let mut text = String::new();
    for file in files {
        let name = file.file_name().context("no name")?.to_string_lossy();
        text.push_str(&format!("{}  {name}\n", sha256(&fs::read(file)?)));
    }
    fs::write(folder.join("SHA256SUMS"), text)?;
    Ok(())
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
