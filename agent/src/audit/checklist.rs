//! The lines of the audit, answered from what was seen. Pure.

mod endpoint;
mod enforcement;
mod instance;
mod machine;

use super::{
    Seen,
    host::{Host, Instance},
    line::{Answer, Line, Outcome},
};
use crate::{
    check::{Code, Finding},
    policy::PolicySet,
};

/// The lines about one instance.
const OF_INSTANCE: [Line; 9] = [
    Line::OnlyProxyPublic,
    Line::NonRoot,
    Line::PrivateNetworks,
    Line::InstancesIsolated,
    Line::NoEscape,
    Line::KnownServices,
    Line::ReachableAllowed,
    Line::Enforced,
    Line::Enforceable,
];

/// Everything about one instance.
pub(super) fn instance(
    instance: &Instance<'_>,
    findings: &[Finding],
    host: &Host,
    seen: &Seen,
) -> Vec<Answer> {
    let asked = Asked { instance, findings, host, seen };
    let mut answers = instance::internal(&asked);
    answers.extend(instance::development(&asked));
    answers.extend([
        instance::public(&asked),
        instance::non_root(&asked),
        instance::networks(&asked),
        instance::isolated(&asked),
        instance::escape(&asked),
        instance::known(&asked),
        instance::reachable(&asked),
        enforcement::enforced(&asked),
        enforcement::enforceable(&asked),
    ]);
    answers
}

/// The same, if the findings could not be had.
pub(super) fn untold(instance: &Instance<'_>, why: &str) -> Vec<Answer> {
    OF_INSTANCE.into_iter().map(|line| could_not_tell(line, Some(instance.project.clone()), why)).collect()
}

/// Everything about the host and its endpoints, and one line for each of an instance if no engine could be asked.
pub(super) fn host(_policies: &PolicySet, seen: &Seen) -> Vec<Answer> {
    let mut answers = endpoint::all(&seen.web);
    answers.extend([
        machine::firewall(seen),
        machine::ssh(seen),
        machine::root_login(seen),
        machine::api(seen),
    ]);
    match &seen.host {
        Ok(host) => answers.extend([machine::sockets_mounted(host, seen), machine::bound(host, seen)]),
        Err(error) => {
            let lines =
                [Line::InternalClosed, Line::NoDevServices, Line::SocketNotMounted, Line::DeclaredBound];
            answers
                .extend(lines.into_iter().chain(OF_INSTANCE).map(|line| could_not_tell(line, None, error)));
        }
    }
    answers
}

/// What the lines of an instance are answered from.
struct Asked<'a> {
    instance: &'a Instance<'a>,
    findings: &'a [Finding],
    host: &'a Host,
    seen: &'a Seen,
}

impl Asked<'_> {
    fn subject(&self) -> Option<String> {
        Some(self.instance.project.clone())
    }

    fn service(&self, service: &str) -> Option<String> {
        Some(format!("{}/{service}", self.instance.project))
    }

    /// The findings of some kinds, as evidence.
    fn found(&self, codes: &[Code]) -> Vec<String> {
        let found = self.findings.iter().filter(|finding| codes.contains(&finding.code));
        found.map(told).collect()
    }

    /// Failed if there is a finding of these kinds; else what was looked at is the evidence.
    fn by_findings(&self, line: Line, codes: &[Code]) -> Answer {
        let found = self.found(codes);
        if found.is_empty() {
            let what = self.looked_at();
            return Answer::new(line, self.subject(), Outcome::Passed, vec![what]);
        }
        Answer::new(line, self.subject(), Outcome::Failed, found)
    }

    fn looked_at(&self) -> String {
        match self.instance.containers.len() {
            1 => "looked at 1 container".to_owned(),
            count => format!("looked at {count} containers"),
        }
    }
}

fn told(finding: &Finding) -> String {
    let container =
        finding.container.as_deref().map(|name| format!(" (container `{name}`)")).unwrap_or_default();
    format!("{}: {}{container}", finding.code, finding.message)
}

fn could_not_tell(line: Line, subject: Option<String>, why: &str) -> Answer {
    Answer::new(line, subject, Outcome::CouldNotTell, vec![why.to_owned()])
}

/// Failed if something speaks against it, unclear if something is unclear, else passed.
fn weigh(
    line: Line,
    subject: Option<String>,
    against: Vec<String>,
    unclear: Vec<String>,
    looked: Vec<String>,
) -> Answer {
    if !against.is_empty() {
        return Answer::new(line, subject, Outcome::Failed, against);
    }
    if !unclear.is_empty() {
        return Answer::new(line, subject, Outcome::CouldNotTell, unclear);
    }
    Answer::new(line, subject, Outcome::Passed, looked)
}

#[cfg(test)]
mod tests;
