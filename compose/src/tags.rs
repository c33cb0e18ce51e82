//! `!reset` and `!override`: what a later file takes away from the earlier ones.

use crate::node::{Map, Node, Tag, Value};

/// Keys from the root to something that is taken away.
pub(crate) type Removed = Vec<Vec<String>>;

/// Takes the tags out of a document: values to be reset go, and what both tags take away from the files before is
/// returned.
pub(crate) fn take(document: &mut Node) -> Removed {
    let mut removed = Removed::new();
    collect(document, &mut Vec::new(), &mut removed);
    removed
}

fn collect(node: &mut Node, here: &mut Vec<String>, removed: &mut Removed) {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|name, entry| {
                here.push(name.to_owned());
                let stays = match entry.node.tag.take() {
                    Some(Tag::Reset) => {
                        removed.push(here.clone());
                        false
                    }
                    Some(Tag::Override) => {
                        removed.push(here.clone());
                        true
                    }
                    None => {
                        collect(&mut entry.node, here, removed);
                        true
                    }
                };
                here.pop();
                stays
            });
        }
        Value::List(items) => items.retain_mut(|item| item.tag.take() != Some(Tag::Reset)),
        _ => {}
    }
}

/// Removes from a tree what was taken away.
pub(crate) fn apply(tree: &mut Node, removed: &Removed) {
    for path in removed {
        if let (Some(map), Some((last, before))) = (tree.as_map_mut(), path.split_last()) {
            remove(map, before, last);
        }
    }
}

fn remove(map: &mut Map, before: &[String], last: &str) {
    match before.split_first() {
        None => {
            map.remove(last);
        }
        Some((first, rest)) => {
            if let Some(below) = map.get_mut(first).and_then(Node::as_map_mut) {
                remove(below, rest, last);
            }
        }
    }
}
