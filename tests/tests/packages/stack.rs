//! The stack of deploy/compose, as Compose starts it in a Docker Engine: the agent's own image, and in the place of images
//! that only a registry has, Debian's Prometheus and Alertmanager under their names. There is no Grafana: its place is
//! taken by a server that hands out what is mounted for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::deployment::MOUNTS;
use integration_tests::tell;
use lab::compose;
use lab::interrupt::wait_for;
use lab::monitoring::prometheus::Prometheus;
use lab::monitoring::webhook::Webhook;
use lab::monitoring::{http, prometheus};
use lab::process::run;
use lab::tools::{find, repository};
use serde_json::Value;

use crate::container::{Shop, locked_memory};

/// Nothing is faster than shipped here: 15 seconds each from the attempt to the scrape, to the rule, to the message.
const SOON: Duration = Duration::from_secs(90);
/// Where Grafana listens.
const GRAFANA: u16 = 3000;

/// An image in the place of another: what it is made of, and as whom it runs.
struct StandIn {
    service: &'static str,
    user: u32,
    entrypoint: &'static str,
    /// A folder that belongs to the user.
    own: &'static str,
    program: PathBuf,
    name: &'static str,
    /// Files that the program reads wherever it is.
    share: Option<PathBuf>,
}

fn stand_ins(shop: &Shop) -> [StandIn; 3] {
    let alertmanager = find("prometheus-alertmanager").unwrap();
    let share = alertmanager.ancestors().nth(2).unwrap().join("share/prometheus");
    [
        StandIn {
            service: "prometheus",
            user: 65534,
            entrypoint: r#"["/bin/prometheus"]"#,
            own: "prometheus",
            program: find("prometheus").unwrap(),
            name: "prometheus",
            share: None,
        },
        StandIn {
            service: "alertmanager",
            user: 65534,
            entrypoint: r#"["/bin/alertmanager"]"#,
            own: "alertmanager",
            program: alertmanager,
            name: "alertmanager",
            share: Some(share),
        },
        StandIn {
            service: "grafana",
            user: 472,
            // It writes where Grafana would, and says what it was given to read.
            entrypoint: r#"["/bin/busybox", "sh", "-c", "/bin/busybox touch /var/lib/grafana/grafana.db && exec /bin/busybox httpd -f -p $GF_SERVER_HTTP_ADDR:3000 -h /"]"#,
            own: "var/lib/grafana",
            program: shop.host.tools().busybox.clone(),
            name: "busybox",
            share: None,
        },
    ]
}

impl StandIn {
    /// Makes the image under the name by which the compose file calls it.
    fn import(&self, shop: &Shop, name: &str) {
        let root = shop.host.scratch().path().join(format!("image-{}", self.service));
        let own = root.join(self.own);
        fs::create_dir_all(&own).unwrap();
        chown(&own, Some(self.user), Some(self.user)).unwrap();
        for folder in ["bin", "tmp", "etc"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy(&self.program, root.join("bin").join(self.name)).unwrap();
        for library in libraries(&self.program) {
            let place = root.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(&library, place).unwrap();
        }
        if let Some(share) = &self.share {
            fs::create_dir_all(root.join("usr/share")).unwrap();
            run(Command::new("cp").arg("--recursive").arg(share).arg(root.join("usr/share"))).unwrap();
        }
        let archive = root.with_extension("tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".")).unwrap();
        let mut command = shop.host.docker();
        command.args(["import", "--change", &format!("ENTRYPOINT {}", self.entrypoint)]);
        command.args(["--change", &format!("USER {}", self.user)]);
        run(command.arg(&archive).arg(name)).unwrap();
    }
}

/// The shared libraries of a program with those that load them, by path.
fn libraries(program: &Path) -> Vec<PathBuf> {
    // A static program has none, which `ldd` calls an error.
    let said = run(Command::new("ldd").arg(program)).unwrap_or_default();
    said.split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}

/// What is shipped, beside each other as it stands there. The compose file sees the paths of the lab's host instead of
/// the machine's, and what this engine or machine cannot give is replaced by what it can.
fn shipped(shop: &Shop) -> PathBuf {
    let deploy = shop.host.scratch().path().join("deploy");
    fs::create_dir_all(&deploy).unwrap();
    for part in ["compose", "prometheus", "grafana"] {
        let from = repository().join("deploy").join(part);
        run(Command::new("cp").arg("--recursive").arg(from).arg(&deploy)).unwrap();
    }
    let file = deploy.join("compose/compose.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    for mount in MOUNTS {
        let place = shop.place(mount.path).display().to_string();
        let seen = if mount.follows { &place } else { mount.path };
        let line = format!("- {0}:{0}", mount.path);
        assert!(text.contains(&line), "{line}");
        text = text.replace(&line, &format!("- {place}:{seen}"));
    }
    for (shipped, here) in [
        ("cap_add: [BPF, NET_ADMIN, PERFMON]", format!("cap_add: [{}]", shop.capabilities().join(", "))),
        ("memlock: -1", format!("memlock: {}", locked_memory())),
    ] {
        assert!(text.contains(shipped), "{shipped}");
        text = text.replace(shipped, &here);
    }
    fs::write(&file, text).unwrap();
    file
}

/// What a variable of the compose file stands for if nobody sets it.
fn image(stack: &Value, service: &str) -> String {
    let image = stack["services"][service]["image"].as_str().unwrap();
    image.split_once(":-").unwrap().1.trim_end_matches('}').to_owned()
}

/// Local addresses that somebody listens on in the host's namespace.
fn listeners(shop: &Shop) -> BTreeSet<String> {
    let said = run(shop.host.netns().command(find("ss").unwrap()).args(["-H", "-ltn"])).unwrap();
    said.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
}

#[test]
fn docker_runs_the_stack_and_a_denied_attempt_becomes_an_alert() {
    let shop = Shop::open();
    let netns = shop.host.netns().path();
    let file = shipped(&shop);
    let deploy = file.ancestors().nth(2).unwrap();
    let stack: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for stand_in in stand_ins(&shop) {
        stand_in.import(&shop, &image(&stack, stand_in.service));
    }
    let webhook = Webhook::start(&netns).unwrap();
    compose::up(&shop.host, &file, "portcullis", 0, &[("GRAFANA_PASSWORD", "secret")]).unwrap();
    let start = Instant::now();

    let prometheus = Prometheus::within(netns.clone());
    let up = r#"up{job="portcullis"} == 1 and on () count_over_time(portcullis_ready[1m]) >= 2"#;
    wait_for("two scrapes", SOON, || {
        Ok(prometheus.query(up).is_ok_and(|found| found.len() == 1).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", said(&shop)));
    let waited = start.elapsed();
    tell(&format!("the agent was scraped twice {waited:.0?} after Compose had started the stack")).unwrap();
    let rules = fs::read_to_string(deploy.join("prometheus/portcullis.rules.yml")).unwrap();
    assert_eq!(prometheus.alerts().unwrap().len(), rules.matches("- alert: ").count());

    let wanted = [prometheus::PORT, 9093, lab::monitoring::webhook::PORT, GRAFANA, 10477];
    let wanted: BTreeSet<String> = wanted.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(listeners(&shop), wanted, "somebody listens to others");
    for (path, shipped) in [
        (
            "/etc/grafana/provisioning/datasources/prometheus.yaml",
            "grafana/provisioning/datasources/prometheus.yaml",
        ),
        (
            "/etc/grafana/provisioning/dashboards/portcullis.yaml",
            "grafana/provisioning/dashboards/portcullis.yaml",
        ),
        (
            "/var/lib/grafana/dashboards/portcullis/portcullis-security.json",
            "grafana/dashboards/portcullis-security.json",
        ),
    ] {
        let mounted = http::get(&netns, GRAFANA, path).unwrap();
        assert!(mounted == fs::read_to_string(deploy.join(shipped)).unwrap(), "{path}");
    }

    let start = Instant::now();
    assert!(!shop.reaches("web", "db", "5432"));
    let told = wait_for("the message", SOON, || {
        let delivered = webhook.delivered().into_iter();
        Ok(delivered
            .into_iter()
            .find(|alert| alert.has(&[("alertname", "PortcullisCriticalServiceAttacked")])))
    })
    .unwrap_or_else(|error| panic!("{error:#}, firing: {:?}\n{}", prometheus.firing(), said(&shop)));
    let (waited, description) = (start.elapsed(), &told.annotations["description"]);
    tell(&format!("attempt → webhook {} after {waited:.0?}: {description}", told.path)).unwrap();
    assert!(told.has(&[("source", "web"), ("destination", "db"), ("reason", "no_rule")]), "{told:?}");
}

/// What the containers of the stack have written, for the one who looks for the error.
fn said(shop: &Shop) -> String {
    let names = run(shop.host.docker().args(["ps", "--all", "--format={{.Names}}"])).unwrap();
    let logs = names.lines().filter(|name| name.starts_with("portcullis")).map(|name| {
        let said = shop.host.docker().args(["logs", "--tail=20", name]).output().unwrap();
        format!("{name}:\n{}", String::from_utf8_lossy(&[said.stdout, said.stderr].concat()))
    });
    logs.collect()
}
