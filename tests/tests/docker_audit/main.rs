//! The audit of a real host: clean, then with faults planted one by one, each found and nothing else.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod endpoint;
mod sshd;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::agent_binary;
use integration_tests::daemon::Daemon;
use integration_tests::engine_lab::EngineLab;
use lab::engine::DockerHost;
use lab::interrupt::wait_for;
use lab::outside::Outside;
use lab::process::{output, run};
use lab::tools::Tools;
use serde_json::Value;

const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
profile: production
services:
  web: { exposure: public, ports: [80/tcp] }
  db: { ports: [5432/tcp], from: [web], run_as: non_root }
  mailpit: { only_in: [development], exposure: localhost, ports: [8025/tcp] }
";
const FIREWALL: &str = "\
table inet host {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  }
}
";
/// What cannot be told without an endpoint.
const OF_ENDPOINTS: [&str; 8] = ["A03", "A04", "A05", "A06", "A07", "A08", "A09", "A11"];
/// As whom everything runs on the clean host.
const SOMEBODY: &str = "--user 1000 --network front";

/// How the agent audits by itself.
const SETTINGS: &str = "audit: { interval: 10s }\n";

struct Host {
    lab: EngineLab,
    outside: Outside,
    /// A process in whose mount namespace the audit runs.
    mounts: Option<u32>,
}

/// The codes of failed lines and of findings, and those of lines that could not be told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    against: BTreeSet<String>,
    untold: BTreeSet<String>,
    report: String,
}

impl Host {
    fn start() -> (Self, Daemon) {
        let lab = EngineLab::start().unwrap();
        let outside = Outside::attach(lab.netns()).unwrap();
        let directory = lab.directory();
        fs::write(directory.join("policy/shop.yaml"), POLICY).unwrap();
        fs::write(directory.join("firewall.nft"), FIREWALL).unwrap();
        fs::write(directory.join("agent.yaml"), SETTINGS).unwrap();
        let host = Self { lab, outside, mounts: None };
        host.nft(&["-f", &directory.join("firewall.nft").display().to_string()]);
        host.web();
        host.db(SOMEBODY);
        let settings = directory.join("agent.yaml").display().to_string();
        let agent = host.lab.agent(&["--config", &settings]).unwrap();
        (host, agent)
    }

    fn nft(&self, arguments: &[&str]) {
        run(self.lab.netns().command("nft").args(arguments)).unwrap();
    }

    fn web(&self) {
        let options = format!("{SOMEBODY} --publish 0.0.0.0:8080:80");
        self.lab.stand_in("shop-web-1", Some("web"), &options, "80").unwrap();
    }

    fn db(&self, options: &str) {
        self.lab.stand_in("shop-db-1", Some("db"), options, "5432").unwrap();
    }

    fn remove(&self, name: &str) {
        self.lab.docker(&format!("rm --force --volumes {name}")).unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        let directory = self.lab.directory();
        let mut command = match self.mounts {
            Some(process) => {
                let mut command = self.lab.netns().command("nsenter");
                command.arg(format!("--target={process}")).args(["--mount", "--"]);
                command.arg(agent_binary().unwrap());
                command
            }
            None => self.lab.netns().command(agent_binary().unwrap()),
        };
        command.args(["audit", "--policy"]).arg(directory.join("policy"));
        command
            .args(["--docker-host", &self.lab.host.url(), "--control"])
            .arg(directory.join("control.sock"));
        command.arg("--from").arg(self.outside.netns().path()).args(more);
        command.env_remove("DOCKER_HOST").env_remove("RUST_LOG");
        command
    }

    fn audit(&self, more: &[&str]) -> Told {
        told(self.command(&["-o", "json"]).args(more))
    }

    /// Waits until the audit says just this: the agent needs a moment for a new container.
    fn expect(&self, what: &str, against: &[&str], untold: &[&str]) {
        let against: BTreeSet<String> = against.iter().map(|code| (*code).to_owned()).collect();
        let untold: BTreeSet<String> = untold.iter().map(|code| (*code).to_owned()).collect();
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let told = self.audit(&[]);
            if told.against == against && told.untold == untold {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: expected {against:?}, untold {untold:?}, but {:?}, untold {:?}\n{}",
                told.against,
                told.untold,
                told.report
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// With `db` started in another way, the audit says just this.
    fn with_db(&self, what: &str, options: &str, against: &[&str]) {
        self.remove("shop-db-1");
        self.db(options);
        self.expect(what, against, &OF_ENDPOINTS);
    }
}

fn told(command: &mut Command) -> Told {
    let output = output(command).unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let json: Value = serde_json::from_str(&report)
        .unwrap_or_else(|error| panic!("{error}: {report}{}", String::from_utf8_lossy(&output.stderr)));
    let mut told = Told { against: BTreeSet::new(), untold: BTreeSet::new(), report: String::new() };
    for line in json["lines"].as_array().unwrap() {
        let code = line["code"].as_str().unwrap().to_owned();
        match line["outcome"].as_str().unwrap() {
            "failed" => _ = told.against.insert(code),
            "could_not_tell" => _ = told.untold.insert(code),
            "passed" => continue,
            other => panic!("an outcome `{other}`"),
        }
        told.report.push_str(&format!("{} {}: {}\n", line["code"], line["subject"], line["evidence"]));
    }
    for instance in json["instances"].as_array().unwrap() {
        for finding in instance["findings"].as_array().unwrap() {
            told.against.insert(finding["code"].as_str().unwrap().to_owned());
            told.report.push_str(&format!("{}\n", finding["message"]));
        }
    }
    let found = i32::from(!told.against.is_empty());
    assert_eq!(output.status.code(), Some(found), "{}", told.report);
    told
}

/// Waits until the agent's own audit has found just this.
fn wait_for_agent(agent: &Daemon, wanted: &[&str]) {
    let open = || -> anyhow::Result<BTreeSet<String>> {
        let samples = agent.metrics()?;
        let findings = samples.iter().filter(|sample| sample.name == "portcullis_audit_findings");
        Ok(findings.filter(|sample| sample.value > 0.0).map(|sample| sample.labels["code"].clone()).collect())
    };
    let wanted: BTreeSet<String> = wanted.iter().map(|code| (*code).to_owned()).collect();
    let found = wait_for("the agent's own audit", Duration::from_secs(40), || {
        let ran = agent.metric("portcullis_audit_last_run_successful", &[])? == 1.0;
        Ok((ran && open()? == wanted).then_some(()))
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {wanted:?}, but {:?}\n{}", open(), agent.log()));
}

/// The agent audits as well, makes no attempts that it would count, and does not tell what it cannot see.
fn agent_audits(agent: &Daemon) {
    wait_for_agent(agent, &[]);
    assert_eq!(agent.metric("portcullis_denied_connection_attempts_total", &[]).unwrap(), 0.0);
    let untold = |code| agent.metric("portcullis_audit_untold_lines", &[("code", code)]).unwrap();
    assert_eq!(["A22", "A14", "A19", "A12"].map(untold), [1.0, 1.0, 0.0, 0.0], "{}", agent.log());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let ended = agent.metric("portcullis_audit_last_run_timestamp_seconds", &[]).unwrap();
    assert!((now - 60.0..=now + 1.0).contains(&ended), "{ended}");
}

#[test]
fn docker_audit_finds_what_was_planted_and_nothing_else() {
    let (mut host, agent) = Host::start();
    agent_audits(&agent);
    host.expect("the clean host", &[], &OF_ENDPOINTS);
    let socket = host.lab.host.url().trim_start_matches("unix://").to_owned();
    host.with_db("privileged", &format!("{SOMEBODY} --privileged"), &["F009", "A19"]);
    wait_for_agent(&agent, &["F009", "A19"]);
    host.with_db(
        "the host's namespaces",
        &format!("{SOMEBODY} --pid host --cap-add NET_ADMIN"),
        &["F012", "F013", "A19"],
    );
    host.with_db("a folder of the host", &format!("{SOMEBODY} --volume /etc/ssl:/x:ro"), &["F011", "A19"]);
    host.with_db("the engine's socket", &format!("{SOMEBODY} --volume {socket}:/s"), &["F010", "A13"]);
    host.with_db("published", &format!("{SOMEBODY} --publish 0.0.0.0:5432:5432"), &["F001", "A01", "A02"]);
    host.with_db(
        "published on localhost",
        &format!("{SOMEBODY} --publish 127.0.0.1:5432:5432"),
        &["F001", "A01"],
    );
    host.with_db("the host's network", "--user 1000 --network host", &["F008", "A01", "A17", "A24"]);
    host.with_db("root", "--network front", &["F019", "A15"]);
    let volume = "--volume shop_data:/data";
    let other = "--label com.docker.compose.project=other --label com.docker.compose.service=db";
    host.lab.stand_in("other-db-1", None, &format!("{volume} {other} --network back"), "5432").unwrap();
    host.with_db("a volume of another instance", &format!("{SOMEBODY} {volume}"), &["A18"]);
    host.remove("other-db-1");
    host.remove("shop-db-1");
    host.expect("missing", &["F006", "A20"], &OF_ENDPOINTS);
    host.db(SOMEBODY);
    for (what, name, service, against) in [
        ("a service for development", "shop-mailpit-1", Some("mailpit"), vec!["F004", "F016", "A10"]),
        ("a service that nobody knows", "shop-rogue-1", Some("rogue"), vec!["F005", "A20"]),
        ("a stranger in the network", "stray", None, vec!["A18"]),
    ] {
        host.lab.stand_in(name, service, SOMEBODY, "8025").unwrap();
        host.expect(what, &against, &OF_ENDPOINTS);
        host.remove(name);
    }
    host.nft(&["flush", "table", "inet", "host"]);
    host.nft(&["delete", "table", "inet", "host"]);
    host.expect("an open firewall", &["A12"], &OF_ENDPOINTS);
    host.nft(&["-f", &host.lab.directory().join("firewall.nft").display().to_string()]);
    host.expect("the clean host again", &[], &OF_ENDPOINTS);
    wait_for_agent(&agent, &[]);
    sshd::planted(&mut host);
    let silent = output(&mut host.command(&["--endpoint", "https://127.0.0.1:9"])).unwrap();
    let said = String::from_utf8_lossy(&silent.stderr);
    assert_eq!(silent.status.code(), Some(2), "{said}");
    assert!(said.contains("failed to probe `https://127.0.0.1:9`: failed to connect"), "{said}");
    agent.stop().unwrap();
    let directory = host.lab.directory();
    let mut detach = host.lab.netns().command(agent_binary().unwrap());
    detach
        .arg("detach")
        .arg("--pin-dir")
        .arg(host.lab.pins())
        .arg("--control")
        .arg(directory.join("control.sock"));
    run(detach.arg("--state-dir").arg(directory.join("state"))).unwrap();
    let untold = [&OF_ENDPOINTS[..], &["A23"]].concat();
    host.expect("nothing enforced", &["A01", "A22"], &untold);
}

#[test]
fn docker_audit_sees_an_engine_that_answers_anybody() {
    let policy = tempfile::tempdir().unwrap();
    fs::write(policy.path().join("shop.yaml"), POLICY).unwrap();
    let engine =
        DockerHost::start_with(Tools::locate().unwrap(), &["--host", "tcp://127.0.0.1:2375"]).unwrap();
    let mut command = engine.netns().command(agent_binary().unwrap());
    command.args(["audit", "-o", "json", "--docker-host", &engine.url(), "--policy"]).arg(policy.path());
    let told = told(command.env_remove("DOCKER_HOST").env_remove("RUST_LOG"));
    // Nothing runs, and there is no firewall either.
    let expected = ["A02", "A12", "A14", "A20", "F006", "F017"].map(str::to_owned);
    assert_eq!(told.against, expected.into(), "{}", told.report);
}
