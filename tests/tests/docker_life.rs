//! The life of containers on a real engine: their start, and everything that changes under them while others probe.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use integration_tests::daemon::SOON;
use integration_tests::engine_lab::{CLOSED_UDP, DB, EngineLab, OPEN};
use integration_tests::soak::pinned::Pinned;
use integration_tests::soak::{Extent, containers};
use integration_tests::tell;
use lab::compose;
use lab::docker_lab::netns_of;
use lab::interrupt::wait_for;
use lab::netns::within;
use lab::process::run;

#[test]
fn docker_race_nothing_arrives_before_the_policy() {
    let extent = Extent::or(16).unwrap();
    let figures = containers::run("containers", extent, &[]).unwrap();
    tell(&format!("containers: {figures}")).unwrap();
    assert_eq!((figures.leaked, figures.without_rights), (0, 0), "something arrived before the policy did");
    assert_eq!(figures.never, 0, "what is allowed did not arrive");
    // A machine that also does other things may be late; the long form is for one that does not.
    let most = if extent.is_long { 200 } else { 2000 };
    assert!(figures.opened.percentile(99) < Duration::from_millis(most), "{}", figures.opened);
}

/// Sends to `db` from where nobody of its name may; told apart by number.
const TARGETS: [SocketAddr; 1] = [SocketAddr::new(IpAddr::V4(DB), CLOSED_UDP)];

fn start_db(lab: &EngineLab) {
    lab.stand_in("db", Some("db"), &format!("--network front --ip {DB}"), "5432").unwrap();
}

/// Waits until `from` reaches `db`, or does not any more.
fn wait_until(lab: &EngineLab, from: &str, reaches: bool) {
    wait_for(&format!("{from} to reach db: {reaches}"), SOON, || {
        Ok((lab.reaches(from, DB.into(), OPEN)? == reaches).then_some(()))
    })
    .unwrap();
}

fn assert_unreached(lab: &EngineLab, from: &[&str]) {
    assert_eq!(lab.unheard("db").unwrap(), 0, "datagrams reached db");
    for from in from {
        assert!(!lab.reaches(from, DB.into(), OPEN).unwrap(), "{from} reaches db");
    }
}

/// `docker network connect` to a container that runs and sends has no start that could wait for anybody.
#[test]
fn docker_networks_are_connected_and_disconnected_under_fire() {
    let lab = EngineLab::start().unwrap();
    start_db(&lab);
    let _agent = lab.agent(&[]).unwrap();
    lab.sender("thief", Some("web"), "--network back", 1, &TARGETS).unwrap();
    lab.stand_in("both", Some("web"), "--network back", "80").unwrap();
    lab.stand_in("late", Some("api"), "--network back", "80").unwrap();
    for _ in 0..4 {
        for name in ["thief", "both", "late"] {
            lab.docker(&format!("network connect front {name}")).unwrap();
        }
        wait_until(&lab, "late", true);
        assert_unreached(&lab, &["both"]);
        // On two networks at once each of its interfaces is held to the same rights.
        let [first, second] = lab.container("late").unwrap().addresses[..] else {
            panic!("not two addresses")
        };
        assert!(!lab.reaches("both", first, 80).unwrap() && !lab.reaches("both", second, 80).unwrap());
        for name in ["thief", "both", "late"] {
            lab.docker(&format!("network disconnect front {name}")).unwrap();
        }
        assert_unreached(&lab, &["both"]);
    }
}

#[test]
fn docker_pause_restart_and_rename_change_no_rights_but_those_of_the_name() {
    let lab = EngineLab::start().unwrap();
    start_db(&lab);
    let _agent = lab.agent(&[]).unwrap();
    lab.sender("thief", Some("web"), "--network front", 1, &TARGETS).unwrap();
    lab.stand_in("web", Some("web"), "--network front", "80").unwrap();
    lab.stand_in("api", Some("api"), "--network front", "80").unwrap();
    wait_until(&lab, "api", true);
    for container in ["db", "api"] {
        lab.docker(&format!("pause {container}")).unwrap();
        assert_unreached(&lab, &["web"]);
        lab.docker(&format!("unpause {container}")).unwrap();
        wait_until(&lab, "api", true);
        lab.docker(&format!("restart --time 0 {container}")).unwrap();
        wait_until(&lab, "api", true);
        assert_unreached(&lab, &["web"]);
    }
    // A name that a policy selects by is a right.
    lab.docker("run --detach --name worker-1 --label com.docker.compose.project=shop --network front portcullis-lab/stand-in:latest stand-in worker 80").unwrap();
    wait_until(&lab, "worker-1", true);
    let place = netns_of(&lab.container("worker-1").unwrap());
    let target = SocketAddr::from((DB, OPEN));
    let mut open = within(&place, move || TcpStream::connect_timeout(&target, SOON)).unwrap().unwrap();
    lab.docker("rename worker-1 idle-1").unwrap();
    wait_until(&lab, "idle-1", false);
    open.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let answer = open.write_all(b"GET /name HTTP/1.0\r\n\r\n").and_then(|()| open.read_exact(&mut [0]));
    assert!(answer.is_err(), "a connection outlives the name under which it was opened");
    lab.docker("rename idle-1 worker-2").unwrap();
    wait_until(&lab, "worker-2", true);
    assert_unreached(&lab, &["web"]);
}

/// Addresses go round between services with different rights, and so do the names of bridges.
#[test]
fn docker_addresses_and_bridges_are_used_again() {
    let lab = EngineLab::start().unwrap();
    start_db(&lab);
    let _agent = lab.agent(&[]).unwrap();
    for round in 0..6 {
        let service = if round % 2 == 0 { "api" } else { "web" };
        let options = "--network front --ip 198.18.1.50";
        lab.stand_in("again", Some(service), options, "80").unwrap();
        wait_until(&lab, "again", service == "api");
        assert_eq!(lab.reaches("again", DB.into(), OPEN).unwrap(), service == "api", "round {round}");
        lab.docker("rm --force again").unwrap();
    }
    for _ in 0..3 {
        lab.docker(
            "network create --subnet 198.18.3.0/24 --opt com.docker.network.bridge.name=br-again again",
        )
        .unwrap();
        lab.stand_in("db2", Some("db"), "--network again --ip 198.18.3.100", "5432").unwrap();
        let db = SocketAddr::from(([198, 18, 3, 100], CLOSED_UDP));
        lab.sender("thief", Some("web"), "--network again", 1, &[db]).unwrap();
        lab.stand_in("api", Some("api"), "--network again", "80").unwrap();
        wait_for("api to reach db2", SOON, || Ok(lab.reaches("api", db.ip(), OPEN)?.then_some(()))).unwrap();
        assert_eq!(lab.unheard("db2").unwrap(), 0, "datagrams reached db2");
        lab.docker("rm --force thief api db2").unwrap();
        lab.docker("network rm again").unwrap();
    }
    let pinned = Pinned::new(&lab.pins());
    let living: BTreeSet<u32> = lab
        .netns()
        .ip("-oneline link show")
        .unwrap()
        .lines()
        .filter_map(|line| line.split(':').next()?.parse().ok())
        .collect();
    wait_for("the end of what is gone", Duration::from_secs(30), || {
        Ok(pinned.leftovers(&living)?.is_empty().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", pinned.leftovers(&living)));
}

/// Every replica has the rights of its service, from its first packet to its last.
#[test]
fn docker_compose_scales_up_and_down() {
    const COMPOSE: &str = "\
version: \"3.7\"
networks: { front: { external: true } }
services:
  db: { image: portcullis-lab/stand-in, command: [stand-in, db, \"5432\"], stop_signal: SIGKILL, networks: { front: { ipv4_address: 198.18.1.100 } } }
  api: { image: portcullis-lab/stand-in, command: [stand-in, api, \"80\"], stop_signal: SIGKILL, networks: [front] }
  web: { image: portcullis-lab/stand-in, command: [stand-in, web, \"80\"], stop_signal: SIGKILL, networks: [front] }
";
    let lab = EngineLab::start().unwrap();
    let file = lab.host.scratch().path().join("compose.yaml");
    fs::write(&file, COMPOSE).unwrap();
    let _agent = lab.agent(&[]).unwrap();
    for (api, web) in [(1, 1), (3, 2), (1, 3)] {
        compose::scale(&lab.host, &file, "shop", &[("api", api), ("web", web)]).unwrap();
        let all = compose::containers(&lab.host).unwrap();
        let of = |service: &str| {
            let of: Vec<&str> = all
                .iter()
                .filter(|one| one.service.as_deref() == Some(service))
                .map(|one| one.name.as_str())
                .collect();
            of
        };
        assert_eq!((of("api").len(), of("web").len()), (api, web));
        for name in of("api") {
            wait_until(&lab, name, true);
        }
        for name in of("web") {
            assert!(!lab.reaches(name, DB.into(), OPEN).unwrap(), "{name} reaches db");
        }
    }
}

/// At boot the agent is there before the engine: ready without it, with the backstop and what is pinned in force, and
/// right about whatever the engine then starts.
#[test]
fn docker_boot_the_agent_waits_for_nobody() {
    let lab = EngineLab::start().unwrap();
    start_db(&lab);
    lab.stand_in("api", Some("api"), "--network front", "80").unwrap();
    lab.agent(&["--backstop", "nft"]).unwrap().stop().unwrap();
    // An engine that is not there yet: its socket has no name.
    let socket = lab.host.scratch().path().join("late.sock");
    let agent = lab.agent_of(&format!("unix://{}", socket.display()), &["--backstop", "nft"]).unwrap();
    assert_eq!(agent.metric("portcullis_inventory_connected", &[]).unwrap(), 0.0);
    let table = run(lab.netns().command("nft").args(["list", "tables", "bridge"])).unwrap();
    assert!(table.contains("portcullis"), "{table}");
    wait_until(&lab, "api", true);
    lab.sender("thief", Some("web"), "--network front", 1, &TARGETS).unwrap();
    lab.stand_in("second", Some("api"), "--network front", "80").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // Who starts now is unknown, whatever it is.
    assert_unreached(&lab, &["second"]);
    std::os::unix::fs::symlink(lab.host.url().trim_start_matches("unix://"), &socket).unwrap();
    agent.wait_for_metric("portcullis_inventory_connected", 1.0).unwrap();
    wait_until(&lab, "second", true);
    wait_until(&lab, "api", true);
    assert_unreached(&lab, &[]);
}
