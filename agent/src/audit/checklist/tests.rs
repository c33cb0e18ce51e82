use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::*;
use crate::{
    audit::{
        Audited, Firewall, Seen,
        firewall::{Default as Fate, Family},
        http::Response,
        judge, junit,
        open::{open, open_in},
        report, sarif,
        sockets::{Api, Proxy, Sockets},
        ssh::RootLogin,
        textfile,
        tls::{Offers, Version, Weak, Weakness},
        web::{Plain, Rate, Web},
    },
    inventory::docker::look,
    policy::{self, Source},
};

const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: \"shop-*\" }
profile: production
services:
  web: { exposure: public, ports: [80/tcp], run_as: any }
  db: { ports: [5432/tcp], from: [web], run_as: non_root }
  mailpit: { only_in: [development], exposure: localhost, ports: [8025/tcp] }
";

fn policies() -> PolicySet {
    let loaded = policy::load(&[Source { name: "shop.yaml".to_owned(), text: POLICY.to_owned() }], None);
    loaded.policies.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

/// What real engines have answered; README.md beside them says how to record it anew.
const RECORDED: [&str; 3] = [
    include_str!("../fixtures/engine-20.10.json"),
    include_str!("../fixtures/engine-26.1.json"),
    include_str!("../fixtures/engine-28.5.json"),
];

/// One engine's answers.
struct Engine {
    recorded: Value,
}

/// Every engine, the oldest first.
fn engines() -> impl Iterator<Item = Engine> {
    RECORDED.iter().map(|text| Engine { recorded: serde_json::from_str(text).unwrap() })
}

impl Engine {
    fn container(&self, name: &str) -> Value {
        let container = self.recorded["containers"][name].clone();
        assert!(container.is_object(), "no `{name}` is recorded");
        container
    }

    /// An instance of two services, as they should be.
    fn clean(&self, project: &str) -> Vec<Value> {
        vec![self.container(&format!("{project}/web")), self.container(&format!("{project}/db"))]
    }

    /// The clean instance with another `db`.
    fn with_db(&self, name: &str) -> Vec<Value> {
        vec![self.container("shop-a/web"), self.container(name)]
    }

    fn seen(&self, containers: Vec<Value>) -> Seen {
        let labels = serde_json::from_value(self.recorded["image_labels"].clone()).unwrap();
        let networks = serde_json::from_value(self.recorded["networks"].clone()).unwrap();
        let info = self.recorded["info"].clone();
        let (host, unreadable) = Host::new(look::recorded(containers, networks, labels, info));
        Seen {
            host: Ok(host),
            unreadable,
            status: Err("no agent".to_owned()),
            tries: Some(Vec::new()),
            sockets: Ok(Sockets::default()),
            firewall: Ok(Firewall::default()),
            web: Vec::new(),
        }
    }

    /// Looks at instances of `shop-a` alone.
    fn audit(&self, containers: Vec<Value>) -> Audited {
        judge(&policies(), &self.seen(containers))
    }
}

/// The codes of what is found and of what failed.
fn against(audited: &Audited) -> Vec<&str> {
    let mut codes: Vec<&str> = audited
        .findings()
        .map(|(_, finding)| finding.code.text())
        .chain(audited.failed().map(|answer| answer.code.code()))
        .collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn a_clean_host_has_nothing_against_it() {
    for engine in engines() {
        let mut both = engine.clean("shop-a");
        assert_eq!(against(&engine.audit(both.clone())), [""; 0]);
        both.extend(engine.clean("shop-b"));
        let audited = engine.audit(both);
        assert_eq!(against(&audited), [""; 0]);
        assert_eq!(audited.instances.len(), 2);
    }
}

#[test]
fn labels_of_the_image_are_no_labels_of_the_container() {
    for engine in engines() {
        let seen = engine.seen(engine.clean("shop-a"));
        let labels = seen.host.unwrap().containers[0].config.labels.clone().unwrap();
        assert_eq!(
            labels.keys().collect::<Vec<_>>(),
            ["com.docker.compose.project", "com.docker.compose.service"]
        );
    }
}

#[test]
fn each_fault_is_found_by_its_finding_and_its_line() {
    let faults: [(&str, &[&str]); 9] = [
        ("privileged", &["A19", "F009"]),
        ("pid", &["A19", "F012"]),
        ("capability", &["A19", "F013"]),
        ("socket", &["A13", "F010"]),
        ("folder", &["A19", "F011"]),
        ("published", &["A01", "F001"]),
        ("published to all", &["A01", "A02", "F001"]),
        ("root", &["A15", "F019"]),
        ("host network", &["A01", "A17", "A24", "F008"]),
    ];
    for engine in engines() {
        for (name, codes) in faults {
            assert_eq!(against(&engine.audit(engine.with_db(name))), codes, "{name}");
        }
        let of_web = |name| vec![engine.container(name), engine.container("shop-a/db")];
        assert_eq!(against(&engine.audit(of_web("unknown port"))), ["F007"]);
        assert_eq!(against(&engine.audit(of_web("IPv6"))), ["F020"]);
        let more = [engine.clean("shop-a"), vec![engine.container("development")]].concat();
        assert_eq!(against(&engine.audit(more)), ["A10", "F004", "F016"]);
        assert_eq!(against(&engine.audit(vec![engine.container("shop-a/web")])), ["A20", "F006"]);
    }
}

#[test]
fn every_replica_is_looked_at() {
    for engine in engines() {
        let containers = [engine.clean("shop-a"), vec![engine.container("second")]].concat();
        let audited = engine.audit(containers);
        let found: Vec<_> = audited.findings().map(|(_, finding)| finding.container.clone()).collect();
        assert_eq!(found, [Some("shop-a-db-2".to_owned())]);
    }
}

#[test]
fn instances_that_share_a_volume_are_not_isolated() {
    for engine in engines() {
        let other = vec![engine.container("shop-b/web"), engine.container("shop-b/db with a volume")];
        // Its name is the same in every instance as well.
        assert_eq!(against(&engine.audit([engine.with_db("a volume"), other].concat())), ["A18", "F018"]);
    }
}

fn web() -> Web {
    let answer = |headers: &[(&str, &str)]| Response {
        status: 200,
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    Web {
        endpoint: "https://shop.example".to_owned(),
        offers: Ok(Offers { versions: vec![Version::Tls12, Version::Tls13], weak: Vec::new() }),
        trust: Ok(crate::audit::tls::Trust {
            problem: None,
            judged: true,
            expires: None,
            version: "TLSv1.3".to_owned(),
            suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        }),
        answer: Ok(answer(&[
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("content-security-policy", "default-src 'self'"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ])),
        plain: Plain::Answer(301, Some("https://shop.example/".to_owned())),
        paths: Ok((404, BTreeMap::from([("/debug".to_owned(), 404)]))),
        rate: Ok(Rate { requests: 21, limited_by: Some("status 429".to_owned()) }),
    }
}

#[test]
fn endpoints_fail_by_one_line_for_each_fault() {
    type Fault = fn(&mut Web);
    let failed = |web: &Web| -> Vec<&'static str> {
        let answers = endpoint::all(std::slice::from_ref(web));
        answers
            .iter()
            .filter(|answer| answer.outcome != Outcome::Passed)
            .map(|answer| answer.code.code())
            .collect()
    };
    assert_eq!(failed(&web()), [""; 0]);
    let mut seen = engines().next().unwrap().seen(Vec::new());
    seen.web = vec![web()];
    assert_eq!(judge(&policies(), &seen).silent().count(), 0);
    seen.web[0].offers = Err("it hangs".to_owned());
    assert_eq!(
        judge(&policies(), &seen).silent().collect::<Vec<_>>(),
        [("https://shop.example", "it hangs")]
    );
    let faults: [(Fault, &[&str]); 11] = [
        (|web| web.trust.as_mut().unwrap().judged = false, &["A03"]),
        (|web| web.trust.as_mut().unwrap().problem = Some("expired".to_owned()), &["A03"]),
        (|web| web.offers.as_mut().unwrap().versions.insert(0, Version::Tls10), &["A04"]),
        (
            |web| {
                web.offers.as_mut().unwrap().weak.push(Weak {
                    version: Version::Tls12,
                    suite: "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
                    weakness: Weakness::TripleDes,
                });
            },
            &["A05"],
        ),
        (|web| web.answer.as_mut().unwrap().headers[0].1 = "max-age=60".to_owned(), &["A06"]),
        (|web| drop(web.answer.as_mut().unwrap().headers.remove(3)), &["A07"]),
        (|web| web.plain = Plain::Answer(200, None), &["A08"]),
        (|web| web.rate = Ok(Rate { requests: 40, limited_by: None }), &["A09"]),
        (|web| web.paths.as_mut().unwrap().1 = BTreeMap::from([("/debug".to_owned(), 200)]), &["A11"]),
        // Whoever limits requests does not say what is there.
        (|web| web.paths.as_mut().unwrap().1 = BTreeMap::from([("/debug".to_owned(), 429)]), &["A11"]),
        // Whoever answers to everything says nothing by it.
        (|web| web.paths.as_mut().unwrap().0 = 200, &["A11"]),
    ];
    for (fault, lines) in faults {
        let mut web = web();
        fault(&mut web);
        assert_eq!(failed(&web), lines);
    }
}

#[test]
fn the_host_fails_by_its_firewall_its_ssh_and_its_engine() {
    let failed = |change: &dyn Fn(&mut Seen)| -> Vec<(&'static str, Outcome)> {
        let engine = engines().next().unwrap();
        let mut seen = engine.seen(engine.clean("shop-a"));
        let proxy = Proxy {
            protocol: "tcp".to_owned(),
            host: "0.0.0.0:8080".parse().unwrap(),
            container: "198.18.1.2:80".parse().unwrap(),
        };
        seen.sockets.as_mut().unwrap().proxies.insert(proxy);
        change(&mut seen);
        let wanted = [
            Line::FirewallDefaultDeny,
            Line::SshRestricted,
            Line::NoRootPassword,
            Line::ApiNotOnTcp,
            Line::DeclaredBound,
        ];
        judge(&policies(), &seen)
            .lines
            .iter()
            .filter(|answer| wanted.contains(&answer.code) && answer.outcome != Outcome::Passed)
            .map(|answer| (answer.code.code(), answer.outcome))
            .collect()
    };
    let failure = |code| vec![(code, Outcome::Failed)];
    assert_eq!(failed(&|_| {}), []);
    let open = || BTreeMap::from([(Family::Ipv6, Fate::Allowed("a rule".to_owned()))]);
    assert_eq!(failed(&|seen| seen.firewall.as_mut().unwrap().defaults = open()), failure("A12"));
    let ssh = |seen: &mut Seen, address: &str| {
        let sockets = seen.sockets.as_mut().unwrap();
        sockets.ssh.insert(address.parse().unwrap());
        sockets.root_logins.insert(Ok(RootLogin::WithoutPassword(String::new())));
        seen.firewall.as_mut().unwrap().ports.insert(22, open());
    };
    assert_eq!(failed(&|seen| ssh(seen, "[::]:22")), failure("A16"));
    assert_eq!(failed(&|seen| ssh(seen, "127.0.0.1:22")), []);
    let login = |seen: &mut Seen, login| {
        ssh(seen, "127.0.0.1:22");
        seen.sockets.as_mut().unwrap().root_logins.insert(login);
    };
    assert_eq!(failed(&|seen| login(seen, Ok(RootLogin::ByPassword(String::new())))), failure("A25"));
    let untold = [("A25", Outcome::CouldNotTell)];
    assert_eq!(failed(&|seen| login(seen, Err("it does not run".to_owned()))), untold);
    let api = |seen: &mut Seen, api| {
        seen.sockets.as_mut().unwrap().engine.insert("0.0.0.0:2375".parse().unwrap(), api);
    };
    assert_eq!(failed(&|seen| api(seen, Api::Open)), failure("A14"));
    assert_eq!(failed(&|seen| api(seen, Api::Tls)), [("A14", Outcome::CouldNotTell)]);
    assert_eq!(failed(&|seen| api(seen, Api::Other)), []);
    // Somebody listens whom nobody could look at: that is no reason to say that all is well.
    let hidden = |seen: &mut Seen| {
        seen.sockets.as_mut().unwrap().unseen.insert("0.0.0.0:443".parse().unwrap());
    };
    let untold = ["A14", "A16", "A21", "A25"].map(|code| (code, Outcome::CouldNotTell));
    assert_eq!(failed(&hidden), untold);
    assert_eq!(
        failed(&|seen| seen.sockets.as_mut().unwrap().proxies.clear()),
        [("A21", Outcome::CouldNotTell)]
    );
    let left_over = |seen: &mut Seen| {
        let sockets = seen.sockets.as_mut().unwrap();
        let mut proxy = sockets.proxies.first().unwrap().clone();
        proxy.host.set_port(9);
        sockets.proxies.insert(proxy);
    };
    assert_eq!(failed(&left_over), failure("A21"));
}

#[test]
fn what_was_not_tried_is_not_told() {
    let engine = engines().next().unwrap();
    let mut seen = engine.seen(engine.clean("shop-a"));
    seen.tries = None;
    let audited = judge(&policies(), &seen);
    assert_eq!(against(&audited), [""; 0]);
    for line in [Line::InternalClosed, Line::ReachableAllowed] {
        let mut answers = audited.lines.iter().filter(|answer| answer.code == line);
        assert!(answers.all(|answer| answer.outcome == Outcome::CouldNotTell), "{line:?}");
    }
    // What speaks against it does so without a connection.
    let mut seen = engine.seen(engine.with_db("published to all"));
    seen.tries = None;
    assert_eq!(against(&judge(&policies(), &seen)), ["A01", "A02", "F001"]);
}

#[test]
fn without_an_engine_nothing_about_containers_is_told() {
    let mut seen = engines().next().unwrap().seen(Vec::new());
    seen.host = Err("nobody answers".to_owned());
    let audited = judge(&policies(), &seen);
    assert_eq!(audited.error.as_deref(), Some("nobody answers"));
    let untold = |line: Line| {
        let answer = audited.lines.iter().find(|answer| answer.code == line);
        answer.map(|answer| answer.outcome) == Some(Outcome::CouldNotTell)
    };
    assert!([Line::InternalClosed, Line::OnlyProxyPublic, Line::Enforced].into_iter().all(untold));
    let missing: Vec<&Line> =
        Line::ALL.iter().filter(|line| !audited.lines.iter().any(|answer| answer.code == **line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_the_baseline_accepts_is_not_open() {
    let engine = engines().next().unwrap();
    let mut audited = engine.audit(engine.with_db("privileged"));
    let text = "version: 1\naccept:\n  - { code: F009, service: db, reason: a reason }\n  - { code: A19, service: shop-a, reason: the same }\n  - { code: A05, reason: gone }\n";
    let source = Source { name: "baseline.yaml".to_owned(), text: text.to_owned() };
    let lines: Vec<_> = Line::ALL.iter().map(|line| (line.code(), line.name())).collect();
    let baseline = crate::check::baseline::Baseline::parse_with(&source, &lines).unwrap();
    audited.accept(&baseline);
    assert_eq!(against(&audited), ["F022"]);
    assert_eq!(audited.accepted.len(), 1);
    assert!(
        textfile::exposition(&audited, Duration::from_millis(1500))
            .unwrap()
            .contains("{code=\"A19\",severity=\"error\"} 0\n")
    );
}

#[test]
fn every_form_says_what_failed() {
    let engine = engines().next().unwrap();
    let audited = engine.audit(engine.with_db("privileged"));
    let text = report::text(&audited);
    assert!(text.contains("error[F009]") && text.contains("A19 no-way-out (shop-a): failed"), "{text}");
    let metrics = textfile::exposition(&audited, Duration::from_millis(1500)).unwrap();
    assert!(metrics.contains("portcullis_audit_findings{code=\"F009\",severity=\"error\"} 1\n"), "{metrics}");
    assert!(metrics.contains("portcullis_audit_findings{code=\"A12\",severity=\"error\"} 0\n"), "{metrics}");
    assert!(metrics.contains("portcullis_audit_last_run_successful 1\n"), "{metrics}");
    assert!(metrics.contains("portcullis_audit_last_run_duration_seconds 1.5\n"), "{metrics}");
    // The agent that reads the JSON of another process exports the same.
    let printed = serde_json::to_vec(&audited).unwrap();
    assert_eq!(open_in(&printed), Ok(open(&audited)));
    let sarif: serde_sarif::sarif::Sarif = serde_json::from_str(&sarif::write(&audited).unwrap()).unwrap();
    let results = sarif.runs[0].results.as_ref().unwrap();
    let ids: Vec<_> = results.iter().filter_map(|result| result.rule_id.as_deref()).collect();
    assert_eq!(ids, ["A19", "F009"]);
    let junit = junit::write(&audited);
    let document = roxmltree::Document::parse(&junit).unwrap();
    let failures = document.descendants().filter(|node| node.has_tag_name("failure")).count();
    assert_eq!(failures, 2, "{junit}");
    let counted = document.root_element().attribute("tests").unwrap().parse::<usize>().unwrap();
    assert_eq!(counted, document.descendants().filter(|node| node.has_tag_name("testcase")).count());
    let json = serde_json::to_value(&audited).unwrap();
    assert_eq!(json["schema"], "portcullis.audit/v1");
    assert_eq!(json["instances"][0]["findings"][0]["container"], "shop-a-db-1");
}
