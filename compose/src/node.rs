//! A compose file as a tree in which every value knows where it is written. The stages of loading turn one tree into
//! another; places survive all of them.

use std::collections::BTreeMap;

/// A place in one of the texts that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which text, an index into [`Sources`].
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// One beyond the last byte.
    pub end: usize,
}

/// A text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As shown to people.
    pub name: String,
    pub text: String,
}

/// Every text that was read, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub files: Vec<Source>,
}

impl Sources {
    /// `file:line` of a place.
    #[must_use]
    pub fn at(&self, span: Span) -> String {
        let Some(source) = self.files.get(span.source) else {
            return String::new();
        };
        let before = source.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("{}:{line}", source.name)
    }
}

/// Why something could not be read or is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// Lower case, literal values in backticks, no full stop.
    pub message: String,
    pub span: Option<Span>,
    pub hint: Option<String>,
}

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A file is missing or cannot be read.
    Unreadable,
    /// Not YAML.
    Syntax,
    /// Larger, deeper or more often repeated than anybody writes.
    Limit,
    /// A key or value that compose files do not have.
    Schema,
    /// A variable, or what stands around it.
    Interpolation,
    /// `extends` or `include` in a circle, or to nothing.
    Reference,
    /// Parts that contradict each other.
    Inconsistent,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self { kind, message: shortened(message.into()), span: span.into(), hint: None }
    }

    pub(crate) fn schema(span: Span, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Schema, span, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Messages quote what is wrong, which can be as long as a file.
fn shortened(mut message: String) -> String {
    const LONGEST: usize = 400;
    if message.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|&at| message.is_char_boundary(at)).unwrap_or_default();
        message.truncate(cut);
        message.push('…');
    }
    message
}

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// What a tag asks of the file that is being overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `!reset`: the key goes away.
    Reset,
    /// `!override`: the value replaces what was there instead of being merged.
    Override,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub span: Span,
    pub value: Value,
    pub tag: Option<Tag>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// Two nodes are equal if they say the same, wherever they are written.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// The entries of a mapping.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: BTreeMap<String, Entry>,
}

/// The value of a key, and where the key is written.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Span,
    pub node: Node,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl Map {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|entry| &entry.node)
    }

    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.get_mut(key).map(|entry| &mut entry.node)
    }

    pub(crate) fn insert(&mut self, name: impl Into<String>, key: Span, node: Node) {
        self.entries.insert(name.into(), Entry { key, node });
    }

    /// Puts a value that nobody has written at the place that it follows from.
    pub(crate) fn put(&mut self, name: &str, node: Node) {
        let key = self.entries.get(name).map_or(node.span, |entry| entry.key);
        self.entries.insert(name.to_owned(), Entry { key, node });
    }

    pub(crate) fn put_if_missing(&mut self, name: &str, node: impl FnOnce() -> Node) {
        if !self.contains(name) {
            self.put(name, node());
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        self.entries.remove(key)
    }

    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Entry)> {
        self.entries.iter_mut().map(|(name, entry)| (name.as_str(), entry))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&str, &mut Entry) -> bool) {
        self.entries.retain(|name, entry| keep(name, entry));
    }
}

impl IntoIterator for Map {
    type Item = (String, Entry);
    type IntoIter = std::collections::btree_map::IntoIter<String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Node {
    pub(crate) fn new(span: Span, value: Value) -> Self {
        Self { span, value, tag: None }
    }

    pub(crate) fn text(span: Span, text: impl Into<String>) -> Self {
        Self::new(span, Value::Text(text.into()))
    }

    pub(crate) fn map(span: Span) -> Self {
        Self::new(span, Value::Map(Map::default()))
    }

    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match &self.value {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value below a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    /// The entries of a mapping; nothing for anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.as_map().into_iter().flat_map(Map::iter)
    }

    /// The items of a list; nothing for anything else.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        self.as_list().unwrap_or_default()
    }

    /// What the value is, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A scalar as Go prints it: how Compose turns numbers and booleans into text. Nothing for lists and mappings.
    #[must_use]
    pub fn printed(&self) -> Option<String> {
        match &self.value {
            Value::Null => Some(String::new()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(crate::scalar::print_float(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => None,
        }
    }
}
