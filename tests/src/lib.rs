//! What the integration tests share: the agent's binary, one Docker lab for a whole test program, assertions on a
//! matrix. The labs themselves are in the `lab` crate, but for the small one that only these tests use.

pub mod connections;
pub mod daemon;
pub mod deployment;
pub mod detours;
pub mod dual_lab;
pub mod engine_lab;
pub mod fake_engine;
pub mod flood;
pub mod frames;
pub mod home;
pub mod machine;
pub mod other_build;
pub mod sabotage;
pub mod small_lab;
pub mod soak;

pub mod bpffs;
pub mod packet;
pub mod scale;

pub mod attached;
pub mod bpf;
pub mod bridges;
pub mod scan;
pub mod validators;
pub mod verifier;
pub mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use lab::agent::Agent;
use lab::docker_lab::DockerLab;
use lab::matrix::Matrix;
use lab::observed::{Sample, sum};
use lab::{interrupt, sweep};

/// The metric that counts denied attempts.
pub const ATTEMPTS: &str = "portcullis_denied_connection_attempts_total";

/// Whether this kernel has TCX; if not, programs are attached by clsact.
#[must_use]
pub fn has_tcx() -> bool {
    matches!(portcullis::datapath::kernel::probe(None), Ok(portcullis::datapath::attach::Via::Tcx))
}

static LAB: Mutex<Option<DockerLab>> = Mutex::new(None);

/// The agent that was built beside this test program.
pub fn agent_binary() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let binary = program
        .ancestors()
        .nth(2)
        .map(|folder| folder.join("portcullis"))
        .context("no folder above the test")?;
    if !binary.exists() {
        bail!("`{}` is missing: run `cargo xtask build`", binary.display());
    }
    Ok(binary)
}

/// The one Docker lab of a test program, started by whoever asks first and removed when the program ends.
pub fn docker_lab() -> Result<SharedLab> {
    let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    if lab.is_none() {
        prepare()?;
        *lab = Some(DockerLab::start(&|step| eprintln!("lab: {step}"))?);
        // A static is never dropped: without this the engine would outlive the tests.
        // SAFETY: `remove_lab` takes no arguments, does not unwind into C and is registered once, with the lab.
        if unsafe { libc::atexit(remove_lab) } != 0 {
            bail!("failed to register the removal of the lab");
        }
    }
    Ok(SharedLab(lab))
}

/// What every privileged test does first: be able to clean up when interrupted, and remove what dead runs left.
pub fn prepare() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this test needs root");
    }
    interrupt::install();
    sweep::dead().map(drop)
}

extern "C" fn remove_lab() {
    drop(LAB.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Exclusive use of the lab.
#[derive(Debug)]
pub struct SharedLab(MutexGuard<'static, Option<DockerLab>>);

impl SharedLab {
    /// The lab.
    pub fn lab(&self) -> Result<&DockerLab> {
        self.0.as_ref().context("the lab is gone")
    }
}

/// Copies the policies to where a test may spoil them.
pub fn copy_policies(to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(lab::tools::repository().join("policies"))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.extension().is_some_and(|kind| kind == "yaml"), path.file_name()) {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Panics with every cell that came out otherwise than expected, or with another service's answer.
pub fn assert_as_expected(matrix: &Matrix) {
    let wrong = [matrix.differences(), matrix.wrong_answers()].concat();
    assert!(wrong.is_empty(), "{} of {} attempts:\n{}", wrong.len(), matrix.cells.len(), wrong.join("\n"));
}

/// Adds a line to the report that whoever runs the tests asked for.
pub fn report(line: &str) -> Result<()> {
    let Some(path) = std::env::var_os("PORTCULLIS_REPORT") else { return Ok(()) };
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{line}")?)
}

/// Says what a test has counted, also in that report.
pub fn tell(line: &str) -> Result<()> {
    eprintln!("{line}");
    report(line)
}

/// All denied TCP attempts that a scrape counts. Not those of other protocols: a container's own neighbour and router
/// discovery may be denied at any moment.
#[must_use]
pub fn denied_attempts(samples: &[Sample]) -> f64 {
    sum(samples, ATTEMPTS, &[("protocol", "tcp")])
}

/// Panics unless the counters rose by exactly the attempts of the matrix that should have been denied.
pub fn assert_counts_exactly(agent: &Agent, matrix: &mut Matrix) {
    let before = agent.metrics().map(|samples| denied_attempts(&samples));
    let run = matrix.run(&|_| {});
    let after = agent.metrics().map(|samples| denied_attempts(&samples));
    match (before, run, after) {
        (Ok(before), Ok(()), Ok(after)) => {
            assert_as_expected(matrix);
            assert_eq!(
                after - before,
                f64::from(matrix.denied_tries()),
                "`{ATTEMPTS}` did not rise by the attempts made"
            );
        }
        (before, run, after) => panic!("no numbers to compare: {before:?}, {run:?}, {after:?}"),
    }
}
