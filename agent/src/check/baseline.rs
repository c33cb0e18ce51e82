//! Findings that somebody has looked at and accepts, each with a reason, some until a day.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_saphyr::{Location, Spanned};

use super::{Code, Finding};
use crate::{
    diagnostics::{Diagnostic, Place, Severity},
    policy::Source,
};

/// A baseline file.
#[derive(Clone, Debug)]
pub struct Baseline {
    name: String,
    entries: Vec<Entry>,
}

/// What is accepted.
#[derive(Clone, Debug)]
struct Entry {
    code: Code,
    service: Option<String>,
    file: Option<String>,
    contains: Option<String>,
    reason: String,
    expires: Option<Date>,
    place: Place,
}

/// A finding that the baseline accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    #[serde(flatten)]
    pub finding: Finding,
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    version: u32,
    #[serde(default)]
    accept: Vec<Spanned<WrittenEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    code: String,
    service: Option<String>,
    file: Option<String>,
    contains: Option<String>,
    reason: String,
    expires: Option<String>,
}

impl Baseline {
    /// Reads a baseline.
    pub fn parse(source: &Source) -> Result<Self, Box<Diagnostic>> {
        let fault = |message: String, place: Option<Place>, hint: Option<&str>| {
            let (file, hint) = (source.name.clone(), hint.map(str::to_owned));
            Box::new(Diagnostic { severity: Severity::Error, code: "B001", message, file, place, hint })
        };
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: 8, max_nodes: 50_000, max_events: 150_000 },
            with_snippet: false,
        };
        let written: WrittenFile =
            serde_saphyr::from_str_with_options(&source.text, options).map_err(|error| {
                let inner = error.without_snippet();
                let place = inner.location().map(|location| place(source, location));
                let text = inner.render();
                let text = text.lines().next().unwrap_or_default();
                let text = text.rfind(" at line ").map_or(text, |cut| &text[..cut]);
                let message = format!("not a baseline: {}", text.trim_start_matches("error: "));
                fault(
                    message,
                    place,
                    Some("`version: 1`, and below `accept` entries with `code` and `reason`"),
                )
            })?;
        if written.version != 1 {
            let hint = Some("this version reads `version: 1`");
            return Err(fault(format!("unknown version `{}`", written.version), None, hint));
        }
        let mut entries = Vec::new();
        for spanned in written.accept {
            let at = place(source, spanned.defined);
            let entry = spanned.value;
            let Some(code) =
                Code::ALL.iter().copied().find(|code| code.text() == entry.code || code.name() == entry.code)
            else {
                let message = format!("there is no finding `{}`", entry.code);
                return Err(fault(message, Some(at), Some("findings are called `F001` or by their name")));
            };
            if entry.reason.trim().is_empty() {
                let message = format!("`{code}` is accepted without a reason");
                return Err(fault(message, Some(at), Some("say why, for whoever reads it next year")));
            }
            let expires = match &entry.expires {
                None => None,
                Some(text) => Some(text.parse::<Date>().map_err(|_not_a_day| {
                    let message = format!("`{text}` is no day");
                    fault(message, Some(at.clone()), Some("days are written `2027-01-31`"))
                })?),
            };
            entries.push(Entry {
                code,
                service: entry.service,
                file: entry.file,
                contains: entry.contains,
                reason: entry.reason,
                expires,
                place: at,
            });
        }
        Ok(Self { name: source.name.clone(), entries })
    }

    /// Takes out what is accepted, and adds what is to be said about the baseline itself.
    #[must_use]
    pub fn apply(&self, findings: Vec<Finding>, today: Date) -> (Vec<Finding>, Vec<Accepted>) {
        let mut used = vec![false; self.entries.len()];
        let mut kept = Vec::new();
        let mut accepted = Vec::new();
        for finding in findings {
            let mut reason = None;
            for (entry, used) in self.entries.iter().zip(&mut used) {
                if entry.matches(&finding) {
                    *used = true;
                    if !entry.is_over(today) {
                        reason = reason.or(Some(entry.reason.clone()));
                    }
                }
            }
            match reason {
                Some(reason) => accepted.push(Accepted { finding, reason }),
                None => kept.push(finding),
            }
        }
        for (entry, used) in self.entries.iter().zip(used) {
            if !used {
                let message = format!("nothing is found of what is accepted here: `{}`", entry.code);
                kept.push(self.finding(entry, Code::BaselineUnused, message));
            } else if entry.is_over(today) {
                let until = entry.expires.map(|day| day.to_string()).unwrap_or_default();
                let message = format!("`{}` was accepted until {until}", entry.code);
                kept.push(self.finding(entry, Code::BaselineExpired, message));
            }
        }
        (kept, accepted)
    }

    fn finding(&self, entry: &Entry, code: Code, message: String) -> Finding {
        Finding {
            code,
            name: code.name(),
            level: code.level(),
            message,
            service: entry.service.clone(),
            file: self.name.clone(),
            place: Some(entry.place.clone()),
            rule: None,
            fix: code.fix().to_owned(),
        }
    }
}

impl Entry {
    fn matches(&self, finding: &Finding) -> bool {
        self.code == finding.code
            && self.service.as_ref().is_none_or(|service| finding.service.as_ref() == Some(service))
            && self.file.as_ref().is_none_or(|file| finding.file.ends_with(file.as_str()))
            && self.contains.as_ref().is_none_or(|part| finding.message.contains(part.as_str()))
    }

    fn is_over(&self, today: Date) -> bool {
        self.expires.is_some_and(|day| day < today)
    }
}

fn place(source: &Source, location: Location) -> Place {
    let line = usize::try_from(location.line()).unwrap_or(1).max(1);
    let start: usize = source.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = source.text.get(start..).unwrap_or_default();
    let column = usize::try_from(location.column()).unwrap_or(1).max(1);
    let offset = rest.char_indices().nth(column - 1).map_or(0, |(offset, _)| offset);
    Place::of_bytes(&source.text, start + offset, source.text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: Code, service: &str) -> Finding {
        Finding {
            code,
            name: code.name(),
            level: code.level(),
            message: "port `1/tcp` is published".to_owned(),
            service: Some(service.to_owned()),
            file: "compose.yaml".to_owned(),
            place: None,
            rule: None,
            fix: String::new(),
        }
    }

    fn source(text: &str) -> Source {
        Source { name: "baseline.yaml".to_owned(), text: text.to_owned() }
    }

    const TODAY: Date = jiff::civil::date(2026, 11, 22);

    #[test]
    fn what_is_accepted_what_is_over_and_what_is_unused() {
        let text = "version: 1\naccept:\n  - { code: F001, service: db, reason: a bastion needs it }\n  - { code: dangerous-mount, reason: old, expires: 2026-11-21 }\n  - { code: F009, contains: nothing, reason: gone }\n";
        let baseline = Baseline::parse(&source(text)).unwrap();
        let findings = vec![
            finding(Code::InternalPublished, "db"),
            finding(Code::InternalPublished, "web"),
            finding(Code::DangerousMount, "web"),
        ];
        let (kept, accepted) = baseline.apply(findings, TODAY);
        let codes: Vec<&str> = kept.iter().map(|finding| finding.code.text()).collect();
        assert_eq!(codes, ["F001", "F011", "F023", "F022"]);
        assert_eq!(accepted.len(), 1);
        assert_eq!(accepted[0].reason, "a bastion needs it");
        assert_eq!(kept[2].place.as_ref().map(|place| place.line), Some(4));
    }

    #[test]
    fn mistakes_have_a_place() {
        for (text, line, part) in [
            ("version: 1\naccept:\n  - { code: F999, reason: x }\n", Some(3), "no finding `F999`"),
            ("version: 1\naccept:\n  - { code: F001, reason: ' ' }\n", Some(3), "without a reason"),
            (
                "version: 1\naccept:\n  - { code: F001, reason: x, expires: soon }\n",
                Some(3),
                "`soon` is no day",
            ),
            ("version: 1\naccept:\n  - { code: F001, reson: x }\n", Some(3), "not a baseline"),
            ("version: 2\n", None, "unknown version `2`"),
        ] {
            let fault = Baseline::parse(&source(text)).unwrap_err();
            assert!(fault.message.contains(part), "{fault:?}");
            assert_eq!(fault.place.map(|place| place.line), line, "{text}");
        }
    }
}
