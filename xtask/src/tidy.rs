//! `cargo xtask tidy`: the rules of the code base that no compiler knows, each a test of its own as well.

mod links;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use lab::tools::repository;

/// A file of the repository: where it is and what is in it.
#[derive(Debug)]
pub(crate) struct SourceFile {
    path: String,
    text: String,
}

/// A rule: its name, and what breaks it.
type Rule = (&'static str, fn(&[SourceFile]) -> Vec<String>);

const RULES: [Rule; 7] = [
    ("every crate inherits the workspace's lints", rules::lints_inherited),
    ("every source file begins with a sentence about itself", rules::begins_with_a_sentence),
    ("no source file is longer than 500 lines", rules::not_too_long),
    ("pure rooms do no I/O", rules::pure_rooms),
    ("each library is named in its own room only", rules::libraries_in_their_rooms),
    ("no file names a machine's path or a registry", rules::no_machine_named),
    ("links between documents lead somewhere", links::links_lead_somewhere),
];

/// Runs the command.
pub(crate) fn run() -> Result<ExitCode> {
    let files = read_repository(&repository())?;
    let mut broken = 0;
    for (name, rule) in RULES {
        for finding in rule(&files) {
            eprintln!("error: {finding}\n  rule: {name}");
            broken += 1;
        }
    }
    if broken > 0 {
        return Ok(ExitCode::FAILURE);
    }
    println!("tidy: {} rules hold for {} files", RULES.len(), files.len());
    Ok(ExitCode::SUCCESS)
}

/// Every file that git tracks or would track.
fn read_repository(root: &Path) -> Result<Vec<SourceFile>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("failed to run git")?;
    let mut files = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|path| !path.is_empty()) {
        // What is deleted but still in the index, and links to folders, are no files. Pictures are, but have no text.
        let full: PathBuf = root.join(path);
        if full.is_file() {
            let text = fs::read_to_string(&full).unwrap_or_default();
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_holds(rule: usize) {
        let files = read_repository(&repository()).unwrap();
        assert!(files.len() > 10, "git listed {} files", files.len());
        let findings = RULES[rule].1(&files);
        assert!(findings.is_empty(), "{}:\n{}", RULES[rule].0, findings.join("\n"));
    }

    #[test]
    fn every_crate_inherits_the_lints() {
        assert_holds(0);
    }

    #[test]
    fn every_source_file_begins_with_a_sentence() {
        assert_holds(1);
    }

    #[test]
    fn no_source_file_is_too_long() {
        assert_holds(2);
    }

    #[test]
    fn pure_rooms_do_no_io() {
        assert_holds(3);
    }

    #[test]
    fn libraries_stay_in_their_rooms() {
        assert_holds(4);
    }

    #[test]
    fn no_machine_is_named() {
        assert_holds(5);
    }

    #[test]
    fn links_lead_somewhere() {
        assert_holds(6);
    }
}
