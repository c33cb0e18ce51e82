//! Relative paths, made absolute from the folder that they are meant from.

use std::path::{Component, Path as FilePath, PathBuf};

use crate::{
    node::{Fault, Node, Result, Value},
    path::{ITEM, Path},
};

/// Makes every path below a model absolute.
pub(crate) fn resolve(node: &mut Node, folder: &FilePath, home: Option<&str>) -> Result<()> {
    walk(node, &Path::ROOT, &Resolver { folder, home })
}

struct Resolver<'r> {
    folder: &'r FilePath,
    home: Option<&'r str>,
}

/// Where a path of this machine stands.
const PLAIN: [&str; 5] = [
    "services.*.env_file.*.path",
    "services.*.label_file.*",
    "services.*.develop.watch.*.path",
    "configs.*.file",
    "secrets.*.file",
];
/// Where a path or the address of something remote stands.
const CONTEXTS: [&str; 2] = ["services.*.build.context", "services.*.build.additional_contexts.*"];

fn walk(node: &mut Node, path: &Path<'_>, resolver: &Resolver<'_>) -> Result<()> {
    let matches = |patterns: &[&str]| patterns.iter().any(|pattern| path.matches(pattern));
    if matches(&PLAIN) {
        resolver.absolute(node);
        return Ok(());
    }
    if matches(&CONTEXTS) {
        if node.as_text().is_some_and(|text| !is_remote(text)) {
            resolver.absolute(node);
        }
        return Ok(());
    }
    if path.matches("services.*.volumes.*") {
        return resolver.mount(node);
    }
    if path.matches("volumes.*") {
        resolver.volume(node);
        return Ok(());
    }
    match &mut node.value {
        Value::Map(map) => {
            map.iter_mut().try_for_each(|(name, entry)| walk(&mut entry.node, &path.child(name), resolver))
        }
        Value::List(items) => items.iter_mut().try_for_each(|item| walk(item, &path.child(ITEM), resolver)),
        _ => Ok(()),
    }
}

impl Resolver<'_> {
    fn absolute(&self, node: &mut Node) {
        if let Some(text) = node.as_text() {
            let path = join(self.folder, text, self.home);
            node.value = Value::Text(path.display().to_string());
        }
    }

    fn mount(&self, node: &mut Node) -> Result<()> {
        let span = node.span;
        let Some(map) = node.as_map_mut() else {
            return Ok(());
        };
        if map.get("type").and_then(Node::as_text) != Some("bind") {
            return Ok(());
        }
        match map.get_mut("source") {
            Some(source) => {
                self.absolute(source);
                Ok(())
            }
            None => Err(Fault::schema(span, "a mount of type `bind` has no `source`")),
        }
    }

    /// A named volume can be a bind mount in disguise.
    fn volume(&self, node: &mut Node) {
        let Some(map) = node.as_map_mut() else {
            return;
        };
        if map.get("driver").and_then(Node::as_text) != Some("local") {
            return;
        }
        if let Some(options) = map.get_mut("driver_opts").and_then(Node::as_map_mut)
            && options.get("o").and_then(Node::as_text) == Some("bind")
            && let Some(device) = options.get_mut("device")
        {
            self.absolute(device);
        }
    }
}

fn is_remote(text: &str) -> bool {
    let schemes =
        ["https://", "http://", "git://", "ssh://", "github.com/", "git@", "oci://", "docker-image://"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
        || text.starts_with("service:")
        || text.starts_with("target:")
}

/// A path below a folder, `.` and `..` taken out; `~` is the home folder.
pub(crate) fn join(folder: &FilePath, text: &str, home: Option<&str>) -> PathBuf {
    if let (Some(rest), Some(home)) = (text.strip_prefix('~'), home) {
        return clean(&FilePath::new(home).join(rest.trim_start_matches('/')));
    }
    clean(&folder.join(text))
}

/// A path without `.` and `..`, by its text alone.
pub(crate) fn clean(path: &FilePath) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(".."),
            },
            other => cleaned.push(other),
        }
    }
    if cleaned.as_os_str().is_empty() { PathBuf::from(".") } else { cleaned }
}
