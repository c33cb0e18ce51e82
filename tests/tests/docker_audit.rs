//! The audit of a real host: clean, then with faults planted one by one, each found and nothing else.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::agent_binary;
use integration_tests::daemon::Daemon;
use integration_tests::engine_lab::EngineLab;
use lab::interrupt::wait_for;
use lab::outside::Outside;
use lab::process::{output, run, stop_child};
use lab::tools::repository;
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

struct Host {
    lab: EngineLab,
    outside: Outside,
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
        let host = Self { lab, outside };
        host.nft(&["-f", &directory.join("firewall.nft").display().to_string()]);
        host.web();
        host.db(SOMEBODY);
        let agent = host.lab.agent(&[]).unwrap();
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
        let mut command = self.lab.netns().command(agent_binary().unwrap());
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

#[test]
fn docker_audit_finds_what_was_planted_and_nothing_else() {
    let (host, agent) = Host::start();
    host.expect("the clean host", &[], &OF_ENDPOINTS);
    let socket = host.lab.host.url().trim_start_matches("unix://").to_owned();
    host.with_db("privileged", &format!("{SOMEBODY} --privileged"), &["F009", "A19"]);
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

/// The codes of failed lines, without an engine: about an endpoint alone.
fn failed_of_endpoint(endpoint: &str) -> BTreeSet<String> {
    let mut command = Command::new(agent_binary().unwrap());
    command.args(["audit", "-o", "json", "--docker-host", "unix:///nonexistent", "--endpoint", endpoint]);
    command.arg("--policy").arg(repository().join("policies/app.yaml"));
    let began = Instant::now();
    let output = output(command.env_remove("DOCKER_HOST")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // The containers could not be looked at, whatever else was found.
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("failed to use docker host `unix:///nonexistent`")
    );
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let about = |line: &&Value| line["subject"] == endpoint && line["outcome"] == "failed";
    let failed = json["lines"].as_array().unwrap().iter().filter(about);
    failed.map(|line| line["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn docker_audit_of_endpoints_ends_and_sees_through_old_settings() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    assert_eq!(failed_of_endpoint(&format!("https://{address}")), BTreeSet::new());
    drop(silent);
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    run(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).unwrap();
    let mut serve = Command::new("openssl");
    serve.args(["s_server", "-quiet", "-www", "-min_protocol", "TLSv1", "-cipher", "ALL:@SECLEVEL=0"]);
    serve.args(["-accept", &address.to_string()]).arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let mut server = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let listens = || Ok(TcpStream::connect(address).is_ok().then_some(()));
    let waited = wait_for("openssl", Duration::from_secs(10), listens);
    let failed = waited.map(|()| failed_of_endpoint(&format!("https://{address}")));
    stop_child(&mut server, Duration::from_secs(2));
    let failed = failed.unwrap();
    for code in ["A03", "A04", "A05", "A06", "A07"] {
        assert!(failed.contains(code), "{code}: {failed:?}");
    }
}
