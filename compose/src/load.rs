//! From files to one model: each document is filled in, extended, laid over the ones before, and checked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    canonical::{self, PortBudget},
    merge,
    node::{Fault, FaultKind, Node, Result, Source, Sources, Span, Value},
    paths, schema, shape, tags, unique,
    yaml::{self, Budget},
};

/// Variables by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// A file to read: where it is, or what came in by standard input.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    File(PathBuf),
    Text { name: String, text: String },
}

/// What is meant from where.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'s> {
    /// Relative paths are meant from here.
    pub(crate) folder: &'s Path,
    pub(crate) environment: &'s Environment,
    /// The files that led here, by `include`.
    pub(crate) included: &'s [PathBuf],
}

/// How far a file is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All the way.
    Whole,
    /// Only so far that a service of another file can extend one of its own.
    Base,
}

/// The most files that one run reads.
const MAX_FILES: usize = 256;

/// What is kept over all files of a run.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) sources: Sources,
    pub(crate) warnings: Vec<Fault>,
    pub(crate) unset: BTreeSet<String>,
    /// Names are shown as seen from here.
    pub(crate) shown_from: PathBuf,
    pub(crate) home: Option<String>,
    /// Files that were read already.
    known: HashMap<PathBuf, usize>,
    yaml: Budget,
    ports: PortBudget,
}

impl Loader {
    pub(crate) fn new(shown_from: PathBuf, home: Option<String>) -> Self {
        Self {
            sources: Sources::default(),
            warnings: Vec::new(),
            unset: BTreeSet::new(),
            shown_from,
            home,
            known: HashMap::new(),
            yaml: Budget::default(),
            ports: PortBudget::default(),
        }
    }

    /// The name under which a file is shown.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.shown_from).unwrap_or(path).display().to_string()
    }

    /// Reads a text; `asked_by` is where it is named.
    pub(crate) fn read(&mut self, path: &Path, asked_by: Option<Span>) -> Result<usize> {
        if let Some(&known) = self.known.get(path) {
            return Ok(known);
        }
        let name = self.shown(path);
        if self.sources.files.len() >= MAX_FILES {
            return Err(Fault::new(FaultKind::Limit, asked_by, format!("more than {MAX_FILES} files")));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(yaml::MAX_BYTES + 1).unwrap_or(u64::MAX);
        let unreadable = |error: &io::Error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "there is no such file".to_owned(),
                _ => error.to_string(),
            };
            Fault::new(FaultKind::Unreadable, asked_by, format!("failed to read `{name}`: {why}"))
        };
        // A pipe or a device could hold the run up for ever.
        let metadata = path.metadata().map_err(|error| unreadable(&error))?;
        if !metadata.is_file() {
            let message = format!("`{name}` is not a file");
            return Err(Fault::new(FaultKind::Unreadable, asked_by, message));
        }
        File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| unreadable(&error))?;
        let text = String::from_utf8(bytes).map_err(|_not_text| {
            Fault::new(FaultKind::Syntax, asked_by, format!("`{name}` is not UTF-8 text"))
        })?;
        let source = self.add(name, text);
        self.known.insert(path.to_owned(), source);
        Ok(source)
    }

    fn add(&mut self, name: String, text: String) -> usize {
        // A mark at the beginning is no part of the text.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        self.sources.files.push(Source { name, text });
        self.sources.files.len() - 1
    }

    /// Loads files over each other into one model.
    pub(crate) fn model(&mut self, inputs: &[Input], scope: &Scope<'_>) -> Result<Node, Vec<Fault>> {
        let mut model: Option<Node> = None;
        for input in inputs {
            model = self.file(input, scope, model, Depth::Whole)?;
        }
        let Some(mut model) = model else {
            let message = "the compose file is empty";
            let name = self.sources.files.len().checked_sub(1);
            let span = name.map(|source| Span { source, start: 0, end: 0 });
            return Err(vec![Fault::new(FaultKind::Schema, span, message)]);
        };
        crate::defaults::fill_in(&mut model);
        crate::amounts::check(&model)?;
        crate::consistency::check_resources(&model)?;
        paths::resolve(&mut model, scope.folder, self.home.as_deref())?;
        crate::defaults::resolve_environment(&mut model, scope.environment);
        Ok(model)
    }

    /// Lays the documents of a file over what is there.
    pub(crate) fn file(
        &mut self,
        input: &Input,
        scope: &Scope<'_>,
        mut model: Option<Node>,
        depth: Depth,
    ) -> Result<Option<Node>, Vec<Fault>> {
        let source = self.open(input)?;
        let path = match input {
            Input::File(path) => path.clone(),
            Input::Text { .. } => scope.folder.join("-"),
        };
        for document in self.documents(source)? {
            model = Some(self.document(document, &path, scope, model, depth)?);
        }
        Ok(model)
    }

    fn documents(&mut self, source: usize) -> Result<Vec<Node>> {
        yaml::parse(source, &self.sources.files[source].text, &mut self.yaml)
    }

    /// The text of an input.
    pub(crate) fn open(&mut self, input: &Input) -> Result<usize> {
        match input {
            Input::File(path) => self.read(path, None),
            Input::Text { name, text } => {
                let key = PathBuf::from(name);
                if let Some(&known) = self.known.get(&key) {
                    return Ok(known);
                }
                let source = self.add(name.clone(), text.clone());
                self.known.insert(key, source);
                Ok(source)
            }
        }
    }

    fn document(
        &mut self,
        mut document: Node,
        path: &Path,
        scope: &Scope<'_>,
        model: Option<Node>,
        depth: Depth,
    ) -> Result<Node, Vec<Fault>> {
        match &document.value {
            Value::Map(_) => {}
            Value::Null => {
                let message = "the compose file is empty";
                return Err(vec![Fault::new(FaultKind::Schema, document.span, message)]);
            }
            _ => {
                let message = format!("a compose file is a mapping, not {}", document.kind());
                return Err(vec![Fault::schema(document.span, message)]);
            }
        }
        let removed = tags::take(&mut document);
        let lookup = |name: &str| scope.environment.get(name).cloned();
        crate::interpolate::interpolate(&mut document, &lookup, &mut self.unset)?;
        let mut model = model.unwrap_or_else(|| Node::map(document.span));
        if depth == Depth::Whole {
            self.extend_all(&mut document, path, scope, &removed)?;
        }
        tags::apply(&mut model, &removed);
        if depth == Depth::Whole {
            self.include_all(&mut document, path, scope)?;
        }
        let mut model = merge::merge(model, document)?;
        unique::enforce(&mut model)?;
        if depth == Depth::Whole {
            self.check(&mut model)?;
        }
        canonical::canonical(&mut model, &mut self.ports)?;
        crate::defaults::drop_empty(&mut model);
        // Ports that were ranges can be the same as others only now.
        unique::enforce(&mut model)?;
        Ok(model)
    }

    fn check(&mut self, model: &mut Node) -> Result<(), Vec<Fault>> {
        if let Some(fault) = version_1(model) {
            return Err(vec![fault]);
        }
        let faults = shape::check(model, &schema::FILE);
        if !faults.is_empty() {
            return Err(faults);
        }
        if let Some(version) = model.as_map_mut().and_then(|map| map.remove("version")) {
            let message = "`version` is obsolete and ignored";
            self.warnings.push(Fault::schema(version.key, message).hint("remove it"));
        }
        Ok(())
    }
}

/// Version 1 of compose files had the services at the top.
fn version_1(model: &Node) -> Option<Fault> {
    let map = model.as_map().filter(|map| !map.contains("services"))?;
    let looks_like_service = |node: &Node| {
        let service = ["image", "build", "ports", "links", "command"];
        service.iter().any(|key| node.get(key).is_some())
    };
    let known = ["networks", "volumes", "secrets", "configs", "include", "name", "version", "models"];
    let (_, entry) = map
        .iter()
        .filter(|(name, _)| !known.contains(name) && !name.starts_with("x-"))
        .find(|(_, entry)| looks_like_service(&entry.node))?;
    let message = "this is a compose file of version 1: its services are not below `services`";
    Some(Fault::schema(entry.key, message).hint("put all services below the key `services:`"))
}

impl From<Fault> for Vec<Fault> {
    fn from(fault: Fault) -> Self {
        vec![fault]
    }
}
