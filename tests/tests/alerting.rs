//! From an attack to the message that wakes somebody: the real agent, Prometheus and Alertmanager with what is shipped
//! in deploy/, their durations divided by thirty. Says when each step was taken.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::fs::{self, File};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use integration_tests::{ATTEMPTS, agent_binary, copy_policies, prepare, tell};
use lab::agent::{Agent, Inventory};
use lab::engine::DockerHost;
use lab::interrupt::wait_for;
use lab::monitoring::Monitoring;
use lab::monitoring::dashboard::{self, Choice};
use lab::monitoring::webhook::Delivered;
use lab::observed::sum;
use lab::plain_lab::PlainLab;
use lab::raid;
use lab::tools::{Tools, find};

/// Five minutes pass in ten seconds.
const FASTER: u32 = 30;
const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    // Ends first: what it scrapes would be missing.
    monitoring: Monitoring,
    agent: Agent,
    lab: PlainLab,
    /// It has nothing to do with the lab: what the audit of its containers finds is open from the start.
    _engine: DockerHost,
}

impl Scene {
    fn start() -> Self {
        prepare().unwrap();
        let lab = PlainLab::start(&|_| {}).unwrap();
        let policies = lab.scratch().path().join("policies");
        copy_policies(&policies).unwrap();
        let engine = DockerHost::start(Tools::locate().unwrap()).unwrap();
        raid::expose(&engine, ("qerds", "minio"), 9000).unwrap();
        let inventory = Inventory::Audited(lab.inventory(), engine.url());
        let agent = Agent::start(
            &agent_binary().unwrap(),
            lab.host(),
            lab.scratch(),
            &policies,
            &inventory,
            "production",
        )
        .unwrap();
        let monitoring = Monitoring::start(lab.host(), lab.scratch(), FASTER).unwrap();
        Self { monitoring, agent, lab, _engine: engine }
    }

    fn wait_for_delivery(&self, labels: &[(&str, &str)], firing: bool) -> Delivered {
        let found = wait_for(&format!("a message about {labels:?}"), LIMIT, || {
            let mut delivered = self.monitoring.webhook.delivered().into_iter();
            Ok(delivered.find(|alert| alert.firing == firing && alert.has(labels)))
        });
        found.unwrap_or_else(|error| {
            panic!(
                "{error:#}; firing: {:?}; delivered: {:#?}",
                self.monitoring.prometheus.firing(),
                self.monitoring.webhook.delivered()
            )
        })
    }

    fn denied(&self, labels: &[(&str, &str)]) -> f64 {
        sum(&self.agent.metrics().unwrap(), ATTEMPTS, labels)
    }
}

fn since(start: SystemTime, moment: SystemTime) -> String {
    format!("{:.2} s", moment.duration_since(start).unwrap_or_default().as_secs_f64())
}

/// Attack, metric, alert, message: tells when each came.
fn follow(
    scene: &Scene,
    what: &str,
    attack: impl Fn() + Send,
    metric: &[(&str, &str)],
    alert: &[(&str, &str)],
) -> Delivered {
    let selector: Vec<String> = alert.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let query = format!("ALERTS{{alertstate=\"firing\",{}}}", selector.join(","));
    let start = SystemTime::now();
    let (counted, fired, delivered) = std::thread::scope(|threads| {
        // Attempts wait for answers that never come: what they cause is watched meanwhile.
        let attacker = threads.spawn(attack);
        let counted =
            wait_for("the metric", LIMIT, || Ok((scene.denied(metric) > 0.0).then(SystemTime::now)));
        let fired = wait_for(&query, LIMIT, || {
            Ok((!scene.monitoring.prometheus.query(&query)?.is_empty()).then(SystemTime::now))
        });
        let delivered = scene.wait_for_delivery(alert, true);
        attacker.join().unwrap();
        (counted.unwrap(), fired.unwrap(), delivered)
    });
    tell(&format!(
        "{what}: attack → metric after {} → alert after {} → webhook {} after {}: {}",
        since(start, counted),
        since(start, fired),
        delivered.path,
        since(start, delivered.at),
        delivered.annotations["description"]
    ))
    .unwrap();
    delivered
}

#[test]
fn an_attack_ends_in_a_message() {
    let mut scene = Scene::start();

    // Five minutes of these rules' time, so that what comes now is new. Nobody is told anything meanwhile.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(scene.monitoring.prometheus.firing().unwrap(), [""; 0]);
    assert!(scene.monitoring.webhook.delivered().is_empty());

    let told = follow(
        &scene,
        "one attempt on a critical service",
        || raid::call(&scene.lab, ("qerds", "mailpit"), ("qerds", "qerds-trust"), [8080]).unwrap(),
        &[("destination", "qerds-trust"), ("project", "qerds")],
        &[
            ("alertname", "PortcullisCriticalServiceAttacked"),
            ("destination", "qerds-trust"),
            ("severity", "critical"),
        ],
    );
    // Mailpit has no place in production: that is the first reason.
    assert!(
        told.has(&[
            ("source", "mailpit"),
            ("port", "8080"),
            ("reason", "not_in_profile"),
            ("verdict", "dropped")
        ]),
        "{told:?}"
    );
    assert_eq!(told.path, "/pager");
    assert!(told.annotations["runbook_url"].ends_with("/PortcullisCriticalServiceAttacked.md"));

    // A busy mistake is no scan, but a scan is.
    for _ in 0..4 {
        raid::call(&scene.lab, ("qerds", "qerds-worker"), ("qerds", "minio"), [9999; 16]).unwrap();
    }
    let told = follow(
        &scene,
        "a scan of forty ports",
        || raid::call(&scene.lab, ("myapp-dev", "frontend"), ("myapp-dev", "backend"), 3000..3040).unwrap(),
        &[("source", "frontend"), ("project", "myapp-dev")],
        &[("alertname", "PortcullisPortScan"), ("source", "frontend"), ("severity", "critical")],
    );
    assert!(told.has(&[("project", "myapp-dev")]), "{told:?}");
    let scans: Vec<_> = delivered(&scene, "PortcullisPortScan");
    assert!(scans.iter().all(|scan| scan.has(&[("source", "frontend")])), "{scans:?}");

    let told = follow(
        &scene,
        "from one instance to another",
        || raid::call(&scene.lab, ("myapp-dev", "backend"), ("myapp-test", "db"), [5432]).unwrap(),
        &[("reason", "cross_instance")],
        &[("alertname", "PortcullisCrossInstanceAttempt"), ("destination", "db")],
    );
    assert!(told.has(&[("source", "myapp-dev/backend"), ("project", "myapp-test")]), "{told:?}");
    assert_eq!(told.path, "/team");

    let told = follow(
        &scene,
        "a foreign address",
        || raid::spoof(&scene.lab, ("qerds", "minio"), ("qerds", "postgres")).unwrap(),
        &[("reason", "spoofed_source")],
        &[("alertname", "PortcullisSpoofedTraffic"), ("source", "minio")],
    );
    assert!(told.has(&[("project", "qerds")]), "{told:?}");

    // The attacks go on meanwhile: what the dashboards show of them ends five minutes after the last.
    let asked = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let attacker = threads.spawn(|| {
            while !asked.load(Ordering::Relaxed) {
                raid::call(&scene.lab, ("qerds", "mailpit"), ("qerds", "qerds-trust"), [8080]).unwrap();
                raid::call(&scene.lab, ("myapp-dev", "backend"), ("myapp-test", "db"), [5432]).unwrap();
                raid::spoof(&scene.lab, ("qerds", "minio"), ("qerds", "postgres")).unwrap();
            }
        });
        let answered = ask_all_queries_of_the_dashboards(&scene);
        asked.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        answered.unwrap();
    });

    // What the audit has found stands there since before the attacks.
    let found = scene.wait_for_delivery(&[("alertname", "PortcullisAuditFindings"), ("code", "A19")], true);
    assert!(found.has(&[("severity", "warning")]), "{found:?}");
    assert_eq!(found.path, "/team");
    assert_metrics_are_clean(&scene);

    // What concerns the agent itself.
    let policy = scene.lab.scratch().path().join("policies/qerds.yaml");
    let good = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, "version: 1\npolicy: [\n").unwrap();
    let start = SystemTime::now();
    let reload = scene.wait_for_delivery(&[("alertname", "PortcullisReloadFailed")], true);
    tell(&format!("a broken policy: message after {}", since(start, reload.at))).unwrap();
    fs::write(&policy, good).unwrap();
    scene.agent.stop();
    let start = SystemTime::now();
    let down = scene.wait_for_delivery(&[("alertname", "PortcullisAgentDown")], true);
    tell(&format!("an agent that ended: message after {}", since(start, down.at))).unwrap();
    assert!(down.has(&[("instance", "127.0.0.1:10477"), ("severity", "critical")]), "{down:?}");
    // What was over meanwhile is told to be over.
    scene.wait_for_delivery(&[("alertname", "PortcullisCriticalServiceAttacked")], false);
}

/// Prometheus's own tool about names, help and types.
fn assert_metrics_are_clean(scene: &Scene) {
    let page = scene.lab.scratch().path().join("metrics.txt");
    fs::write(&page, scene.agent.get("/metrics").unwrap().1).unwrap();
    let mut promtool = Command::new(find("promtool").unwrap());
    promtool.args(["check", "metrics"]).stdin(File::open(page).unwrap());
    let said = promtool.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

fn delivered(scene: &Scene, alert: &str) -> Vec<Delivered> {
    let all = scene.monitoring.webhook.delivered().into_iter();
    all.filter(|delivered| delivered.has(&[("alertname", alert)])).collect()
}

/// Queries of the dashboards that have nothing to show after these attacks, and why.
const EMPTY: [(&str, &str); 0] = [];

fn ask_all_queries_of_the_dashboards(scene: &Scene) -> Result<()> {
    let choice = Choice { rate_interval: "10s".to_owned(), range: "60s".to_owned() };
    let mut asked = 0;
    for dashboard in dashboard::all()? {
        for query in dashboard.queries(&choice) {
            let name = format!("{}: {}", dashboard.name, query.panel);
            let found =
                || Ok((!scene.monitoring.prometheus.query(&query.expression)?.is_empty()).then_some(()));
            if EMPTY.iter().any(|(panel, _)| *panel == name) {
                ensure!(found()?.is_none(), "`{name}` is not empty any more");
            } else {
                // A scrape that took too long leaves a gap of half a second.
                let what = format!("an answer for `{name}` {}: {}", query.reference, query.expression);
                wait_for(&what, LIMIT, found)?;
            }
            asked += 1;
        }
    }
    ensure!(asked > 0, "no dashboard has a query");
    tell(&format!("all {asked} queries of the dashboards were answered"))
}
