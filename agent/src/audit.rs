//! Looks at what runs, and says what of it is not as it should be. Nothing here changes anything.

mod bounded;
mod checklist;
pub mod firewall;
pub mod host;
pub mod http;
pub mod interval;
pub mod junit;
pub mod line;
pub mod open;
pub mod reach;
pub mod report;
pub mod rights;
pub mod running;
pub mod sarif;
pub mod sockets;
pub mod ssh;
pub mod textfile;
pub mod tls;
pub mod web;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use self::{
    firewall::{Default as Fate, Family},
    host::Host,
    line::{Answer, Line, Outcome},
    reach::Try,
    sockets::Sockets,
    web::{Endpoints, Web},
};
use crate::{
    check::{
        Finding, Policies,
        baseline::{Accepted, Baseline},
    },
    control::{self, client},
    inventory::docker::look,
    policy::{PolicySet, matrix::openings},
    status::Status,
};

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub docker_host: Option<String>,
    /// The agent's socket.
    pub control: PathBuf,
    pub endpoints: Endpoints,
    /// Network namespaces to call from, besides the host's own.
    pub from: Vec<PathBuf>,
    /// Tries no connection to containers, which the agent would count as denied, and counts no requests.
    pub passive: bool,
}

/// What was seen. What could not be looked at says why.
#[derive(Clone, Debug)]
pub struct Seen {
    pub host: Result<Host, String>,
    /// Answers of the engine that could not be read.
    pub unreadable: Vec<String>,
    pub status: Result<Status, String>,
    /// What was tried, if anything was to be tried at all.
    pub tries: Option<Vec<Try>>,
    pub sockets: Result<Sockets, String>,
    /// The fate of a stranger's connection to a port: of one that no rule names, and of those of `sshd`.
    pub firewall: Result<Firewall, String>,
    pub web: Vec<Web>,
}

/// What the host's firewall does.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    pub uplinks: Vec<String>,
    pub defaults: BTreeMap<Family, Fate>,
    /// By port.
    pub ports: BTreeMap<u16, BTreeMap<Family, Fate>>,
}

/// What an audit came to.
#[derive(Clone, Debug, Serialize)]
pub struct Audited {
    pub schema: &'static str,
    pub version: &'static str,
    /// When it was looked.
    pub at: String,
    pub engine: Option<String>,
    /// Why the engine could not be asked.
    pub error: Option<String>,
    pub instances: Vec<InstanceReport>,
    pub lines: Vec<Answer>,
    /// Findings that the baseline accepts.
    pub accepted: Vec<Accepted>,
    /// What is to be said about the baseline itself.
    pub baseline: Vec<Finding>,
    /// What was tried and what arrived.
    pub tries: Vec<Try>,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceReport {
    pub project: String,
    pub policy: String,
    pub profile: Option<String>,
    pub containers: Vec<String>,
    pub findings: Vec<Finding>,
}

/// The schema of [`Audited`]: fields may be added under the same name.
pub const SCHEMA: &str = "portcullis.audit/v1";

impl Audited {
    /// Every finding that is not accepted, with its project.
    pub fn findings(&self) -> impl Iterator<Item = (&str, &Finding)> {
        let of_instances = self.instances.iter().flat_map(|instance| {
            instance.findings.iter().map(move |finding| (instance.project.as_str(), finding))
        });
        of_instances.chain(self.baseline.iter().map(|finding| ("", finding)))
    }

    /// The lines that failed and are not accepted.
    pub fn failed(&self) -> impl Iterator<Item = &Answer> {
        self.lines.iter().filter(|answer| answer.outcome == Outcome::Failed && answer.accepted.is_none())
    }

    /// Endpoints that were to be probed and gave no answer that means anything, and why.
    pub fn silent(&self) -> impl Iterator<Item = (&str, &str)> {
        let versions = self.lines.iter().filter(|answer| answer.code == Line::TlsVersions);
        let untold = versions.filter(|answer| answer.outcome == Outcome::CouldNotTell);
        untold.filter_map(|answer| Some((answer.subject.as_deref()?, answer.evidence.first()?.as_str())))
    }

    /// Takes out the findings that the baseline accepts, and marks the lines.
    pub fn accept(&mut self, baseline: &Baseline) {
        let mut review = baseline.review(jiff::Zoned::now().date());
        for instance in &mut self.instances {
            for finding in std::mem::take(&mut instance.findings) {
                match review.reason(&finding) {
                    Some(reason) => self.accepted.push(Accepted { finding, reason }),
                    None => instance.findings.push(finding),
                }
            }
        }
        for answer in self.lines.iter_mut().filter(|answer| answer.outcome == Outcome::Failed) {
            let subject = answer.subject.as_deref();
            let service = subject.map(|subject| subject.rsplit('/').next().unwrap_or(subject));
            answer.accepted = review.reason_for(answer.code.code(), service, "", &answer.evidence.join("\n"));
        }
        self.baseline = review.finish();
    }
}

/// Looks at everything that was asked for. Takes a bounded time, whoever does not answer.
#[must_use]
pub fn look(request: &Request, policies: &PolicySet) -> Seen {
    let looked = runtime(look::look(request.docker_host.as_deref()));
    let (host, unreadable) = match looked {
        Ok(looked) => {
            let (mut host, unreadable) = Host::new(looked);
            host.ask_kernel();
            (Ok(host), unreadable)
        }
        Err(error) => (Err(error), Vec::new()),
    };
    let status = client::get_blocking::<Status>(&request.control, control::STATUS)
        .map_err(|error| report::chain(&error));
    let tries = (!request.passive).then(|| match &host {
        Ok(host) => reach::try_all(&host.instances(policies), host, &request.from),
        Err(_) => Vec::new(),
    });
    let sockets = sockets::read();
    let firewall = read_firewall(host.as_ref().ok(), sockets.as_ref().ok());
    let web = web::probe_all(&request.endpoints, request.passive);
    Seen { host, unreadable, status, tries, sockets, firewall, web }
}

fn runtime<T>(
    future: impl Future<Output = Result<T, crate::inventory::docker::DockerError>>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("failed to start a runtime: {error}"))?;
    runtime.block_on(future).map_err(|error| report::chain(&error))
}

fn read_firewall(host: Option<&Host>, sockets: Option<&Sockets>) -> Result<Firewall, String> {
    let printed = firewall::Printed::read().map_err(|error| report::chain(&error))?;
    let uplinks = sockets::uplinks(host)?;
    let fate = |port| printed.fate(&uplinks, port).map_err(|error| report::chain(&error));
    let mut ports = BTreeMap::new();
    for address in sockets.iter().flat_map(|sockets| &sockets.ssh) {
        ports.insert(address.port(), fate(Some(address.port()))?);
    }
    Ok(Firewall { defaults: fate(None)?, ports, uplinks: uplinks.clone() })
}

/// Judges what was seen. Pure.
#[must_use]
pub fn judge(policies: &PolicySet, seen: &Seen) -> Audited {
    let mut instances = Vec::new();
    let mut lines = Vec::new();
    let at = jiff::Timestamp::now().to_string();
    let openings = openings(policies).map_err(|error| error.to_string());
    if let Ok(host) = &seen.host {
        for instance in host.instances(policies) {
            let findings = match &openings {
                Ok(openings) => running::findings(&instance, host, Policies { set: policies, openings }),
                Err(error) => {
                    lines.extend(checklist::untold(&instance, error));
                    continue;
                }
            };
            lines.extend(checklist::instance(&instance, &findings, host, seen));
            instances.push(InstanceReport {
                project: instance.project.clone(),
                policy: instance.policy.name.clone(),
                profile: instance.policy.profile.clone(),
                containers: instance.containers.iter().map(|container| container.name.clone()).collect(),
                findings,
            });
        }
    }
    lines.extend(checklist::host(policies, seen));
    lines.sort_by_key(|answer| answer.code);
    Audited {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        at,
        engine: seen.host.as_ref().ok().map(|host| host.engine.clone()),
        error: seen.host.as_ref().err().cloned(),
        instances,
        lines,
        accepted: Vec::new(),
        baseline: Vec::new(),
        tries: seen.tries.clone().unwrap_or_default(),
    }
}
