//! Records what the lab's engine answers about containers as they should be, and with one fault each, for the tests of
//! `portcullis audit`. Needs root:
//!
//! ```text
//! cargo run --package integration-tests --example record_engine -- agent/src/audit/fixtures
//! ```
//!
//! With `PORTCULLIS_ENGINE` it is another version's, see CONTRIBUTING.md. What belongs to the machine is taken out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::engine::DockerHost;
use lab::image;
use lab::process::run;
use lab::tools::Tools;
use serde_json::{Map, Value, json};

/// An image with labels and a port of its own.
const IMAGE: &str = "portcullis-lab/labelled:latest";
/// Name of the record, the container's name and how it is started. Another of the same name goes first.
const CONTAINERS: [(&str, &str, &str); 19] = [
    ("shop-a/web", "shop-a-web-1", "--network shop-a-net --publish 0.0.0.0:8080:80"),
    ("shop-a/db", "shop-a-db-1", "--network shop-a-net --user 1000"),
    ("shop-b/web", "shop-b-web-1", "--network shop-b-net --publish 0.0.0.0:8081:80"),
    ("shop-b/db", "shop-b-db-1", "--network shop-b-net --user 1000"),
    ("shop-b/db with a volume", "shop-b-db-1", "--network shop-b-net --user 1000 --volume data:/data"),
    ("a volume", "shop-a-db-1", "--network shop-a-net --user 1000 --volume data:/data"),
    ("privileged", "shop-a-db-1", "--network shop-a-net --user 1000 --privileged"),
    ("pid", "shop-a-db-1", "--network shop-a-net --user 1000 --pid host"),
    ("capability", "shop-a-db-1", "--network shop-a-net --user 1000 --cap-add NET_ADMIN"),
    ("socket", "shop-a-db-1", "--network shop-a-net --user 1000 --volume SOCKET:/s"),
    ("folder", "shop-a-db-1", "--network shop-a-net --user 1000 --volume /etc:/s"),
    ("published", "shop-a-db-1", "--network shop-a-net --user 1000 --publish 127.0.0.1:5432:5432"),
    ("published to all", "shop-a-db-1", "--network shop-a-net --user 1000 --publish 0.0.0.0:5432:5432"),
    ("root", "shop-a-db-1", "--network shop-a-net"),
    ("host network", "shop-a-db-1", "--network host --user 1000"),
    ("second", "shop-a-db-2", "--network shop-a-net --user 1000 --privileged"),
    ("development", "shop-a-mailpit-1", "--network shop-a-net --user 1000"),
    (
        "unknown port",
        "shop-a-web-1",
        "--network shop-a-net --publish 0.0.0.0:8080:80 --publish 127.0.0.1:8100:81",
    ),
    ("IPv6", "shop-a-web-1", "--network shop-a-net --publish 8080:80"),
];

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).context("the folder for the record is not named")?);
    integration_tests::prepare()?;
    let host = DockerHost::start(Tools::locate()?)?;
    let docker = |words: &str| run(host.docker().args(words.split_whitespace()));
    let inspect = |words: &str| -> Result<Value> { Ok(serde_json::from_str(&docker(words)?)?) };
    let base = docker(&format!("create --name base {} true", image::NAME))?;
    run(host.docker().args([
        "commit",
        "--change",
        "LABEL of-the-image=x",
        "--change",
        "EXPOSE 5432",
        base.trim(),
        IMAGE,
    ]))?;
    docker("rm base")?;
    for (project, number) in [("shop-a", 1), ("shop-b", 2)] {
        docker(&format!(
            "network create --subnet 198.18.{number}.0/24 --label com.docker.compose.project={project} {project}-net"
        ))?;
    }
    let socket = host.url().trim_start_matches("unix://").to_owned();
    let mut containers = Map::new();
    for (record, name, options) in CONTAINERS {
        // One that is not there is not removed.
        let _absent = docker(&format!("rm --force {name}"));
        let (project, rest) = name.split_at("shop-a".len());
        let service = rest.trim_start_matches('-').split('-').next().unwrap_or_default();
        let options = options.replace("SOCKET", &socket);
        docker(&format!(
            "run --detach --name {name} --label com.docker.compose.project={project} --label com.docker.compose.service={service} {options} {IMAGE} stand-in {name} 5432"
        ))?;
        let container = inspect(&format!("inspect {name}"))?[0].take();
        containers.insert(record.to_owned(), container);
    }
    let mut labels = Map::new();
    let image = inspect(&format!("image inspect {IMAGE}"))?[0].take();
    labels.insert(image["Id"].as_str().unwrap_or_default().to_owned(), image["Config"]["Labels"].clone());
    let version = docker("version --format {{.Server.Version}}")?.trim().to_owned();
    let record = json!({
        "info": { "ServerVersion": version, "Name": "host" },
        "image_labels": labels,
        "networks": inspect("network inspect shop-a-net shop-b-net")?,
        "containers": containers,
    });
    let text = lines(&plain(record))?;
    let text = without_machine(&text, &host.scratch().path().display().to_string());
    let (major, minor) = host.version();
    let path = folder.join(format!("engine-{major}.{minor}.json"));
    fs::create_dir_all(&folder)?;
    fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    writeln!(std::io::stdout().lock(), "{}", path.display())?;
    Ok(())
}

/// A container a line: whoever records anew sees in which of them something has changed.
fn lines(record: &Value) -> Result<String> {
    let mut text = "{\n".to_owned();
    for key in ["info", "image_labels", "networks"] {
        text += &format!("\"{key}\": {},\n", serde_json::to_string(&record[key])?);
    }
    let containers = record["containers"].as_object().context("no containers")?;
    let containers: Vec<String> =
        containers.iter().map(|(name, container)| format!("{}: {container}", json!(name))).collect();
    Ok(text + "\"containers\": {\n" + &containers.join(",\n") + "\n}\n}\n")
}

/// Times, process numbers and the storage driver's part are those of this machine and moment.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, _)| key != "GraphDriver" && key != "Storage")
            .map(|(key, value)| {
                let value = match key.as_str() {
                    "Created" | "StartedAt" | "FinishedAt" | "CreatedAt" => json!("2026-01-01T00:00:00Z"),
                    "Pid" => json!(0),
                    _ => plain(value),
                };
                (key, value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(plain).collect::<Vec<_>>().into(),
        other => other,
    }
}

/// Ids become numbers in the order of their appearance, paths those of an installed engine.
fn without_machine(text: &str, scratch: &str) -> String {
    let text = text
        .replace(&format!("{scratch}/docker/data"), "/var/lib/docker")
        .replace(&format!("{scratch}/docker/docker.sock"), "/var/run/docker.sock")
        .replace(&format!("{scratch}/docker/exec"), "/var/run/docker");
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    let words: Vec<&str> = text.split_inclusive(|c: char| !c.is_ascii_hexdigit()).collect();
    for word in &words {
        let id = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        if id.len() == 64 {
            let next = ids.len() + 1;
            ids.entry(id.to_owned()).or_insert(next);
        }
    }
    let mut plain = text;
    for (id, number) in ids {
        // The short form first: its beginning is what hosts and bridges are called after.
        let long = format!("{number:012x}{}", "0".repeat(52));
        plain = plain.replace(&id, &long).replace(&id[..12], &long[..12]);
    }
    plain
}
