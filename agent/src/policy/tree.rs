//! YAML as a tree in which every key and value knows its place. Serde stops at the first structural mistake; a
//! tree lets the parser go on and report all of them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

use super::{
    Source,
    report::{Code, Mark, Report},
};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

/// Scalars are kept as they are written: `012` and `yes` mean what the reader of the file sees.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) mark: Mark,
    pub(super) name: String,
}

impl Value {
    /// What the value is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// The largest text that is parsed at all.
const MAX_BYTES: usize = 4 << 20;

/// Parses one text into its documents; empty documents are left out.
pub(super) fn parse(index: usize, source: &Source, report: &mut Report<'_>) -> Vec<Node> {
    if source.text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        report.add_whole(Code::Limit, &source.name, message, None);
        return Vec::new();
    }
    match serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(&source.text, options()) {
        Ok(documents) => documents.into_iter().map(|raw| node(raw, index, &source.text)).collect(),
        Err(error) => {
            report_failure(index, source, &error, report);
            Vec::new()
        }
    }
}

/// Limits far above any policy and far below what would hold up the agent: a few kilobytes of nested aliases
/// can stand for gigabytes.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_nodes: 50_000,
            max_events: 150_000,
            max_aliases: 2_000,
            max_anchors: 1_000,
            max_documents: 256,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn report_failure(index: usize, source: &Source, error: &serde_saphyr::Error, report: &mut Report<'_>) {
    use serde_saphyr::Error;
    let inner = error.without_snippet();
    let mark = inner.location().map(|location| mark(location, index, &source.text));
    let cause = match inner {
        Error::AliasError { error, .. } => error.without_snippet(),
        other => other,
    };
    let (code, message, hint) = match cause {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => (
            Code::Limit,
            "the document is too large once its aliases are expanded, or too deeply nested".to_owned(),
            Some("write the repeated parts out, or split the policy into several files".to_owned()),
        ),
        _ => {
            let text = cause.render();
            let text = text.lines().next().unwrap_or_default();
            // The position is shown separately.
            let text = text.rfind(" at line ").map_or(text, |cut| &text[..cut]);
            let text = text.trim_start_matches("error: ").trim_end_matches(['.', ',', ':']);
            (Code::Syntax, format!("not valid YAML: {}", lower_first(text)), None)
        }
    };
    match mark {
        Some(mark) => report.add(code, mark, message, hint),
        None => report.add_whole(code, &source.name, message, hint),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn mark(location: Location, source: usize, text: &str) -> Mark {
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX).max(1);
    let span = location.span();
    let known = span.byte_offset().and_then(|start| usize::try_from(start).ok());
    let start = known.unwrap_or_else(|| {
        let line_start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let column = usize::try_from(location.column()).unwrap_or(1).max(1);
        let in_line = text.get(line_start..).and_then(|rest| rest.char_indices().nth(column - 1));
        in_line.map_or(text.len(), |(offset, _)| line_start + offset)
    });
    let length = span.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(1);
    Mark { source, start, end: start.saturating_add(length), line }
}

fn node(raw: Spanned<Raw>, source: usize, text: &str) -> Node {
    // Of an alias the anchored text is shown: that is what has to be changed.
    let location = if raw.defined == Location::UNKNOWN { raw.referenced } else { raw.defined };
    let mark = mark(location, source, text);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Literal(fallback) => {
            let written = text.get(mark.start..mark.end).map(str::trim).filter(|text| !text.is_empty());
            Value::Scalar(written.map_or(fallback, str::to_owned))
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let location =
                        if key.defined == Location::UNKNOWN { key.referenced } else { key.defined };
                    let key = Key { mark: self::mark(location, source, text), name: key.value };
                    (key, node(value, source, text))
                })
                .collect(),
        ),
    };
    Node { mark, value }
}

/// What serde sees.
#[derive(Debug)]
enum Raw {
    Null,
    Text(String),
    /// A number or boolean: how it is written stands in the text, the fallback is its value.
    Literal(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a YAML value")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
                Ok(Raw::Literal(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Raw::Map(map))
            }
        }

        deserializer.deserialize_any(RawVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> (Vec<Node>, usize) {
        let sources = [Source { name: "t".to_owned(), text: text.to_owned() }];
        let mut report = Report::new(&sources);
        let nodes = parse(0, &sources[0], &mut report);
        (nodes, report.finish().len())
    }

    #[test]
    fn scalars_are_kept_as_written_and_know_their_place() {
        let text = "a: 012\nb: [yes, 8000, \"x\"]\nb: ~\n";
        let (nodes, findings) = documents(text);
        assert_eq!(findings, 0);
        let Value::Map(entries) = &nodes[0].value else { panic!("{nodes:?}") };
        assert_eq!(entries.len(), 3, "duplicates are kept for the parser to report");
        let (key, value) = &entries[0];
        assert_eq!((key.name.as_str(), key.mark.start, key.mark.end), ("a", 0, 1));
        assert!(matches!(&value.value, Value::Scalar(text) if text == "012"), "{value:?}");
        assert_eq!((value.mark.line, &text[value.mark.start..value.mark.end]), (1, "012"));
        let Value::List(items) = &entries[1].1.value else { panic!("{entries:?}") };
        let texts: Vec<_> = items.iter().map(|item| &text[item.mark.start..item.mark.end]).collect();
        assert_eq!(texts, ["yes", "8000", "\"x\""]);
        assert!(matches!(entries[2].1.value, Value::Null));
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let items = vec![format!("*a{before}"); 9].join(", ");
            text += &format!("a{level}: &a{level} [{items}]\n");
        }
        let (nodes, findings) = documents(&text);
        assert_eq!((nodes.len(), findings), (0, 1));
    }

    #[test]
    fn several_documents_and_empty_ones() {
        let (nodes, findings) = documents("---\na: 1\n---\n---\nb: 2\n");
        assert_eq!((nodes.len(), findings), (2, 0));
        assert_eq!(documents("# only a comment\n").0.len(), 0);
    }
}
