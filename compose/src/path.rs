//! Where in the tree something is: `services.web.ports.[]`, and patterns of such places.

use std::fmt;

/// A place in the tree, a chain up to the root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    name: &'p str,
}

/// The name of every item of a list.
pub(crate) const ITEM: &str = "[]";

impl<'p> Path<'p> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, name: "" };

    pub(crate) fn child(&'p self, name: &'p str) -> Path<'p> {
        Path { parent: Some(self), name }
    }

    /// Whether the place fits a pattern such as `services.*.ports.*.target`: `*` stands for any one name.
    pub(crate) fn matches(&self, pattern: &str) -> bool {
        let mut here = self;
        let mut rest = pattern;
        loop {
            let dot = rest.bytes().rposition(|byte| byte == b'.');
            let wanted = dot.map_or(rest, |dot| &rest[dot + 1..]);
            match (here.parent, dot) {
                (Some(parent), dot) if wanted == "*" || wanted == here.name => {
                    here = parent;
                    match dot {
                        Some(dot) => rest = &rest[..dot],
                        None => return here.parent.is_none(),
                    }
                }
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parent {
            Some(parent) if parent.parent.is_some() => write!(formatter, "{parent}.{}", self.name),
            _ => formatter.write_str(self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_places_of_their_length() {
        let services = Path::ROOT.child("services");
        let web = services.child("web");
        let ports = web.child("ports");
        let item = ports.child(ITEM);
        assert!(ports.matches("services.*.ports"));
        assert!(item.matches("services.*.ports.*"));
        assert!(!item.matches("services.*.ports"));
        assert!(!ports.matches("*.ports"));
        assert!(!Path::ROOT.matches("services"));
        assert_eq!(item.to_string(), "services.web.ports.[]");
    }
}
