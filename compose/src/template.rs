//! Variables in texts: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR-default}`, `${VAR:?message}`, `${VAR?message}`,
//! `${VAR:+replacement}`, `${VAR+replacement}`, nested, and `$$` for a dollar sign.

use std::collections::BTreeSet;

/// Who knows the value of a variable.
pub(crate) type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Why a text cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// No variable can stand there. Where, in bytes of the text.
    Invalid(usize),
    /// A variable that has to be set is not.
    Required { variable: String, message: String },
    /// Variables inside variables inside variables.
    TooDeep,
}

/// Nobody nests defaults deeper.
const MAX_DEPTH: usize = 32;
/// No value of a compose file is longer.
const MAX_LENGTH: usize = 1 << 20;

/// Fills in a text; names of variables without a value are put into `unset`.
pub(crate) fn substitute(
    text: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
) -> Result<String, TemplateError> {
    fill(text, lookup, unset, 0)
}

fn fill(
    text: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
    depth: usize,
) -> Result<String, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        filled.push_str(&rest[..dollar]);
        let at = text.len() - rest.len() + dollar;
        let behind = &rest[dollar + 1..];
        if let Some(more) = behind.strip_prefix('$') {
            filled.push('$');
            rest = more;
        } else if let Some(more) = behind.strip_prefix('{') {
            let end = closing_brace(more).ok_or(TemplateError::Invalid(at))?;
            filled.push_str(&braced(&more[..end], lookup, unset, depth, at)?);
            rest = &more[end + 1..];
        } else {
            let length = name_length(behind);
            if length == 0 {
                filled.push('$');
            } else {
                filled.push_str(&value_of(&behind[..length], lookup, unset));
            }
            rest = &behind[length..];
        }
        if filled.len() > MAX_LENGTH {
            return Err(TemplateError::TooDeep);
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What stands between the braces.
fn braced(
    inside: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
    depth: usize,
    at: usize,
) -> Result<String, TemplateError> {
    let (name, operation) = inside.split_at(name_length(inside));
    if name.is_empty() {
        return Err(TemplateError::Invalid(at));
    }
    if operation.is_empty() {
        return Ok(value_of(name, lookup, unset));
    }
    let (empty_counts_as_unset, operation) = match operation.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operation),
    };
    let mut operator = operation.chars();
    let (operator, word) = (operator.next(), operator.as_str());
    let value = lookup(name).filter(|value| !(empty_counts_as_unset && value.is_empty()));
    match (operator, value) {
        (Some('-' | '?'), Some(value)) => Ok(value),
        (Some('-'), None) => fill(word, lookup, unset, depth + 1),
        (Some('?'), None) => {
            let message = fill(word, lookup, unset, depth + 1)?;
            Err(TemplateError::Required { variable: name.to_owned(), message })
        }
        (Some('+'), Some(_)) => fill(word, lookup, unset, depth + 1),
        (Some('+'), None) => Ok(String::new()),
        _ => Err(TemplateError::Invalid(at)),
    }
}

fn value_of(name: &str, lookup: Lookup<'_>, unset: &mut BTreeSet<String>) -> String {
    lookup(name).unwrap_or_else(|| {
        unset.insert(name.to_owned());
        String::new()
    })
}

fn name_length(text: &str) -> usize {
    let mut length = 0;
    for (at, c) in text.char_indices() {
        let fits = c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
        if !fits {
            break;
        }
        length = at + 1;
    }
    length
}

/// Where the brace that was opened before the text is closed.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 1usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                open += 1;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, TemplateError> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, &lookup, &mut BTreeSet::new())
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("$A-${A}b", "a-ab"),
            ("$$A $${A}", "$A ${A}"),
            ("${B}", ""),
            ("${B:-x}${B-y}${EMPTY:-z}${EMPTY-w}", "xyz"),
            ("${A:+r}${A+s}${B:+r}${B+s}${EMPTY:+r}${EMPTY+s}", "rss"),
            ("${B:-${C:-${A}}}!", "a!"),
            ("${A:?no}${A?no}${EMPTY?no}", "aa"),
            ("${B:-a}b}", "ab}"),
            ("${A:-${B:?never asked}}", "a"),
            ("a$ $1 $-$A", "a$ $1 $-a"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in() {
        for text in ["${", "${}", "${A", "${A!b}", "${1A}"] {
            assert!(matches!(filled(text), Err(TemplateError::Invalid(_))), "{text}");
        }
        for text in ["${B:?why $A}", "${B?why $A}", "${EMPTY:?why $A}"] {
            let Err(TemplateError::Required { message, .. }) = filled(text) else { panic!("{text}") };
            assert_eq!(message, "why a");
        }
    }

    #[test]
    fn towers_are_refused() {
        let tower = format!("{}{}", "${B:-".repeat(5000), "}".repeat(5000));
        assert_eq!(filled(&tower), Err(TemplateError::TooDeep));
    }
}
