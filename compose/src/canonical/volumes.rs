//! Mounts: `./data:/data:ro`, `name:/path`, `/anonymous`, `~/x:/x:z`.

use super::texts_at;
use crate::node::{Fault, Map, Node, Result, Span, Value};

/// What the short form says.
#[derive(Debug, Default)]
struct Mount<'t> {
    source: &'t str,
    target: &'t str,
    options: &'t str,
}

/// Writes out one mount.
pub(crate) fn expand(node: &mut Node) -> Result<()> {
    let Some(text) = node.as_text() else {
        return Ok(());
    };
    let span = node.span;
    let mount = parse(text, span)?;
    let is_path = mount.source.starts_with(['.', '/', '~']) || is_drive(mount.source);
    let kind = if is_path { "bind" } else { "volume" };
    let mut map = texts_at(span, &[("type", kind), ("target", mount.target)]);
    if !mount.source.is_empty() {
        map.insert("source", span, Node::text(span, mount.source));
    }
    let yes = || Node::new(span, Value::Bool(true));
    let mut bind = Map::default();
    let mut volume = Map::default();
    for option in mount.options.split(',') {
        match option {
            "ro" => map.insert("read_only", span, yes()),
            "nocopy" => volume.insert("nocopy", span, yes()),
            "z" | "Z" => bind.insert("selinux", span, Node::text(span, option)),
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                bind.insert("propagation", span, Node::text(span, option));
            }
            // Compose leaves out what it does not know.
            _ => {}
        }
    }
    if is_path {
        bind.insert("create_host_path", span, yes());
    }
    if !bind.is_empty() {
        map.insert("bind", span, Node::new(span, Value::Map(bind)));
    }
    // Of what is hardly a path Compose looks at nothing else.
    if (!is_path && text.len() > 2) || !volume.is_empty() {
        map.insert("volume", span, Node::new(span, Value::Map(volume)));
    }
    node.value = Value::Map(map);
    Ok(())
}

/// The path in the container.
pub(crate) fn target(text: &str, span: Span) -> Result<String> {
    parse(text, span).map(|mount| mount.target.to_owned())
}

fn is_drive(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

fn parse(text: &str, span: Span) -> Result<Mount<'_>> {
    let fault =
        |message: String| Fault::schema(span, message).hint("mounts are written `[SOURCE:]TARGET[:OPTIONS]`");
    if text.is_empty() {
        return Err(fault("an empty mount".to_owned()));
    }
    if text.len() <= 2 {
        return Ok(Mount { target: text, ..Mount::default() });
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(':') {
        // A drive letter of Windows.
        if at == start + 1 && text[start..].starts_with(|first: char| first.is_ascii_alphabetic()) {
            continue;
        }
        parts.push(&text[start..at]);
        start = at + 1;
    }
    parts.push(&text[start..]);
    if parts.iter().any(|part| part.is_empty()) {
        return Err(fault(format!("nothing stands between two colons of the mount `{text}`")));
    }
    match *parts.as_slice() {
        [target] => Ok(Mount { target, ..Mount::default() }),
        [source, target] => Ok(Mount { source, target, options: "" }),
        [source, target, options] => Ok(Mount { source, target, options }),
        _ => Err(fault(format!("too many colons in the mount `{text}`"))),
    }
}
