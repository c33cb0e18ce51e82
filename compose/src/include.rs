//! `include`: other compose files with folders and variables of their own, whose parts join the model.

use std::path::{Path, PathBuf};

use crate::{
    dotenv,
    load::{Environment, Input, Loader, Scope},
    node::{Fault, FaultKind, Node, Result, Span, Value},
    paths,
};

/// Nobody nests them deeper.
const MAX_DEPTH: usize = 32;

/// The parts of a model that are taken over.
const PARTS: [&str; 6] = ["services", "volumes", "networks", "secrets", "configs", "models"];

/// One item of `include`.
struct Item {
    span: Span,
    paths: Vec<(String, Span)>,
    folder: Option<String>,
    env_files: Vec<(String, Span)>,
}

impl Loader {
    /// Takes in everything that a document includes.
    pub(crate) fn include_all(
        &mut self,
        document: &mut Node,
        path: &Path,
        scope: &Scope<'_>,
    ) -> Result<(), Vec<Fault>> {
        let Some(entry) = document.as_map_mut().and_then(|map| map.remove("include")) else {
            return Ok(());
        };
        if entry.node.is_null() {
            return Ok(());
        }
        let Value::List(items) = &entry.node.value else {
            let message = format!("`include` is a list, not {}", entry.node.kind());
            return Err(vec![Fault::schema(entry.node.span, message)]);
        };
        let mut included = scope.included.to_vec();
        included.push(path.to_owned());
        for node in items.iter().filter(|node| !node.is_null()) {
            let imported = self.include(&item(node)?, scope, &included)?;
            self.import(imported, document)?;
        }
        Ok(())
    }

    fn include(&mut self, item: &Item, scope: &Scope<'_>, included: &[PathBuf]) -> Result<Node, Vec<Fault>> {
        let home = self.home.clone();
        let join = |text: &str| paths::join(scope.folder, text, home.as_deref());
        let mut files = Vec::new();
        for (text, span) in &item.paths {
            let file = join(text);
            if included.contains(&file) {
                let mut circle: Vec<String> = included.iter().map(|path| self.shown(path)).collect();
                circle.push(self.shown(&file));
                let message = format!("files include each other in a circle: {}", circle.join(" includes "));
                return Err(vec![Fault::new(FaultKind::Reference, *span, message)]);
            }
            if !file.is_file() {
                let message = format!("failed to read `{}`: there is no such file", self.shown(&file));
                return Err(vec![Fault::new(FaultKind::Unreadable, *span, message)]);
            }
            files.push(file);
        }
        if included.len() > MAX_DEPTH {
            return Err(vec![Fault::new(FaultKind::Limit, item.span, "`include` is nested too deeply")]);
        }
        let folder = match (&item.folder, files.first()) {
            // As Compose does it: of a folder that is not there, the one above.
            (Some(folder), _) => {
                Some(join(folder)).filter(|folder| folder.is_dir()).unwrap_or_else(|| join(folder).join(".."))
            }
            (None, Some(first)) => first.parent().unwrap_or(scope.folder).to_owned(),
            (None, None) => scope.folder.to_owned(),
        };
        let environment = self.environment_of(item, &folder, scope)?;
        let inner = Scope { folder: &folder, environment: &environment, included };
        let inputs: Vec<Input> = files.into_iter().map(Input::File).collect();
        self.model(&inputs, &inner)
    }

    fn environment_of(&mut self, item: &Item, folder: &Path, scope: &Scope<'_>) -> Result<Environment> {
        let mut files: Vec<(PathBuf, Option<Span>)> = Vec::new();
        if item.env_files.is_empty() {
            let file = folder.join(".env");
            if file.is_file() {
                files.push((file, None));
            }
        }
        for (text, span) in &item.env_files {
            files.push((paths::join(scope.folder, text, self.home.as_deref()), Some(*span)));
        }
        let mut environment = Environment::new();
        for (file, span) in files {
            let source = self.read(&file, span)?;
            let lookup = |name: &str| scope.environment.get(name).or_else(|| environment.get(name)).cloned();
            let found = dotenv::parse(source, &self.sources.files[source].text, &lookup)?;
            environment.extend(found);
        }
        environment.extend(scope.environment.clone());
        Ok(environment)
    }

    /// Takes over the parts of an included model.
    fn import(&self, imported: Node, document: &mut Node) -> Result<()> {
        let Value::Map(mut imported) = imported.value else {
            return Ok(());
        };
        let span = document.span;
        let Some(model) = document.as_map_mut() else {
            return Ok(());
        };
        for part in PARTS {
            let Some(entry) = imported.remove(part) else {
                continue;
            };
            let Value::Map(new) = entry.node.value else {
                continue;
            };
            if model.get(part).is_none_or(Node::is_null) {
                model.insert(part, entry.key, Node::map(span));
            }
            let Some(old) = model.get_mut(part).and_then(Node::as_map_mut) else {
                continue;
            };
            for (name, entry) in new {
                match old.entry(&name) {
                    Some(own) if own.node == entry.node => {}
                    Some(own) => {
                        let message = format!("`{part}.{name}` is included and defined here as well");
                        let hint = format!("the other one stands at {}", self.sources.at(entry.key));
                        return Err(Fault::new(FaultKind::Reference, own.key, message).hint(hint));
                    }
                    None => old.insert(name, entry.key, entry.node),
                }
            }
        }
        Ok(())
    }
}

fn item(node: &Node) -> Result<Item> {
    let texts = |node: Option<&Node>| -> Vec<(String, Span)> {
        let Some(node) = node else {
            return Vec::new();
        };
        match node.as_text() {
            Some(text) => vec![(text.to_owned(), node.span)],
            None => {
                node.items().iter().filter_map(|item| Some((item.as_text()?.to_owned(), item.span))).collect()
            }
        }
    };
    let paths = match node.as_text() {
        Some(text) => vec![(text.to_owned(), node.span)],
        None => texts(node.get("path")),
    };
    if let Some((unknown, entry)) =
        node.entries().find(|(key, _)| !["path", "env_file", "project_directory"].contains(key))
    {
        return Err(Fault::schema(entry.key, format!("unknown key `{unknown}` in `include`")));
    }
    if paths.is_empty() {
        return Err(Fault::schema(node.span, "an item of `include` has no `path`"));
    }
    let texts_only = |node: &Node| {
        node.as_text().is_some()
            || node.as_list().is_some_and(|items| items.iter().all(|item| item.as_text().is_some()))
    };
    for key in ["path", "env_file"] {
        if let Some(wrong) = node.get(key).filter(|node| !texts_only(node)) {
            let message = format!("`{key}` is text or a list of texts");
            return Err(Fault::schema(wrong.span, message));
        }
    }
    if let Some(wrong) = node.get("project_directory").filter(|node| node.as_text().is_none()) {
        let message = format!("`project_directory` is text, not {}", wrong.kind());
        return Err(Fault::schema(wrong.span, message));
    }
    let folder = node.get("project_directory").and_then(Node::as_text).map(str::to_owned);
    Ok(Item { span: node.span, paths, folder, env_files: texts(node.get("env_file")) })
}
