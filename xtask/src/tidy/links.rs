//! Links between the repository's Markdown files: the file has to exist, and the heading too. Links into the world are
//! not followed.

use std::collections::BTreeSet;

use super::SourceFile;

pub(super) fn links_lead_somewhere(files: &[SourceFile]) -> Vec<String> {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, link) in links(&file.text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { Some(file.path.clone()) } else { resolve(&file.path, path) };
            let found = target.as_deref().filter(|target| exists(&paths, target));
            let is_there = match (found, heading) {
                (None, _) => false,
                (Some(_), "") => true,
                (Some(target), heading) => files.iter().any(|other| {
                    other.path == target && anchors(&other.text).any(|anchor| anchor == heading)
                }),
            };
            if !is_there {
                findings.push(format!("`{}:{number}` links to `{link}`, which is not there", file.path));
            }
        }
    }
    findings
}

/// A file, or a folder that holds one.
fn exists(paths: &BTreeSet<&str>, target: &str) -> bool {
    let folder = format!("{target}/");
    paths.contains(target) || paths.iter().any(|path| path.starts_with(&folder))
}

/// The path that a link in `from` means, from the top of the repository; `None` if it leads out of it.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The targets of links that do not lead into the world, with their lines.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text)
        .flat_map(|(number, line)| line.split("](").skip(1).map(move |rest| (number, rest)))
        .filter_map(|(number, rest)| Some((number, rest.split_once(')')?.0)))
        .filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"))
}

/// The anchors of headings as forges make them: lower case, words joined by hyphens, no punctuation.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn links_to_files_folders_and_headings_are_followed() {
        let files = [
            file("README.md", "[a](docs/a.md#what-is-it) [folder](docs/) [out](https://example.invalid/x)\n"),
            file(
                "docs/a.md",
                "# What is it?\n[up](../README.md) [here](#what-is-it)\n```md\n[no](no.md)\n```\n",
            ),
        ];
        assert_eq!(links_lead_somewhere(&files), [] as [&str; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let files = [
            file("README.md", "[a](docs/b.md) [b](docs/a.md#nothing)\n[c](../elsewhere.md)\n"),
            file("docs/a.md", "# What is it?\n"),
        ];
        assert_eq!(links_lead_somewhere(&files).len(), 3);
    }
}
