//! A public endpoint, asked as clients do: TLS, the answer to `GET /`, the redirect from HTTP, paths that should not be
//! there, and whether many requests are stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, ToSocketAddrs},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio_rustls::rustls::RootCertStore;

use super::{
    http::{self, Response},
    report::chain,
    tls::{self, Offers, Patience, Trust},
};
use crate::policy::{PolicySet, probes::PublicEndpoint};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);
/// How long names may take to be resolved, all paths to be asked for, and all requests to be counted.
const RESOLVE: Duration = Duration::from_secs(5);
const PATHS: Duration = Duration::from_secs(15);
const COUNT: Duration = Duration::from_secs(5);
const REQUESTS: usize = 40;

/// Paths that frameworks and servers open for their developers.
pub const DEBUG_PATHS: [&str; 14] = [
    "/debug",
    "/debug/pprof/",
    "/debug/vars",
    "/__debug__/",
    "/_profiler",
    "/actuator",
    "/actuator/env",
    "/server-status",
    "/nginx_status",
    "/phpinfo.php",
    "/console",
    "/.env",
    "/.git/config",
    "/metrics",
];
/// Whoever answers to this answers to everything.
const IMPOSSIBLE: &str = "/portcullis-audit-no-such-path";

const NOT_COUNTED: &str = "requests are not counted: `--passive`";

/// Endpoints, each with the paths that must not be there besides the well-known ones.
pub type Endpoints = BTreeMap<PublicEndpoint, BTreeSet<String>>;

/// The endpoints that policies name; those of the command line take their place, and so do its paths.
#[must_use]
pub fn endpoints(policies: &PolicySet, instead: &[PublicEndpoint], paths_instead: &[String]) -> Endpoints {
    let mut endpoints = Endpoints::new();
    let probes = || policies.policies.iter().map(|policy| &policy.probes);
    for probes in probes().filter(|_| instead.is_empty()) {
        for endpoint in &probes.endpoints {
            endpoints.entry(endpoint.clone()).or_default().extend(probes.debug_paths.iter().cloned());
        }
    }
    for endpoint in instead {
        let paths = probes().flat_map(|probes| &probes.debug_paths).cloned().collect();
        endpoints.insert(endpoint.clone(), paths);
    }
    if !paths_instead.is_empty() {
        endpoints.values_mut().for_each(|paths| *paths = paths_instead.iter().cloned().collect());
    }
    endpoints
}

/// What an endpoint has shown.
#[derive(Clone, Debug)]
pub struct Web {
    pub endpoint: String,
    pub offers: Result<Offers, String>,
    pub trust: Result<Trust, String>,
    /// The answer to `GET /`.
    pub answer: Result<Response, String>,
    pub plain: Plain,
    /// Statuses by path, beside that of a path that cannot exist.
    pub paths: Result<(u16, BTreeMap<String, u16>), String>,
    pub rate: Result<Rate, String>,
}

/// What port 80 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The status, and where to go.
    Answer(u16, Option<String>),
    Closed,
    Unknown(String),
}

/// What came of many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: usize,
    /// The status that stopped them, or the header that tells of a limit.
    pub limited_by: Option<String>,
}

/// Asks every endpoint, all at once, each also for its paths.
#[must_use]
pub fn probe_all(endpoints: &Endpoints, passive: bool) -> Vec<Web> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let roots = tls::roots_of_the_system();
    thread::scope(|scope| {
        let roots = &roots;
        let probes: Vec<_> = endpoints
            .iter()
            .map(|(endpoint, paths)| scope.spawn(move || probe(endpoint, paths, passive, roots)))
            .collect();
        probes.into_iter().filter_map(|probe| probe.join().ok()).collect()
    })
}

fn probe(endpoint: &PublicEndpoint, paths: &BTreeSet<String>, passive: bool, roots: &RootCertStore) -> Web {
    let name = endpoint.to_string();
    let address = match resolve(&endpoint.host, endpoint.port) {
        Ok(address) => address,
        Err(error) => return silent(name, Plain::Unknown(error.clone()), &error),
    };
    let target = tls::Endpoint {
        address,
        name: &endpoint.host,
        patience: Patience { question: QUESTION, ..Patience::default() },
    };
    let plain = plain(SocketAddr::new(address.ip(), 80), &endpoint.host);
    let offers = target.offers().map_err(|error| chain(&error));
    // Who does not answer the first question would let each of the others wait.
    if let Err(error) = &offers {
        return silent(name, plain, error);
    }
    let get = |path: &str| -> Result<(Trust, Response), String> {
        let mut session = target.greet(roots.clone()).map_err(|error| chain(&error))?;
        let answer = session.get(&endpoint.host, path);
        let trust = session.trust.clone();
        answer.map(|answer| (trust, answer)).map_err(|error| format!("no answer to `GET {path}`: {error}"))
    };
    let trust = target.greet(roots.clone()).map(|session| session.trust).map_err(|error| chain(&error));
    let answer = get("/").map(|(_, answer)| answer);
    let status = |path: &str| get(path).map(|(_, answer)| answer);
    let paths = ask_paths(paths, &status);
    let rate = if passive { Err(NOT_COUNTED.to_owned()) } else { count(&status) };
    Web { endpoint: name, offers, trust, answer, plain, paths, rate }
}

fn silent(endpoint: String, plain: Plain, error: &str) -> Web {
    Web {
        endpoint,
        offers: Err(error.to_owned()),
        trust: Err(error.to_owned()),
        answer: Err(error.to_owned()),
        plain,
        paths: Err(error.to_owned()),
        rate: Err(error.to_owned()),
    }
}

/// The system's resolver has a patience of its own, which is not ours.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (name, asked) = (host.to_owned(), host.to_owned());
    thread::spawn(move || {
        let found = (asked.as_str(), port).to_socket_addrs().map(|mut all| all.next());
        // Nobody waits any more.
        let _late = sender.send(found);
    });
    match receiver.recv_timeout(RESOLVE) {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Ok(None)) => Err(format!("`{name}` has no address")),
        Ok(Err(error)) => Err(format!("failed to resolve `{name}`: {error}")),
        Err(_) => Err(format!("failed to resolve `{name}`: no answer within {} s", RESOLVE.as_secs())),
    }
}

fn plain(address: SocketAddr, host: &str) -> Plain {
    match http::get(address, host, "/", QUESTION) {
        Ok(answer) => Plain::Answer(answer.status, answer.header("location").map(str::to_owned)),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Plain::Closed,
        Err(error) => Plain::Unknown(format!("no answer from `{address}`: {error}")),
    }
}

type Status<'a> = &'a dyn Fn(&str) -> Result<Response, String>;

fn ask_paths(more: &BTreeSet<String>, get: Status<'_>) -> Result<(u16, BTreeMap<String, u16>), String> {
    let deadline = Instant::now() + PATHS;
    let impossible = get(IMPOSSIBLE)?.status;
    let mut found = BTreeMap::new();
    for path in DEBUG_PATHS.into_iter().chain(more.iter().map(String::as_str)) {
        if Instant::now() > deadline {
            return Err(format!("not all paths were answered within {} s", PATHS.as_secs()));
        }
        found.insert(path.to_owned(), get(path)?.status);
    }
    Ok((impossible, found))
}

fn count(get: Status<'_>) -> Result<Rate, String> {
    let deadline = Instant::now() + COUNT;
    let mut requests = 0;
    while requests < REQUESTS && Instant::now() < deadline {
        let answer = get("/")?;
        requests += 1;
        let header = answer.headers.iter().map(|(name, _)| name).find(|name| {
            name.starts_with("ratelimit") || name.starts_with("x-ratelimit") || *name == "x-rate-limit-limit"
        });
        let limited_by = match answer.status {
            status @ (429 | 503) => Some(format!("status {status}")),
            _ => header.map(|name| format!("header `{name}`")),
        };
        if limited_by.is_some() {
            return Ok(Rate { requests, limited_by });
        }
    }
    Ok(Rate { requests, limited_by: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, Source};

    #[test]
    fn what_is_asked_stands_in_the_policies_unless_the_command_line_says_otherwise() {
        let policy = |name: &str, audit: &str| Source {
            name: format!("{name}.yaml"),
            text: format!(
                "version: 1\npolicy: {name}\napplies_to: {{ project: {name} }}\naudit: {audit}\nservices: {{}}\n"
            ),
        };
        let sources = [
            policy("a", "{ endpoints: [\"https://a.example\", \"https://b.example\"], debug_paths: [/x] }"),
            policy("b", "{ endpoints: [\"https://b.example\"], debug_paths: [/y] }"),
        ];
        let policies = policy::load(&sources, None).policies.unwrap();
        let shown = |instead: &[&str], paths: &[&str]| -> Vec<String> {
            let instead: Vec<PublicEndpoint> = instead.iter().map(|text| text.parse().unwrap()).collect();
            let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
            let all = endpoints(&policies, &instead, &paths);
            all.iter().map(|(endpoint, paths)| format!("{endpoint} {paths:?}")).collect()
        };
        assert_eq!(shown(&[], &[]), ["https://a.example {\"/x\"}", "https://b.example {\"/x\", \"/y\"}"]);
        assert_eq!(shown(&["https://c.example"], &[]), ["https://c.example {\"/x\", \"/y\"}"]);
        assert_eq!(shown(&[], &["/z"]), ["https://a.example {\"/z\"}", "https://b.example {\"/z\"}"]);
    }

    #[test]
    fn a_limit_is_seen_by_status_and_by_header() {
        let answer = |status, headers: &[(&str, &str)]| Response {
            status,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let asked = std::cell::Cell::new(0);
        let sixth = |_: &str| {
            asked.set(asked.get() + 1);
            Ok(answer(if asked.get() > 5 { 429 } else { 200 }, &[]))
        };
        assert_eq!(count(&sixth), Ok(Rate { requests: 6, limited_by: Some("status 429".to_owned()) }));
        let told = |_: &str| Ok(answer(200, &[("ratelimit-limit", "10")]));
        assert_eq!(count(&told).unwrap().limited_by.as_deref(), Some("header `ratelimit-limit`"));
        let free = |_: &str| Ok(answer(200, &[]));
        assert_eq!(count(&free), Ok(Rate { requests: REQUESTS, limited_by: None }));
    }
}
