//! Whether a tree has the keys and the kinds of values that compose files have. What those are stands in `schema`.

use crate::{
    node::{Fault, Map, Node, Span, Value},
    path::{ITEM, Path},
};

/// What a value may look like.
#[derive(Debug)]
pub(crate) enum Shape {
    Any,
    /// A single value of one of these kinds.
    Scalar(&'static [Kind]),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text that a function accepts, and what it wants.
    Matching(fn(&str) -> bool, &'static str),
    /// A whole number within bounds, or text.
    Bounded(i64, i64),
    List(&'static Shape),
    /// A list in which nothing is there twice.
    Set(&'static Shape),
    /// A mapping from anything.
    Dict(&'static Shape),
    /// A mapping from names made of letters, digits, `.`, `_` and `-`.
    Named(&'static Shape),
    /// A mapping with known keys.
    Object(Object),
    OneOf(&'static [&'static Shape]),
}

/// A mapping with known keys.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) fields: &'static [(&'static str, &'static Shape)],
    pub(crate) required: &'static [&'static str],
    /// Whether the key may stand there with nothing.
    pub(crate) nullable: bool,
    /// Whether keys that begin with `x-` are let through.
    pub(crate) extensible: bool,
}

/// Kinds of single values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Int,
    Number,
    Bool,
    Null,
}

impl Kind {
    const fn fits(self, value: &Value) -> bool {
        matches!(
            (self, value),
            (Self::Text, Value::Text(_))
                | (Self::Int | Self::Number, Value::Int(_))
                | (Self::Number, Value::Float(_))
                | (Self::Bool, Value::Bool(_))
                | (Self::Null, Value::Null)
        )
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "a whole number",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Null => "nothing",
        }
    }
}

/// More faults of one file help nobody.
const MAX_FAULTS: usize = 50;

/// Everything in which a tree differs from a shape.
pub(crate) fn check(node: &Node, shape: &Shape) -> Vec<Fault> {
    let mut faults = Vec::new();
    compare(node, node.span, &Path::ROOT, shape, &mut faults);
    faults.truncate(MAX_FAULTS);
    faults
}

/// `at` is the place of the key, for values that are not written.
fn compare(node: &Node, at: Span, path: &Path<'_>, shape: &Shape, faults: &mut Vec<Fault>) {
    match (shape, &node.value) {
        (Shape::Any, _) => {}
        (Shape::Scalar(kinds), value) if kinds.iter().any(|kind| kind.fits(value)) => {}
        (Shape::Word(words), Value::Text(text)) => {
            if !words.contains(&text.as_str()) {
                let listed = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
                let message = format!("`{path}` cannot be `{text}`");
                faults.push(Fault::schema(node.span, message).hint(format!("it is one of {listed}")));
            }
        }
        (Shape::Matching(fits, wanted), Value::Text(text)) => {
            if !fits(text) {
                let message = format!("`{path}` cannot be `{text}`");
                faults.push(Fault::schema(node.span, message).hint(*wanted));
            }
        }
        (Shape::Bounded(..), Value::Text(_)) => {}
        (Shape::Bounded(least, most), Value::Int(number)) => {
            if !(*least..=*most).contains(number) {
                let message = format!("`{path}` cannot be `{number}`");
                let hint = format!("it is between {least} and {most}");
                faults.push(Fault::schema(node.span, message).hint(hint));
            }
        }
        (Shape::List(item), Value::List(items)) => compare_items(items, path, item, faults),
        (Shape::Set(item), Value::List(items)) => {
            compare_items(items, path, item, faults);
            unique(items, path, faults);
        }
        (Shape::Dict(value), Value::Map(map)) => {
            for (name, entry) in map.iter() {
                compare(&entry.node, entry.key, &path.child(name), value, faults);
            }
        }
        (Shape::Named(value), Value::Map(map)) => {
            for (name, entry) in map.iter() {
                if is_name(name) {
                    compare(&entry.node, entry.key, &path.child(name), value, faults);
                } else {
                    let hint = "names are made of letters, digits, `.`, `_` and `-`";
                    let message = format!("`{name}` cannot be a name below `{path}`");
                    faults.push(Fault::schema(entry.key, message).hint(hint));
                }
            }
        }
        (Shape::Object(object), Value::Map(map)) => compare_object(map, at, path, object, faults),
        (Shape::Object(Object { nullable: true, .. }), Value::Null) => {}
        (Shape::OneOf(shapes), value) => match shapes.iter().find(|shape| shape.might_be(value)) {
            Some(shape) => compare(node, at, path, shape, faults),
            None => wrong_kind(node, at, path, shape, faults),
        },
        _ => wrong_kind(node, at, path, shape, faults),
    }
}

fn compare_items(items: &[Node], path: &Path<'_>, shape: &Shape, faults: &mut Vec<Fault>) {
    for item in items {
        compare(item, item.span, &path.child(ITEM), shape, faults);
    }
}

fn compare_object(map: &Map, at: Span, path: &Path<'_>, object: &Object, faults: &mut Vec<Fault>) {
    for (name, entry) in map.iter() {
        if let Some((_, shape)) = object.fields.iter().find(|(known, _)| *known == name) {
            compare(&entry.node, entry.key, &path.child(name), shape, faults);
        } else if !(object.extensible && name.starts_with("x-")) {
            let below = path.to_string();
            let message = if below.is_empty() {
                format!("unknown key `{name}`")
            } else {
                format!("unknown key `{name}` in `{below}`")
            };
            let fault = Fault::schema(entry.key, message);
            let known = object.fields.iter().map(|(known, _)| *known);
            faults.push(match nearest(name, known) {
                Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                None => fault,
            });
        }
    }
    for required in object.required.iter().filter(|required| !map.contains(required)) {
        faults.push(Fault::schema(at, format!("`{path}` has no `{required}`")));
    }
}

fn unique(items: &[Node], path: &Path<'_>, faults: &mut Vec<Fault>) {
    let mut seen = std::collections::BTreeSet::new();
    for item in items {
        let Some(text) = item.printed() else {
            continue;
        };
        if !seen.insert((item.kind(), text.clone())) {
            faults.push(Fault::schema(item.span, format!("`{text}` stands in `{path}` twice")));
        }
    }
}

fn wrong_kind(node: &Node, at: Span, path: &Path<'_>, shape: &Shape, faults: &mut Vec<Fault>) {
    let span = if node.is_null() { at } else { node.span };
    let mut wanted = Vec::new();
    shape.kinds(&mut wanted);
    let here = path.to_string();
    let here = if here.is_empty() { "a compose file".to_owned() } else { format!("`{here}`") };
    faults.push(Fault::schema(span, format!("{here} is {}, not {}", wanted.join(" or "), node.kind())));
}

impl Shape {
    /// Whether a value could be meant as this, by its kind alone.
    fn might_be(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Scalar(kinds) => kinds.iter().any(|kind| kind.fits(value)),
            Self::Word(_) | Self::Matching(..) => matches!(value, Value::Text(_)),
            Self::Bounded(..) => matches!(value, Value::Text(_) | Value::Int(_)),
            Self::List(_) | Self::Set(_) => matches!(value, Value::List(_)),
            Self::Dict(_) | Self::Named(_) => matches!(value, Value::Map(_)),
            Self::Object(object) => {
                matches!(value, Value::Map(_)) || (object.nullable && matches!(value, Value::Null))
            }
            Self::OneOf(shapes) => shapes.iter().any(|shape| shape.might_be(value)),
        }
    }

    fn kinds(&self, names: &mut Vec<&'static str>) {
        let mut add = |name: &'static str| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        match self {
            Self::Any => add("anything"),
            Self::Scalar(kinds) => kinds.iter().for_each(|kind| add(kind.name())),
            Self::Word(_) | Self::Matching(..) => add("text"),
            Self::Bounded(..) => add("a whole number"),
            Self::List(_) | Self::Set(_) => add("a list"),
            Self::Dict(_) | Self::Named(_) | Self::Object(_) => add("a mapping"),
            Self::OneOf(shapes) => shapes.iter().for_each(|shape| shape.kinds(names)),
        }
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The known key that differs from a text in one letter, or by two neighbours swapped.
fn nearest<'k>(text: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known.into_iter().find(|candidate| is_near(text, candidate))
}

fn is_near(left: &str, right: &str) -> bool {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[same..], &right[same..]);
    let tail = |cut_left: usize, cut_right: usize| {
        left.get(cut_left..).is_some_and(|rest| Some(rest) == right.get(cut_right..))
    };
    tail(1, 0) || tail(0, 1) || tail(1, 1) || (tail(2, 2) && left[0] == right[1] && left[1] == right[0])
}
