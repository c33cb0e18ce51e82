//! Where a project begins: which files, whose variables, what name and which profiles.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    consistency, defaults, dotenv, interpolate,
    load::{Environment, Input, Loader, Scope},
    node::{Fault, FaultKind, Map, Node, Result, Sources, Span, Value},
    paths, services,
    yaml::{self, Budget},
};

/// What to load.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// In the order of their precedence; `-` is [`Request::standard_input`]. If there is none, the usual names are
    /// looked for in the working directory and above.
    pub files: Vec<PathBuf>,
    pub standard_input: Option<String>,
    /// Where the command runs: an absolute path.
    pub working_directory: PathBuf,
    /// In place of the folder of the first file.
    pub project_directory: Option<PathBuf>,
    pub project_name: Option<String>,
    /// In place of `.env`.
    pub env_files: Vec<PathBuf>,
    /// Besides those of `COMPOSE_PROFILES`; `*` stands for all.
    pub profiles: Vec<String>,
    /// The process's own variables.
    pub environment: Environment,
}

/// A project, or why there is none.
#[derive(Debug)]
pub struct Loaded {
    /// Every text that was read.
    pub sources: Sources,
    /// What is no reason to stop.
    pub warnings: Vec<Fault>,
    pub project: Result<Project, Vec<Fault>>,
}

/// A project with everything written out.
#[derive(Clone, Debug)]
pub struct Project {
    pub name: String,
    pub directory: PathBuf,
    /// The whole model, services of all profiles.
    pub model: Node,
    /// The services that are in the profiles in use.
    pub enabled: BTreeSet<String>,
    pub profiles: BTreeSet<String>,
    /// The files that the project was loaded from, those of `include` and `extends` not counted.
    pub files: Vec<PathBuf>,
}

const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// Loads a project.
#[must_use]
pub fn load(request: &Request) -> Loaded {
    let home = request.environment.get("HOME").cloned();
    let mut loader = Loader::new(request.working_directory.clone(), home);
    let mut project = load_into(&mut loader, request);
    if let Err(faults) = &mut project {
        faults.dedup();
    }
    let mut warnings = loader.warnings;
    warnings.extend(loader.unset.iter().map(|variable| {
        let message = format!("the variable `{variable}` is not set and stands for nothing");
        Fault::new(FaultKind::Interpolation, None, message)
    }));
    Loaded { sources: loader.sources, warnings, project }
}

fn load_into(loader: &mut Loader, request: &Request) -> Result<Project, Vec<Fault>> {
    let mut environment = request.environment.clone();
    let working = &request.working_directory;
    let absolute = |path: &Path| paths::clean(&working.join(path));
    let mut folder = request
        .project_directory
        .as_deref()
        .map(absolute)
        .or_else(|| folder_of(request.files.first()?, working))
        .unwrap_or_else(|| working.clone());
    read_env_files(loader, request, &folder, &mut environment)?;
    let inputs = inputs(loader, request, &environment)?;
    if request.project_directory.is_none()
        && let Some(Input::File(first)) = inputs.first()
        && let Some(parent) = first.parent()
        && parent != folder
    {
        folder = parent.to_owned();
        read_env_files(loader, request, &folder, &mut environment)?;
    }
    let profiles = profiles(request, &environment);
    let name = project_name(loader, request, &inputs, &folder, &environment)?;
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let scope = Scope { folder: &folder, environment: &environment, included: &[] };
    let mut model = loader.model(&inputs, &scope)?;
    defaults::normalize(&mut model, &name, &environment);
    let enabled = enabled(&model, &profiles);
    consistency::check(&model, &enabled)?;
    services::resolve_env_files(loader, &mut model, &enabled, &environment)?;
    let files = inputs
        .iter()
        .filter_map(|input| match input {
            Input::File(path) => Some(path.clone()),
            Input::Text { .. } => None,
        })
        .collect();
    Ok(Project { name, directory: folder, model, enabled, profiles, files })
}

fn folder_of(file: &Path, working: &Path) -> Option<PathBuf> {
    if file == Path::new("-") {
        return None;
    }
    paths::clean(&working.join(file)).parent().map(Path::to_owned)
}

/// What the process itself has beats what files say.
fn read_env_files(
    loader: &mut Loader,
    request: &Request,
    folder: &Path,
    environment: &mut Environment,
) -> Result<()> {
    let mut files: Vec<PathBuf> =
        request.env_files.iter().map(|file| paths::clean(&request.working_directory.join(file))).collect();
    if files.is_empty() && !is_set(environment, "COMPOSE_DISABLE_ENV_FILE") {
        let named = environment.get("COMPOSE_ENV_FILES").filter(|names| !names.is_empty()).cloned();
        match named {
            Some(names) => files.extend(names.split(',').map(|name| request.working_directory.join(name))),
            None => files.extend(Some(folder.join(".env")).filter(|file| file.is_file())),
        }
    }
    let mut found = Environment::new();
    for file in files {
        let source = loader.read(&file, None)?;
        let lookup = |name: &str| environment.get(name).or_else(|| found.get(name)).cloned();
        let variables = dotenv::parse(source, &loader.sources.files[source].text, &lookup)?;
        found.extend(variables);
    }
    for (name, value) in found {
        environment.entry(name).or_insert(value);
    }
    Ok(())
}

fn is_set(environment: &Environment, name: &str) -> bool {
    environment
        .get(name)
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn inputs(loader: &Loader, request: &Request, environment: &Environment) -> Result<Vec<Input>> {
    let working = &request.working_directory;
    let mut files = request.files.clone();
    if files.is_empty()
        && let Some(named) = environment.get("COMPOSE_FILE").filter(|named| !named.is_empty())
    {
        let separator = environment.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        files.extend(named.split(separator).map(PathBuf::from));
    }
    if !files.is_empty() {
        let input = |file: &PathBuf| {
            if file == Path::new("-") {
                let text = request.standard_input.clone().unwrap_or_default();
                return Input::Text { name: "stdin".to_owned(), text };
            }
            Input::File(paths::clean(&working.join(file)))
        };
        return Ok(files.iter().map(input).collect());
    }
    let start =
        request.project_directory.as_deref().map_or_else(|| working.clone(), |folder| working.join(folder));
    let mut here = Some(start.as_path());
    while let Some(folder) = here {
        let first = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        if let Some(base) = first(&NAMES) {
            return Ok([Some(base), first(&OVERRIDES)].into_iter().flatten().map(Input::File).collect());
        }
        here = folder.parent();
    }
    let message = format!("no compose file in `{}` or above", loader.shown(&start));
    Err(Fault::new(FaultKind::Unreadable, None, message)
        .hint("name one, or `-` for standard input; without a name `compose.yaml` is looked for"))
}

fn profiles(request: &Request, environment: &Environment) -> BTreeSet<String> {
    let named = environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    let named = named.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    request.profiles.iter().cloned().chain(named).collect()
}

fn project_name(
    loader: &mut Loader,
    request: &Request,
    inputs: &[Input],
    folder: &Path,
    environment: &Environment,
) -> Result<String> {
    let given = request.project_name.as_ref().or_else(|| environment.get("COMPOSE_PROJECT_NAME"));
    if let Some(name) = given.filter(|name| !name.is_empty()) {
        if normalized(name) != *name {
            return Err(bad_name(name));
        }
        return Ok(name.clone());
    }
    if let Some((name, span)) = written_name(loader, inputs, environment)? {
        let name = normalized(&name);
        if name.is_empty() {
            let message = "the name of the project is empty";
            return Err(Fault::new(FaultKind::Inconsistent, span, message)
                .hint("names are made of lower case letters, digits, `-` and `_`"));
        }
        return Ok(name);
    }
    let base = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = normalized(&base);
    if name.is_empty() {
        let message = "the project has no name".to_owned();
        return Err(
            Fault::new(FaultKind::Inconsistent, None, message).hint("write `name: shop` into the file")
        );
    }
    Ok(name)
}

fn bad_name(name: &str) -> Fault {
    let message = format!("`{name}` cannot name a project");
    Fault::new(FaultKind::Schema, None, message)
        .hint("lower case letters, digits, `-` and `_`, beginning with a letter or digit")
}

/// The `name` of the last file that has one.
fn written_name(
    loader: &mut Loader,
    inputs: &[Input],
    environment: &Environment,
) -> Result<Option<(String, Span)>> {
    let mut found = None;
    for input in inputs {
        let source = loader.open(input)?;
        let text = &loader.sources.files[source].text;
        // Whatever else is wrong is found when the file is loaded.
        for document in yaml::parse(source, text, &mut Budget::default()).unwrap_or_default() {
            if let Some(name) =
                document.get("name").filter(|name| name.as_text().is_some_and(|text| !text.is_empty()))
            {
                let mut name = name.clone();
                let lookup = |variable: &str| environment.get(variable).cloned();
                interpolate::interpolate(&mut name, &lookup, &mut BTreeSet::new())?;
                found = name.as_text().map(|text| (text.to_owned(), name.span));
            }
        }
    }
    Ok(found)
}

fn normalized(name: &str) -> String {
    let kept: String = name
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

fn enabled(model: &Node, profiles: &BTreeSet<String>) -> BTreeSet<String> {
    let services = model.get("services").and_then(Node::as_map);
    services
        .into_iter()
        .flat_map(Map::iter)
        .filter(|(_, entry)| {
            let own = entry.node.get("profiles").map(Node::items).unwrap_or_default();
            own.is_empty()
                || profiles.contains("*")
                || own.iter().filter_map(Node::as_text).any(|name| profiles.contains(name))
        })
        .map(|(name, _)| name.to_owned())
        .collect()
}

impl Project {
    /// The service of a name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Node> {
        self.model.get("services")?.get(name)
    }

    /// Every service, also of profiles that are not in use, with the place of its name.
    pub fn services(&self) -> impl Iterator<Item = (&str, &crate::Entry)> {
        self.model.get("services").into_iter().flat_map(Node::entries)
    }

    /// The entries of a part of the model: `networks`, `volumes`, ….
    pub fn part(&self, name: &str) -> impl Iterator<Item = (&str, &crate::Entry)> {
        self.model.get(name).into_iter().flat_map(Node::entries)
    }
}

/// The items or entries of a list or mapping of `name=value`, as name, value and place.
#[must_use]
pub fn pairs(node: &Node) -> Vec<(String, Option<String>, Span)> {
    match &node.value {
        Value::List(items) => items
            .iter()
            .filter_map(|item| {
                let text = item.printed()?;
                Some(match text.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned()), item.span),
                    None => (text, None, item.span),
                })
            })
            .collect(),
        Value::Map(map) => map
            .iter()
            .map(|(name, entry)| {
                let value = (!entry.node.is_null()).then(|| entry.node.printed()).flatten();
                (name.to_owned(), value, entry.key)
            })
            .collect(),
        _ => Vec::new(),
    }
}
