//! Collects the findings of one load, so that one mistake never hides the others.

use super::Source;
use crate::diagnostics::{Diagnostic, Place, Severity};

/// A place in one of the loaded texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Which of the sources.
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// One beyond the last byte.
    pub end: usize,
    /// From 1.
    pub line: usize,
}

/// The kinds of findings. Codes are stable: they are never renumbered or reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Syntax,
    Limit,
    Empty,
    UnknownKey,
    MissingKey,
    WrongType,
    BadValue,
    DuplicateKey,
    BadName,
    SharedName,
    DuplicatePolicy,
    UnknownName,
    BadCidr,
    BadPort,
    PortTwice,
    BadPeer,
    HostDocument,
    UnknownProfile,
    LonelyOverlay,
    GlobOverlap,
    NothingOpen,
    NeverInProfile,
    IdleEgress,
}

impl Code {
    const fn text(self) -> &'static str {
        match self {
            Self::Syntax => "P001",
            Self::Limit => "P002",
            Self::Empty => "P003",
            Self::UnknownKey => "P004",
            Self::MissingKey => "P005",
            Self::WrongType => "P006",
            Self::BadValue => "P007",
            Self::DuplicateKey => "P008",
            Self::BadName => "P009",
            Self::SharedName => "P010",
            Self::DuplicatePolicy => "P011",
            Self::UnknownName => "P012",
            Self::BadCidr => "P013",
            Self::BadPort => "P014",
            Self::PortTwice => "P015",
            Self::BadPeer => "P016",
            Self::HostDocument => "P017",
            Self::UnknownProfile => "P018",
            Self::LonelyOverlay => "P019",
            Self::GlobOverlap => "P020",
            Self::NothingOpen => "P021",
            Self::NeverInProfile => "P022",
            Self::IdleEgress => "P023",
        }
    }

    const fn severity(self) -> Severity {
        match self {
            Self::LonelyOverlay | Self::NothingOpen | Self::NeverInProfile | Self::IdleEgress => {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }
}

/// Where findings go.
#[derive(Debug)]
pub(super) struct Report<'a> {
    sources: &'a [Source],
    found: Vec<(Option<Mark>, Diagnostic)>,
    /// How many findings there was no room for.
    left_off: usize,
}

/// More findings help nobody, and a hostile file could have tens of thousands.
const MAX_FINDINGS: usize = 200;

impl<'a> Report<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Self {
        Self { sources, found: Vec::new(), left_off: 0 }
    }

    /// Whether further findings are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MAX_FINDINGS
    }

    /// Adds a finding at a place.
    pub(super) fn add(&mut self, code: Code, mark: Mark, message: String, hint: Option<String>) {
        if self.is_full() {
            self.left_off += 1;
            return;
        }
        let (file, place) = self.sources.get(mark.source).map_or_else(
            || (String::new(), None),
            |source| (source.name.clone(), Some(Place::of_bytes(&source.text, mark.start, mark.end))),
        );
        self.push(code, Some(mark), file, place, message, hint);
    }

    /// Adds a finding about a text as a whole, or about all of them.
    pub(super) fn add_whole(&mut self, code: Code, file: &str, message: String, hint: Option<String>) {
        self.push(code, None, file.to_owned(), None, message, hint);
    }

    fn push(
        &mut self,
        code: Code,
        mark: Option<Mark>,
        file: String,
        place: Option<Place>,
        message: String,
        hint: Option<String>,
    ) {
        if self.is_full() {
            self.left_off += 1;
            return;
        }
        let diagnostic =
            Diagnostic { severity: code.severity(), code: code.text(), message, file, place, hint };
        // A text that is reached twice, through a YAML alias, is reported once.
        let entry = (mark, diagnostic);
        if !self.found.contains(&entry) {
            self.found.push(entry);
        }
    }

    /// `file:line`, for messages that mention a second place.
    pub(super) fn at(&self, mark: Mark) -> String {
        let name = self.sources.get(mark.source).map_or("", |source| source.name.as_str());
        format!("{name}:{}", mark.line)
    }

    /// How many errors were found so far.
    pub(super) fn errors(&self) -> usize {
        self.found.iter().filter(|(_, diagnostic)| diagnostic.severity == Severity::Error).count()
    }

    /// The findings in the order of the texts.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(mark, _)| mark.map(|mark| (mark.source, mark.start)));
        let mut found: Vec<Diagnostic> = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if self.left_off > 0 {
            found.push(Diagnostic {
                severity: Severity::Error,
                code: Code::Limit.text(),
                message: format!("{} more findings are not shown", self.left_off),
                file: String::new(),
                place: None,
                hint: None,
            });
        }
        found
    }
}
