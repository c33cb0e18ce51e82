//! `.env` files, as Compose reads them: `KEY=value`, `export`, comments, quotes, escapes, and variables in values.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    node::{Fault, FaultKind, Result, Span},
    template::{self, Lookup, TemplateError},
};

/// The variables of a file. Values see what `lookup` knows first, then what stands above them.
pub(crate) fn parse(source: usize, text: &str, lookup: Lookup<'_>) -> Result<BTreeMap<String, String>> {
    parse_below(source, text, lookup, BTreeMap::new())
}

/// The same, with variables that stand above the first line, and are part of the result.
pub(crate) fn parse_below(
    source: usize,
    text: &str,
    lookup: Lookup<'_>,
    above: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let mut reader = Reader { source, text, at: 0, lookup, found: above };
    while reader.skip_to_statement() {
        reader.statement()?;
    }
    Ok(reader.found)
}

struct Reader<'t> {
    source: usize,
    text: &'t str,
    at: usize,
    lookup: Lookup<'t>,
    found: BTreeMap<String, String>,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn fault(&self, start: usize, end: usize, message: impl Into<String>) -> Fault {
        Fault::new(FaultKind::Syntax, Span { source: self.source, start, end }, message)
    }

    /// Goes on to the next statement; false at the end of the file.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.rest().starts_with('#') {
                return !self.rest().is_empty();
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn skip_blanks(&mut self) {
        let blank = |c: char| c != '\n' && c.is_whitespace();
        self.at = self.text.len() - self.rest().trim_start_matches(blank).len();
    }

    fn statement(&mut self) -> Result<()> {
        if let Some(rest) = self.rest().strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            self.at += "export".len();
            self.skip_blanks();
        }
        let start = self.at;
        let rest = self.rest();
        let end = rest.find(['=', ':', '\n']);
        let key = rest[..end.unwrap_or(rest.len())].trim_end();
        if let Some((offset, bad)) = key.char_indices().find(|&(_, c)| !is_key(c)) {
            let message = format!("unexpected character `{bad}` in the name of a variable");
            return Err(self.fault(start + offset, start + offset + bad.len_utf8(), message));
        }
        let Some(end) = end.filter(|&end| !rest[end..].starts_with('\n')) else {
            // A name alone passes on the value that the environment has.
            if let Some(value) = (self.lookup)(key) {
                self.found.insert(key.to_owned(), value);
            }
            self.at += end.unwrap_or(rest.len());
            return Ok(());
        };
        self.at += end + 1;
        self.skip_blanks();
        let value = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
            _ => self.unquoted()?,
        };
        self.found.insert(key.to_owned(), value);
        Ok(())
    }

    fn unquoted(&mut self) -> Result<String> {
        let start = self.at;
        let line = self.rest().split('\n').next().unwrap_or_default();
        self.at += line.len();
        let value = line.split(" #").next().unwrap_or_default().trim_end();
        self.fill_in(value, start)
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        let mut value = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            match c {
                '\\' if !escaped => escaped = true,
                _ if c == quote && !escaped => {
                    self.at += offset + c.len_utf8();
                    return if quote == '"' { self.fill_in(&unescape(&value), start) } else { Ok(value) };
                }
                _ => {
                    if escaped && c != quote {
                        value.push('\\');
                    }
                    escaped = false;
                    value.push(c);
                }
            }
        }
        let line = self.rest().split('\n').next().unwrap_or_default();
        Err(self.fault(start, start + line.len(), "a quoted value does not end"))
    }

    fn fill_in(&self, value: &str, start: usize) -> Result<String> {
        let lookup = |name: &str| (self.lookup)(name).or_else(|| self.found.get(name).cloned());
        template::substitute(value, &lookup, &mut BTreeSet::new()).map_err(|error| {
            let message = match error {
                TemplateError::Invalid(_) => format!("`{value}` holds a `$` that begins no variable"),
                TemplateError::Required { variable, message } => {
                    format!("required variable `{variable}` is not set: {message}")
                }
                TemplateError::TooDeep => "variables are too deeply nested".to_owned(),
            };
            let fault = self.fault(start, start + value.len(), message);
            Fault { kind: FaultKind::Interpolation, ..fault }
        })
    }
}

fn is_key(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']')
}

/// The escapes of a shell. `\$` becomes `$$`, which stands for a dollar sign when variables are filled in.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('$') => plain.push_str("$$"),
            Some(other @ ('"' | '\\')) => plain.push(other),
            Some(other) => plain.extend(['\\', other]),
            None => plain.push('\\'),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> BTreeMap<String, String> {
        parse(0, text, &|name| (name == "HOST").then(|| "outer".to_owned())).unwrap()
    }

    #[test]
    fn values_as_compose_reads_them() {
        let found = parsed(
            "# a comment\nA=1\nexport B = two words # and a comment\nC='$A \"q\"'\nD=\"$A\\n\\$x\"\nE: yaml\n\
             F=${A}x$HOST\nHOST\nMISSING\nG=a#b\n\nH=\"two\nlines\"\nI=\n",
        );
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "$A \"q\""),
            ("D", "1\n$x"),
            ("E", "yaml"),
            ("F", "1xouter"),
            ("G", "a#b"),
            ("H", "two\nlines"),
            ("HOST", "outer"),
            ("I", ""),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn mistakes_have_a_place() {
        let fault = parse(0, "A=1\nB!=2\n", &|_| None).unwrap_err();
        assert_eq!(fault.span.unwrap().start, 5);
        assert!(parse(0, "A=\"x\n", &|_| None).is_err());
    }
}
