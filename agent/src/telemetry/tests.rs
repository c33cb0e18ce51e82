//! Metrics as Prometheus would see them.

mod cardinality;
mod docs;
mod http;

use std::collections::BTreeMap;

use agent_common::{
    counter::{DeniedCount, Total},
    identity::{FIRST_ADDRESS_CLASS, HOST, UNKNOWN, UNMANAGED, WORLD},
    verdict::DropReason,
};

use super::{
    labels::DeniedLabels,
    source::{CounterError, CounterReading, MemoryCounters},
    *,
};
use crate::{
    events::scans::Scan,
    state::fixture::{self, CRON, GONE, MAILPIT, TRUST},
};

/// An agent's telemetry with hands on both of its inputs.
struct Rig {
    counters: Arc<MemoryCounters>,
    state: watch::Sender<Arc<AgentState>>,
    telemetry: Arc<Telemetry>,
}

impl Rig {
    fn new(state: AgentState) -> Self {
        let counters = Arc::new(MemoryCounters::default());
        let (state, receiver) = watch::channel(Arc::new(state));
        let telemetry = Arc::new(Telemetry::new(receiver, Arc::clone(&counters) as _).unwrap());
        Self { counters, state, telemetry }
    }

    /// Every sample by its series.
    fn scrape(&self) -> BTreeMap<String, f64> {
        let text = self.telemetry.encode().unwrap();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
            .collect()
    }
}

const MAILPIT_TO_TRUST: &str = r#"{policy="qerds",project="qerds",source="mailpit",destination="qerds-trust",port="8080",protocol="tcp",reason="no_rule",severity="critical",verdict="dropped"}"#;
const UNLABELLED: &str = r#"{policy="other",project="other",source="other",destination="other",port="other",protocol="other",reason="other",severity="other",verdict="other"}"#;

fn attempts(labels: &str) -> String {
    format!("portcullis_denied_connection_attempts_total{labels}")
}

#[test]
fn a_denial_is_counted_under_its_names() {
    let rig = Rig::new(fixture::state());
    assert_eq!(rig.scrape()[&attempts(MAILPIT_TO_TRUST)], 0.0, "the series is there before the first denial");
    rig.counters.set(fixture::reading());
    let scrape = rig.scrape();
    assert_eq!(scrape[&attempts(MAILPIT_TO_TRUST)], 7.0);
    assert_eq!(scrape[&format!("portcullis_denied_packets_total{MAILPIT_TO_TRUST}")], 21.0);
    assert_eq!(scrape[r#"portcullis_forwarded_packets_total{hook="to_endpoint"}"#], 1000.0);
    assert_eq!(scrape[r#"portcullis_forwarded_packets_total{hook="from_endpoint"}"#], 1010.0);
    assert_eq!(scrape[r#"portcullis_dropped_packets_total{hook="to_endpoint"}"#], 21.0);
    assert_eq!(scrape["portcullis_events_lost_total"], 3.0, "of the kernel and of the agent");
    assert_eq!(scrape["portcullis_events_suppressed_total"], 14.0);
    assert_eq!(scrape[r#"portcullis_map_capacity{map="DENIED"}"#], 16384.0);
    let again = rig.scrape();
    assert!(
        again
            .iter()
            .filter(|(series, _)| series.contains("denied"))
            .all(|(series, value)| scrape[series] == *value)
    );
}

#[test]
fn the_state_is_exported() {
    let rig = Rig::new(fixture::state());
    rig.telemetry.observe_policy_apply(Duration::from_millis(3));
    rig.telemetry.observe_enforce_delay(Duration::from_millis(40));
    let scrape = rig.scrape();
    for (series, value) in [
        (r#"portcullis_endpoints{state="enforced"}"#, 1.0),
        (r#"portcullis_endpoints{state="observed"}"#, 1.0),
        (r#"portcullis_endpoints{state="pending"}"#, 1.0),
        (r#"portcullis_endpoints{state="unmanaged"}"#, 1.0),
        (r#"portcullis_policy_info{policy="qerds",mode="enforce",profile="production",revision="12"}"#, 1.0),
        (r#"portcullis_inventory_connected{source="docker"}"#, 1.0),
        ("portcullis_config_last_reload_successful", 1.0),
        ("portcullis_config_last_reload_success_timestamp_seconds", fixture::STARTED_AT as f64),
        ("portcullis_policy_apply_seconds_count", 1.0),
        (r#"portcullis_enforce_delay_seconds_bucket{le="0.05"}"#, 1.0),
        ("portcullis_ready", 1.0),
    ] {
        assert_eq!(scrape.get(series), Some(&value), "{series}");
    }
    assert!(scrape.keys().any(|series| series.starts_with("portcullis_build_info{version=")));
    assert!(scrape.contains_key("process_open_fds"));
}

#[test]
fn labels_come_from_closed_sets() {
    let state = fixture::state();
    let party = |identity| labels::party(identity, "qerds", &state);
    assert_eq!(party(MAILPIT), "mailpit");
    assert_eq!(party(GONE), "shop/web");
    assert_eq!(party(HOST), "host");
    assert_eq!(party(WORLD), "world");
    assert_eq!(party(0x8000_0002), "world");
    assert_eq!(party(UNMANAGED), "unmanaged");
    assert_eq!(party(UNKNOWN), "unknown");
    assert_eq!(party(9_999), "unknown");

    let mut named = fixture::state();
    Arc::make_mut(&mut named.names).identities.insert(300, ("qerds".to_owned(), "unmanaged".to_owned()));
    assert_eq!(labels::party(300, "qerds", &named), "qerds/unmanaged", "a service cannot pose as a kind");

    assert_eq!(labels::port(0, 0), "other");
    assert_eq!(labels::port(0, 65_535), "any");
    assert_eq!(labels::port(8000, 8000), "8000");
    assert_eq!(labels::port(8000, 8010), "8000-8010");

    assert_eq!(labels::protocol(6, 13), "tcp");
    assert_eq!(labels::protocol(17, 13), "udp");
    assert_eq!(labels::protocol(1, 13), "icmp");
    assert_eq!(labels::protocol(58, 13), "icmp");
    assert_eq!(labels::protocol(47, 3), "other");
    assert_eq!(labels::protocol(0, DropReason::SpoofedSource as u8), "arp");
    assert_eq!(labels::protocol(0, DropReason::UnsupportedProtocol as u8), "other");

    assert_eq!(labels::policy(0, &state), "none");
    assert_eq!(labels::policy(2, &state), "shop");
    assert_eq!(labels::policy(77, &state), "unknown");
}

#[test]
fn counters_with_the_same_labels_are_summed() {
    let rig = Rig::new(fixture::state());
    let (mut world, mut class) = (fixture::denied_key(), fixture::denied_key());
    world.source = WORLD;
    class.source = 0x8000_0001;
    let count = |attempts| DeniedCount { packets: attempts, attempts };
    rig.counters
        .set(CounterReading { denied: vec![(world, count(2)), (class, count(3))], ..Default::default() });
    let series = attempts(&MAILPIT_TO_TRUST.replace("mailpit", "world"));
    assert_eq!(rig.scrape()[&series], 5.0);
}

#[test]
fn what_the_kernel_could_not_label_is_counted_too() {
    let rig = Rig::new(fixture::state());
    assert_eq!(rig.scrape()[&attempts(UNLABELLED)], 0.0);
    let mut reading = CounterReading::default();
    reading.totals[Total::DeniedUnlabelled as usize] = 4;
    rig.counters.set(reading);
    assert_eq!(rig.scrape()[&attempts(UNLABELLED)], 4.0);
}

#[test]
fn every_reason_of_a_service_starts_at_zero_with_its_severity_and_verdict() {
    let rig = Rig::new(fixture::state());
    let scrape = rig.scrape();
    for (service, severity, verdict) in [
        ("qerds-trust", "critical", "dropped"),
        ("mailpit", "warning", "observed"),
        ("cron", "warning", "dropped"),
    ] {
        for reason in DropReason::ALL {
            let series = attempts(&format!(
                r#"{{policy="qerds",project="qerds",source="other",destination="{service}",port="other",protocol="other",reason="{}",severity="{severity}",verdict="{verdict}"}}"#,
                reason.name()
            ));
            assert_eq!(scrape.get(&series), Some(&0.0), "{series}");
        }
    }
    for (source, reason) in [("world", "not_exposed"), ("host", "host_denied"), ("unmanaged", "no_rule")] {
        let series = MAILPIT_TO_TRUST.replace("mailpit", source).replace("no_rule", reason);
        assert_eq!(scrape.get(&attempts(&series)), Some(&0.0), "{series}");
    }
}

#[test]
fn series_neither_shrink_nor_vanish_when_services_do() {
    let rig = Rig::new(fixture::state());
    rig.counters.set(fixture::reading());
    let before = rig.scrape();

    // The policy is gone, its names are not, and the kernel's map was made anew.
    let mut state = fixture::state();
    state.entries = Arc::default();
    state.snapshot = Arc::default();
    rig.state.send_replace(Arc::new(state));
    rig.counters.set(CounterReading::default());
    let mut last = before;
    for round in 0..3 {
        if round == 1 {
            rig.counters.set(fixture::reading());
        }
        if round == 2 {
            rig.state.send_replace(Arc::new(AgentState::default()));
        }
        let now = rig.scrape();
        for (series, value) in last.iter().filter(|(series, _)| series.contains("_total")) {
            assert!(
                now.get(series).is_some_and(|now| now >= value),
                "{series}: {value}, then {:?}",
                now.get(series)
            );
        }
        last = now;
    }
    assert_eq!(
        last[&attempts(MAILPIT_TO_TRUST)],
        7.0,
        "a counter that one reading missed is not counted twice"
    );

    // One that is lower than before has started over.
    rig.state.send_replace(Arc::new(fixture::state()));
    let mut fewer = fixture::reading();
    fewer.denied[0].1.attempts = 5;
    rig.counters.set(fewer);
    assert_eq!(rig.scrape()[&attempts(MAILPIT_TO_TRUST)], 12.0);
}

#[test]
fn a_name_that_becomes_known_later_moves_no_counts() {
    let rig = Rig::new(AgentState::default());
    rig.counters.set(fixture::reading());
    let unknown = rig.scrape();
    let nameless: Vec<_> = unknown
        .iter()
        .filter(|(series, value)| series.contains("reason=\"no_rule\"") && **value == 7.0)
        .collect();
    assert_eq!(nameless.len(), 1);
    rig.state.send_replace(Arc::new(fixture::state()));
    let mut more = fixture::reading();
    more.denied[0].1.attempts += 2;
    rig.counters.set(more);
    let known = rig.scrape();
    assert_eq!(known[nameless[0].0], 7.0);
    assert_eq!(known[&attempts(MAILPIT_TO_TRUST)], 2.0);
}

#[test]
fn a_scan_is_told_by_who_scans() {
    let rig = Rig::new(fixture::state());
    let zero = rig.scrape();
    assert_eq!(zero[r#"portcullis_scan_ports{project="none",source="world"}"#], 0.0);
    let scan = |ports, local_targets| Scan { ports, local_targets, world_targets: 0 };
    let scans = BTreeMap::from([
        (MAILPIT, scan(30, 6)),
        (WORLD, scan(2, 1)),
        (FIRST_ADDRESS_CLASS + 1, scan(17, 1)),
        (FIRST_ADDRESS_CLASS + 2, scan(5, 3)),
    ]);
    rig.counters.set(CounterReading { scans, ..CounterReading::default() });
    let scrape = rig.scrape();
    assert_eq!(scrape[r#"portcullis_scan_ports{project="qerds",source="mailpit"}"#], 30.0);
    assert_eq!(
        scrape[r#"portcullis_scan_targets{project="qerds",source="mailpit",destination="local"}"#],
        6.0
    );
    assert_eq!(scrape[r#"portcullis_scan_ports{project="none",source="world"}"#], 17.0, "not added up");
    assert_eq!(scrape[r#"portcullis_scan_targets{project="none",source="world",destination="local"}"#], 3.0);
    rig.counters.set(CounterReading::default());
    assert!(!rig.scrape().keys().any(|series| series.contains("scan_ports") && series.contains("mailpit")));
}

#[test]
fn counters_that_cannot_be_read_stand_still() {
    struct Broken;
    impl CounterSource for Broken {
        fn read(&self) -> Result<CounterReading, CounterError> {
            Err(CounterError { map: "DENIED", source: "gone".into() })
        }
    }
    let (_state, receiver) = watch::channel(Arc::new(fixture::state()));
    let telemetry = Telemetry::new(receiver, Arc::new(Broken)).unwrap();
    let text = telemetry.encode().unwrap();
    assert!(text.contains("portcullis_scrape_errors_total 1"), "{text}");
    assert!(text.contains("portcullis_endpoints{state=\"enforced\"} 1"));
}

#[test]
fn every_metric_has_help_and_type_and_is_listed() {
    let rig = Rig::new(fixture::state());
    rig.counters.set(fixture::reading());
    let text = rig.telemetry.encode().unwrap();
    for metric in names::ALL {
        assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
        assert!(text.contains(&format!("# TYPE {} {}", metric.name, metric.kind.name())), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == names::Kind::Counter, "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
    }
    for line in text.lines().filter(|line| line.starts_with("# TYPE portcullis_")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(names::ALL.iter().any(|metric| metric.name == name), "{name} is not in names.rs");
    }
}

#[test]
fn no_label_holds_an_address() {
    let rig = Rig::new(fixture::state());
    rig.counters.set(fixture::reading());
    let text = rig.telemetry.encode().unwrap();
    assert!(!text.contains("172.18.") && !text.contains("qerds-trust-1") && !text.contains("veth"), "{text}");
}

#[test]
fn labels_fold_into_other() {
    let labels = DeniedLabels::new(&fixture::denied_key(), &fixture::state());
    let folded = labels.folded();
    assert_eq!(
        (folded.source.as_str(), folded.policy.as_str(), folded.reason),
        ("other", "qerds", "no_rule")
    );
    assert_eq!(labels.destination, "qerds-trust");
    assert_eq!(fixture::denied_key().subject, TRUST);
    assert_eq!(labels::party(CRON, "qerds", &fixture::state()), "cron");
}

#[test]
fn audits_are_exported_once_there_are_some() {
    let rig = Rig::new(fixture::state());
    let audits = |scrape: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        let audits = scrape.iter().filter(|(series, _)| series.starts_with("portcullis_audit_"));
        audits.map(|(series, value)| (series.clone(), *value)).collect()
    };
    assert_eq!(audits(&rig.scrape()), BTreeMap::new(), "nobody audits");
    let mut runs = audit::Runs { interval: Some(Duration::from_secs(900)), ..audit::Runs::default() };
    let (sender, receiver) = watch::channel(Arc::new(runs.clone()));
    rig.telemetry.follow_audits(receiver).unwrap();
    assert_eq!(audits(&rig.scrape()), [("portcullis_audit_interval_seconds".to_owned(), 900.0)].into());
    runs.open = Some(audit::Open { findings: [(("F009", "error"), 2)].into(), untold: [("A22", 1)].into() });
    runs.last =
        Some(audit::LastRun { ended: 1_700_000_000, took: Duration::from_millis(250), successful: false });
    sender.send_replace(Arc::new(runs));
    let scrape = audits(&rig.scrape());
    assert_eq!(scrape[r#"portcullis_audit_findings{code="F009",severity="error"}"#], 2.0);
    assert_eq!(scrape[r#"portcullis_audit_untold_lines{code="A22"}"#], 1.0);
    assert_eq!(scrape["portcullis_audit_last_run_successful"], 0.0);
    assert_eq!(scrape["portcullis_audit_last_run_timestamp_seconds"], 1_700_000_000.0);
    assert_eq!(scrape["portcullis_audit_last_run_duration_seconds"], 0.25);
    assert_eq!(scrape.len(), names::AUDIT.len(), "{scrape:?}");
}
