//! The rules themselves. Pure: files in, findings out.

use super::SourceFile;

/// A file of 500 lines has long had two subjects.
const LONGEST: usize = 500;

/// What a room that only takes and returns values has no use for.
const IMPURE: [&str; 10] = [
    "aya",
    "bollard",
    "tokio",
    "std::fs",
    "std::process",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "SystemTime",
    "Instant",
];

/// Libraries with a room of their own, and the paths that are it.
const ROOMS: [(&str, &[&str]); 10] = [
    ("aya", &["agent/src/datapath/", "agent/src/datapath.rs", "agent-common/src/user.rs"]),
    ("aya_log", &["agent/src/datapath/", "agent/src/datapath.rs"]),
    ("bollard", &["agent/src/inventory/docker.rs", "agent/src/inventory/docker/"]),
    ("rtnetlink", &["agent/src/inventory/netlink"]),
    ("netlink_packet_route", &["agent/src/inventory/netlink"]),
    ("netlink_packet_core", &["agent/src/inventory/netlink"]),
    ("netlink_sys", &["agent/src/inventory/netlink"]),
    ("granit_parser", &["compose/src/yaml.rs"]),
    ("prometheus", &["agent/src/telemetry/", "agent/src/telemetry.rs"]),
    // The wall clock jumps. It says when something was, and from when on an engine is to repeat what happened (which a
    // list follows); nothing waits by it or expires by it.
    ("SystemTime", &["agent/src/events.rs", "agent/src/status.rs", "agent/src/inventory/docker.rs"]),
];

pub(super) fn lints_inherited(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml") && file.path != "Cargo.toml")
        .filter(|file| {
            !file
                .text
                .split("[lints]")
                .nth(1)
                .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"))
        })
        .map(|file| format!("`{}` has no `[lints] workspace = true`", file.path))
        .collect()
}

pub(super) fn begins_with_a_sentence(files: &[SourceFile]) -> Vec<String> {
    sources(files)
        // A module of tests is said by its name; what it tests has the sentence.
        .filter(|file| !file.path.ends_with("/tests.rs"))
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("`{}` does not begin with `//! ` and what it is", file.path))
        .collect()
}

pub(super) fn not_too_long(files: &[SourceFile]) -> Vec<String> {
    sources(files)
        // A module of tests is a list of cases: its length is no sign of a second subject.
        .filter(|file| !file.path.ends_with("/tests.rs"))
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("`{}` has {lines} lines", file.path))
        .collect()
}

pub(super) fn pure_rooms(files: &[SourceFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in sources(files).filter(|file| is_pure(&file.path)) {
        for (number, line) in code(&file.text) {
            for word in IMPURE.into_iter().filter(|word| names(line, word)) {
                findings.push(format!("`{}:{number}` names `{word}` in a pure room", file.path));
            }
        }
    }
    findings
}

pub(super) fn libraries_in_their_rooms(files: &[SourceFile]) -> Vec<String> {
    let mut findings = Vec::new();
    // The integration tests load programs by themselves, and kernel programs are aya through and through.
    let judged = |file: &&SourceFile| {
        file.path.starts_with("agent/src/")
            || file.path.starts_with("agent-common/src/")
            || file.path.starts_with("compose/")
            || file.path.starts_with("xtask/")
    };
    for file in sources(files).filter(judged) {
        for (library, rooms) in ROOMS {
            if rooms.iter().any(|room| file.path.starts_with(room)) {
                continue;
            }
            for (number, _) in code(&file.text).filter(|(_, line)| uses_crate(line, library)) {
                findings.push(format!(
                    "`{}:{number}` uses `{library}`, which only {} may",
                    file.path,
                    rooms.join(", ")
                ));
            }
        }
    }
    findings
}

pub(super) fn no_machine_named(files: &[SourceFile]) -> Vec<String> {
    // Put together here so that this file does not break its own rule.
    let forbidden = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
        ["/tmp", "/wt"].concat(),
        ["../sha", "red/"].concat(),
        ["deb.deb", "ian.org"].concat(),
        ["index.crat", "es.io"].concat(),
        ["static.crat", "es.io"].concat(),
        ["registry.np", "mjs.org"].concat(),
        ["files.python", "hosted.org"].concat(),
    ];
    let mut findings = Vec::new();
    // Cargo writes the registry's name into the lock file itself.
    for file in files.iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
                findings.push(format!("`{}:{number}` names `{word}`", file.path));
            }
        }
    }
    findings
}

fn sources(files: &[SourceFile]) -> impl Iterator<Item = &SourceFile> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

fn is_pure(path: &str) -> bool {
    let prefixes = [
        "agent/src/policy/",
        "agent/src/policy.rs",
        "agent/src/check/",
        "agent/src/check.rs",
        "agent-common/src/",
    ];
    let exact = [
        "agent/src/datapath/plan.rs",
        "agent/src/interference.rs",
        "agent/src/backstop/ruleset.rs",
        "agent/src/inventory/snapshot.rs",
        "agent/src/inventory/identity.rs",
        "agent/src/inventory/merge.rs",
    ];
    // `user.rs` is the host's half of the shared types; tests may read the files they test with.
    path != "agent-common/src/user.rs"
        && !path.ends_with("tests.rs")
        && !path.contains("/tests/")
        && (prefixes.iter().any(|prefix| path.starts_with(prefix)) || exact.contains(&path))
}

/// The lines of a file that are code and not tests at its end, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..)
        .zip(text.lines())
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether a line holds `word` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
        // `Tcp` and `Udp` stand for every socket type that begins so.
        let open_ended = word.ends_with("Tcp") || word.ends_with("Udp");
        !before.is_some_and(part_of_a_name) && (open_ended || !after.is_some_and(part_of_a_name))
    })
}

/// Whether a line reaches into a crate: `use aya…`, `aya::…`.
fn uses_crate(line: &str, library: &str) -> bool {
    names(line, library)
        && line.match_indices(library).any(|(at, _)| {
            let before = &line[..at];
            let after = &line[at + library.len()..];
            // `crate::telemetry::prometheus::x` is a room of ours, not the library.
            !before.ends_with("::")
                && !before.ends_with('_')
                && (after.starts_with("::") || (before.trim_end().ends_with("use") && after.starts_with(';')))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        let files =
            [file("a/Cargo.toml", "[package]\n"), file("b/Cargo.toml", "[lints]\nworkspace = true\n")];
        assert_eq!(lints_inherited(&files).len(), 1);
    }

    #[test]
    fn io_in_a_pure_room_is_found_and_comments_are_not() {
        let found = pure_rooms(&[file(
            "agent/src/policy/resolve.rs",
            "//! No std::fs here.\nuse std::fs;\nlet at = Instant::now();\nlet instants = 1;\n",
        )]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(pure_rooms(&[file("agent/src/inventory/docker.rs", "use tokio::net;\n")]).is_empty());
    }

    #[test]
    fn a_library_outside_its_room_is_found() {
        let found = libraries_in_their_rooms(&[file(
            "agent/src/cli.rs",
            "use aya::Ebpf;\nuse crate::telemetry::prometheus::text;\nlet ayah = 1;\n",
        )]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            libraries_in_their_rooms(&[file("agent/src/datapath/loader.rs", "use aya::Ebpf;\n")]).is_empty()
        );
    }

    #[test]
    fn a_decision_by_the_wall_clock_is_found() {
        let line = "if SystemTime::now() > deadline {\n";
        assert_eq!(libraries_in_their_rooms(&[file("agent/src/reconcile.rs", line)]).len(), 1);
        assert!(libraries_in_their_rooms(&[file("agent/src/events.rs", line)]).is_empty());
    }

    #[test]
    fn a_long_or_unexplained_file_is_found() {
        assert_eq!(not_too_long(&[file("a.rs", &"x\n".repeat(501))]).len(), 1);
        assert_eq!(
            begins_with_a_sentence(&[file("a.rs", "use x;\n"), file("a/tests.rs", "use x;\n")]).len(),
            1
        );
    }

    #[test]
    fn a_machine_path_is_found() {
        let path = ["/ho", "me/somebody/x"].concat();
        assert_eq!(no_machine_named(&[file("README.md", &path)]).len(), 1);
    }
}
