//! Compose files against the policy, before anything starts: what would be exposed that the policy does not allow, and
//! what would stand in the way of enforcing it. Pure but for the date, which the caller brings.

pub mod baseline;
pub mod code;
mod exposure;
pub mod junit;
mod membership;
mod networks;
mod privileges;
pub mod report;
pub mod sarif;
mod subject;
pub mod surface;

use compose::{Project, Sources, Span};
use serde::Serialize;

pub use self::code::{Code, Level};
use self::{subject::Subject, surface::Surface};
use crate::{
    diagnostics::Place,
    policy::{
        PolicySet,
        matrix::{Openings, openings},
        model::{Policy, Target},
        resolve::ResolveError,
    },
};

/// One thing that is not as the policy wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: Code,
    pub name: &'static str,
    pub level: Level,
    /// Lower case, literal values in backticks, no full stop.
    pub message: String,
    /// The compose service that it is about, if it is about one.
    pub service: Option<String>,
    /// The container that it is about, if it is about what runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The compose file, as shown to people; empty for what runs.
    pub file: String,
    #[serde(flatten)]
    pub place: Option<Place>,
    /// `file:line` of the rule in the policy.
    pub rule: Option<String>,
    /// What to change.
    pub fix: String,
}

/// What a check came to.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub project: String,
    pub policy: String,
    pub profile: Option<String>,
    /// The services in use.
    pub services: Vec<String>,
    pub findings: Vec<Finding>,
    pub surface: Surface,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("no policy applies to the project `{project}`")]
    NoPolicy { project: String, patterns: Vec<String> },
    #[error("failed to resolve the policies")]
    Resolve(#[from] ResolveError),
}

impl CheckError {
    /// How to fix it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoPolicy { patterns, .. } => Some(format!(
                "the policies apply to {}; name the project by `--project-name` or give one policy only",
                patterns.join(", ")
            )),
            Self::Resolve(_) => None,
        }
    }
}

/// Checks a project against the policy that applies to it. If there is only one, it is that one.
pub fn check(project: &Project, sources: &Sources, policies: &PolicySet) -> Result<Checked, CheckError> {
    let applies = |policy: &&Policy| match &policy.target {
        Target::Project(glob) => glob.matches(&project.name),
        Target::Container(_) => false,
    };
    let covering = policies.policies.iter().find(applies);
    let only = Some(&policies.policies).filter(|all| all.len() == 1).and_then(|all| all.first());
    let policy = covering.or(only).ok_or_else(|| CheckError::NoPolicy {
        project: project.name.clone(),
        patterns: policies.policies.iter().map(pattern).collect(),
    })?;
    let policies = Policies { set: policies, openings: &openings(policies)? };
    Ok(judge(project, sources, policies, policy, Origin::Files { covered: covering.is_some() }))
}

/// Where a project comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compose files, whose project the policy is for, or is not.
    Files { covered: bool },
    /// The containers that run.
    Host,
}

/// Policies, and what is open under them: worked out once for however many projects.
#[derive(Clone, Copy, Debug)]
pub struct Policies<'p> {
    pub set: &'p PolicySet,
    pub openings: &'p Openings,
}

/// Judges a project by a policy of the set.
#[must_use]
pub fn judge(
    project: &Project,
    sources: &Sources,
    policies: Policies<'_>,
    policy: &Policy,
    origin: Origin,
) -> Checked {
    let subject = Subject::new(project, origin, policy, policies.openings);
    let mut found = Found { sources, policies: policies.set, findings: Vec::new() };
    membership::check(&subject, origin != (Origin::Files { covered: false }), &mut found);
    exposure::check(&subject, &mut found);
    privileges::check(&subject, &mut found);
    networks::check(&subject, &mut found);
    Checked {
        project: project.name.clone(),
        policy: policy.name.clone(),
        profile: policy.profile.clone(),
        services: subject.services.iter().map(|service| service.name.to_owned()).collect(),
        findings: found.finish(),
        surface: surface::surface(&subject),
    }
}

/// What a policy applies to, as it is written.
fn pattern(policy: &Policy) -> String {
    match &policy.target {
        Target::Project(glob) => format!("project `{glob}`"),
        Target::Container(glob) => format!("container `{glob}`"),
    }
}

/// Where findings go.
struct Found<'f> {
    sources: &'f Sources,
    policies: &'f PolicySet,
    findings: Vec<(Span, Finding)>,
}

/// What a finding says, besides its code.
struct Detail<'d> {
    service: Option<&'d str>,
    span: Span,
    message: String,
    rule: Option<crate::policy::Mark>,
    fix: String,
}

impl Found<'_> {
    fn add(&mut self, code: Code, detail: Detail<'_>) {
        let source = self.sources.files.get(detail.span.source);
        let finding = Finding {
            code,
            name: code.name(),
            level: code.level(),
            message: detail.message,
            service: detail.service.map(str::to_owned),
            container: None,
            file: source.map(|source| source.name.clone()).unwrap_or_default(),
            place: source.map(|source| Place::of_bytes(&source.text, detail.span.start, detail.span.end)),
            rule: detail.rule.map(|mark| self.policies.at(mark)),
            fix: detail.fix,
        };
        self.findings.push((detail.span, finding));
    }

    /// What stands at a place.
    fn written(&self, span: Span) -> &str {
        let text = self.sources.files.get(span.source).map(|source| source.text.as_str());
        text.and_then(|text| text.get(span.start..span.end)).unwrap_or_default()
    }

    /// In the order of the files; what is found twice at one place is there once.
    fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|(span, finding)| (*span, finding.code));
        self.findings.dedup_by(|(_, left), (_, right)| left == right);
        self.findings.into_iter().map(|(_, finding)| finding).collect()
    }
}
