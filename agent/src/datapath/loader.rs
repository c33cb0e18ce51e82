//! Loads the kernel programs onto new or adopted maps.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use agent_common::verdict::Hook;
use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier},
};
use aya_log::{EbpfLogger, Level};

use super::{
    link, maps,
    migrate::Plan,
    pins::{PinError, Pins},
    raw::Shape,
    sizes::Sizes,
};

/// The object that build.rs made, aligned as an ELF parser wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis-ebpf"));

/// Which toolchain built the kernel programs: `debian` or `nightly`.
pub const BPF_TOOLCHAIN: &str = env!("PORTCULLIS_BPF_TOOLCHAIN");

/// The programs did not get into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the object of the kernel programs is damaged")]
    Damaged(#[source] aya_obj::ParseError),
    #[error("failed to load the maps")]
    Object(#[source] EbpfError),
    #[error("the object has no program `{name}`")]
    Missing { name: &'static str },
    #[error(transparent)]
    Pin(PinError),
    #[error("failed to load program `{name}`: {}", verifier_tail(source))]
    Program { name: &'static str, source: ProgramError },
}

/// The last lines of a verifier log say what it did not like.
fn verifier_tail(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            format!("{io_error}\n{}", tail.join("\n"))
        }
        other => other.to_string(),
    }
}

/// What every pinned map has to look like, as the programs were compiled for it and the sizes want it.
pub(super) fn shapes(sizes: &Sizes) -> Result<BTreeMap<&'static str, Shape>, LoadError> {
    let object = aya_obj::Object::parse(OBJECT).map_err(LoadError::Damaged)?;
    let shape = |name: &'static str| {
        let map = object.maps.get(name).ok_or(LoadError::Missing { name })?;
        let entries = sizes.of(name).unwrap_or(map.max_entries());
        let (kind, key, value) = (map.map_type(), map.key_size(), map.value_size());
        Ok((name, Shape { kind, key, value, entries, flags: map.map_flags() }))
    };
    maps::NAMES.into_iter().map(shape).collect()
}

/// Loads all programs onto maps that are pinned under their names, or made there. Nothing is carried over.
pub fn load(pins: &Pins, sizes: &Sizes, diagnostics: bool) -> Result<Ebpf, LoadError> {
    load_as(pins, &Plan::default(), sizes, diagnostics)
}

/// Loads all programs; maps are created under the pins or taken from there, as the plan says.
///
/// `diagnostics` turns on what the programs log about themselves, which is compiled out of them otherwise.
pub(super) fn load_as(pins: &Pins, plan: &Plan, sizes: &Sizes, diagnostics: bool) -> Result<Ebpf, LoadError> {
    let level: u8 = if diagnostics { Level::Debug as u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    // The verifier's log of an accepted program costs load time and tells nothing.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader.override_global(aya_log::LEVEL, &level, false);
    sizes.set(&mut loader);
    for name in maps::NAMES {
        loader.map_pin_path(name, plan.path(pins, name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(LoadError::Object)?;
    for hook in Hook::ALL {
        let program = program(&mut ebpf, hook)?;
        load_program(program).map_err(|source| LoadError::Program { name: hook.name(), source })?;
    }
    Ok(ebpf)
}

/// Pins the programs, so that the next agent knows what this one put onto hooks, and with them the maps that they use:
/// by their numbers maps could be opened only with CAP_SYS_ADMIN, should their pins get lost.
pub(super) fn pin_programs(
    ebpf: &mut Ebpf,
    pins: &Pins,
    plan: &Plan,
    generation: u64,
) -> Result<(), LoadError> {
    let directory = pins.program_set(generation);
    let failed = |verb, path: &std::path::Path| {
        let path = path.to_owned();
        move |source| LoadError::Pin(PinError::Io { verb, path, source })
    };
    std::fs::create_dir(&directory).map_err(failed("create", &directory))?;
    for hook in Hook::ALL {
        let name = hook.name();
        let path = directory.join(name);
        let program = program(ebpf, hook)?;
        let fd = program.fd().map_err(|source| LoadError::Program { name, source })?;
        link::pin(fd.as_fd(), &path).map_err(failed("pin", &path))?;
    }
    for name in maps::NAMES {
        let (pinned, path) = (plan.path(pins, name), directory.join(name));
        let map = link::open(&pinned).map_err(failed("open", &pinned))?;
        link::pin(map.as_fd(), &path).map_err(failed("pin", &path))?;
    }
    Ok(())
}

/// The verifier gives up when a signal arrives and asks to be called again (EAGAIN).
fn load_program(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let mut attempts = 5;
    loop {
        attempts -= 1;
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if attempts > 0 && io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// The program of a hook.
pub fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, LoadError> {
    let name = hook.name();
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
    program.try_into().map_err(|source| LoadError::Program { name, source })
}

/// How many instructions the verifier walked through, by program.
pub fn verified_instructions(ebpf: &mut Ebpf) -> Result<Vec<(&'static str, u32)>, LoadError> {
    Hook::ALL
        .into_iter()
        .map(|hook| {
            let name = hook.name();
            let info = program(ebpf, hook)?.info().map_err(|source| LoadError::Program { name, source })?;
            Ok((name, info.verified_instruction_count().unwrap_or(0)))
        })
        .collect()
}

/// The reader of what the programs log, if the object has any logging.
#[must_use]
pub fn diagnostics(ebpf: &mut Ebpf) -> Option<EbpfLogger<&'static dyn log::Log>> {
    match EbpfLogger::init(ebpf) {
        Ok(logger) => Some(logger),
        Err(error) => {
            tracing::warn!(%error, "no datapath diagnostics");
            None
        }
    }
}
