//! In what two answers differ, as lines for people.

use serde_json::Value;

use super::{case::Case, oracle::Answer};

/// More of one case helps nobody.
const MAX_LINES: usize = 20;

/// Every difference.
pub(super) fn compare(case: &Case, ours: &Answer, theirs: &Answer) -> Vec<String> {
    let mut lines = match (ours, theirs) {
        (Answer::Refused(_), Answer::Refused(_)) => Vec::new(),
        (Answer::Refused(why), Answer::Model(_)) => vec![format!("we refuse it: {why}")],
        (Answer::Model(_), Answer::Refused(why)) => vec![format!("it refuses: {why}")],
        (Answer::Model(ours), Answer::Model(theirs)) => {
            let mut lines = Vec::new();
            walk("", &one_spelling("", ours.clone()), &one_spelling("", theirs.clone()), &mut lines);
            lines
        }
    };
    let refused = matches!(theirs, Answer::Refused(_));
    if case.refused.is_some_and(|expected| expected != refused) {
        let is = if refused { "refused" } else { "not refused" };
        lines.push(format!("the case expects the opposite: it is {is}"));
    }
    lines.truncate(MAX_LINES);
    lines
}

/// Versions print modes of files as numbers or as octal texts.
fn one_spelling(key: &str, value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            entries.into_iter().map(|(key, value)| (key.clone(), one_spelling(&key, value))).collect()
        }
        Value::Array(items) => items.into_iter().map(|item| one_spelling(key, item)).collect(),
        Value::Number(number) if key == "mode" => {
            number.as_u64().map_or(Value::Number(number), |mode| Value::String(format!("0{mode:o}")))
        }
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        other => other,
    }
}

fn walk(path: &str, ours: &Value, theirs: &Value, lines: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in left {
                match right.get(key) {
                    Some(other) => walk(&format!("{path}.{key}"), value, other, lines),
                    None => lines.push(format!("{path}.{key}: ours only: {value}")),
                }
            }
            for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                lines.push(format!("{path}.{key}: theirs only: {value}"));
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (value, other)) in left.iter().zip(right).enumerate() {
                walk(&format!("{path}[{index}]"), value, other, lines);
            }
        }
        _ if ours == theirs => {}
        _ => lines.push(format!("{path}: ours {ours}, theirs {theirs}")),
    }
}
