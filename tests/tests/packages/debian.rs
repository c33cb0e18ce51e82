//! The Debian package, and what its units do at boot.

use std::fs;
use std::process::Command;

use integration_tests::flood::Flood;
use integration_tests::machine::{Disk, Machine};
use integration_tests::small_lab::{POLICY, SmallLab, answers};
use integration_tests::tell;
use lab::interrupt::wait_for;
use lab::process::run;

use crate::{BACKSTOP, FROM_FILE, SOON, UNIT, assert_enforced, install, package, process, start};

#[test]
fn an_installed_package_does_nothing_until_it_is_enabled() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    install(&machine, &lab, FROM_FILE);
    assert_eq!(machine.property(UNIT, "ActiveState").unwrap(), "inactive");
    assert_eq!(machine.property(UNIT, "UnitFileState").unwrap(), "disabled");
    assert!(lab.reaches("web", "db", 5432).unwrap());
    assert_eq!(machine.run(&format!("systemd-analyze verify {UNIT} {BACKSTOP}")).unwrap(), "");
    assert!(machine.run("portcullis --version").unwrap().starts_with("portcullis "));
    machine.run("portcullis policy lint /etc/portcullis/policy.d/shop.yaml").unwrap();
    machine
        .run("for kind in man1/portcullis.1 man1/portcullis-run.1; do ls /usr/share/man/$kind*; done")
        .unwrap();
    for (file, command) in [
        ("bash-completion/completions/portcullis", "bash -n"),
        ("zsh/vendor-completions/_portcullis", "test -s"),
        ("fish/vendor_completions.d/portcullis.fish", "test -s"),
    ] {
        machine.run(&format!("{command} /usr/share/{file}")).unwrap();
    }
}

#[test]
fn the_service_enforces_reloads_and_survives_its_own_hanging() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    install(&machine, &lab, &format!("{FROM_FILE}audit: {{ interval: 1h }}\n"));
    machine
        .write("/etc/systemd/system/portcullis.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
        .unwrap();
    machine.run("systemctl daemon-reload").unwrap();
    start(&machine);
    assert_enforced(&lab);
    let pid = process(&machine);
    let status = machine.run(&format!("cat /proc/{pid}/status")).unwrap();
    // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF: bits 12, 38 and 39.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t000000c000001000\n")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    // Denials are in the journal, with fields.
    let events = || machine.run(&format!("journalctl --output=json --unit={UNIT} --grep=no_rule"));
    wait_for("the event in the journal", SOON, || Ok(events().ok())).unwrap();
    // What the unit allows is enough for an audit, which gets as far as the engine that this machine does not have.
    let failed = || machine.run(&format!("journalctl --output=json --unit={UNIT} --grep='the audit failed'"));
    let failed = wait_for("an audit", SOON, || Ok(failed().ok())).unwrap();
    assert!(failed.contains("docker.sock"), "{failed}");

    let opened = POLICY.replace("from: [api]", "from: [api, web]");
    machine.write("/etc/portcullis/policy.d/shop.yaml", &opened).unwrap();
    machine.run(&format!("systemctl reload {UNIT}")).unwrap();
    wait_for("the new policy", SOON, || Ok(lab.reaches("web", "db", 5432)?.then_some(()))).unwrap();
    machine.write("/etc/portcullis/policy.d/shop.yaml", POLICY).unwrap();
    machine.run(&format!("systemctl reload {UNIT}")).unwrap();
    wait_for("the old policy", SOON, || Ok((!lab.reaches("web", "db", 5432)?).then_some(()))).unwrap();
    assert_eq!(process(&machine), pid);

    // A hanging agent is found out and replaced, while its programs go on.
    let before = lab.datagrams();
    let flood = Flood::start(&lab).unwrap();
    machine.run(&format!("kill -STOP {pid}")).unwrap();
    wait_for("the watchdog", SOON, || {
        Ok((machine.number(UNIT, "NRestarts")? == 1 && machine.property(UNIT, "ActiveState")? == "active")
            .then_some(()))
    })
    .unwrap();
    assert!(machine.journal(UNIT).unwrap().contains("Watchdog timeout"));
    assert_ne!(process(&machine), pid);
    assert!(flood.stop() > 1000);
    assert_eq!(lab.datagrams(), before, "datagrams leaked");
    assert_enforced(&lab);
}

/// The same package with a higher number.
fn next_version(machine: &Machine<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    run(Command::new("dpkg-deb").arg("-R").arg(package("deb")).arg(&tree)).unwrap();
    let control = fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
    let version = control.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(tree.join("DEBIAN/control"), control.replace(version, &format!("{version}.next"))).unwrap();
    let next = folder.path().join("next.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&tree).arg(&next)).unwrap();
    machine.copy(&next, "/srv/next.deb").unwrap();
}

#[test]
fn an_upgrade_leaks_nothing_and_cuts_nothing_and_so_do_a_removal_and_a_return() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    install(&machine, &lab, FROM_FILE);
    start(&machine);
    next_version(&machine);
    let pid = process(&machine);
    let before = lab.datagrams();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut open));
    let flood = Flood::start(&lab).unwrap();

    machine.run("dpkg --install /srv/next.deb").unwrap();
    assert_ne!(process(&machine), pid, "the new agent was not started");
    assert_eq!(machine.property(UNIT, "ActiveState").unwrap(), "active");
    assert!(answers(&mut open), "the upgrade cut an allowed connection");
    assert!(
        machine.run("cat /etc/portcullis/agent.yaml").unwrap().contains("inventory.yaml"),
        "settings are kept"
    );
    // And back again.
    machine.run("dpkg --install /srv/portcullis.deb").unwrap();
    assert!(answers(&mut open), "the rollback cut an allowed connection");
    assert_enforced(&lab);

    let said = machine.run("dpkg --remove portcullis").unwrap();
    assert!(said.contains("what is enforced stays enforced"), "{said}");
    assert_eq!(machine.property(UNIT, "LoadState").unwrap(), "not-found");
    assert!(answers(&mut open), "the removal cut an allowed connection");
    assert_enforced(&lab);

    machine.run("dpkg --install /srv/portcullis.deb").unwrap();
    machine.run(&format!("systemctl enable --now {UNIT}")).unwrap();
    assert!(answers(&mut open), "the return cut an allowed connection");
    assert_enforced(&lab);
    assert!(flood.stop() > 1000);
    assert_eq!(lab.datagrams(), before, "datagrams leaked");

    machine.run("dpkg --remove portcullis").unwrap();
    let said = machine.run("dpkg --purge portcullis").unwrap();
    assert!(said.contains("nothing is enforced any more"), "{said}");
    assert!(lab.reaches("web", "db", 5432).unwrap(), "still enforced after `purge`");
    for left in
        ["/sys/fs/bpf/portcullis", "/var/lib/portcullis", "/run/portcullis", "/etc/portcullis/agent.yaml"]
    {
        assert!(!machine.path(left).exists(), "`{left}` is left");
    }
    // What the administrator wrote stays his.
    assert!(machine.path("/etc/portcullis/policy.d/shop.yaml").exists());
    let links = machine.run("find /etc/systemd/system -name 'portcullis*'").unwrap();
    assert_eq!(links, "", "units are still enabled");
}

#[test]
fn purging_a_running_agent_ends_it_and_detaches_wherever_its_pins_are() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    install(&machine, &lab, &format!("{FROM_FILE}backstop: nft\npin_dir: /sys/fs/bpf/elsewhere\n"));
    start(&machine);
    assert_enforced(&lab);
    assert!(machine.run("nft list tables").unwrap().contains("portcullis"));
    machine.run("dpkg --purge portcullis").unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap(), "still enforced after `purge`");
    assert_eq!(machine.run("nft list tables").unwrap(), "");
    assert!(!machine.path("/sys/fs/bpf/elsewhere").exists());
    assert!(!machine.path("/var/lib/portcullis").exists());
}

/// A Docker that systemd starts at the first call on its socket, or at boot: it notes when, and never answers.
const DOCKER_SOCKET: &str = "[Socket]\nListenStream=/run/docker.sock\n[Install]\nWantedBy=sockets.target\n";
const DOCKER_SERVICE: &str = "\
[Unit]
Requires=docker.socket
After=network-online.target docker.socket
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
";

#[test]
fn at_boot_the_backstop_comes_first_then_the_agent_then_docker() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    {
        let machine = Machine::boot(lab.host(), &mut disk).unwrap();
        install(&machine, &lab, &format!("{FROM_FILE}backstop: nft\n"));
        start(&machine);
        assert_enforced(&lab);
        // At the next boot the agent asks Docker, whose socket is there from early on.
        machine.write("/etc/portcullis/agent.yaml", "backstop: nft\n").unwrap();
        machine.write("/etc/systemd/system/docker.socket", DOCKER_SOCKET).unwrap();
        machine.write("/etc/systemd/system/docker.service", DOCKER_SERVICE).unwrap();
        machine
            .run("systemctl daemon-reload && systemctl enable docker.socket docker.service && sync")
            .unwrap();
    }
    run(lab.host().command("nft").args(["flush", "ruleset"])).unwrap();

    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    for unit in [UNIT, BACKSTOP, "docker.service"] {
        assert_eq!(machine.property(unit, "ActiveState").unwrap(), "active", "{unit}");
    }
    let began = |unit: &str| machine.number(unit, "InactiveExitTimestampMonotonic").unwrap();
    let done = |unit: &str| machine.number(unit, "ActiveEnterTimestampMonotonic").unwrap();
    assert!(done(BACKSTOP) <= began(UNIT), "the agent started before the backstop");
    assert!(done(UNIT) <= began("docker.service"), "Docker started before the agent was ready");
    let waited = done(UNIT) - began(UNIT);
    tell(&format!("the agent was ready after {} ms, with a Docker that waited for it", waited / 1000))
        .unwrap();
    assert!(waited < 10_000_000, "the agent and Docker waited for each other: {waited} µs");
    assert!(machine.journal(BACKSTOP).unwrap().contains("Finished"), "the backstop was not loaded");
}

/// The backstop is what holds at boot before there is an agent.
#[test]
fn without_an_agent_the_loaded_backstop_holds() {
    let lab = SmallLab::start().unwrap();
    let mut disk = Disk::create().unwrap();
    {
        let machine = Machine::boot(lab.host(), &mut disk).unwrap();
        install(&machine, &lab, &format!("{FROM_FILE}backstop: nft\n"));
        start(&machine);
        assert_enforced(&lab);
        machine.run(&format!("systemctl disable {UNIT} && systemctl mask {UNIT} && sync")).unwrap();
    }
    run(lab.host().command("nft").args(["flush", "ruleset"])).unwrap();
    wait_for("the end of enforcement", SOON, || Ok(lab.reaches("web", "db", 5432)?.then_some(()))).unwrap();

    let machine = Machine::boot(lab.host(), &mut disk).unwrap();
    assert_eq!(machine.property(BACKSTOP, "ActiveState").unwrap(), "active");
    assert_ne!(machine.property(UNIT, "ActiveState").unwrap(), "active");
    for (from, to, port) in [("web", "db", 5432), ("web", "api", 8000), ("stray", "db", 5432)] {
        assert!(!lab.reaches(from, to, port).unwrap(), "{from} reaches {to} with nothing but the backstop");
    }
}
