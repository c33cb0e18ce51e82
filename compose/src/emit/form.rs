//! How each key is printed: Compose's own types, with what they leave out when it says nothing.

use serde_json::{Map as Object, Value as Json};

use super::{entries, number, plain, words};
use crate::{
    node::{Node, Value},
    project::pairs,
    units,
};

/// How a value is printed.
#[derive(Debug)]
pub(super) enum Form {
    Any,
    /// Left out if empty.
    Text,
    /// Left out if false.
    Flag,
    /// Printed whenever it is written.
    WrittenFlag,
    /// Left out if 0.
    Int,
    WrittenInt,
    Float,
    /// Text, in bytes.
    Bytes,
    Duration,
    WrittenDuration,
    /// Text, as an octal number.
    Mode,
    Texts,
    /// Texts by name, nothing as an empty text.
    Dict,
    /// Texts by name, or nothing.
    NullDict,
    /// `name=address`.
    Hosts,
    /// `name=path`.
    Ssh,
    /// Words of a shell; printed also if it is not written.
    Command,
    /// The same in a health check.
    Test,
    Ulimit,
    List(&'static Form),
    Map(&'static Form),
    Struct(Fields),
    /// A structure whose keys begin with capitals.
    Capitals(Fields),
    /// A structure that is there also if it is not written.
    Always(Fields),
}

pub(super) type Fields = &'static [(&'static str, Form)];

/// Prints a value that is written.
pub(super) fn print(node: &Node, form: &Form) -> Json {
    match form {
        Form::Struct(fields) | Form::Always(fields) => structure(Some(node), fields),
        Form::Capitals(fields) => capitals(node, fields),
        _ => value(node, form).unwrap_or(Json::Null),
    }
}

fn structure(node: Option<&Node>, fields: Fields) -> Json {
    let mut out = Object::new();
    for (key, form) in fields {
        let written = node.and_then(|node| node.get(key));
        let printed = match (written, form) {
            (None, Form::Command) => Some(Json::Null),
            (written, Form::Always(fields)) => Some(structure(written, fields)),
            (Some(node), form) => value(node, form),
            (None, _) => None,
        };
        if let Some(printed) = printed {
            out.insert((*key).to_owned(), printed);
        }
    }
    Json::Object(out)
}

/// Devices of `blkio_config` have their keys in capitals, and nothing else does.
fn capitals(node: &Node, fields: Fields) -> Json {
    let Json::Object(plain) = structure(Some(node), fields) else {
        return Json::Null;
    };
    let capital = |key: String| key[..1].to_uppercase() + &key[1..];
    Json::Object(plain.into_iter().map(|(key, value)| (capital(key), value)).collect())
}

fn text(node: &Node) -> String {
    node.printed().unwrap_or_default()
}

fn integer(node: &Node) -> i64 {
    match &node.value {
        Value::Int(value) => *value,
        #[expect(clippy::cast_possible_truncation, reason = "as Compose does")]
        Value::Float(value) => *value as i64,
        _ => text(node).parse().unwrap_or_default(),
    }
}

/// Nothing is printed for what says nothing.
fn value(node: &Node, form: &Form) -> Option<Json> {
    let filled = |object: Object<String, Json>| (!object.is_empty()).then_some(Json::Object(object));
    match form {
        Form::Any => Some(plain(node)),
        Form::Text => Some(text(node)).filter(|text| !text.is_empty()).map(Json::String),
        Form::Flag => node.as_bool().filter(|&flag| flag).map(Json::Bool),
        Form::WrittenFlag => node.as_bool().map(Json::Bool),
        Form::Int => Some(integer(node)).filter(|&number| number != 0).map(Json::from),
        Form::WrittenInt => Some(Json::from(integer(node))),
        Form::Float => text(node).parse().ok().filter(|&number| number != 0.0).map(number),
        Form::Bytes => {
            let bytes = units::bytes(&text(node)).filter(|&bytes| bytes != 0)?;
            Some(Json::String(bytes.to_string()))
        }
        Form::Duration => {
            let duration = units::duration(&text(node)).filter(|&duration| duration != 0)?;
            Some(Json::String(units::print_duration(duration)))
        }
        Form::WrittenDuration => {
            let duration = units::duration(&text(node))?;
            Some(Json::String(units::print_duration(duration)))
        }
        Form::Mode => {
            let mode = match &node.value {
                Value::Text(text) => i64::from_str_radix(text, 8).ok()?,
                _ => integer(node),
            };
            Some(Json::String(format!("0{mode:o}")))
        }
        Form::Texts => {
            let texts: Vec<Json> = match node.as_list() {
                Some(items) => items.iter().map(|item| Json::String(text(item))).collect(),
                None if node.is_null() => Vec::new(),
                None => vec![Json::String(text(node))],
            };
            (!texts.is_empty()).then_some(Json::Array(texts))
        }
        Form::Dict | Form::NullDict => {
            let nothing = || match form {
                Form::Dict => Json::String(String::new()),
                _ => Json::Null,
            };
            let printed = pairs(node)
                .into_iter()
                .map(|(name, value, _)| (name, value.map_or_else(nothing, Json::String)));
            filled(printed.collect())
        }
        Form::Hosts => hosts(node),
        Form::Ssh => {
            let printed: Vec<Json> = entries(node)
                .map(|(name, path)| match text(path).as_str() {
                    "" => Json::String(name.to_owned()),
                    path => Json::String(format!("{name}={path}")),
                })
                .collect();
            (!printed.is_empty()).then_some(Json::Array(printed))
        }
        Form::Command => Some(match &node.value {
            Value::Text(text) => Json::Array(words::split(text).into_iter().map(Json::String).collect()),
            Value::List(items) => Json::Array(items.iter().map(|item| Json::String(text(item))).collect()),
            _ => Json::Null,
        }),
        Form::Test => match &node.value {
            Value::Text(text) => Some(serde_json::json!(["CMD-SHELL", text])),
            _ => value(node, &Form::Texts),
        },
        Form::Ulimit => match node.as_map() {
            Some(_) => Some(structure(Some(node), &[("soft", Form::Int), ("hard", Form::Int)])),
            None => Some(Json::from(integer(node))),
        },
        Form::List(item) => {
            let items = node.items();
            let printed = items.iter().map(|node| print(node, item)).collect();
            (!items.is_empty()).then_some(Json::Array(printed))
        }
        Form::Map(form) => {
            let each = |node: &Node| if node.is_null() { Json::Null } else { print(node, form) };
            filled(entries(node).map(|(name, node)| (name.to_owned(), each(node))).collect())
        }
        Form::Capitals(fields) => Some(capitals(node, fields)),
        Form::Struct(fields) | Form::Always(fields) => {
            (!node.is_null()).then(|| structure(Some(node), fields))
        }
    }
}

fn hosts(node: &Node) -> Option<Json> {
    let mut printed = Vec::new();
    let address = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    for item in node.items() {
        let item = text(item);
        if let Some((name, value)) = item.split_once('=').or_else(|| item.split_once(':')) {
            printed.push(format!("{name}={}", address(value)));
        }
    }
    for (name, node) in entries(node) {
        let texts = node.as_list().map_or_else(|| vec![text(node)], |items| items.iter().map(text).collect());
        printed.extend(texts.iter().map(|value| format!("{name}={}", address(value))));
    }
    printed.sort();
    (!printed.is_empty()).then(|| Json::Array(printed.into_iter().map(Json::String).collect()))
}
