//! `cargo xtask dist`: what users install. One static binary in a `.deb`, an `.rpm` and a container image, with checksums
//! and a list of what it is made of, in `target/dist`.

mod changelog;
mod check;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use lab::process::run as run_quietly;
use lab::tools::repository;
use sha2::{Digest, Sha256};

use crate::{build, setup};

/// Programs of others that make packages, by name and version.
const MAKERS: [(&str, &str); 3] =
    [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1"), ("cargo-cyclonedx", "0.5.9")];

/// What to make.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Make only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Product>,
    /// Try everything that was made: installed, upgraded, removed, booted with systemd, run by Docker
    #[arg(long, conflicts_with = "only")]
    check: bool,
    /// Do nothing if nothing has changed that decides about packages since they last passed
    #[arg(long, requires = "check")]
    if_changed: bool,
    /// Try only the Debian package, with the agent of the tests inside: minutes instead of half an hour
    #[arg(long, requires = "check", conflicts_with = "if_changed")]
    quick: bool,
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
    if arguments.if_changed && check::is_current()? {
        println!("dist: nothing has changed since the packages last passed");
        return Ok(ExitCode::SUCCESS);
    }
    if let setup::Outcome::Refused(instructions) = setup::ensure()? {
        eprintln!("{instructions}");
        return Ok(ExitCode::from(2));
    }
    if arguments.quick {
        check::prepare(Extent::Quick)?;
        make_quickly()?;
        return Ok(if check::try_out(Extent::Quick)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    // As they are now: what is changed meanwhile has not been tried.
    let inputs = check::inputs()?;
    make(&arguments.only)?;
    if arguments.check {
        check::prepare(Extent::All)?;
        if !check::try_out(Extent::All)? {
            return Ok(ExitCode::FAILURE);
        }
        check::note(&inputs)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Everything that users install.
    All,
    /// The Debian package of the agent that the other tests run.
    Quick,
}

impl Extent {
    /// Where the packages are.
    fn folder(self) -> PathBuf {
        match self {
            Self::All => folder(),
            Self::Quick => target().join("dist-quick"),
        }
    }
}

/// Makes the Debian package of the agent as it is built for other tests. It needs the shared libraries of this machine's
/// own release, which is the one that it is tried on.
fn make_quickly() -> Result<()> {
    build::agent(false)?;
    let folder = Extent::Quick.folder();
    fs::create_dir_all(&folder)?;
    documents()?;
    let arguments = ["deb", "--no-build", "--fast", "--profile", "dev", "--package", "portcullis"];
    package("cargo-deb", &arguments, None, &folder, "deb").map(drop)
}

/// Makes these, or all.
fn make(only: &[Product]) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let wanted = |product| only.is_empty() || only.contains(&product);
    let mut made = Vec::new();
    let binary = static_binary()?;
    if wanted(Product::Binary) {
        let file = folder.join(format!("portcullis-{}-{}-linux", version(), std::env::consts::ARCH));
        fs::copy(&binary, &file)?;
        made.push(file);
    }
    if wanted(Product::Deb) || wanted(Product::Rpm) {
        documents()?;
    }
    if wanted(Product::Deb) {
        made.push(package(
            "cargo-deb",
            &["deb", "--no-build", "--package", "portcullis"],
            Some(&triple()),
            &folder,
            "deb",
        )?);
    }
    if wanted(Product::Rpm) {
        made.push(package(
            "cargo-generate-rpm",
            &["generate-rpm", "--package", "agent"],
            Some(&triple()),
            &folder,
            "rpm",
        )?);
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
    Ok(())
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
fn documents() -> Result<()> {
    println!("dist: manual pages and completions");
    let folder = folder();
    fs::create_dir_all(&folder)?;
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

/// When the newest commit was made, in seconds: packages of one commit shall be the same whenever they are made.
fn date() -> String {
    let mut command = Command::new("git");
    command.args(["log", "-1", "--format=%ct"]).current_dir(repository());
    let date = run_quietly(&mut command).unwrap_or_default();
    if date.trim().is_empty() { changelog::DATE.to_string() } else { date.trim().to_owned() }
}

/// Makes one package, of what was built for a target, and moves it to the others.
fn package(
    maker: &str,
    arguments: &[&str],
    target: Option<&str>,
    folder: &Path,
    kind: &str,
) -> Result<PathBuf> {
    println!("dist: {kind}");
    let made = folder.join("made");
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    fs::create_dir_all(&made)?;
    let mut command = Command::new(self::maker(maker)?);
    command.args(arguments).args(target.map(|target| format!("--target={target}")));
    command.arg("--output").arg(&made).current_dir(repository());
    run_quietly(command.env("SOURCE_DATE_EPOCH", date()))?;
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
    run_quietly(command.env("SOURCE_DATE_EPOCH", date()))?;
    // It writes one beside every manifest of the workspace.
    let mut found = None;
    for manifest in manifests()? {
        let file = manifest.with_file_name("portcullis.cdx.json");
        if !file.exists() {
            continue;
        }
        if manifest == repository().join("agent/Cargo.toml") {
            let moved = folder.join(format!("portcullis-{}.cdx.json", version()));
            fs::copy(&file, &moved)?;
            found = Some(moved);
        }
        fs::remove_file(&file)?;
    }
    found.context("`cargo-cyclonedx` has made nothing")
}

/// Those of all crates of the workspace.
fn manifests() -> Result<Vec<PathBuf>> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version=1"]).current_dir(repository());
    let metadata: serde_json::Value = serde_json::from_str(&run_quietly(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("no packages in the workspace")?;
    Ok(packages
        .iter()
        .filter_map(|package| Some(PathBuf::from(package["manifest_path"].as_str()?)))
        .collect())
}

/// A maker of packages, built from its source at first use: not optimised, as that takes longer than it ever runs.
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
        .args(["install", "--quiet", "--locked", "--debug", "--version", version, name, "--root"])
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
