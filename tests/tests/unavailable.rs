//! An inventory that is absent, broken or slow: the agent starts, enforces what is pinned, becomes ready and says what
//! is wrong, once.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::daemon::{Daemon, files_below};
use integration_tests::small_lab::{SmallLab, answers};

const CONNECTED: &str = "portcullis_inventory_connected";

/// Something that takes connections on a socket and is no engine.
struct Impostor {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    fn start(lab: &SmallLab, answer: Option<&'static [u8]>) -> Self {
        let listener = UnixListener::bind(lab.path().join("docker.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ended = Arc::<AtomicBool>::default();
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut silent: Vec<UnixStream> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    match answer {
                        None => silent.push(stream),
                        Some(answer) => {
                            // Answered or not, the connection ends here.
                            drop(stream.set_read_timeout(Some(Duration::from_millis(200))));
                            drop(stream.read(&mut [0_u8; 4096]));
                            drop(stream.write_all(answer));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn run_with_docker(lab: &SmallLab) -> Daemon {
    let url = format!("unix://{}/docker.sock", lab.path().display());
    lab.run(&["--inventory", "docker", "--docker-host", &url]).unwrap()
}

/// What an earlier agent enforced is what is enforced, and the agent says that it sees no engine.
fn assert_pins_are_enforced(lab: &SmallLab, agent: &Daemon) {
    assert!(lab.reaches("web", "api", 8000).unwrap());
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert!(!lab.reaches("stray", "db", 5432).unwrap());
    assert_eq!(agent.metric(CONNECTED, &[]).unwrap(), 0.0);
    assert_eq!(agent.get("/readyz").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(files_below(&lab.pins().join("v1/links")).len(), 10, "pins of ports and bridge");
}

fn with_pins(lab: &SmallLab, run: impl FnOnce() -> Daemon) {
    lab.run(&[]).unwrap().stop().unwrap();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert!(answers(&mut open));
    let agent = run();
    assert_pins_are_enforced(lab, &agent);
    std::thread::sleep(Duration::from_secs(3));
    assert_pins_are_enforced(lab, &agent);
    assert!(answers(&mut open));
    assert_eq!(agent.logged("docker unreachable"), 1, "not told once:\n{}", agent.log());
    agent.stop().unwrap();
    // The next agent that sees everything takes over as if nothing had been.
    let agent = lab.run(&[]).unwrap();
    assert_eq!(agent.metric(CONNECTED, &[]).unwrap(), 1.0);
    assert!(answers(&mut open));
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn without_docker_what_is_pinned_is_enforced() {
    let lab = SmallLab::start().unwrap();
    with_pins(&lab, || run_with_docker(&lab));
}

#[test]
fn a_docker_that_refuses_connections_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(lab.path().join("docker.sock")).unwrap());
    with_pins(&lab, || run_with_docker(&lab));
}

#[test]
fn a_docker_that_answers_nonsense_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    let _impostor = Impostor::start(&lab, Some(b"SSH-2.0-OpenSSH_9.2\r\n"));
    with_pins(&lab, || run_with_docker(&lab));
}

#[test]
fn a_docker_that_answers_empty_lists_of_another_kind_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>";
    let _impostor = Impostor::start(&lab, Some(answer));
    with_pins(&lab, || run_with_docker(&lab));
}

#[test]
fn a_docker_that_hangs_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    let _impostor = Impostor::start(&lab, None);
    with_pins(&lab, || run_with_docker(&lab));
}

/// Without pins there is nothing to enforce, and that is no error either.
#[test]
fn without_docker_and_without_pins_the_agent_is_ready_all_the_same() {
    let lab = SmallLab::start().unwrap();
    let agent = run_with_docker(&lab);
    assert_eq!(agent.metric(CONNECTED, &[]).unwrap(), 0.0);
    assert_eq!(agent.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    let status = lab.status(&[]).unwrap();
    assert!(status.data.contains("docker.sock"), "{}", status.data);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn an_inventory_file_that_is_invalid_at_the_start_keeps_what_is_pinned() {
    let lab = SmallLab::start().unwrap();
    lab.run(&[]).unwrap().stop().unwrap();
    let good = lab.inventory_text();
    for (text, words) in [
        (Some("version: 1\nendpoints:\n  - { prot: p-web }\n"), "inventory.yaml:3:"),
        (Some(""), "inventory.yaml"),
        (None, "failed to read inventory"),
    ] {
        match text {
            Some(text) => fs::write(lab.inventory(), text).unwrap(),
            None => fs::remove_file(lab.inventory()).unwrap(),
        }
        let agent = lab.run(&[]).unwrap();
        assert_pins_are_enforced(&lab, &agent);
        assert_eq!(agent.logged(words), 1, "{}", agent.log());
        fs::write(lab.inventory(), &good).unwrap();
        agent.wait_for_metric(CONNECTED, 1.0).unwrap();
        assert!(lab.reaches("web", "api", 8000).unwrap());
        assert!(!lab.reaches("web", "db", 5432).unwrap());
        agent.stop().unwrap();
    }
}

#[test]
fn an_inventory_file_that_becomes_invalid_keeps_what_was_known() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    fs::write(lab.inventory(), "version: 1\nendpoints: nonsense\n").unwrap();
    agent.wait_for_metric(CONNECTED, 0.0).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_pins_are_enforced(&lab, &agent);
    assert_eq!(agent.logged("inventory.yaml:2:"), 1, "{}", agent.log());
    fs::write(lab.inventory(), lab.inventory_text()).unwrap();
    agent.wait_for_metric(CONNECTED, 1.0).unwrap();
    assert_eq!(agent.revision().unwrap(), revision);
    assert!(lab.reaches("api", "db", 5432).unwrap());
}

/// A container that goes away, with its port, is no trouble; a new one that nobody knows gets nothing.
#[test]
fn ports_that_vanish_and_appear_are_no_trouble() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    lab.host().ip("link delete p-web").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(files_below(&lab.pins().join("v1/links")).len(), 8);
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert!(lab.reaches("api", "db", 5432).unwrap());
    assert_eq!(agent.logged("\"WARN\"") + agent.logged("\"ERROR\""), 0, "{}", agent.log());
}
