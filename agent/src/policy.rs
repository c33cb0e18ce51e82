//! The service exposure policy: its text, its meaning, and what it comes down to on a given host. Pure: no I/O,
//! no clock; `cargo xtask tidy` rejects imports that would break this.

pub mod effective;
pub mod entries;
pub mod glob;
pub mod matrix;
pub mod model;
mod names;
pub mod networks;
mod parse;
pub mod ports;
pub mod probes;
pub mod report;
pub mod resolve;
pub mod schema;
mod tree;
mod validate;

pub use self::{model::PolicySet, report::Mark, resolve::resolve};
use crate::diagnostics::{Diagnostic, has_errors};

/// One text to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As shown to people: a path, `stdin`.
    pub name: String,
    pub text: String,
}

/// What loading came to.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `None` if any finding is an error: a policy with an error never replaces the one in force.
    pub policies: Option<PolicySet>,
    /// Everything that was found, in the order of the texts.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads policies from texts; `profile` takes the place of the profile that a policy names itself.
#[must_use]
pub fn load(sources: &[Source], profile: Option<&str>) -> Loaded {
    let mut report = report::Report::new(sources);
    let mut policies = Vec::new();
    let mut complete = true;
    for (index, source) in sources.iter().enumerate() {
        let parsed = parse::parse(index, source, &mut report);
        complete &= parsed.complete;
        policies.extend(parsed.policies);
    }
    validate::validate(&policies, &mut report);
    // A profile that a document uses is not unknown because that document cannot be read.
    if complete {
        validate::profiles(&policies, profile, &mut report);
    }
    if let Some(profile) = profile {
        for policy in &mut policies {
            policy.profile = Some(profile.to_owned());
        }
    }
    let diagnostics = report.finish();
    let files = sources.iter().map(|source| source.name.clone()).collect();
    let policies = (!has_errors(&diagnostics)).then_some(PolicySet { policies, files });
    Loaded { policies, diagnostics }
}
