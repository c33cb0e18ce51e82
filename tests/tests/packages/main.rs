//! The packages on a real systemd: what they do when they are installed, upgraded, removed and purged, and what their
//! units do at boot. `cargo xtask dist --check` makes what these tests need and runs them.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod artifacts;
mod container;
mod debian;
mod rpm;
mod stack;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::machine::{Machine, target};
use integration_tests::small_lab::{POLICY, SmallLab};

const UNIT: &str = "portcullis.service";
const BACKSTOP: &str = "portcullis-backstop.service";
const SOON: Duration = Duration::from_secs(15);

/// Names the folder with the packages; `target/dist` if it is not set.
const PACKAGES: &str = "PORTCULLIS_PACKAGES";

/// The newest package of a kind.
fn package(kind: &str) -> PathBuf {
    let folder = std::env::var_os(PACKAGES).map_or_else(|| target().join("dist"), PathBuf::from);
    let files = fs::read_dir(&folder).unwrap();
    let packages = files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == kind));
    let newest = packages.max_by_key(|file| file.metadata().unwrap().modified().unwrap());
    newest.unwrap_or_else(|| panic!("no `.{kind}` in `{}`: run `cargo xtask dist --check`", folder.display()))
}

/// Installs the package and configures it.
fn install(machine: &Machine<'_>, lab: &SmallLab, settings: &str) {
    machine.copy(&package("deb"), "/srv/portcullis.deb").unwrap();
    machine.run("dpkg --install /srv/portcullis.deb").unwrap();
    configure(machine, lab, settings);
}

/// Writes what the administrator would, for the containers of `lab`.
fn configure(machine: &Machine<'_>, lab: &SmallLab, settings: &str) {
    machine.write("/etc/portcullis/policy.d/shop.yaml", POLICY).unwrap();
    machine.write("/etc/portcullis/inventory.yaml", &lab.inventory_text()).unwrap();
    machine.write("/etc/portcullis/agent.yaml", settings).unwrap();
}

const FROM_FILE: &str = "inventory: /etc/portcullis/inventory.yaml\n";

fn start(machine: &Machine<'_>) {
    let started = machine.run(&format!("systemctl enable --now {UNIT} {BACKSTOP}"));
    started.unwrap_or_else(|error| panic!("{error:#}\n{}", machine.journal(UNIT).unwrap()));
    assert_eq!(machine.property(UNIT, "ActiveState").unwrap(), "active");
}

fn assert_enforced(lab: &SmallLab) {
    assert!(lab.reaches("web", "api", 8000).unwrap(), "what is allowed does not pass");
    assert!(!lab.reaches("web", "db", 5432).unwrap(), "what is denied passes");
    assert!(!lab.reaches("stray", "db", 5432).unwrap(), "what is denied passes");
}

fn process(machine: &Machine<'_>) -> u64 {
    machine.number(UNIT, "MainPID").unwrap()
}
