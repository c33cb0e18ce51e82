//! Two and a half minutes of a bad day: what belongs there, mistakes, and one container that was taken over.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::engine::DockerHost;
use lab::plain_lab::PlainLab;
use lab::process::run;
use lab::raid;

/// How long it takes.
pub(super) const LENGTH: Duration = Duration::from_secs(150);

/// One thing that happens: from second to second, every so many.
struct Act {
    from: u64,
    to: u64,
    every: u64,
    what: fn(&PlainLab) -> Result<()>,
}

const fn act(from: u64, to: u64, every: u64, what: fn(&PlainLab) -> Result<()>) -> Act {
    Act { from, to, every, what }
}

const ACTS: [Act; 12] = [
    // A worker with a wrong port in its configuration, and a tool on the host.
    act(0, 150, 4, |lab| raid::call(lab, ("qerds", "qerds-worker"), ("qerds", "minio"), [9001; 3])),
    act(5, 150, 9, |lab| raid::call_from_host(lab, ("myapp-dev", "backend"), 8000)),
    // The outside, as ever.
    act(0, 150, 5, |lab| raid::call_from_outside(lab, ("qerds", "postgres"), &[5432])),
    act(12, 70, 6, |lab| raid::call_from_outside(lab, ("qerds", "minio"), &[9000, 9001])),
    // A container without a policy on an instance's network.
    act(20, 140, 15, |lab| raid::call(lab, ("unmanaged", "stray"), ("myapp-dev", "redis"), [6379])),
    // Somebody got into the frontend: looks around, finds the neighbours, goes for the data, wants out.
    act(45, 60, 5, |lab| raid::call(lab, ("myapp-dev", "frontend"), ("myapp-dev", "backend"), 3000..3024)),
    act(60, 66, 3, |lab| {
        for service in ["db", "redis", "celery", "backend"] {
            raid::call(lab, ("myapp-dev", "frontend"), ("myapp-dev", service), [22, 445])?;
        }
        raid::call(lab, ("myapp-dev", "frontend"), ("myapp-test", "db"), [22])?;
        raid::call(lab, ("myapp-dev", "frontend"), ("myapp-test", "redis"), [22])
    }),
    act(68, 110, 2, |lab| raid::call(lab, ("myapp-dev", "frontend"), ("myapp-dev", "db"), [5432; 6])),
    act(85, 120, 7, |lab| raid::call(lab, ("myapp-dev", "frontend"), ("myapp-test", "db"), [5432; 2])),
    act(95, 130, 6, |lab| raid::call_out(lab, ("myapp-dev", "frontend"), [443, 4444])),
    act(100, 125, 5, |lab| raid::spoof(lab, ("myapp-dev", "frontend"), ("myapp-dev", "db"))),
    // Mailpit has no place in production.
    act(110, 140, 8, |lab| raid::call(lab, ("qerds", "mailpit"), ("qerds", "qerds-trust"), [8080])),
];

/// What happens besides attacks, and when.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A policy is loaded again.
    Reload,
    /// A container is restarted.
    Restart,
    /// Somebody starts a container that an audit does not like, and stops it.
    Expose,
    Remove,
}

const CHANGES: [(u64, Change); 7] = [
    (15, Change::Restart),
    (38, Change::Reload),
    (50, Change::Restart),
    (60, Change::Expose),
    (90, Change::Restart),
    (115, Change::Remove),
    (128, Change::Reload),
];

/// Plays it from the beginning to the end.
pub(super) fn play(lab: &PlainLab, policies: &Path, engine: &DockerHost) -> Result<()> {
    let start = Instant::now();
    std::thread::scope(|threads| {
        let acts = ACTS.iter().map(|act| threads.spawn(move || act.play(lab, start))).collect::<Vec<_>>();
        let ordinary = threads.spawn(move || -> Result<()> {
            while start.elapsed() < LENGTH {
                raid::visit(lab, ("qerds", "qerds-api"), ("qerds", "postgres"), 5432)?;
                raid::visit(lab, ("myapp-dev", "proxy"), ("myapp-dev", "backend"), 8000)?;
                raid::visit(lab, ("myapp-test", "backend"), ("myapp-test", "redis"), 6379)?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        let changed = change(lab, policies, engine, start);
        for thread in acts.into_iter().chain([ordinary]) {
            thread.join().map_err(|_panic| anyhow::anyhow!("an attacker panicked"))??;
        }
        changed
    })?;
    wait_until(start, LENGTH.as_secs());
    Ok(())
}

impl Act {
    fn play(&self, lab: &PlainLab, start: Instant) -> Result<()> {
        let mut next = self.from;
        while next < self.to {
            wait_until(start, next);
            (self.what)(lab)?;
            next += self.every;
        }
        Ok(())
    }
}

fn change(lab: &PlainLab, policies: &Path, engine: &DockerHost, start: Instant) -> Result<()> {
    let mut exposed = String::new();
    for (at, what) in CHANGES {
        wait_until(start, at);
        match what {
            Change::Reload => reload(policies)?,
            Change::Restart => restart(lab)?,
            Change::Expose => exposed = raid::expose(engine, ("qerds", "minio"), 9000)?,
            Change::Remove => drop(run(engine.docker().args(["rm", "--force", &exposed]))?),
        }
    }
    Ok(())
}

fn reload(policies: &Path) -> Result<()> {
    let policy = policies.join("app.yaml");
    let text = fs::read_to_string(&policy)?;
    let (before, after) = ("celery: {}", "celery: { egress: [host] }");
    let changed =
        if text.contains(before) { text.replace(before, after) } else { text.replace(after, before) };
    Ok(fs::write(&policy, changed)?)
}

/// Takes a service from the inventory and puts it back: its containers are started again.
pub(super) fn restart(lab: &PlainLab) -> Result<()> {
    let inventory = fs::read_to_string(lab.inventory())?;
    let others = inventory.lines().filter(|line| !line.contains("service: celery"));
    fs::write(lab.inventory(), others.map(|line| format!("{line}\n")).collect::<String>())?;
    std::thread::sleep(Duration::from_secs(3));
    fs::write(lab.inventory(), inventory)?;
    Ok(())
}

fn wait_until(start: Instant, second: u64) {
    let wanted = Duration::from_secs(second);
    std::thread::sleep(wanted.saturating_sub(start.elapsed()));
}
