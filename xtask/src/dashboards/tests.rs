//! What a linter of dashboards asks, and what ours have to keep in step with.

use std::collections::BTreeSet;

use super::*;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn each_panel(check: impl Fn(&str, &Value)) {
    let dashboards = dashboard::all().unwrap();
    assert_eq!(dashboards.len(), 2);
    for dashboard in &dashboards {
        let panels = dashboard.panels();
        assert!(panels.len() > 10, "{}", dashboard.name);
        for panel in panels {
            check(&format!("{}: `{}`", dashboard.name, text(panel, "title")), panel);
        }
    }
}

fn each_query(check: impl Fn(&str, &str)) {
    each_panel(|name, panel| {
        for target in list(panel, "targets") {
            check(name, text(target, "expr"));
        }
    });
}

#[test]
fn dashboards_are_ready_to_be_provisioned() {
    let mut uids = BTreeSet::new();
    for Dashboard { name, json } in dashboard::all().unwrap() {
        assert_eq!(text(&json, "uid"), name);
        assert!(uids.insert(text(&json, "uid").to_owned()) && name.len() <= 40);
        assert!(json["id"].is_null(), "{name}: an id is of one server");
        assert_eq!(json["editable"], false, "{name}");
        assert!(
            text(&json, "title").starts_with("Portcullis / ") && text(&json, "description").ends_with('.')
        );
        assert!(list(&json, "tags").contains(&json!("portcullis")), "{name}");
        let variables: Vec<&str> =
            list(&json["templating"], "list").iter().map(|variable| text(variable, "name")).collect();
        assert_eq!(variables[..3], ["datasource", "job", "instance"], "{name}");
        for variable in &list(&json["templating"], "list")[1..] {
            assert_eq!((&variable["multi"], &variable["includeAll"]), (&json!(true), &json!(true)), "{name}");
            assert!(!text(variable, "label").is_empty() && text(variable, "description").ends_with('.'));
        }
        let annotation = &list(&json["annotations"], "list")[0];
        assert!(text(annotation, "expr").contains("portcullis_config_last_reload_success_timestamp_seconds"));
        assert!(
            list(&json, "links").iter().any(|link| text(link, "url").ends_with("/docs/runbooks/README.md"))
        );
    }
}

#[test]
fn panels_have_a_title_a_description_a_unit_and_the_chosen_data_source() {
    each_panel(|name, panel| {
        assert!(!text(panel, "title").is_empty());
        assert!(text(panel, "description").ends_with('.'), "{name} has no description");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{name} has no unit");
        assert!(!list(&panel["fieldConfig"]["defaults"]["thresholds"], "steps").is_empty(), "{name}");
        let chosen = json!({ "type": "prometheus", "uid": "${datasource}" });
        assert_eq!(panel["datasource"], chosen, "{name}");
        assert!(!list(panel, "targets").is_empty(), "{name} asks nothing");
        assert!(list(panel, "targets").iter().all(|target| target["datasource"] == chosen), "{name}");
    });
}

#[test]
fn panels_fill_the_grid_without_overlap() {
    for dashboard in dashboard::all().unwrap() {
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard.json, "panels") {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(x + w <= 24, "{}", panel["title"]);
            for cell in (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column))) {
                assert!(taken.insert(cell), "{} overlaps", panel["title"]);
            }
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has another's id", panel["title"]);
        }
        assert_eq!(taken.len() as u64, height(&dashboard) * 24, "{} has holes", dashboard.name);
    }
}

#[test]
fn queries_obey_the_variables() {
    each_query(|name, expression| {
        // Prometheus's own series of alerts has labels of the alerts only.
        if !expression.contains("ALERTS{") {
            for variable in ["job=~\"$job\"", "instance=~\"$instance\""] {
                assert!(expression.contains(variable), "{name}: {expression}");
            }
        }
        for (_, window) in expression.match_indices("rate(").map(|(at, _)| expression[at..].split_at(5)) {
            let window = window.split_once('[').unwrap().1;
            assert!(window.starts_with("$__rate_interval]"), "{name}: {expression}");
        }
    });
}

#[test]
fn queries_name_metrics_that_exist() {
    let known = fs::read_to_string(repository().join("docs/metrics.md")).unwrap()
        + &fs::read_to_string(repository().join("deploy/prometheus/portcullis.rules.yml")).unwrap();
    each_query(|name, expression| {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        for metric in words.filter(|word| word.starts_with("portcullis_") || word.starts_with("portcullis:"))
        {
            let metric = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| metric.strip_suffix(part))
                .unwrap_or(metric);
            assert!(
                known.contains(&format!("| `{metric}` |")) || known.contains(&format!("record: {metric}\n")),
                "{name}: `{metric}`"
            );
        }
    });
}

#[test]
fn links_lead_to_runbooks_that_exist() {
    each_panel(|name, panel| {
        for link in list(panel, "links") {
            let page = text(link, "url").rsplit('/').next().unwrap();
            assert!(repository().join("docs/runbooks").join(page).exists(), "{name}: {page}");
        }
    });
}

#[test]
fn grafana_is_told_where_the_dashboards_are() {
    let provider =
        fs::read_to_string(repository().join("deploy/grafana/provisioning/dashboards/portcullis.yaml"))
            .unwrap();
    let compose = fs::read_to_string(repository().join("deploy/compose/compose.yaml")).unwrap();
    let path = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).unwrap();
    assert!(compose.contains(&format!("../grafana/dashboards:{path}:ro")), "{path}");
}

#[test]
fn points_in_time_are_told_once() {
    let series = [json!({ "values": [[1, "5"], [2, "5"], [3, "9"]] })];
    assert_eq!(moments(&series), [5.0, 9.0]);
}
