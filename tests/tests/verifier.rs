//! The verifier takes every program, and what is pinned is for root only, checked before it is used, and gone when it
//! is removed.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::io::{Write, stderr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use agent_common::verdict::Hook;
use aya::maps::{MapData, MapInfo};
use integration_tests::bpffs::Bpffs;
use integration_tests::verifier::{self, Change};
use integration_tests::{prepare, report};
use portcullis::datapath::pins::{PinError, Pins};
use portcullis::datapath::{Datapath, DatapathError, Options, loader, maps};

/// Well below the kernel's million, so that a growing program is seen while there is room.
const MOST_INSTRUCTIONS: u32 = 150_000;

fn bpffs() -> Bpffs {
    prepare().unwrap();
    Bpffs::mount().unwrap()
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The error and all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// `PORTCULLIS_RECORD` is set while the record is made anew, by `cargo xtask test --record`.
#[test]
fn every_program_passes_the_verifier_within_what_is_recorded() {
    prepare().unwrap();
    let counts = verifier::walk().unwrap();
    assert_eq!(counts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), Hook::ALL.map(Hook::name));
    for (program, count) in &counts {
        report(&format!("program {program} {count}")).unwrap();
        assert!((1..MOST_INSTRUCTIONS).contains(count), "`{program}`: {count} instructions");
    }
    if std::env::var_os("PORTCULLIS_RECORD").is_some() {
        return;
    }
    let Some(recorded) = verifier::recorded().unwrap() else {
        say(&format!("no record of this kernel: {counts:?}, built by {}", loader::BPF_TOOLCHAIN));
        return;
    };
    let mut grown = Vec::new();
    for (program, count) in counts {
        let before = recorded.get(program).copied().unwrap_or_else(|| panic!("`{program}` is not recorded"));
        let line = format!("`{program}`: {count} instructions verified, {before} recorded");
        match verifier::change(before, count) {
            Change::Grown => grown.push(line),
            Change::Shrunk => say(&format!("{line}: `cargo xtask test --record` would bring it up to date")),
            Change::None => {}
        }
    }
    assert!(
        grown.is_empty(),
        "grown by more than a fifth; if that is worth it, `cargo xtask test --record`:\n{}",
        grown.join("\n")
    );
}

/// Past the test harness, which shows what is printed only if the test fails.
fn say(line: &str) {
    stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn the_programs_load_with_diagnostics_too() {
    let bpffs = bpffs();
    let options = Options { diagnostics: true, ..Options::new(bpffs.pins()) };
    let mut datapath = Datapath::open(&options).unwrap();
    for (program, count) in datapath.verified_instructions().unwrap() {
        // What it tells takes calls, around which the verifier recognises less.
        assert!(count < 2 * MOST_INSTRUCTIONS, "`{program}`: {count} instructions");
    }
}

#[test]
fn pins_are_for_root_only() {
    let bpffs = bpffs();
    let _datapath = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    let pins = Pins::new(&bpffs.pins());
    for directory in [pins.root().to_owned(), pins.root().join("v1"), pins.maps(), pins.links()] {
        let metadata = fs::metadata(&directory).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{}", directory.display());
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{}", directory.display());
    }
    let mut expected = maps::NAMES.map(str::to_owned);
    expected.sort();
    assert_eq!(files(&pins.maps()), expected);
    for name in maps::NAMES {
        let mode = fs::metadata(pins.map(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "`{name}` has mode {mode:o}");
    }
}

#[test]
fn a_directory_that_others_could_read_is_restricted() {
    let bpffs = bpffs();
    fs::create_dir(bpffs.pins()).unwrap();
    fs::set_permissions(bpffs.pins(), fs::Permissions::from_mode(0o777)).unwrap();
    let _datapath = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    assert_eq!(fs::metadata(bpffs.pins()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn removing_leaves_nothing() {
    let bpffs = bpffs();
    let pins = Pins::new(&bpffs.pins());
    assert_eq!(pins.remove().pins, 0, "nothing is there yet");
    let datapath = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    drop(datapath);
    assert!(pins.maps().exists(), "maps outlive the agent");
    // And the programs, with the maps once more.
    assert_eq!(pins.remove().pins, 2 * maps::NAMES.len() + Hook::ALL.len());
    assert!(!bpffs.pins().exists());
}

#[test]
fn removing_leaves_what_others_have_put_there() {
    let bpffs = bpffs();
    let pins = Pins::new(&bpffs.pins());
    let _datapath = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    fs::create_dir(bpffs.pins().join("somebody")).unwrap();
    let left = pins.remove().left;
    assert!(left.len() == 1 && !left[0].ours && left[0].what.ends_with("/somebody"), "{left:?}");
    assert_eq!(files(&bpffs.pins()), ["somebody"]);
}

#[test]
fn what_an_earlier_agent_pinned_is_taken_over() {
    let bpffs = bpffs();
    let pins = Pins::new(&bpffs.pins());
    let numbers = || maps::NAMES.map(|name| MapInfo::from_pin(pins.map(name)).unwrap().id());
    let first = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    let before = numbers();
    drop(first);
    let _second = Datapath::open(&Options::new(bpffs.pins())).unwrap();
    assert_eq!(numbers(), before);
}

/// Another of our own maps under a name is as wrong as anybody's, whatever it looks like.
#[test]
fn a_map_under_another_ones_name_is_moved_away() {
    let bpffs = bpffs();
    let pins = Pins::new(&bpffs.pins());
    let number = |name: &str| MapInfo::from_pin(pins.map(name)).unwrap().id();
    drop(Datapath::open(&Options::new(bpffs.pins())).unwrap());
    for (pinned, name) in [("SUBJECTS", "CONFIG"), ("FLOWS", "SUBJECTS"), ("FLOWS_HELD", "FLOWS_GONE")] {
        let ours = number(name);
        fs::remove_file(pins.map(name)).unwrap();
        MapData::from_pin(pins.map(pinned)).unwrap().pin(pins.map(name)).unwrap();
        drop(Datapath::open(&Options::new(bpffs.pins())).unwrap());
        assert_eq!(number(name), ours, "{name}");
        assert_eq!(number(&format!("foreign-1-{name}")), number(pinned));
    }
}

#[test]
fn a_directory_that_is_not_on_a_bpf_file_system_is_refused() {
    let bpffs = bpffs();
    let directory = bpffs.elsewhere().join("pins").join("deep");
    let error = Datapath::open(&Options::new(directory.clone())).unwrap_err();
    assert!(matches!(error, DatapathError::Pins(PinError::NotBpf { .. })), "{error:?}");
    assert_eq!(chain(&error), format!("`{}` is not on a BPF file system", directory.display()));
    assert_eq!(error.hint().unwrap(), "mount one: `mount -t bpf bpf /sys/fs/bpf`");
    assert!(!directory.exists(), "nothing is made there");
}

#[test]
fn a_mark_mask_without_room_is_refused() {
    let bpffs = bpffs();
    let options = Options { mark_mask: 0x7f, ..Options::new(bpffs.pins()) };
    let error = Datapath::open(&options).unwrap_err();
    assert_eq!(chain(&error), "mark mask `0x7f` is not at least 8 contiguous bits");
    assert!(!bpffs.pins().exists(), "nothing is pinned");
}
