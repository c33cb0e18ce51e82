//! The image in a Docker Engine, with the rights and the mounts of the compose file and no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration_tests::deployment::{MEMORY, MOUNTS, capabilities};
use integration_tests::machine::target;
use integration_tests::small_lab::POLICY;
use integration_tests::tell;
use lab::engine::DockerHost;
use lab::image::NAME;
use lab::interrupt::wait_for;
use lab::process::{output, run, words};
use lab::tools::Tools;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Engines before this version do not know the capabilities that kernels have had since 5.8.
const KNOWS_BPF: (u32, u32) = (23, 0);
const SOON: Duration = Duration::from_secs(30);
const AGENT: &str = "agent";

/// An engine with a shop on it: `web`, `api` and `db`, and `stray`, which no policy covers.
pub(crate) struct Shop {
    pub(crate) host: DockerHost,
}

impl Shop {
    pub(crate) fn open() -> Self {
        let host = DockerHost::start(Tools::locate().unwrap()).unwrap();
        let shop = Self { host };
        // As on a host with systemd: what is mounted there later is seen by those who follow.
        let exec = shop.exec_root().display().to_string();
        run(&mut words(&format!("mount --rbind {exec} {exec}"))).unwrap();
        run(&mut words(&format!("mount --make-rshared {exec}"))).unwrap();
        let bpf = shop.place("/sys/fs/bpf");
        fs::create_dir_all(&bpf).unwrap();
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(bpf)).unwrap();
        for folder in ["/etc/portcullis/policy.d", "/var/lib/portcullis"] {
            fs::create_dir_all(shop.place(folder)).unwrap();
        }
        fs::write(shop.place("/etc/portcullis/policy.d/shop.yaml"), POLICY).unwrap();
        let archive = image();
        run(shop.host.docker().args(["load", "--input"]).arg(archive)).unwrap();
        run(shop.host.docker().args(["network", "create", "shop"])).unwrap();
        for (service, port) in [("web", "80"), ("api", "8000"), ("db", "5432")] {
            shop.start(service, service, port);
        }
        run(shop.host.docker().args([
            "run",
            "--detach",
            "--name=stray",
            "--network=shop",
            NAME,
            "stand-in",
            "stray",
        ]))
        .unwrap();
        shop
    }

    /// Starts a container of a service.
    fn start(&self, name: &str, service: &str, port: &str) {
        let mut command = self.host.docker();
        command.args(["run", "--detach", "--network=shop", "--name", name]);
        command.args(["--label=com.docker.compose.project=shop", "--label"]);
        command.arg(format!("com.docker.compose.service={service}"));
        run(command.args([NAME, "stand-in", name, port])).unwrap();
    }

    fn exec_root(&self) -> PathBuf {
        self.host.scratch().path().join("docker/exec")
    }

    /// What stands here for a path of the host. The engine of a lab has its own in place of `/run/docker`.
    pub(crate) fn place(&self, path: &str) -> PathBuf {
        match path {
            "/run/docker.sock" => self.host.scratch().path().join("docker/docker.sock"),
            "/run/docker/netns" => self.exec_root().join("netns"),
            _ => self.host.scratch().path().join("agent").join(path.trim_start_matches('/')),
        }
    }

    /// Those of the compose file; an old engine can only give the one that includes them.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        if self.host.version() >= KNOWS_BPF {
            return capabilities();
        }
        let mut refused = self.host.docker();
        let refused =
            output(refused.args(["run", "--cap-add=BPF", "portcullis:latest", "--version"])).unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown capability"), "{refused:?}");
        vec!["NET_ADMIN".to_owned(), "SYS_ADMIN".to_owned()]
    }

    /// `docker run` of the image, as the compose file has it.
    fn agent(&self) -> Command {
        let mut command = self.host.docker();
        command.args(["run", "--network=host", "--read-only", "--cap-drop=ALL"]);
        for capability in self.capabilities() {
            command.arg(format!("--cap-add={capability}"));
        }
        command.args(["--security-opt=no-new-privileges:true", "--security-opt=apparmor=unconfined"]);
        command.args([
            "--memory=512m",
            "--pids-limit=64",
            &format!("--ulimit=memlock={}", locked_memory()),
            &format!("--tmpfs={MEMORY}:mode=0700,size=1m"),
        ]);
        for mount in MOUNTS {
            let place = self.place(mount.path).display().to_string();
            // Elsewhere than on a real host the engine names namespaces by its own folder.
            let seen = if mount.follows { place.as_str() } else { mount.path };
            let options = match (mount.read_only, mount.follows) {
                (true, true) => "ro,rslave",
                (true, false) => "ro",
                (false, true) => "rslave",
                (false, false) => "rw",
            };
            command.arg(format!("--volume={place}:{seen}:{options}"));
        }
        command
    }

    fn start_agent(&self) {
        run(self.agent().args(["--detach", "--name", AGENT, "portcullis:latest"])).unwrap();
        let netns = self.host.netns().path();
        wait_for("the agent in its container", SOON, || {
            Ok(lab::agent::get(&netns, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.said()));
    }

    /// It has the rights it was given, behind the engine's own filter of system calls.
    fn assert_confined(&self) {
        let pid = run(self.host.docker().args(["inspect", "--format={{.State.Pid}}", AGENT])).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
        // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF are bits 12, 38 and 39, CAP_SYS_ADMIN is 21.
        let old = self.host.version() < KNOWS_BPF;
        let held = if old { "0000000000201000" } else { "000000c000001000" };
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(status.contains(&format!("{set}:\t{held}\n")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
        let used =
            run(self.host.docker().args(["stats", "--no-stream", "--format={{.MemUsage}}", AGENT])).unwrap();
        tell(&format!("the agent's memory with the kernel's tables, and its limit: {}", used.trim()))
            .unwrap();
    }

    fn said(&self) -> String {
        let said = output(self.host.docker().args(["logs", AGENT])).unwrap();
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    }

    pub(crate) fn reaches(&self, from: &str, to: &str, port: &str) -> bool {
        let request = format!("http://{to}:{port}/name");
        let mut command = self.host.docker();
        command.args(["exec", from, "timeout", "1", "wget", "-q", "-O", "-", &request]);
        let answer = output(&mut command).unwrap();
        answer.status.success() && String::from_utf8_lossy(&answer.stdout).trim() == to
    }

    fn assert_enforced(&self) {
        for (from, to, port, allowed) in [
            ("web", "api", "8000", true),
            ("api", "db", "5432", true),
            ("web", "db", "5432", false),
            ("stray", "db", "5432", false),
            ("stray", "api", "8000", false),
        ] {
            assert_eq!(self.reaches(from, to, port), allowed, "{from} to {to}\n{}", self.said());
        }
    }
}

/// The limit of locked memory that a container can be given: none, as the compose files have it, unless this machine may
/// not raise its own.
pub(crate) fn locked_memory() -> String {
    let limit = getrlimit(Resource::Memlock).maximum;
    let raised = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    match (limit, raised) {
        (Some(limit), Err(_)) => limit.to_string(),
        _ => "-1".to_owned(),
    }
}

fn image() -> PathBuf {
    let files = fs::read_dir(target().join("dist")).unwrap().map(|file| file.unwrap().path());
    let mut images = files.filter(|file| file.to_string_lossy().ends_with("-image.tar"));
    images.next().unwrap_or_else(|| panic!("no image in `target/dist`: run `cargo xtask dist --check`"))
}

#[test]
fn docker_runs_the_image_with_three_capabilities_and_it_enforces() {
    let shop = Shop::open();
    assert!(shop.reaches("web", "db", "5432"), "without an agent nothing is denied");
    shop.start_agent();
    shop.assert_enforced();
    // One that starts now is found by a namespace that was mounted after the agent had started.
    shop.start("db-2", "db", "5432");
    wait_for("the new container", SOON, || Ok(shop.reaches("api", "db-2", "5432").then_some(()))).unwrap();
    assert!(!shop.reaches("web", "db-2", "5432"));
    shop.assert_confined();
    let status = run(shop.host.docker().args(["exec", AGENT, "/usr/bin/portcullis", "status"])).unwrap();
    assert!(status.contains("db-2"), "{status}");
    assert!(shop.said().contains("\"reason\":\"no_rule\""), "no event of a denial:\n{}", shop.said());

    // Another container of the same image takes over what the first one has left.
    run(shop.host.docker().args(["rm", "--force", AGENT])).unwrap();
    shop.assert_enforced();
    shop.start_agent();
    shop.assert_enforced();

    run(shop.host.docker().args(["rm", "--force", AGENT])).unwrap();
    let said = run(shop.agent().args(["--rm", "portcullis:latest", "detach"])).unwrap();
    assert!(said.contains("nothing is enforced any more"), "{said}");
    assert!(shop.reaches("web", "db", "5432"));
}

/// The image is also what other tools expect: an OCI layout whose digests are right.
#[test]
fn docker_image_is_an_oci_layout() {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("tar").arg("-xf").arg(image()).arg("-C").arg(folder.path())).unwrap();
    let json =
        |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    assert_eq!(json(&folder.path().join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let path = folder.path().join("blobs/sha256").join(&digest);
        assert_eq!(path.metadata().unwrap().len(), descriptor["size"].as_u64().unwrap());
        let sum = run(Command::new("sha256sum").arg(&path)).unwrap();
        assert!(sum.starts_with(&digest), "{sum}");
        path
    };
    let index = json(&folder.path().join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    let layer = run(Command::new("tar").arg("-tvf").arg(blob(&manifest["layers"][0]))).unwrap();
    assert!(layer.contains("usr/bin/portcullis") && layer.contains("var/run -> ../run"), "{layer}");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/portcullis");
    // Without compression a layer is called by the same name packed and unpacked.
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
}
