//! `--record`: how many instructions the verifier walks through for each program, by kernel line, in a file that the
//! tests compare with. This machine's own kernel is recorded beside those of the guests.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use lab::process::run;
use lab::tools::repository;

use super::packages::Kernel;
use super::summary::{Summary, programs_in};

/// The test that counts, and the program that it is in.
pub(super) const PROGRAM: &str = "verifier";
pub(super) const TEST: &str = "every_program_passes_the_verifier";
const FILE: &str = "tests/verified-instructions.json";

type Record = BTreeMap<String, BTreeMap<String, u32>>;

/// Replaces what the file says of these kernels and of this machine's.
pub(super) fn write(kernels: &[Kernel], summaries: &[Summary]) -> Result<()> {
    let path = repository().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{FILE}`"))?;
    let mut record: Record =
        serde_json::from_str(&text).with_context(|| format!("`{FILE}` is not a record"))?;
    for (kernel, summary) in kernels.iter().zip(summaries) {
        record.insert(kernel.line(), summary.programs.clone());
    }
    let (line, programs) = here()?;
    record.insert(line, programs);
    fs::write(&path, serde_json::to_string_pretty(&record)? + "\n")?;
    println!("{FILE} is written: {}", record.keys().cloned().collect::<Vec<_>>().join(", "));
    Ok(())
}

/// This machine's kernel line and counts.
fn here() -> Result<(String, BTreeMap<String, u32>)> {
    let report = super::folder().join("report");
    fs::remove_file(&report).ok();
    run(Command::new("cargo")
        .args(["test", "--quiet", "--package", "integration-tests", "--test", PROGRAM, "--", TEST])
        .current_dir(repository())
        .env("PORTCULLIS_REPORT", &report)
        .env("PORTCULLIS_RECORD", "1"))?;
    let said = fs::read_to_string(&report).context("the test reported nothing")?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = Kernel { release, image: report.clone(), modules: report };
    Ok((kernel.line(), programs_in(said.lines())))
}
