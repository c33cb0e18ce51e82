//! `cargo xtask conform`: how compose files are read, compared with Docker Compose itself. Both read the same files
//! with the same arguments; what `config --format json` prints has to be the same, and what one refuses the other has
//! to refuse.

mod case;
mod differ;
mod oracle;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use lab::tools::repository;

use case::Case;
use oracle::{Answer, Oracle};

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compare compose files: those of a directory, or the repository's own cases
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = CORPUS)]
    compose: Option<PathBuf>,
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

const CORPUS: &str = "tests/compose";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let folder = arguments.compose.clone().unwrap_or_else(|| PathBuf::from(CORPUS));
    let folder = if folder.exists() { folder } else { repository().join(folder) };
    let mut cases = cases(&folder).with_context(|| format!("failed to read `{}`", folder.display()))?;
    cases.retain(|case| case.name.contains(&arguments.only));
    if cases.is_empty() {
        bail!("`{}` holds no compose files", folder.display());
    }
    let oracles = Oracle::all()?;
    let mut differing = 0;
    let mut compared = 0;
    let mut refused = 0;
    let mut left_out = 0;
    for case in &cases {
        let place = case.lay_out()?;
        let ours = ours(case, place.path());
        for oracle in &oracles {
            if let Some(reason) = case.not_for.get(oracle.version) {
                println!("{} is not compared with {}: {reason}", case.name, oracle.version);
                left_out += 1;
                continue;
            }
            compared += 1;
            let theirs = oracle.ask(case, place.path())?;
            refused += usize::from(matches!(theirs, Answer::Refused(_)));
            let differences = differ::compare(case, &ours, &theirs);
            if !differences.is_empty() {
                differing += 1;
                println!("{} differs from {}:\n  {}", case.name, oracle.version, differences.join("\n  "));
            }
        }
    }
    let versions: Vec<&str> = oracles.iter().map(|oracle| oracle.version).collect();
    println!(
        "conform: {} cases, {compared} comparisons with Compose {}, {refused} of them refused by it, \
         {left_out} left out: {differing} differ",
        cases.len(),
        versions.join(" and ")
    );
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ours(case: &Case, place: &Path) -> Answer {
    let loaded = compose::load(&case.request(place));
    match loaded.project {
        Ok(project) => Answer::Model(compose::emit(&project)),
        Err(faults) => {
            let shown = faults.iter().map(|fault| {
                let at = fault.span.map(|span| format!("{}: ", loaded.sources.at(span))).unwrap_or_default();
                format!("{at}{}", fault.message)
            });
            Answer::Refused(shown.collect::<Vec<_>>().join("; "))
        }
    }
}

/// The cases of a folder: files that end in `.case`, and where there is none, compose files as they are.
fn cases(folder: &Path) -> Result<Vec<Case>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let written: Vec<&PathBuf> =
        files.iter().filter(|path| path.extension().is_some_and(|end| end == "case")).collect();
    for path in &written {
        found.push(Case::read(path)?);
    }
    if written.is_empty() {
        let others = files.iter().filter(|path| is_compose_file(path));
        found.extend(others.filter_map(|path| Case::of_file(path)));
    }
    Ok(found)
}

fn is_compose_file(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    yaml && !name.contains("override")
        && fs::read_to_string(path).is_ok_and(|text| text.contains("services:"))
}
