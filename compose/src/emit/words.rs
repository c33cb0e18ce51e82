//! A command line as a shell takes it apart: blanks, quotes, backslashes.

/// The words of a text.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let current = word.get_or_insert_default();
                match chars.next() {
                    Some(next) if quote.is_none() || matches!(next, '"' | '\\' | '$' | '`') => {
                        current.push(next);
                    }
                    Some(next) => current.extend(['\\', next]),
                    None => current.push('\\'),
                }
            }
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes() {
        assert_eq!(
            split("sh -c \"echo \\\"hi\\\" there\"  'a b'\\ c ''"),
            ["sh", "-c", "echo \"hi\" there", "a b c", ""]
        );
    }
}
