//! From what is on the machine to what has to be done next. Pure: takes facts, returns steps.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail};

use super::facts::{COMPONENTS, ENGINE, Facts, PROGRAMS, UNPACKED};

/// LLVM versions that the linker's release can be built with.
const LINKER_LLVM: [u32; 3] = [21, 22, 23];
const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    Steps(Vec<Step>),
    /// What the user has to do, since setup may not.
    Refuse(String),
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    AptUpdate,
    AptInstall(Vec<String>),
    BpfLinker {
        llvm: u32,
    },
    UnpackEngine,
    /// A package that is unpacked below `target/`.
    Unpack(String),
    Compose,
    Components(Vec<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AptUpdate => f.write_str("reading Debian's package lists"),
            Self::AptInstall(packages) => write!(f, "installing {}", packages.join(" ")),
            Self::BpfLinker { llvm } => write!(f, "building bpf-linker with LLVM {llvm} (about a minute)"),
            Self::UnpackEngine => f.write_str(
                "unpacking a Docker Engine below target/ for the lab (nothing is installed or started)",
            ),
            Self::Unpack(package) => {
                write!(f, "unpacking {package} below target/ (nothing is installed or started)")
            }
            Self::Components(components) => {
                write!(f, "adding {} to the Rust toolchain", components.join(" and "))
            }
            Self::Compose => f.write_str("getting docker-compose for the lab"),
        }
    }
}

/// The steps that can be known now; ask again once they are done.
pub(super) fn next(facts: &Facts) -> Result<Plan> {
    if let Some(other) = facts.wanted.as_deref().filter(|wanted| !["debian", "nightly"].contains(wanted)) {
        bail!("PORTCULLIS_BPF_TOOLCHAIN is `{other}`, not `debian` or `nightly`");
    }
    let mut packages: BTreeSet<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| !facts.programs.contains(*program))
        .map(|(_, package)| (*package).to_owned())
        .collect();
    let mut steps = Vec::new();
    match facts.toolchain() {
        None if facts.wanted.as_deref() == Some("nightly") => {
            return Ok(Plan::Refuse(
                "error: PORTCULLIS_BPF_TOOLCHAIN is `nightly`, but there is no nightly with `rust-src`\n\
                 hint: rustup toolchain install nightly --component rust-src"
                    .to_owned(),
            ));
        }
        None => packages.extend(DEBIAN_RUST.map(str::to_owned)),
        Some(toolchain) => {
            let llvm = toolchain.llvm();
            match facts.bpf_linker {
                // Bitcode of one LLVM read by another is a build that may work today: refuse it by name.
                Some(Some(found)) if found != llvm && !LINKER_LLVM.contains(&llvm) => bail!(
                    "{toolchain} writes bitcode of LLVM {llvm}, but bpf-linker was built with LLVM {found}, and there is no bpf-linker for LLVM {llvm}"
                ),
                Some(None) => {}
                Some(Some(found)) if found == llvm => {}
                _ if !LINKER_LLVM.contains(&llvm) => {
                    bail!(
                        "{toolchain} writes bitcode of LLVM {llvm}; bpf-linker can be built with LLVM {LINKER_LLVM:?} only"
                    )
                }
                _ if facts.llvm_dev.contains(&llvm) => steps.push(Step::BpfLinker { llvm }),
                _ => packages.extend([
                    format!("llvm-{llvm}-dev"),
                    format!("libpolly-{llvm}-dev"),
                    "libzstd-dev".to_owned(),
                ]),
            }
        }
    }
    if ENGINE.iter().any(|program| !facts.programs.contains(*program)) {
        steps.push(Step::UnpackEngine);
    } else if !facts.compose {
        steps.push(Step::Compose);
    }
    let unpacked: BTreeSet<&str> = UNPACKED
        .iter()
        .filter(|(program, _)| !facts.programs.contains(*program))
        .map(|(_, package)| *package)
        .collect();
    steps.extend(unpacked.into_iter().map(|package| Step::Unpack(package.to_owned())));
    let components: Vec<String> = COMPONENTS
        .iter()
        .map(|(component, _)| (*component).to_owned())
        .filter(|component| !facts.components.contains(component))
        .collect();
    if !components.is_empty() {
        if !facts.rustup {
            return Ok(Plan::Refuse(format!(
                "error: the Rust toolchain has no {0}\nhint: install {0} with the package manager that the toolchain came from",
                components.join(" and ")
            )));
        }
        steps.push(Step::Components(components));
    }
    if packages.is_empty() && steps.is_empty() {
        return Ok(Plan::Nothing);
    }
    if !facts.debian || !facts.root {
        return Ok(Plan::Refuse(instructions(facts, &packages, &steps)));
    }
    if !packages.is_empty() {
        // What the packages bring may decide the other steps: they come in the next round.
        return Ok(Plan::Steps(vec![Step::AptUpdate, Step::AptInstall(packages.into_iter().collect())]));
    }
    if steps.iter().any(|step| matches!(step, Step::UnpackEngine | Step::Unpack(_) | Step::Compose)) {
        steps.insert(0, Step::AptUpdate);
    }
    Ok(Plan::Steps(steps))
}

/// What somebody has to do whom setup cannot help: it neither becomes root nor knows other systems' packages.
fn instructions(facts: &Facts, packages: &BTreeSet<String>, steps: &[Step]) -> String {
    let mut text = String::from("error: something is missing that a build or a test needs\n");
    if facts.debian {
        text.push_str("hint: run `cargo xtask setup` as root, or yourself:\n");
        if !packages.is_empty() {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            text.push_str(&format!(
                "  apt-get update && apt-get install --no-install-recommends {}\n",
                packages.join(" ")
            ));
        }
    } else {
        text.push_str("hint: setup installs by itself on Debian only; elsewhere install:\n");
        for (program, package) in PROGRAMS.iter().filter(|(program, _)| !facts.programs.contains(*program)) {
            text.push_str(&format!("  `{program}` (Debian's package is `{package}`)\n"));
        }
        if facts.toolchain().is_none() {
            text.push_str(
                "  a compiler for kernel programs: rustup toolchain install nightly --component rust-src\n",
            );
        }
    }
    let linker =
        facts.toolchain().is_none() || steps.iter().any(|step| matches!(step, Step::BpfLinker { .. }));
    if (linker && facts.bpf_linker.is_none()) || packages.iter().any(|package| package.starts_with("llvm-")) {
        let version =
            facts.toolchain().map_or_else(|| "NN".to_owned(), |toolchain| toolchain.llvm().to_string());
        text.push_str(&format!(
            "  LLVM {version} with its development files, then: LLVM_PREFIX=… cargo install bpf-linker --no-default-features --features llvm-{version}\n"
        ));
        if version == "NN" {
            text.push_str("  (NN is the LLVM version that the compiler's `rustc -vV` names)\n");
        }
    }
    for step in steps {
        match step {
            Step::UnpackEngine => {
                text.push_str(&format!("  {} in PATH; none of them has to run\n", ENGINE.join(", ")));
            }
            Step::Unpack(package) => {
                text.push_str(&format!(
                    "  the programs of Debian's package `{package}` in PATH; none has to run\n"
                ));
            }
            Step::Compose => text.push_str("  docker-compose\n"),
            Step::Components(components) => {
                text.push_str(&format!("  rustup component add {}\n", components.join(" ")));
            }
            _ => {}
        }
    }
    text.push_str("nothing was changed");
    text
}

#[cfg(test)]
mod tests;
