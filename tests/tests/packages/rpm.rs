//! The RPM, by the program `rpm` on the same machine: no distribution that is made of such packages is at hand.

use std::process::Command;

use integration_tests::flood::Flood;
use integration_tests::machine::{Disk, Machine, target};
use integration_tests::small_lab::{SmallLab, answers};
use lab::process::run;
use lab::tools::repository;

use crate::{FROM_FILE, UNIT, assert_enforced, configure, package, process, start};

/// The same package with a higher number.
fn next_release(machine: &Machine<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let makers = target().join("dist-tools");
    let maker = std::fs::read_dir(makers).unwrap().map(|maker| maker.unwrap().path());
    let maker =
        maker.into_iter().find(|path| path.display().to_string().contains("cargo-generate-rpm")).unwrap();
    let next = folder.path().join("next.rpm");
    let mut command = Command::new(maker.join("bin/cargo-generate-rpm"));
    command.args(["generate-rpm", "--package", "agent", "--set-metadata", "release = \"2\"", "--target"]);
    command.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).arg("--output").arg(&next);
    run(command.current_dir(repository())).unwrap();
    machine.copy(&next, "/srv/next.rpm").unwrap();
}

#[test]
fn an_rpm_is_upgraded_without_a_gap_and_detaches_when_it_is_erased() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    machine.copy(&package("rpm"), "/srv/portcullis.rpm").unwrap();
    // Nothing on this machine is an RPM, not even the shell.
    machine.run("rpm --install --nodeps /srv/portcullis.rpm").unwrap();
    assert_eq!(machine.property(UNIT, "UnitFileState").unwrap(), "disabled");
    configure(&machine, &lab, FROM_FILE);
    start(&machine);
    assert_enforced(&lab);
    next_release(&machine);
    let pid = process(&machine);
    let before = lab.datagrams();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    let flood = Flood::start(&lab).unwrap();
    machine.run("rpm --upgrade --nodeps /srv/next.rpm").unwrap();
    assert_ne!(process(&machine), pid, "the new agent was not started");
    assert_eq!(machine.property(UNIT, "ActiveState").unwrap(), "active");
    assert!(answers(&mut open), "the upgrade cut an allowed connection");
    assert!(flood.stop() > 1000);
    assert_eq!(lab.datagrams(), before, "datagrams leaked");
    assert_enforced(&lab);
    assert!(
        machine.run("cat /etc/portcullis/agent.yaml").unwrap().contains("inventory.yaml"),
        "settings are kept"
    );

    machine.run("rpm --erase portcullis").unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap(), "still enforced without the package");
    for left in ["/sys/fs/bpf/portcullis", "/var/lib/portcullis", "/usr/bin/portcullis"] {
        assert!(!machine.path(left).exists(), "`{left}` is left");
    }
    assert_eq!(
        machine.run("find /etc/systemd/system -name 'portcullis*'").unwrap(),
        "",
        "units are still enabled"
    );
}
