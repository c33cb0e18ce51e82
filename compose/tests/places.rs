//! Places survive: whatever a value went through, it points at where somebody wrote it.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{fs, path::Path};

use compose::{Loaded, Node, Project, Request, Sources, load};

fn loaded(folder: &Path, files: &[(&str, &str)], arguments: &[&str]) -> (Project, Sources) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let Loaded { sources, project, .. } = load(&Request {
        files: arguments.iter().map(Into::into).collect(),
        working_directory: folder.to_owned(),
        ..Request::default()
    });
    (project.unwrap(), sources)
}

/// `file:line` of each published port of a service, with what is written there.
fn ports(project: &Project, sources: &Sources, service: &str) -> Vec<(String, String)> {
    let ports = project.service(service).unwrap().get("ports").map(Node::items).unwrap_or_default();
    let written = |node: &Node| {
        let text = &sources.files[node.span.source].text;
        text[node.span.start..node.span.end].to_owned()
    };
    ports.iter().map(|port| (sources.at(port.span), written(port))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(at, text)| ((*at).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn through_extends_include_override_anchors_and_variables() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (
            "compose.yaml",
            "include: [sub/compose.yaml]\nx-ports: &ports\n  - \"1:1\"\nservices:\n  web:\n    image: x\n    extends: { file: base.yaml, service: b }\n    ports: [\"2:2\", \"${P:-3}:3\"]\n  other:\n    image: x\n    ports: *ports\n",
        ),
        ("base.yaml", "services:\n  b:\n    ports:\n      - target: 9\n        published: 9\n"),
        ("sub/compose.yaml", "services:\n  inner:\n    image: x\n    ports: [\"4-5:4-5\"]\n"),
        ("over.yaml", "services:\n  web:\n    ports:\n      - \"6:6\"\n"),
    ];
    let (project, sources) = loaded(folder.path(), &files, &["compose.yaml", "over.yaml"]);
    assert_eq!(
        ports(&project, &sources, "web"),
        pairs(&[
            ("base.yaml:4", "target: 9\n        published: 9"),
            ("compose.yaml:8", "\"2:2\""),
            ("compose.yaml:8", "\"${P:-3}:3\""),
            ("over.yaml:4", "\"6:6\""),
        ])
    );
    assert_eq!(ports(&project, &sources, "other"), pairs(&[("compose.yaml:3", "\"1:1\"")]));
    let inner = ("sub/compose.yaml:4", "\"4-5:4-5\"");
    assert_eq!(ports(&project, &sources, "inner"), pairs(&[inner, inner]));
    let (_, entry) = project.services().find(|(name, _)| *name == "web").unwrap();
    assert_eq!(sources.at(entry.key), "compose.yaml:5", "where it was first named");
}

#[test]
fn what_is_printed_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name: shop\nservices:\n  web:\n    image: \"x:$$y\"\n    ports: [\"80-81:80-81\", \"[::1]:9:9/udp\"]\n    environment: [\"A=$$B\"]\n    mem_limit: 1g\n    healthcheck: { test: a, interval: 90s }\n    volumes: [\"./d:/d:ro\", \"vol:/v\"]\nvolumes: { vol: }\n";
    let (project, _) = loaded(folder.path(), &[("compose.yaml", text)], &["compose.yaml"]);
    let first = compose::emit(&project);
    let printed = serde_json::to_string_pretty(&first).unwrap();
    let (again, _) = loaded(folder.path(), &[("again.json", &printed)], &["again.json"]);
    assert_eq!(compose::emit(&again), first);
}
