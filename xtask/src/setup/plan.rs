//! From what is on the machine to what has to be done next. Pure: takes facts, returns steps.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail};

use super::facts::{COMPONENTS, ENGINE, Facts, PROGRAMS};

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
    BpfLinker { llvm: u32 },
    UnpackEngine,
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
            Self::Components(components) => {
                write!(f, "adding {} to the Rust toolchain", components.join(" and "))
            }
            Self::Compose => f.write_str("getting docker-compose for the lab"),
        }
    }
}

/// The steps that can be known now; ask again once they are done.
pub(super) fn next(facts: &Facts) -> Result<Plan> {
    if let Some(other) = facts
        .wanted
        .as_deref()
        .filter(|wanted| !["debian", "nightly"].contains(wanted))
    {
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
        return Ok(Plan::Steps(vec![
            Step::AptUpdate,
            Step::AptInstall(packages.into_iter().collect()),
        ]));
    }
    if steps
        .iter()
        .any(|step| matches!(step, Step::UnpackEngine | Step::Compose))
    {
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
        for (program, package) in PROGRAMS
            .iter()
            .filter(|(program, _)| !facts.programs.contains(*program))
        {
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
        let version = facts
            .toolchain()
            .map_or_else(|| "NN".to_owned(), |toolchain| toolchain.llvm().to_string());
        text.push_str(&format!(
            "  LLVM {version} with its development files, then: LLVM_PREFIX=… cargo install bpf-linker --no-default-features --features llvm-{version}\n"
        ));
        if version == "NN" {
            text.push_str("  (NN is the LLVM version that the compiler's `rustc -vV` names)\n");
        }
    }
    for step in steps {
        match step {
            Step::UnpackEngine => text.push_str(&format!(
                "  {} in PATH; none of them has to run\n",
                ENGINE.join(", ")
            )),
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
mod tests {
    use super::*;

    fn complete() -> Facts {
        Facts {
            debian: true,
            root: true,
            programs: PROGRAMS
                .iter()
                .map(|(program, _)| *program)
                .chain(ENGINE)
                .map(str::to_owned)
                .collect(),
            compose: true,
            components: COMPONENTS
                .iter()
                .map(|(component, _)| (*component).to_owned())
                .collect(),
            rustup: true,
            debian_llvm: Some(22),
            nightly_llvm: None,
            bpf_linker: Some(Some(22)),
            llvm_dev: [22].into(),
            wanted: None,
        }
    }

    fn steps(facts: &Facts) -> Vec<Step> {
        match next(facts).unwrap() {
            Plan::Steps(steps) => steps,
            other => panic!("expected steps, got {other:?}"),
        }
    }

    #[test]
    fn nothing_to_do_when_all_is_there() {
        assert_eq!(next(&complete()).unwrap(), Plan::Nothing);
        let user = Facts {
            root: false,
            debian: false,
            ..complete()
        };
        assert_eq!(
            next(&user).unwrap(),
            Plan::Nothing,
            "who needs nothing needs no rights"
        );
    }

    #[test]
    fn a_fresh_debian_gets_packages_then_the_linker_for_their_llvm_then_an_engine() {
        let components = complete().components;
        let mut facts = Facts {
            debian: true,
            root: true,
            components,
            ..Facts::default()
        };
        let first = steps(&facts);
        assert_eq!(first[0], Step::AptUpdate);
        let Step::AptInstall(packages) = &first[1] else {
            panic!("{first:?}")
        };
        assert!(
            DEBIAN_RUST
                .iter()
                .all(|package| packages.iter().any(|found| found == package)),
            "{packages:?}"
        );
        assert!(
            !packages.iter().any(|package| package.contains("docker")),
            "no engine is installed: {packages:?}"
        );

        facts.programs = PROGRAMS
            .iter()
            .map(|(program, _)| (*program).to_owned())
            .collect();
        facts.debian_llvm = Some(22);
        let second = steps(&facts);
        let Step::AptInstall(packages) = &second[1] else {
            panic!("{second:?}")
        };
        assert_eq!(packages, &["libpolly-22-dev", "libzstd-dev", "llvm-22-dev"]);

        facts.llvm_dev.insert(22);
        assert_eq!(
            steps(&facts),
            [Step::AptUpdate, Step::BpfLinker { llvm: 22 }, Step::UnpackEngine]
        );

        facts.bpf_linker = Some(Some(22));
        facts.programs.extend(ENGINE.map(str::to_owned));
        assert_eq!(steps(&facts), [Step::AptUpdate, Step::Compose]);
    }

    #[test]
    fn a_docker_in_path_is_left_as_it_is() {
        let facts = Facts {
            programs: PROGRAMS
                .iter()
                .map(|(program, _)| *program)
                .filter(|name| *name != "nft")
                .chain(ENGINE)
                .map(str::to_owned)
                .collect(),
            ..complete()
        };
        assert_eq!(
            steps(&facts),
            [Step::AptUpdate, Step::AptInstall(vec!["nftables".to_owned()])]
        );
    }

    #[test]
    fn a_linker_of_another_llvm_is_rebuilt_or_refused_by_name() {
        let older = Facts {
            bpf_linker: Some(Some(21)),
            ..complete()
        };
        assert_eq!(steps(&older), [Step::BpfLinker { llvm: 22 }]);
        let unheard_of = Facts {
            debian_llvm: Some(99),
            ..complete()
        };
        let message = next(&unheard_of).unwrap_err().to_string();
        assert!(message.contains("99") && message.contains("22"), "{message}");
    }

    #[test]
    fn a_minimal_toolchain_gets_its_missing_parts_from_rustup() {
        let facts = Facts {
            components: ["clippy".to_owned()].into(),
            ..complete()
        };
        assert_eq!(steps(&facts), [Step::Components(vec!["rustfmt".to_owned()])]);
        let packaged = next(&Facts {
            rustup: false,
            ..facts
        })
        .unwrap();
        assert!(matches!(packaged, Plan::Refuse(text) if text.contains("rustfmt")));
    }

    #[test]
    fn a_nightly_with_sources_needs_no_debian_compiler() {
        let facts = Facts {
            debian_llvm: None,
            nightly_llvm: Some(22),
            ..complete()
        };
        assert_eq!(next(&facts).unwrap(), Plan::Nothing);
        let refused = next(&Facts {
            wanted: Some("nightly".to_owned()),
            ..complete()
        })
        .unwrap();
        assert!(matches!(refused, Plan::Refuse(text) if text.contains("--component rust-src")));
    }

    #[test]
    fn others_are_told_exactly_what_to_do() {
        let user = Facts {
            root: false,
            programs: [].into(),
            debian_llvm: None,
            bpf_linker: None,
            ..complete()
        };
        let Plan::Refuse(text) = next(&user).unwrap() else {
            panic!()
        };
        assert!(
            text.contains("apt-get install") && text.contains("rustc-web") && text.contains("dockerd"),
            "{text}"
        );
        let elsewhere = Facts {
            debian: false,
            programs: [].into(),
            debian_llvm: None,
            bpf_linker: None,
            ..complete()
        };
        let Plan::Refuse(text) = next(&elsewhere).unwrap() else {
            panic!()
        };
        assert!(
            !text.contains("apt-get") && text.contains("rust-src") && text.contains("bpf-linker"),
            "{text}"
        );
    }

    #[test]
    fn the_llvm_versions_are_read_where_they_stand() {
        use super::super::facts::{linked_llvm, llvm_of};
        assert_eq!(
            llvm_of("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(
            linked_llvm("\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)\n"),
            Some(22)
        );
        assert_eq!(
            linked_llvm("\tlibLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1 (0x0)\n"),
            Some(19)
        );
        assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x0)\n"), None);
    }
}
