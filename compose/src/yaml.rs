//! From text to trees: anchors and merge keys expanded, tags kept, everything bounded. A few kilobytes of nested
//! aliases can stand for gigabytes, and nobody reads on when a file is that large.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle};

use crate::{
    node::{Fault, FaultKind, Map, Node, Result, Span, Tag, Value},
    scalar,
};

/// The largest text that is parsed at all.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// The most values that one run may hold, aliases written out.
const MAX_NODES: usize = 200_000;
/// Compose's own keys never nest deeper than a dozen.
const MAX_DEPTH: usize = 64;

/// How much of the bounds is used up, over all files of a run.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    nodes: usize,
}

impl Budget {
    fn take(&mut self, nodes: usize, span: Span) -> Result<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = "the document is too large once its aliases are expanded";
            return Err(Fault::new(FaultKind::Limit, span, message)
                .hint("write the repeated parts out, or split the file"));
        }
        Ok(())
    }
}

/// Parses a text into its documents; empty ones are left out.
pub(crate) fn parse(source: usize, text: &str, budget: &mut Budget) -> Result<Vec<Node>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Fault::new(FaultKind::Limit, Span { source, start: 0, end: 0 }, message));
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder =
        Builder { source, text, budget, open: Vec::new(), anchors: HashMap::new(), documents: Vec::new() };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => return Err(builder.failure(&error)),
        }
    }
    Ok(builder.documents)
}

/// A collection whose end has not come yet.
#[derive(Debug)]
struct Open {
    anchor: usize,
    tag: Option<Tag>,
    start: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    List(Vec<Node>),
    Map { pairs: Vec<(Node, Node)>, key: Option<Node> },
}

struct Builder<'t> {
    source: usize,
    text: &'t str,
    budget: &'t mut Budget,
    open: Vec<Open>,
    /// Finished values by anchor, with their number of nodes.
    anchors: HashMap<usize, (Node, usize)>,
    documents: Vec<Node>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: granit_parser::Span) -> Result<()> {
        let span = self.span(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.budget.take(1, span)?;
                let (tag, value) = scalar_value(&text, style, tag.as_deref());
                self.close(Node { span, value, tag }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(anchor, tag.as_deref(), span, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(anchor, tag.as_deref(), span, Content::Map { pairs: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Ok(());
                };
                let end = self.trimmed_end(open.start, span.start);
                let span = Span { source: self.source, start: open.start, end };
                let value = match open.content {
                    Content::List(items) => Value::List(items),
                    Content::Map { pairs, .. } => Value::Map(mapping(pairs, self.text)?),
                };
                self.close(Node { span, value, tag: open.tag }, open.anchor)
            }
            Event::Alias(anchor) => {
                let Some((node, nodes)) = self.anchors.get(&anchor) else {
                    let message = "an alias stands inside its own anchor";
                    return Err(Fault::new(FaultKind::Syntax, span, message));
                };
                let (node, nodes) = (node.clone(), *nodes);
                self.budget.take(nodes, span)?;
                self.close(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn open(
        &mut self,
        anchor: usize,
        tag: Option<&granit_parser::Tag>,
        span: Span,
        content: Content,
    ) -> Result<()> {
        self.budget.take(1, span)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(Fault::new(FaultKind::Limit, span, "the document is too deeply nested"));
        }
        let tag = tag.and_then(compose_tag);
        self.open.push(Open { anchor, tag, start: span.start, content });
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<()> {
        if anchor != 0 {
            let nodes = count(&node);
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { pairs, key }) => match key.take() {
                None => *key = Some(node),
                Some(key) => pairs.push((key, node)),
            },
        }
        Ok(())
    }

    fn span(&self, at: granit_parser::Span) -> Span {
        let start = self.byte(&at.start);
        Span { source: self.source, start, end: self.byte(&at.end).max(start) }
    }

    fn byte(&self, marker: &Marker) -> usize {
        marker.byte_offset().unwrap_or_else(|| {
            self.text.char_indices().nth(marker.index()).map_or(self.text.len(), |(byte, _)| byte)
        })
    }

    /// The end of a collection without the blank space behind it.
    fn trimmed_end(&self, start: usize, end: usize) -> usize {
        self.text.get(start..end).map_or(end, |text| start + text.trim_end().len()).max(start)
    }

    fn failure(&self, error: &granit_parser::ScanError) -> Fault {
        let start = self.byte(error.marker());
        let span = Span { source: self.source, start, end: start + 1 };
        let info = error.info();
        if info.contains("nest") || info.contains("limit") {
            return Fault::new(FaultKind::Limit, span, "the document is too deeply nested");
        }
        Fault::new(FaultKind::Syntax, span, format!("not valid YAML: {}", info.trim_end_matches('.')))
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.iter().map(|(_, entry)| 1 + count(&entry.node)).sum(),
        _ => 0,
    }
}

fn compose_tag(tag: &granit_parser::Tag) -> Option<Tag> {
    match (tag.handle(), tag.suffix()) {
        ("!", "reset") | ("", "!reset") => Some(Tag::Reset),
        ("!", "override") | ("", "!override") => Some(Tag::Override),
        _ => None,
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&granit_parser::Tag>) -> (Option<Tag>, Value) {
    let own = tag.and_then(compose_tag);
    let says_text = tag.is_some_and(|tag| tag.suffix() == "str" || tag.suffix() == "!");
    let value = if style == ScalarStyle::Plain && !says_text {
        scalar::plain(text)
    } else {
        Value::Text(text.to_owned())
    };
    (own, value)
}

/// A mapping from its pairs: merge keys filled in behind what is written, a key that is there twice refused.
fn mapping(pairs: Vec<(Node, Node)>, text: &str) -> Result<Map> {
    let mut map = Map::default();
    let mut merged = Vec::new();
    for (key, node) in pairs {
        let name = match &key.value {
            Value::Text(name) if name == "<<" && text.get(key.span.start..key.span.end) == Some("<<") => {
                merged.push(node);
                continue;
            }
            Value::Text(name) => name.clone(),
            other => {
                let written = text.get(key.span.start..key.span.end).unwrap_or_default();
                let message = match other {
                    Value::List(_) | Value::Map(_) => format!("{} cannot be a key", key.kind()),
                    _ => format!("the key `{written}` is {}, not text", key.kind()),
                };
                let hint = format!("put it in quotes: `\"{written}\"`");
                return Err(Fault::schema(key.span, message).hint(hint));
            }
        };
        if let Some(first) = map.entry(&name) {
            let line =
                text.as_bytes().iter().take(first.key.start).filter(|&&byte| byte == b'\n').count() + 1;
            let message = format!("duplicate key `{name}`");
            return Err(Fault::new(FaultKind::Syntax, key.span, message)
                .hint(format!("it stands in line {line} already")));
        }
        map.insert(name, key.span, node);
    }
    for node in merged {
        fill_in(&mut map, node)?;
    }
    Ok(map)
}

fn fill_in(map: &mut Map, node: Node) -> Result<()> {
    match node.value {
        Value::Map(other) => {
            for (name, entry) in other {
                if !map.contains(&name) {
                    map.insert(name, entry.key, entry.node);
                }
            }
            Ok(())
        }
        Value::List(items) => items.into_iter().try_for_each(|item| fill_in(map, item)),
        _ => Err(Fault::new(FaultKind::Syntax, node.span, "only mappings can be merged by `<<`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        parse(0, text, &mut Budget::default()).unwrap().remove(0)
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "services:\n  wéb:\n    ports: [\"80:80\", 81]\n";
        let tree = one(text);
        let web = tree.get("services").unwrap().as_map().unwrap().entry("wéb").unwrap();
        assert_eq!(&text[web.key.start..web.key.end], "wéb");
        let ports = web.node.get("ports").unwrap();
        assert_eq!(&text[ports.span.start..ports.span.end], "[\"80:80\", 81");
        let written: Vec<&str> =
            ports.items().iter().map(|item| &text[item.span.start..item.span.end]).collect();
        assert_eq!(written, ["\"80:80\"", "81"]);
        assert_eq!(ports.items()[1].as_int(), Some(81));
    }

    #[test]
    fn merge_keys_fill_in_what_is_not_written() {
        let tree = one("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 0\n");
        let c = tree.get("c").unwrap();
        let values: Vec<_> = ["x", "y", "z"].iter().map(|key| c.get(key).unwrap().as_int()).collect();
        assert_eq!(values, [Some(0), Some(2), Some(4)]);
    }

    #[test]
    fn tags_are_kept() {
        let tree = one("a: !reset null\nb: !override [1]\nc: !!str 12\n");
        assert_eq!(tree.get("a").unwrap().tag, Some(Tag::Reset));
        assert_eq!(tree.get("b").unwrap().tag, Some(Tag::Override));
        assert_eq!(tree.get("c").unwrap().as_text(), Some("12"));
    }

    #[test]
    fn bombs_and_towers_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 9].join(", ");
            text += &format!("a{level}: &a{level} [{items}]\n");
        }
        assert_eq!(parse(0, &text, &mut Budget::default()).unwrap_err().kind, FaultKind::Limit);
        let tower = "[".repeat(10_000);
        assert_eq!(parse(0, &tower, &mut Budget::default()).unwrap_err().kind, FaultKind::Limit);
        let tower: String = (0..500).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert_eq!(parse(0, &tower, &mut Budget::default()).unwrap_err().kind, FaultKind::Limit);
        let own = "a: &a [*a]\n";
        assert_eq!(parse(0, own, &mut Budget::default()).unwrap_err().kind, FaultKind::Syntax);
    }

    #[test]
    fn keys_twice_and_keys_that_are_no_text_are_refused() {
        for (text, part) in [("a: 1\na: 2\n", "duplicate key `a`"), ("80: x\n", "the key `80` is a number")] {
            let fault = parse(0, text, &mut Budget::default()).unwrap_err();
            assert!(fault.message.contains(part), "{fault:?}");
        }
    }
}
