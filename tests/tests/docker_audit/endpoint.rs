//! A real web server as the public endpoint: as it should be, then with one fault after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::agent_binary;
use lab::interrupt::wait_for;
use lab::netns::Netns;
use lab::process::{output, stop_child};
use lab::tools::{find, repository};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::Value;

const ENDPOINT: &str = "https://127.0.0.1";
const POLICY: &str = "\
version: 1
policy: shop
applies_to: { project: shop }
audit: { endpoints: [\"https://127.0.0.1\"], debug_paths: [/internal/state] }
services: { web: { exposure: public, ports: [443/tcp] } }
";

/// Outcomes by line, about an endpoint.
type Told = BTreeMap<String, String>;

fn told(command: &mut Command, endpoint: &str) -> Told {
    let began = Instant::now();
    let output = output(command.env_remove("DOCKER_HOST").env_remove("RUST_LOG")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // The containers could not be looked at, whatever else was found.
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("failed to use docker host `unix:///nonexistent`"), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = json["lines"].as_array().unwrap().iter().filter(|line| line["subject"] == endpoint);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines
        .map(|line| (text(&line["code"]), format!("{}: {}", text(&line["outcome"]), line["evidence"])))
        .collect()
}

/// How the server is set up.
#[derive(Clone)]
struct Site {
    plain: &'static str,
    protocols: &'static str,
    ciphers: &'static str,
    headers: Vec<&'static str>,
    limit: &'static str,
    more: &'static str,
    certificate: &'static str,
}

impl Site {
    fn clean() -> Self {
        Self {
            plain: "return 301 https://$host$request_uri;",
            protocols: "TLSv1.2 TLSv1.3",
            ciphers: "ECDHE+AESGCM:ECDHE+CHACHA20",
            headers: vec![
                "Strict-Transport-Security \"max-age=31536000; includeSubDomains\"",
                "X-Content-Type-Options \"nosniff\"",
                "X-Frame-Options \"DENY\"",
                "Content-Security-Policy \"default-src 'self'\"",
            ],
            limit: "limit_req zone=one burst=10 nodelay;",
            more: "",
            certificate: "good",
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut site = Self::clean();
        change(&mut site);
        site
    }

    /// The settings of nginx, all of whose files lie in a folder.
    fn settings(&self, folder: &Path) -> String {
        let folder = folder.display();
        let headers: String =
            self.headers.iter().map(|header| format!("add_header {header} always;\n")).collect();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
            .collect();
        let Self { plain, protocols, ciphers, limit, more, certificate, .. } = self;
        format!(
            "daemon off; master_process off; user root; pid {folder}/pid; error_log {folder}/error.log;
             events {{}}
             http {{
               access_log off; server_tokens off; root {folder}/www; {temporary}
               limit_req_zone $binary_remote_addr zone=one:64k rate=1r/s; limit_req_status 429;
               server {{ listen 127.0.0.1:80; location / {{ {plain} }} }}
               server {{
                 listen 127.0.0.1:443 ssl;
                 ssl_certificate {folder}/{certificate}.pem; ssl_certificate_key {folder}/{certificate}.key;
                 ssl_protocols {protocols}; ssl_ciphers {ciphers};
                 {headers}
                 location = / {{ {limit} try_files /index.html =404; }}
                 {more}
               }}
             }}\n"
        )
    }
}

/// A host with nothing on it but the server.
struct Stage {
    netns: Netns,
    folder: tempfile::TempDir,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        stop_child(&mut self.0, Duration::from_secs(5));
    }
}

impl Stage {
    fn new() -> Self {
        let stage = Self { netns: Netns::create().unwrap(), folder: tempfile::tempdir().unwrap() };
        let folder = stage.folder.path();
        fs::create_dir(folder.join("www")).unwrap();
        fs::write(folder.join("www/index.html"), "<p>shop</p>\n").unwrap();
        fs::write(folder.join("shop.yaml"), POLICY).unwrap();
        let authority = || {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (trusted, unknown) = (authority(), authority());
        fs::write(folder.join("authority.pem"), trusted.pem()).unwrap();
        for (name, issuer, subject, last_year) in [
            ("good", &trusted, "127.0.0.1", 2999),
            ("expired", &trusted, "127.0.0.1", 2021),
            ("misnamed", &trusted, "shop.example", 2999),
            ("untrusted", &unknown, "127.0.0.1", 2999),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(last_year, 12, 31);
            let certificate = params.signed_by(&key, issuer).unwrap();
            fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        stage
    }

    fn serve(&self, site: &Site) -> Server {
        let folder = self.folder.path();
        let settings = folder.join("nginx.conf");
        fs::write(&settings, site.settings(folder)).unwrap();
        let nginx = find("nginx").unwrap_or_else(|| panic!("nginx: `cargo xtask setup` unpacks it"));
        let mut command = self.netns.command(nginx);
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(folder).arg("-c").arg(&settings);
        let mut server = Server(command.stdin(Stdio::null()).spawn().unwrap());
        let log = || fs::read_to_string(folder.join("error.log")).unwrap_or_default();
        let path = self.netns.path();
        let listens = || {
            anyhow::ensure!(server.0.try_wait()?.is_none(), "nginx has ended: {}", log());
            let connected =
                lab::netns::within(&path, || std::net::TcpStream::connect("127.0.0.1:443").is_ok())?;
            Ok(connected.then_some(()))
        };
        wait_for("nginx", Duration::from_secs(10), listens).unwrap();
        server
    }

    fn audit(&self, site: &Site) -> Told {
        let _server = self.serve(site);
        let folder = self.folder.path();
        let mut command = self.netns.command(agent_binary().unwrap());
        command.args(["audit", "-o", "json", "--docker-host", "unix:///nonexistent", "--policy"]);
        command.arg(folder.join("shop.yaml")).env("SSL_CERT_FILE", folder.join("authority.pem"));
        told(&mut command, ENDPOINT)
    }
}

#[test]
fn docker_audit_of_a_real_server_finds_what_was_planted_and_nothing_else() {
    let stage = Stage::new();
    let told = stage.audit(&Site::clean());
    let passed: BTreeSet<&str> =
        told.iter().filter(|(_, said)| said.starts_with("passed")).map(|(code, _)| code.as_str()).collect();
    let all = BTreeSet::from(crate::OF_ENDPOINTS);
    assert_eq!(passed, all, "{told:#?}");
    let without = |header: &'static str| {
        Site::with(move |site| site.headers.retain(|other| !other.starts_with(header)))
    };
    let (failed, unclear) = ("failed", "could_not_tell");
    let faults = [
        ("expired", Site::with(|site| site.certificate = "expired"), "A03", failed),
        ("for another name", Site::with(|site| site.certificate = "misnamed"), "A03", failed),
        ("of an unknown authority", Site::with(|site| site.certificate = "untrusted"), "A03", failed),
        (
            "an old version",
            Site::with(|site| {
                site.protocols = "TLSv1.1 TLSv1.2 TLSv1.3";
                site.ciphers = "ECDHE+AESGCM:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0";
            }),
            "A04",
            failed,
        ),
        (
            "a suite that does not encrypt",
            Site::with(|site| site.ciphers = "ECDHE+AESGCM:ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"),
            "A05",
            failed,
        ),
        ("no HSTS", without("Strict"), "A06", failed),
        (
            "HSTS for a minute",
            Site::with(|site| site.headers[0] = "Strict-Transport-Security \"max-age=60\""),
            "A06",
            failed,
        ),
        ("no nosniff", without("X-Content"), "A07", failed),
        ("no frame options", without("X-Frame"), "A07", failed),
        ("no policy for content", without("Content-Security"), "A07", failed),
        ("HTTP without a redirect", Site::with(|site| site.plain = "return 200;"), "A08", failed),
        ("no limit", Site::with(|site| site.limit = ""), "A09", unclear),
        (
            "a debug path",
            Site::with(|site| site.more = "location = /debug/vars { return 200; }"),
            "A11",
            failed,
        ),
        (
            "a debug path that the policy names",
            Site::with(|site| site.more = "location = /internal/state { return 200; }"),
            "A11",
            failed,
        ),
    ];
    for (what, site, code, outcome) in faults {
        let told = stage.audit(&site);
        let not_passed: Vec<(&str, bool)> = told
            .iter()
            .filter(|(_, said)| !said.starts_with("passed"))
            .map(|(code, said)| (code.as_str(), said.starts_with(outcome)))
            .collect();
        assert_eq!(not_passed, [(code, true)], "{what}: {told:#?}");
    }
}

#[test]
fn docker_audit_of_an_endpoint_that_hangs_ends() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let mut command = Command::new(agent_binary().unwrap());
    command.args(["audit", "-o", "json", "--docker-host", "unix:///nonexistent", "--endpoint", &endpoint]);
    command.arg("--policy").arg(repository().join("policies/app.yaml"));
    let told = told(&mut command, &endpoint);
    assert!(!told.is_empty() && !told.values().any(|said| said.starts_with("failed")), "{told:#?}");
}
