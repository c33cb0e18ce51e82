use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: Option<String>,
    expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Object {
    spec: File,
}

#[derive(Deserialize)]
struct TestFile {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    alert_rule_test: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    alertname: String,
    exp_alerts: Vec<BTreeMap<String, BTreeMap<String, String>>>,
}

const RUNBOOKS: &str = "docs/runbooks";

fn rules() -> Vec<Rule> {
    let file: File = serde_saphyr::from_str(&read(RULES).unwrap()).unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Alerts by name; one may have a rule for each severity.
fn alerts() -> Vec<(String, Rule)> {
    let alerts: Vec<_> =
        rules().into_iter().filter_map(|mut rule| Some((rule.alert.take()?, rule))).collect();
    assert!(alerts.len() > 20, "{} alerts", alerts.len());
    alerts
}

fn names() -> BTreeSet<String> {
    alerts().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn every_alert_says_what_is_wrong_where_and_what_to_do() {
    for (name, rule) in alerts() {
        assert!(name.starts_with("Portcullis"), "{name}");
        let severity = rule.labels.get("severity").unwrap_or_else(|| panic!("{name} has no severity"));
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        let annotation =
            |key: &str| rule.annotations.get(key).cloned().unwrap_or_else(|| panic!("{name} has no {key}"));
        let (summary, description) = (annotation("summary"), annotation("description"));
        assert!(summary.ends_with('.') && !summary.contains("{{"), "{name}: a summary is one fixed sentence");
        // Where no series is left there is no label to name.
        assert!(description.contains("$labels") || rule.expr.starts_with("absent("), "{name}: {description}");
        assert!(annotation("runbook_url").ends_with(&format!("/{RUNBOOKS}/{name}.md")), "{name}");
    }
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let pages: BTreeSet<String> = fs::read_dir(repository().join(RUNBOOKS))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "README.md"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(pages, names());
    let index = read(&format!("{RUNBOOKS}/README.md")).unwrap();
    for (name, rule) in alerts() {
        let page = read(&format!("{RUNBOOKS}/{name}.md")).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        for heading in ["## What it means", "## What to look at", "## What to do"] {
            assert!(page.contains(heading), "{name} has no `{heading}`");
        }
        let row = format!("| [{name}]({name}.md) | ");
        let line = index.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("{name} is not in the index"));
        assert!(line.contains(&rule.labels["severity"]), "{name}: another severity in the index");
    }
}

#[test]
fn every_alert_is_tested_firing_and_not_firing() {
    let cases: Vec<Case> = TESTS
        .iter()
        .flat_map(|path| serde_saphyr::from_str::<TestFile>(&read(path).unwrap()).unwrap().tests)
        .flat_map(|test| test.alert_rule_test)
        .collect();
    for (name, rule) in alerts() {
        let of = |case: &&Case| case.alertname == name;
        assert!(cases.iter().filter(of).any(|case| case.exp_alerts.is_empty()), "{name} never keeps quiet");
        let fires = cases.iter().filter(of).flat_map(|case| &case.exp_alerts);
        let severity = &rule.labels["severity"];
        let mut fires = fires.filter(|alert| alert["exp_labels"].get("severity") == Some(severity));
        assert!(fires.next().is_some(), "{name} never fires as {severity}");
    }
    let known = names();
    assert!(cases.iter().all(|case| known.contains(&case.alertname)), "a test names an alert that is gone");
}

/// Metrics that rules ask for are metrics of the agent, in its documentation; others are Prometheus's own.
#[test]
fn every_metric_in_a_rule_exists() {
    let documented = read("docs/metrics.md").unwrap();
    for rule in rules() {
        let words = rule.expr.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        for metric in words.filter(|word| word.starts_with("portcullis_")) {
            assert!(documented.contains(&format!("| `{metric}` |")), "`{metric}` in {}", rule.expr);
        }
    }
}

#[test]
fn the_scrape_job_is_the_same_wherever_it_stands() {
    let job = |path: &str| -> String {
        let text = read(path).unwrap();
        let (_, jobs) = text.split_once("\nscrape_configs:\n").unwrap();
        jobs.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    assert_eq!(job("deploy/prometheus/prometheus.yml"), job("deploy/prometheus/scrape.yml"));
    assert!(job("deploy/prometheus/scrape.yml").contains("job_name: portcullis\n"));
}

#[test]
fn the_kubernetes_object_is_in_step() {
    let made = object(&read(RULES).unwrap()).unwrap();
    assert_eq!(read(OBJECT).unwrap(), made, "cargo xtask alerts --write");
    let object: Object = serde_saphyr::from_str(&made).unwrap();
    let in_object: Vec<_> = object.spec.groups.into_iter().flat_map(|group| group.rules).collect();
    let in_file = rules();
    assert_eq!(in_object.len(), in_file.len());
    for (one, other) in in_object.iter().zip(&in_file) {
        assert_eq!((&one.alert, &one.expr, &one.labels), (&other.alert, &other.expr, &other.labels));
        assert_eq!(one.annotations, other.annotations);
    }
}
