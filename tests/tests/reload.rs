//! A policy that changes under a running agent: however it is written, whole or not at all, and what that does to
//! connections that are open.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use integration_tests::daemon::{Daemon, SOON};
use integration_tests::small_lab::{POLICY, SmallLab, answers};
use lab::interrupt::wait_for;
use lab::observed::Event;

const RELOADED: &str = "portcullis_config_last_reload_successful";
const ATTEMPTS: &str = "portcullis_denied_connection_attempts_total";
/// Long enough for a change that is noticed to have been noticed.
const QUIET: Duration = Duration::from_millis(1500);

/// `web` may call `db` too.
fn loose() -> String {
    POLICY.replace("from: [api]", "from: [api, web]")
}

/// Nobody may call `api`.
fn tight() -> String {
    POLICY.replace("    from: [web]\n", "")
}

fn wait_for_log(agent: &Daemon, words: &str, times: usize) {
    wait_for(words, SOON, || Ok((agent.logged(words) >= times).then_some(())))
        .unwrap_or_else(|error| panic!("{error}: {}", agent.log()));
}

fn events_between(agent: &Daemon, from: &str, to: &str) -> Vec<Event> {
    let named =
        |peer: &lab::observed::Peer, name: &str| peer.container.as_deref() == Some(&format!("{name}-1"));
    let all = agent.events().unwrap();
    all.into_iter().filter(|event| named(&event.source, from) && named(&event.destination, to)).collect()
}

#[test]
fn a_policy_is_swapped_however_its_file_is_written() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut revision = agent.revision().unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    // In place, as `cat >` does.
    fs::write(lab.policy(), loose()).unwrap();
    revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap());
    // By another file that takes its name, as editors do.
    lab.write_policy(POLICY).unwrap();
    revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    // By another directory that takes its directory's name.
    let (now, next, old) = (lab.path().join("policy"), lab.path().join("next"), lab.path().join("old"));
    fs::create_dir(&next).unwrap();
    fs::write(next.join("shop.yaml"), loose()).unwrap();
    fs::rename(&now, &old).unwrap();
    fs::rename(&next, &now).unwrap();
    revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap());
    lab.write_policy(POLICY).unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert_eq!(agent.metric(RELOADED, &[]).unwrap(), 1.0);
}

/// A config map is a directory behind two symbolic links, of which the inner one is replaced.
#[test]
fn a_policy_is_swapped_when_a_config_map_is() {
    let lab = SmallLab::start().unwrap();
    let mount = lab.path().join("mount");
    let version = |name: &str, text: &str| {
        fs::create_dir_all(mount.join(name)).unwrap();
        fs::write(mount.join(name).join("shop.yaml"), text).unwrap();
        symlink(name, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    version("..2026_1", POLICY);
    symlink("..data/shop.yaml", mount.join("shop.yaml")).unwrap();
    // The directory, and the file by its name in it.
    for path in [mount.clone(), mount.join("shop.yaml")] {
        let agent = lab.run(&["--policy", &path.display().to_string()]).unwrap();
        let revision = agent.revision().unwrap();
        version("..2026_2", &loose());
        fs::remove_dir_all(mount.join("..2026_1")).unwrap();
        let revision = agent.wait_for_another_revision(revision).unwrap();
        assert!(lab.reaches("web", "db", 5432).unwrap());
        version("..2026_1", POLICY);
        fs::remove_dir_all(mount.join("..2026_2")).unwrap();
        agent.wait_for_another_revision(revision).unwrap();
        assert!(!lab.reaches("web", "db", 5432).unwrap());
        agent.stop().unwrap();
    }
}

#[test]
fn a_signal_reloads_what_no_watch_can_see() {
    let lab = SmallLab::start().unwrap();
    let hidden = lab.path().join("hidden.yaml");
    fs::write(&hidden, POLICY).unwrap();
    fs::remove_file(lab.policy()).unwrap();
    symlink(&hidden, lab.policy()).unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    fs::write(&hidden, loose()).unwrap();
    std::thread::sleep(QUIET);
    assert_eq!(agent.revision().unwrap(), revision);
    agent.hang_up().unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn a_broken_policy_changes_nothing_but_one_log_line_and_a_metric() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    assert_eq!(agent.metric(RELOADED, &[]).unwrap(), 1.0);
    let broken = format!("{}\nno_such_key: true\n", loose());
    lab.write_policy(&broken).unwrap();
    agent.wait_for_metric(RELOADED, 0.0).unwrap();
    // Looked at again, it is no better, and no news.
    fs::write(lab.path().join("policy/notes.txt"), "unrelated").unwrap();
    lab.write_policy(&broken).unwrap();
    std::thread::sleep(QUIET);
    assert_eq!(agent.logged("invalid policy"), 1, "{}", agent.log());
    assert_eq!(agent.logged("shop.yaml:16:1: unknown key `no_such_key`"), 1, "{}", agent.log());
    assert!(answers(&mut open));
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    assert_eq!(agent.revision().unwrap(), revision);
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    let status = lab.status(&[]).unwrap();
    assert!(status.data.contains("no_such_key"), "{}", status.data);
    // A file that is gone is as broken.
    fs::remove_file(lab.policy()).unwrap();
    wait_for_log(&agent, "holds no policies", 1);
    assert!(answers(&mut open));

    lab.write_policy(POLICY).unwrap();
    agent.wait_for_metric(RELOADED, 1.0).unwrap();
    assert_eq!(agent.revision().unwrap(), revision, "nothing changed in the end");
    assert!(answers(&mut open));
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}

#[test]
fn a_tighter_policy_cuts_connections_and_a_looser_one_needs_no_new_ones() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let mut cut = lab.connect("web", "api", 8000).unwrap().unwrap();
    let mut other = lab.connect("api", "db", 5432).unwrap().unwrap();
    assert!(answers(&mut cut) && answers(&mut other));
    let revision = agent.revision().unwrap();
    lab.write_policy(&tight()).unwrap();
    let revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(!answers(&mut cut), "the connection is still open");
    assert!(answers(&mut other), "a connection that is still allowed was cut");
    assert!(
        agent.metric(ATTEMPTS, &[("source", "web"), ("destination", "api"), ("reason", "revoked")]).unwrap()
            > 0.0
    );
    assert!(events_between(&agent, "web", "api").iter().any(|event| event.reason == "revoked"));
    lab.write_policy(&loose()).unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    // What was held back is sent again, at longer and longer intervals.
    wait_for("the connection", SOON, || Ok(answers(&mut cut).then_some(()))).unwrap();
    assert!(answers(&mut other));
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

/// A valid policy that is too large for the kernel's tables is refused whole, told once, and the agent stays ready.
#[test]
fn a_policy_that_does_not_fit_into_the_kernel_changes_nothing() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    let mut open = lab.connect("web", "api", 8000).unwrap().unwrap();
    let large = |policy: &str, ranges: usize| {
        let networks = (0..ranges).map(|number| format!("\"2001:db8:{number:x}::/48\""));
        let many = networks.collect::<Vec<_>>().join(", ");
        let services: String =
            (0..300).map(|number| format!("  s{number}: {{ ports: [80/tcp], from: [many] }}\n")).collect();
        policy.replace("services:\n", &format!("groups: {{ many: [{many}] }}\nservices:\n{services}"))
    };
    // The largest that fit, one beside the other.
    lab.write_policy(&large(&loose(), 218)).unwrap();
    let revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap());
    lab.write_policy(&large(POLICY, 218)).unwrap();
    let revision = agent.wait_for_another_revision(revision).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    // And one that does not, though it would if it were alone.
    lab.write_policy(&large(&loose(), 219)).unwrap();
    agent.wait_for_metric(RELOADED, 0.0).unwrap();
    std::thread::sleep(QUIET);
    assert_eq!(agent.logged("state not applied"), 1, "{}", agent.log());
    let words = "CIDRs need 65700 entries in map `ADDRESSES`, which has room for 65536";
    assert_eq!(agent.logged(words), 1, "{}", agent.log());
    assert!(lab.status(&[]).unwrap().data.contains(words));
    // What does not touch the policy still gets into the kernel.
    lab.host().ip("address add 198.18.8.1/24 dev lab0").unwrap();
    std::thread::sleep(QUIET);
    assert_eq!(agent.logged("state not applied"), 1, "{}", agent.log());
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert_eq!(agent.revision().unwrap(), revision);
    assert!(answers(&mut open));
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    lab.write_policy(&loose()).unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    assert_eq!(agent.metric(RELOADED, &[]).unwrap(), 1.0);
    assert!(lab.reaches("web", "db", 5432).unwrap());
}

/// Lines move without an entry changing: the revision stays, and events name the new line.
#[test]
fn comments_move_no_revision_but_the_lines_that_events_name() {
    let lab = SmallLab::start().unwrap();
    let agent = lab.run(&[]).unwrap();
    let revision = agent.revision().unwrap();
    let line_of_db = |text: &str| text.lines().position(|line| line == "  db:").unwrap() + 1;
    let line_told = |number: usize| {
        assert!(!lab.reaches("web", "db", 5432).unwrap());
        let events = wait_for("the event", SOON, || {
            let events = events_between(&agent, "web", "db");
            Ok((events.len() == number).then_some(events))
        });
        events.unwrap().pop().unwrap().rule_at
    };
    assert!(line_told(1).ends_with(&format!("shop.yaml:{}", line_of_db(POLICY))));
    let moved = POLICY.replace("services:", "# who may\n\n# call whom\nservices:");
    lab.write_policy(&moved).unwrap();
    wait_for_log(&agent, "policy read again, changed", 1);
    // That was said before it was in force; this is after.
    agent.hang_up().unwrap();
    wait_for_log(&agent, "policy read again, unchanged", 1);
    assert!(line_told(2).ends_with(&format!("shop.yaml:{}", line_of_db(&moved))));
    assert_ne!(line_of_db(POLICY), line_of_db(&moved));
    assert_eq!(agent.revision().unwrap(), revision);
}

/// What `mode: observe` lets pass, and how it is told.
#[test]
fn observe_drops_nothing_and_tells_everything() {
    let lab = SmallLab::start().unwrap();
    lab.write_policy(&POLICY.replace("mode: enforce", "mode: observe")).unwrap();
    let agent = lab.run(&[]).unwrap();
    let labels = [("source", "web"), ("destination", "db"), ("reason", "no_rule"), ("verdict", "observed")];
    for _ in 0..3 {
        assert!(lab.reaches("web", "db", 5432).unwrap());
    }
    assert!(lab.reaches("stray", "db", 5432).unwrap());
    assert!(lab.reaches("host", "db", 5432).unwrap());
    assert!(lab.reaches("web", "api", 8000).unwrap());
    assert_eq!(agent.metric(ATTEMPTS, &labels).unwrap(), 3.0);
    let dropped: Vec<String> = agent
        .metrics()
        .unwrap()
        .into_iter()
        .filter(|sample| sample.name == ATTEMPTS && sample.value > 0.0)
        .map(|sample| sample.line)
        .filter(|line| line.contains("verdict=\"dropped\""))
        .collect();
    assert_eq!(dropped, Vec::<String>::new());
    let told = wait_for("the events", SOON, || {
        let told = events_between(&agent, "web", "db");
        Ok((told.len() >= 3).then_some(told))
    })
    .unwrap();
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|event| event.verdict == "observed" && event.reason == "no_rule"), "{told:?}");
    assert_eq!(agent.metric("portcullis_endpoints", &[("state", "observed")]).unwrap(), 3.0);
}

#[test]
fn a_service_may_observe_where_its_policy_enforces_and_enforcing_cuts_what_was_observed() {
    let lab = SmallLab::start().unwrap();
    let observing = POLICY.replace("    severity: critical", "    mode: observe\n    severity: critical");
    lab.write_policy(&observing).unwrap();
    let agent = lab.run(&[]).unwrap();
    assert!(lab.reaches("web", "db", 5432).unwrap());
    assert!(!lab.reaches("db", "api", 8000).unwrap());
    let mut observed = lab.connect("web", "db", 5432).unwrap().unwrap();
    let mut allowed = lab.connect("api", "db", 5432).unwrap().unwrap();
    assert!(answers(&mut observed) && answers(&mut allowed));
    let revision = agent.revision().unwrap();
    lab.write_policy(POLICY).unwrap();
    agent.wait_for_another_revision(revision).unwrap();
    assert!(!answers(&mut observed), "the connection is still open");
    assert!(answers(&mut allowed));
    assert!(!lab.reaches("web", "db", 5432).unwrap());
}
