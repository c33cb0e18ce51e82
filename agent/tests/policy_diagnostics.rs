//! What users see for every mistake that a policy can hold: code, place and hint, compared with snapshots.

use std::{collections::BTreeMap, time::Duration};

use portcullis::{
    diagnostics,
    policy::{Source, load, matrix::matrix},
};
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

const HEAD: &str = "version: 1\npolicy: shop\napplies_to: { project: shop }\n";

fn sources(texts: &[String]) -> Vec<Source> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Source { name: format!("policies/{}.yaml", index + 1), text: text.clone() })
        .collect()
}

fn findings(texts: &[String], profile: Option<&str>) -> String {
    let loaded = load(&sources(texts), profile);
    assert_eq!(loaded.policies.is_none(), diagnostics::has_errors(&loaded.diagnostics));
    diagnostics::render(&loaded.diagnostics, false)
}

/// One policy with these lines below its head.
fn body(lines: &str) -> Vec<String> {
    vec![format!("{HEAD}{lines}")]
}

macro_rules! mistakes {
    ($($name:ident: $texts:expr $(, profile $profile:expr)?;)+) => { $(
        #[test]
        fn $name() {
            let profile: Option<&str> = None $(.or(Some($profile)))?;
            insta::assert_snapshot!(stringify!($name), findings(&$texts, profile));
        }
    )+ };
}

mistakes! {
    unknown_keys: body("mod: enforce\nservices:\n  web: { port: [80/tcp], form: [] }\n");
    fragments_are_no_key: body("fragments: track\nservices:\n  web: { ports: [80/tcp], fragments: track }\n");
    unknown_service_in_from: body("services:\n  web: { ports: [80/tcp], from: [porxy] }\n  proxy: {}\n");
    unknown_group: body("groups: { admin: [192.0.2.0/24] }\nservices:\n  web: { ports: [80/tcp], from: [admni], egress: [admins] }\n");
    impossible_ranges: body("groups:\n  a: [192.0.2.1/24, 192.0.2.0/33, 300.1.1.1, 127.0.0.0/8]\n  b: [\"::ffff:192.0.2.0/120\", \"2001:db8::1/64\", office]\nservices: {}\n");
    duplicate_policy_in_two_files: [format!("{HEAD}services: {{}}\n"), "version: 1\npolicy: shop\napplies_to: { project: other }\nservices: {}\n".to_owned()];
    duplicate_service_group_and_key: body("mode: enforce\nmode: observe\ngroups:\n  g: []\n  g: []\nservices:\n  web: {}\n  web: { ports: [80/tcp] }\n");
    the_same_port_twice: body("services:\n  web: { ports: [80/tcp, { port: 80/tcp, from: [] }, 80/udp, any, any] }\n");
    overlapping_ranges: body("services:\n  web: { ports: [80-90/tcp, 85-99/tcp, 85-99/udp, 88/tcp] }\n");
    group_and_service_share_a_name: body("groups: { web: [192.0.2.0/24] }\nservices: { web: {} }\n");
    reserved_names: body("groups: { any: [], dns: [] }\nservices: { host: {}, world: {} }\n");
    unusable_names: ["version: 1\npolicy: \"my shop\"\napplies_to: { project: shop }\nservices: { \"a/b\": {}, -x: {} }\n".to_owned()];
    empty_file: ["# nothing yet\n".to_owned()];
    audit_of_nothing_that_can_be_asked: body("audit:\n  endpoints: [shop.example, \"http://shop.example\", \"https://shop.example:0\", {}]\n  debug_paths: [debug, \"/a b\", /ok]\n  endpoint: x\nservices: { web: {} }\n");
    audit_of_wrong_shapes: body("audit: https://shop.example\nservices: { web: {} }\n");
    host_document: ["version: 1\nhost: gateway\nports: [22/tcp]\n".to_owned()];
    unknown_profile: body("profile: production\nservices:\n  web: { profiles: { development: {} }, only_in: [development, production] }\n"), profile "developmnt";
    lonely_overlay: body("profile: production\nservices:\n  a: { profiles: { development: { exposure: localhost } } }\n  b: { ports: [1/tcp], profiles: { developmnet: { exposure: localhost }, development: {} } }\n");
    overlay_outside_only_in: body("profile: a\nservices:\n  x: { only_in: [a], profiles: { b: {} } }\n  y: { only_in: [b] }\n");
    patterns_that_meet: ["version: 1\npolicy: one\napplies_to: { project: \"my*-dev\" }\nservices: {}\n---\nversion: 1\npolicy: two\napplies_to: { project: \"myapp-*\" }\nservices: {}\n".to_owned()];
    bad_words: body("mode: enforced\nservices:\n  web: { severity: hihg, mode: audit, exposure: internet, ports: [80/tcp] }\n");
    bad_ports: body("services:\n  web: { ports: [80, 80/sctp, 0/tcp, 99-9/tcp, http/tcp, 70000/udp, 080/tcp, [80/tcp], { from: [] }] }\n");
    peers_that_cannot_be: body("services:\n  a: { ports: [1/tcp], from: [dns, any, { project: x }, [b]], egress: [b, any, { to: dns, ports: [53/udp] }, { ports: [1/tcp] }] }\n  b: {}\n");
    missing_keys: ["mode: enforce\n".to_owned()];
    not_a_mapping: ["- version: 1\n".to_owned(), "just text\n".to_owned()];
    wrong_shapes: body("groups: [a]\nservices:\n  web: [80/tcp]\n  db: { ports: 80/tcp, from: web, egress: { to: world }, only_in: [], profiles: [x] }\n  c: { from: }\n");
    bad_version_and_target: ["version: 2\npolicy: shop\napplies_to: { project: a, container: b }\nservices: {}\n".to_owned(), "version: 1\npolicy: b\napplies_to: shop\nservices: {}\n".to_owned()];
    bad_select: body("services:\n  a: { select: { container: x, label: { a: b } } }\n  b: { select: { label: { a: b, c: d } } }\n  c: { select: {} }\n");
    syntax_error: body("services:\n  web: { ports: [80/tcp\n  db: {}\n");
    bad_indentation: body("services:\n  web:\n    ports: [80/tcp]\n   from: [x]\n");
    tabs: body("services:\n\tweb: {}\n");
    unknown_alias: body("services: { web: *nowhere }\n");
    egress_to_a_covered_service: body("services:\n  web: { egress: [{ project: shop, service: db }, { project: tools, service: x }] }\n  db: {}\n");
    peers_without_ports: body("services:\n  web: { exposure: public }\n");
    too_deep: ["[".repeat(60) + &"]".repeat(60)];
    everything_at_once: [
        "version: 1\npolicy: a\napplies_to: { project: \"x*\" }\nmoed: observe\nservices:\n  web: { ports: [80], from: [nobody] }\n".to_owned(),
        "version: 1\npolicy: a\napplies_to: { project: \"*y\" }\nservices:\n  db: { severity: loud, from: [1.2.3.4/8], ports: [1/tcp, 1/tcp] }\n".to_owned(),
    ];
}

#[test]
fn good_policies_have_no_findings() {
    for text in [body("services: { x: {} }\n"), body("services:\n  x:\n"), body("services: {}\n")] {
        assert_eq!(findings(&text, None), "", "{text:?}");
    }
    let anchors = body(
        "services:\n  a: { ports: &ports [1/tcp, 2/tcp], from: [b] }\n  b: &empty {}\n  c: { ports: *ports, from: [b] }\n  d: *empty\n",
    );
    assert_eq!(findings(&anchors, None), "");
}

#[test]
fn aliases_are_reported_where_they_are_anchored_and_once() {
    let text = body("services:\n  a: { ports: &ports [1] }\n  b: { ports: *ports }\n");
    let loaded = load(&sources(&text), None);
    assert_eq!(loaded.diagnostics.len(), 1, "{:#?}", loaded.diagnostics);
    assert_eq!(loaded.diagnostics[0].place.as_ref().unwrap().line, 5);
}

#[test]
fn alias_bombs_are_refused_with_a_clear_message() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        text += &format!("a{level}: &a{level} [{items}]\n");
    }
    let found = findings(&[text], None);
    assert!(
        found.starts_with("error[P002]: the document is too large once its aliases are expanded"),
        "{found}"
    );
}

#[test]
fn windows_line_ends_and_byte_order_marks_do_not_move_places() {
    let text = format!("{HEAD}services:\n  wéb: {{ ports: [80] }}\n");
    let windows = text.replace('\n', "\r\n");
    for text in [text, windows] {
        let loaded = load(&sources(&[text]), None);
        let places: Vec<_> = loaded
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.place.as_ref().map(|place| (place.line, place.column)).unwrap())
            .collect();
        assert_eq!(places, [(5, 3), (5, 18)]);
    }
    let marked = format!("\u{feff}{HEAD}services: {{ x: {{}} }}\n");
    assert_eq!(findings(&[marked], None), "");
}

#[test]
fn colours_change_nothing_but_colours() {
    let texts = sources(&body("mod: enforce\nservices: {}\n"));
    let found = load(&texts, None).diagnostics;
    let coloured = diagnostics::render(&found, true);
    assert!(coloured.contains('\u{1b}'));
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), diagnostics::render(&found, false));
}

#[test]
fn findings_as_json() {
    let found = load(&sources(&body("mod: enforce\nservices: {}\n")), None).diagnostics;
    insta::assert_snapshot!("findings_as_json", serde_json::to_string_pretty(&found).unwrap());
}

#[test]
fn hostile_files_are_refused_before_they_hold_up_the_agent() {
    // What this thread has had of a processor does not depend on who else wants it.
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let services: String =
        (0..9000).map(|index| format!("  service-{index}: {{ from: [missing-{index}] }}\n")).collect();
    let ports = vec!["80/tcp"; 40_000].join(", ");
    let one_line = vec!["x"; 45_000].join(", ");
    for (name, lines) in BTreeMap::from([
        ("unknown names", format!("services:\n{services}")),
        ("ports", format!("services: {{ a: {{ ports: [{ports}] }} }}\n")),
        ("one long line", format!("services: {{ a: {{ from: [{one_line}] }} }}\n")),
        ("long name", format!("groups: {{ {}: [] }}\nservices: {{}}\n", "g".repeat(1 << 20))),
        (
            "long pattern",
            format!("services: {{ a: {{ select: {{ container: \"{}\" }} }} }}\n", "*".repeat(1 << 20)),
        ),
        ("many nodes", format!("services: {{ a: {{ from: [{}] }} }}\n", vec!["[]"; 100_000].join(", "))),
        ("large", format!("services: {{}}\n#{}\n", "x".repeat(5 << 20))),
    ]) {
        let texts = sources(&body(&lines));
        let started = processor_time();
        let found = load(&texts, None);
        let rendered = diagnostics::render(&found.diagnostics, false);
        assert!(found.policies.is_none(), "{name}");
        assert!(found.diagnostics.len() <= 201, "{name}");
        assert!(rendered.len() < 4 << 20, "{name}: {} bytes", rendered.len());
        let took = processor_time() - started;
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    }
}

#[test]
fn a_byte_order_mark_does_not_move_places() {
    let marked = format!("\u{feff}{}", body("services: { x: { ports: [80] } }\n")[0]);
    let place = load(&sources(&[marked]), None).diagnostics[0].place.clone().unwrap();
    assert_eq!((place.line, place.column, place.length), (4, 26, 2));
}

#[test]
fn every_code_is_documented() {
    let codes = include_str!("../src/policy/report.rs");
    let documentation = include_str!("../../docs/policy.md");
    let quoted: Vec<&str> =
        codes.split('"').filter(|text| text.len() == 4 && text.starts_with("P0")).collect();
    assert_eq!(quoted.len(), 23);
    for code in quoted {
        assert!(documentation.contains(code), "{code}");
    }
}

const EXAMPLE: &str = include_str!("../../policies/qerds.yaml");

proptest! {
    /// Whatever is typed, there is an answer, and it can be shown.
    #[test]
    fn no_text_makes_loading_fail(text in ".{0,200}") {
        let loaded = load(&sources(&[text]), None);
        let rendered = diagnostics::render(&loaded.diagnostics, true);
        prop_assert!(loaded.policies.is_some() || rendered.contains("error"));
    }

    #[test]
    fn no_damaged_policy_makes_loading_fail(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..8, "[a-z0-9:,{}\\[\\]*&!|>'\" \n\t#/-]{0,6}"), 1..4)
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (place, removed, inserted) in edits {
            let start = place.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        let loaded = load(&sources(&[text.into_iter().collect()]), Some("development"));
        let rendered = diagnostics::render(&loaded.diagnostics, true);
        prop_assert_eq!(rendered.is_empty(), loaded.diagnostics.is_empty());
        if let Some(policies) = loaded.policies {
            matrix(&policies).unwrap();
        }
    }
}
