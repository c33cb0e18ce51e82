//! `cargo xtask setup`: installs what a build or a test needs, says each step, and does nothing when all is there.
//! It never installs, starts or changes a Docker on the machine: an engine is only ever unpacked below `target/`.

mod engine;
mod facts;
mod plan;

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use facts::Facts;
use plan::{Plan, Step};

/// Runs the command.
pub(crate) fn run() -> Result<ExitCode> {
    let said = match ensure()? {
        Outcome::Ready { changed: false } => "everything is there",
        Outcome::Ready { changed: true } => "done",
        Outcome::Refused(instructions) => {
            eprintln!("{instructions}");
            return Ok(ExitCode::from(2));
        }
    };
    println!("setup: {said}; kernel programs build with {}", toolchain());
    Ok(ExitCode::SUCCESS)
}

/// The toolchain that the kernel programs are built with, as a person would name it.
pub(crate) fn toolchain() -> String {
    Facts::probe().toolchain().map_or_else(|| "nothing yet".to_owned(), |toolchain| toolchain.to_string())
}

/// How a setup ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ready {
        changed: bool,
    },
    /// What the user has to do, since setup may not.
    Refused(String),
}

/// Brings the machine to where a build and every test can run. Steps are planned anew after each round, because what
/// one installs decides the next: only Debian's `rustc` says which LLVM its linker has to be built with.
pub(crate) fn ensure() -> Result<Outcome> {
    let mut changed = false;
    for _ in 0..5 {
        let facts = Facts::probe();
        match plan::next(&facts)? {
            Plan::Nothing => return Ok(Outcome::Ready { changed }),
            Plan::Refuse(instructions) => return Ok(Outcome::Refused(instructions)),
            Plan::Steps(steps) => {
                for step in &steps {
                    println!("setup: {step}");
                    carry_out(step)?;
                    changed = true;
                }
            }
        }
    }
    let missing = match plan::next(&Facts::probe())? {
        Plan::Nothing => return Ok(Outcome::Ready { changed }),
        Plan::Refuse(instructions) => instructions,
        Plan::Steps(steps) => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    bail!("setup does not come to an end; still to do: {missing}")
}

/// Installs packages that one command alone needs.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", packages.join(" "));
    carry_out(&Step::AptUpdate)?;
    carry_out(&Step::AptInstall(packages.to_vec()))
}

/// Unpacks a package below `target/` instead of installing it, so that no service of it starts.
pub(crate) fn unpack(package: &str) -> Result<()> {
    println!("setup: unpacking {package} below target/ (nothing is installed or started)");
    carry_out(&Step::AptUpdate)?;
    engine::unpack_package(package)
}

fn carry_out(step: &Step) -> Result<()> {
    match step {
        Step::AptUpdate => quiet(Command::new("apt-get").args(["update", "-qq"])),
        Step::AptInstall(packages) => {
            engine::refuse_engine_changes(packages)?;
            quiet(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
        }
        Step::BpfLinker { llvm } => {
            let prefix = format!("/usr/lib/llvm-{llvm}");
            let path = std::env::var("PATH").unwrap_or_default();
            quiet(
                Command::new("cargo")
                    .args([
                        "install",
                        "--quiet",
                        "--locked",
                        "--force",
                        "bpf-linker",
                        "--no-default-features",
                        "--features",
                    ])
                    .arg(format!("llvm-{llvm}"))
                    .env("LLVM_PREFIX", &prefix)
                    .env("PATH", format!("{prefix}/bin:{path}"))
                    .env("RUSTFLAGS", format!("-L {prefix}/lib -C link-arg=-Wl,-rpath,{prefix}/lib")),
            )
        }
        Step::UnpackEngine => engine::unpack(),
        Step::Unpack(package) => engine::unpack_package(package),
        Step::Compose => engine::compose(),
        Step::Components(components) => {
            quiet(Command::new("rustup").args(["component", "add"]).args(components))
        }
    }
}

/// apt must neither ask nor restart services.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1");
    command
}

fn quiet(command: &mut Command) -> Result<()> {
    lab::process::run(command).map(drop)
}
