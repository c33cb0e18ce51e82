//! Findings about what a user wrote: where, what, and how to fix it, for people and as JSON. Decides nothing about
//! colour or streams: the caller knows its terminal.

use std::fmt::Write as _;

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DEFAULT_HELP_STYLE,
};
use serde::Serialize;

/// Whether a finding stops what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
    Info,
}

/// One finding about a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, for suppressing and for reports: `P004`.
    pub code: &'static str,
    /// Lower case, literal values in backticks, no full stop.
    pub message: String,
    /// The text's name as shown to people.
    pub file: String,
    pub place: Option<Place>,
    pub hint: Option<String>,
}

/// A place in a text, with what is needed to show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters, at least 1, never beyond the line.
    pub length: usize,
    /// The line itself, empty if it is too long to be shown.
    #[serde(skip)]
    pub excerpt: String,
}

/// Lines longer than this were not made for people.
const MAX_EXCERPT: usize = 4096;

impl Place {
    /// The place of the bytes from `start` to `end`, cut at the end of its first line.
    #[must_use]
    pub fn of_bytes(text: &str, start: usize, end: usize) -> Self {
        let start = floor_char_boundary(text, start);
        let end = floor_char_boundary(text, end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[..start].bytes().filter(|&byte| byte == b'\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let length = text[start..end.min(line_end)].trim_end().chars().count().max(1);
        let whole = text[line_start..line_end].trim_end_matches('\r');
        let excerpt = if whole.len() > MAX_EXCERPT { String::new() } else { whole.to_owned() };
        Self { line, column, length, excerpt }
    }

    fn byte_range(&self) -> std::ops::Range<usize> {
        let offset = |chars: usize| {
            self.excerpt.char_indices().nth(chars).map_or(self.excerpt.len(), |(byte, _)| byte)
        };
        offset(self.column - 1)..offset(self.column - 1 + self.length)
    }
}

impl Diagnostic {
    /// Renders the finding in several lines, without a trailing blank line.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Info => Level::INFO,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let origin = Origin::path(self.file.as_str());
        let group = match &self.place {
            Some(place) if place.excerpt.is_empty() => {
                title.element(origin.line(place.line).char_column(place.column))
            }
            Some(place) => title.element(
                Snippet::source(place.excerpt.as_str())
                    .line_start(place.line)
                    .path(self.file.as_str())
                    .annotation(AnnotationKind::Primary.span(place.byte_range())),
            ),
            None if self.file.is_empty() => Group::with_title(title),
            None => title.element(origin),
        };
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        let mut rendered = renderer.render(&[group]);
        if let Some(hint) = &self.hint {
            let (on, off) = if coloured {
                (DEFAULT_HELP_STYLE.render().to_string(), DEFAULT_HELP_STYLE.render_reset().to_string())
            } else {
                (String::new(), String::new())
            };
            // Writing to a `String` cannot fail.
            let _infallible = write!(rendered, "\n\n{on}hint{off}: {hint}");
        }
        rendered
    }
}

/// Whether any finding is an error.
#[must_use]
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Renders findings for people, a blank line between two.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], coloured: bool) -> String {
    let mut text =
        diagnostics.iter().map(|diagnostic| diagnostic.render(coloured)).collect::<Vec<_>>().join("\n\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_ends_with_its_line() {
        let place = Place::of_bytes("one\ntwo three\nfour", 8, 18);
        assert_eq!((place.line, place.column, place.length), (2, 5, 5));
        assert_eq!(place.excerpt, "two three");
    }

    #[test]
    fn columns_are_characters() {
        let place = Place::of_bytes("grün: x", 7, 8);
        assert_eq!((place.line, place.column, place.length), (1, 7, 1));
    }

    #[test]
    fn places_beyond_the_text_are_shown_at_its_end() {
        for text in ["", "x", "x\n"] {
            let place = Place::of_bytes(text, 99, 120);
            assert_eq!(place.length, 1);
            let diagnostic = Diagnostic {
                severity: Severity::Warning,
                code: "T001",
                message: "odd".to_owned(),
                file: "f".to_owned(),
                place: Some(place),
                hint: None,
            };
            assert!(diagnostic.render(false).starts_with("warning[T001]: odd"));
        }
    }
}
