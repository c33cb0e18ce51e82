use super::*;

fn complete() -> Facts {
    Facts {
        debian: true,
        root: true,
        programs: PROGRAMS
            .iter()
            .chain(&UNPACKED)
            .map(|(program, _)| *program)
            .chain(ENGINE)
            .map(str::to_owned)
            .collect(),
        compose: true,
        components: COMPONENTS.iter().map(|(component, _)| (*component).to_owned()).collect(),
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
    let user = Facts { root: false, debian: false, ..complete() };
    assert_eq!(next(&user).unwrap(), Plan::Nothing, "who needs nothing needs no rights");
}

#[test]
fn a_fresh_debian_gets_packages_then_the_linker_for_their_llvm_then_an_engine() {
    let components = complete().components;
    let mut facts = Facts { debian: true, root: true, components, ..Facts::default() };
    let first = steps(&facts);
    assert_eq!(first[0], Step::AptUpdate);
    let Step::AptInstall(packages) = &first[1] else { panic!("{first:?}") };
    assert!(DEBIAN_RUST.iter().all(|package| packages.iter().any(|found| found == package)), "{packages:?}");
    assert!(
        !packages.iter().any(|package| package.contains("docker")),
        "no engine is installed: {packages:?}"
    );

    facts.programs = PROGRAMS.iter().chain(&UNPACKED).map(|(program, _)| (*program).to_owned()).collect();
    facts.debian_llvm = Some(22);
    let second = steps(&facts);
    let Step::AptInstall(packages) = &second[1] else { panic!("{second:?}") };
    assert_eq!(packages, &["libpolly-22-dev", "libzstd-dev", "llvm-22-dev"]);

    facts.llvm_dev.insert(22);
    assert_eq!(steps(&facts), [Step::AptUpdate, Step::BpfLinker { llvm: 22 }, Step::UnpackEngine]);

    facts.bpf_linker = Some(Some(22));
    facts.programs.extend(ENGINE.map(str::to_owned));
    assert_eq!(steps(&facts), [Step::AptUpdate, Step::Compose]);
}

#[test]
fn a_docker_in_path_is_left_as_it_is() {
    let facts = Facts {
        programs: PROGRAMS
            .iter()
            .chain(&UNPACKED)
            .map(|(program, _)| *program)
            .filter(|name| *name != "nft")
            .chain(ENGINE)
            .map(str::to_owned)
            .collect(),
        ..complete()
    };
    assert_eq!(steps(&facts), [Step::AptUpdate, Step::AptInstall(vec!["nftables".to_owned()])]);
}

#[test]
fn a_linker_of_another_llvm_is_rebuilt_or_refused_by_name() {
    let older = Facts { bpf_linker: Some(Some(21)), ..complete() };
    assert_eq!(steps(&older), [Step::BpfLinker { llvm: 22 }]);
    let unheard_of = Facts { debian_llvm: Some(99), ..complete() };
    let message = next(&unheard_of).unwrap_err().to_string();
    assert!(message.contains("99") && message.contains("22"), "{message}");
}

#[test]
fn a_minimal_toolchain_gets_its_missing_parts_from_rustup() {
    let facts = Facts { components: ["clippy".to_owned()].into(), ..complete() };
    assert_eq!(steps(&facts), [Step::Components(vec!["rustfmt".to_owned()])]);
    let packaged = next(&Facts { rustup: false, ..facts }).unwrap();
    assert!(matches!(packaged, Plan::Refuse(text) if text.contains("rustfmt")));
}

#[test]
fn a_nightly_with_sources_needs_no_debian_compiler() {
    let facts = Facts { debian_llvm: None, nightly_llvm: Some(22), ..complete() };
    assert_eq!(next(&facts).unwrap(), Plan::Nothing);
    let refused = next(&Facts { wanted: Some("nightly".to_owned()), ..complete() }).unwrap();
    assert!(matches!(refused, Plan::Refuse(text) if text.contains("--component rust-src")));
}

#[test]
fn others_are_told_exactly_what_to_do() {
    let user = Facts { root: false, programs: [].into(), debian_llvm: None, bpf_linker: None, ..complete() };
    let Plan::Refuse(text) = next(&user).unwrap() else { panic!() };
    assert!(
        text.contains("apt-get install") && text.contains("rustc-web") && text.contains("dockerd"),
        "{text}"
    );
    let elsewhere =
        Facts { debian: false, programs: [].into(), debian_llvm: None, bpf_linker: None, ..complete() };
    let Plan::Refuse(text) = next(&elsewhere).unwrap() else { panic!() };
    assert!(!text.contains("apt-get") && text.contains("rust-src") && text.contains("bpf-linker"), "{text}");
}

#[test]
fn the_llvm_versions_are_read_where_they_stand() {
    use super::super::facts::{linked_llvm, llvm_of};
    assert_eq!(llvm_of("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
    assert_eq!(linked_llvm("\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x0)\n"), Some(22));
    assert_eq!(linked_llvm("\tlibLLVM-19.so.1 => /usr/lib/libLLVM-19.so.1 (0x0)\n"), Some(19));
    assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x0)\n"), None);
}
