//! What is shipped beside the binary: units, the compose file, the manifests. Judged by the programs that will read them,
//! as far as these need nothing that runs.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::daemon::SOON;
use integration_tests::deployment::{MEMORY, MOUNTS, Mount, capabilities};
use integration_tests::small_lab::{POLICY, SmallLab};
use integration_tests::{agent_binary, validators};
use lab::interrupt::wait_for;
use lab::process::{output, run};
use lab::tools::{Compose, find_compose, repository};
use serde_json::Value;

const UNITS: [&str; 2] = ["portcullis.service", "portcullis-backstop.service"];

fn deploy(path: &str) -> PathBuf {
    repository().join("deploy").join(path)
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent_binary().unwrap().display().to_string();
    for unit in UNITS {
        let text = fs::read_to_string(deploy("systemd").join(unit)).unwrap();
        fs::write(folder.path().join(unit), text.replace("/usr/bin/portcullis", &agent)).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    let verified =
        output(command.args(["verify", "--man=no"]).args(UNITS).current_dir(folder.path())).unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
}

#[test]
fn systemd_calls_the_exposure_of_the_units_at_most_two_and_a_half() {
    for unit in UNITS {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", "--threshold=25"]);
        run(command.arg(deploy("systemd").join(unit))).unwrap();
    }
}

#[test]
fn the_unit_has_the_rights_that_the_agent_keeps() {
    let unit = fs::read_to_string(deploy("systemd/portcullis.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let mut given: Vec<&str> = line.split_whitespace().map(|name| name.trim_start_matches("CAP_")).collect();
    given.sort_unstable();
    assert_eq!(given, capabilities());
}

/// The paths that both kinds of container get, whatever the host has there.
fn wanted() -> BTreeSet<(String, bool, bool)> {
    MOUNTS
        .iter()
        .map(|Mount { path, read_only, follows }| ((*path).to_owned(), *read_only, *follows))
        .collect()
}

/// The agent alone, and with those who watch it.
const COMPOSE_FILES: [&str; 2] = ["docker/compose.yaml", "compose/compose.yaml"];

#[test]
fn the_compose_files_give_what_the_agent_needs_and_no_more() {
    for file in COMPOSE_FILES {
        assert_gives_what_is_needed(&yaml(&deploy(file))["services"]["agent"]);
    }
}

fn assert_gives_what_is_needed(service: &Value) {
    assert_eq!(texts(&service["cap_drop"]), ["ALL"]);
    let mut added = texts(&service["cap_add"]);
    added.sort_unstable();
    assert_eq!(added, capabilities());
    let mounts = texts(&service["volumes"]).into_iter().map(|volume| {
        let mut parts = volume.split(':').skip(1);
        let (path, options) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let has = |option| options.split(',').any(|given| given == option);
        (path.to_owned(), has("ro"), has("rslave"))
    });
    assert_eq!(mounts.collect::<BTreeSet<_>>(), wanted());
    assert!(texts(&service["tmpfs"])[0].starts_with(&format!("{MEMORY}:")));
    assert_eq!((&service["read_only"], &service["network_mode"]), (&true.into(), &"host".into()));
    assert!(service.get("privileged").is_none() && service.get("pid").is_none());
    // Kernels before 5.11 count maps against it, and the agent may not raise it.
    assert_eq!(service["ulimits"]["memlock"], -1);
    assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true", "apparmor=unconfined"]);
}

#[test]
fn compose_takes_the_compose_files() {
    for file in COMPOSE_FILES {
        let mut command = match find_compose().unwrap() {
            Compose::Program(program) => Command::new(program),
            Compose::Plugin => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
        };
        command.arg("--file").arg(deploy(file)).arg("config").env("GRAFANA_PASSWORD", "secret");
        let said = run(&mut command).unwrap();
        assert!(said.contains("/run/docker/netns"), "{said}");
    }
}

/// What stands there if nobody sets the variable: `${NAME:-this}`.
fn by_default(text: &str) -> &str {
    let value = text.strip_prefix("${").and_then(|text| text.split_once(":-")?.1.split_once('}'));
    value.map_or(text, |(value, _)| value)
}

#[test]
fn the_stack_is_pinned_confined_and_listens_on_the_host_itself_only() {
    let stack = yaml(&deploy("compose/compose.yaml"));
    let services = stack["services"].as_object().unwrap();
    assert_eq!(services.len(), 4);
    for (name, service) in services {
        let (_, tag) = by_default(service["image"].as_str().unwrap()).split_once(':').unwrap();
        // Ours is the one that was loaded.
        assert!(name == "agent" || (tag != "latest" && tag.contains('.')), "{name}: {tag}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert!(texts(&service["security_opt"]).contains(&"no-new-privileges:true"), "{name}");
        assert_eq!((&service["read_only"], &service["network_mode"]), (&true.into(), &"host".into()));
        assert!(service.get("ports").is_none() && service.get("privileged").is_none(), "{name}");
        if name != "agent" {
            assert!(service.get("cap_add").is_none(), "{name}");
            assert_mounts_what_is_there(name, service);
        }
    }
    for (service, address) in [("prometheus", "127.0.0.1:9090"), ("alertmanager", "127.0.0.1:9093")] {
        let listens = format!("--web.listen-address={address}");
        assert!(texts(&services[service]["command"]).contains(&listens.as_str()), "{service}");
    }
    assert_eq!(services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"], "127.0.0.1");
}

/// Docker would make an empty folder of what is missing.
fn assert_mounts_what_is_there(name: &str, service: &Value) {
    for volume in texts(&service["volumes"]) {
        // Others are volumes of the engine's.
        if volume.contains("../") {
            let source = by_default(volume).split(':').next().unwrap();
            assert!(deploy("compose").join(source).exists() && volume.ends_with(":ro"), "{name}: {volume}");
        }
    }
}

#[test]
fn the_daemon_set_gives_what_the_agent_needs_and_no_more() {
    let pod = &yaml(&deploy("kubernetes/daemonset.yaml"))["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
    let mut added = texts(&security["capabilities"]["add"]);
    added.sort_unstable();
    assert_eq!(added, capabilities());
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert!(security.get("privileged").is_none());
    assert_eq!(pod["hostNetwork"], true);
    assert!(pod.get("hostPID").is_none() && pod.get("hostIPC").is_none());
    let mut mounts = BTreeSet::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        let volume =
            pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        if path == MEMORY {
            assert_eq!(volume["emptyDir"]["medium"], "Memory");
            continue;
        }
        // A single file of a ConfigMap would never change.
        assert!(mount.get("subPath").is_none());
        match volume.get("hostPath") {
            Some(host) => assert_eq!(host["path"], path),
            None => assert_eq!(volume["configMap"]["name"], "portcullis-policies"),
        }
        let follows =
            mount.get("mountPropagation").is_some_and(|propagation| propagation == "HostToContainer");
        mounts.insert((path.to_owned(), mount.get("readOnly") == Some(&true.into()), follows));
    }
    assert_eq!(mounts, wanted());
}

/// Manifests of kinds that Kubernetes itself has.
const CORE: [&str; 3] = ["namespace.yaml", "policies.yaml", "daemonset.yaml"];

#[test]
fn kubernetes_takes_the_manifests() {
    for (release, manifest) in
        ["1.30", "1.34"].into_iter().flat_map(|release| CORE.map(|file| (release, file)))
    {
        let mut command = validators::python(&["kubernetes-validate==1.35.0"]).unwrap();
        command.args(["-m", "kubernetes_validate", "--strict", "--version", release]);
        run(command.arg(deploy("kubernetes").join(manifest))).unwrap();
    }
}

/// Says what in the manifests, given as JSON, the operator's own schemas refuse.
const OPERATOR_JUDGE: &str = r#"
const { readFileSync } = require("fs");
import("@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1").then((models) => {
  for (const file of process.argv.slice(1)) {
    const manifest = JSON.parse(readFileSync(file, "utf8"));
    new models[manifest.kind](manifest).validate();
  }
});
"#;

#[test]
fn the_prometheus_operator_takes_its_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let modules = validators::node_modules(&["@kubernetes-models/prometheus-operator@6.0.0"]).unwrap();
    let judge = |manifest: &Value| {
        let file = folder.path().join("manifest.json");
        fs::write(&file, manifest.to_string()).unwrap();
        let mut command = Command::new("node");
        output(command.args(["-e", OPERATOR_JUDGE]).arg(&file).current_dir(&modules)).unwrap()
    };
    for name in ["podmonitor.yaml", "prometheusrule.yaml"] {
        let judged = judge(&yaml(&deploy("kubernetes").join(name)));
        assert!(judged.status.success(), "{name}: {}", String::from_utf8_lossy(&judged.stderr));
    }
    let mut wrong = yaml(&deploy("kubernetes/podmonitor.yaml"));
    wrong["spec"]["podMetricsEndpoints"][0]["interval"] = "soon".into();
    assert!(!judge(&wrong).status.success(), "the judge takes anything");
}

#[test]
fn the_kustomization_names_every_manifest() {
    let listed: BTreeSet<String> = texts(&yaml(&deploy("kubernetes/kustomization.yaml"))["resources"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    let there = fs::read_dir(deploy("kubernetes"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> =
        there.filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml").collect();
    assert_eq!(listed, there);
}

#[test]
fn the_policies_of_the_config_map_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = yaml(&deploy("kubernetes/policies.yaml"));
    for (name, text) in manifest["data"].as_object().unwrap() {
        fs::write(folder.path().join(name), text.as_str().unwrap()).unwrap();
    }
    run(Command::new(agent_binary().unwrap()).args(["policy", "lint"]).arg(folder.path())).unwrap();
}

/// A kubelet replaces all files of a ConfigMap at once, by replacing the link to the folder that they are in.
#[test]
fn a_config_map_that_changes_is_read_again() {
    let lab = SmallLab::start().unwrap();
    let folder = lab.path().join("policy");
    let publish = |version: &str, text: &str| {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("shop.yaml"), text).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    fs::remove_file(lab.policy()).unwrap();
    publish("..1", POLICY);
    symlink("..data/shop.yaml", lab.policy()).unwrap();
    let _agent = lab.run(&[]).unwrap();
    assert!(!lab.reaches("web", "db", 5432).unwrap());
    for (version, opened) in [("..2", true), ("..3", false)] {
        let from = if opened { "from: [api, web]" } else { "from: [api]" };
        publish(version, &POLICY.replace("from: [api]", from));
        wait_for("the new policy", SOON, || Ok((lab.reaches("web", "db", 5432)? == opened).then_some(())))
            .unwrap();
    }
}
