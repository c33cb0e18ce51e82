//! Patterns for names: `*` stands for any text, `?` for any one character, everything else for itself.

use std::{collections::HashSet, fmt};

/// A pattern for compose projects or container names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(Vec<char>);

impl Glob {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.chars().collect())
    }

    /// Whether the pattern is a plain name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.iter().any(|symbol| matches!(symbol, '*' | '?'))
    }

    /// Whether the pattern matches the whole name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // Of all stars only the last one seen can usefully take more characters.
        let (mut pattern, mut position) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while position < name.len() {
            match self.0.get(pattern) {
                Some('*') => {
                    star = Some((pattern, position));
                    pattern += 1;
                }
                Some(&symbol) if symbol == '?' || symbol == name[position] => {
                    pattern += 1;
                    position += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        pattern = at + 1;
                        position = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        self.0[pattern..].iter().all(|&symbol| symbol == '*')
    }

    /// Whether some name, not empty, matches both patterns.
    ///
    /// Walks the product of the two patterns as automata: a state is how far both have come.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let (left, right) = (&self.0, &other.0);
        let mut seen = HashSet::new();
        let mut open = vec![(0, 0, false)];
        while let Some((i, j, moved)) = open.pop() {
            if !seen.insert((i, j, moved)) {
                continue;
            }
            let (a, b) = (left.get(i).copied(), right.get(j).copied());
            if a.is_none() && b.is_none() && moved {
                return true;
            }
            if a == Some('*') {
                open.push((i + 1, j, moved));
            }
            if b == Some('*') {
                open.push((i, j + 1, moved));
            }
            if let (Some(a), Some(b)) = (a, b) {
                let wild = |symbol| matches!(symbol, '*' | '?');
                if a == b || wild(a) || wild(b) {
                    open.push((i + usize::from(a != '*'), j + usize::from(b != '*'), true));
                }
            }
        }
        false
    }

    /// Two different names that the pattern matches, or its only one.
    #[must_use]
    pub fn samples(&self) -> Vec<String> {
        let with = |filler: &str| -> String {
            self.0
                .iter()
                .map(|&symbol| match symbol {
                    '*' => filler.to_owned(),
                    '?' => filler.chars().take(1).collect(),
                    other => other.to_string(),
                })
                .collect()
        };
        if self.is_exact() { vec![with("")] } else { vec![with("one"), with("two")] }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|symbol| write!(formatter, "{symbol}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook definition.
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..]))
            }
            (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
            (Some(a), Some(b)) => a == b && matches(&pattern[1..], &name[1..]),
            _ => false,
        }
    }

    fn names(length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..length {
            last = last.iter().flat_map(|name| ["a", "b"].map(|next| format!("{name}{next}"))).collect();
            all.extend(last.clone());
        }
        all
    }

    #[test]
    fn examples() {
        assert!(Glob::new("myapp-*").matches("myapp-dev"));
        assert!(!Glob::new("myapp-*").matches("myapp"));
        assert!(Glob::new("*-dev").intersects(&Glob::new("myapp-*")));
        assert!(!Glob::new("qerds").intersects(&Glob::new("myapp-*")));
        assert!(!Glob::new("a?c").intersects(&Glob::new("abcd")));
        assert_eq!(Glob::new("x-?").samples(), ["x-o", "x-t"]);
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,6}", name in "[ab]{0,6}") {
            prop_assert_eq!(Glob::new(&pattern).matches(&name), matches(pattern.as_bytes(), name.as_bytes()));
        }

        // A shortest common name is never longer than both patterns together.
        #[test]
        fn intersection_agrees_with_trying_every_name(left in "[ab*?]{1,4}", right in "[ab*?]{1,4}") {
            let expected = names(8).iter().any(|name| {
                !name.is_empty()
                    && matches(left.as_bytes(), name.as_bytes())
                    && matches(right.as_bytes(), name.as_bytes())
            });
            prop_assert_eq!(Glob::new(&left).intersects(&Glob::new(&right)), expected);
        }

        #[test]
        fn samples_match(pattern in "[ab*?-]{1,6}") {
            let glob = Glob::new(&pattern);
            prop_assert!(glob.samples().iter().all(|name| glob.matches(name)));
        }
    }
}
