//! One thing to compare: some files and the arguments of `docker compose`.
//!
//! ```text
//! # What it is about.
//! $ PORT=80 compose -f a.yaml --profile x     the arguments, if there are any; variables in front
//! ! 2.26: why it is not compared with that version
//! > refused                                   where Compose refuses the files
//! -- compose.yaml --                          a file, up to the next such line
//! services: …
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use compose::Request;

/// One thing to compare.
#[derive(Debug, Default)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Versions that it is not compared with, and why.
    pub(super) not_for: BTreeMap<String, String>,
    /// Whether Compose has to refuse it; unknown for files of others.
    pub(super) refused: Option<bool>,
    files: Vec<(String, String)>,
    /// Where the files are already.
    place: Option<PathBuf>,
}

/// A folder for one comparison.
pub(super) enum Place {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }
}

/// Where people live in the cases.
const HOME: &str = "/srv/people";

impl Case {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut case = Self { name, refused: Some(false), ..Self::default() };
        for line in text.lines() {
            if let Some(file) = line.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
                case.files.push((file.to_owned(), String::new()));
            } else if let Some((_, text)) = case.files.last_mut() {
                text.push_str(line);
                text.push('\n');
            } else if let Some(command) = line.strip_prefix("$ ") {
                case.command(command)?;
            } else if let Some(rest) = line.strip_prefix("! ") {
                let (version, reason) = rest.split_once(": ").context("write `! VERSION: why`")?;
                case.not_for.insert(version.to_owned(), reason.to_owned());
            } else if line == "> refused" {
                case.refused = Some(true);
            } else if !line.is_empty() && !line.starts_with('#') {
                bail!("`{}` has an unknown line before its files: `{line}`", path.display());
            }
        }
        Ok(case)
    }

    /// A compose file of somebody else, where it lies.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let file = path.file_name()?.to_str()?.to_owned();
        Some(Self {
            name: path.display().to_string(),
            arguments: vec!["-f".to_owned(), file],
            place: Some(path.parent()?.to_owned()),
            ..Self::default()
        })
    }

    fn command(&mut self, command: &str) -> Result<()> {
        let mut words = command.split_whitespace();
        for word in words.by_ref() {
            if word == "compose" {
                self.arguments = words.map(str::to_owned).collect();
                return Ok(());
            }
            let (name, value) = word.split_once('=').context("variables stand in front of `compose`")?;
            self.environment.insert(name.to_owned(), value.to_owned());
        }
        bail!("`{command}` does not run `compose`")
    }

    /// Writes the files down.
    pub(super) fn lay_out(&self) -> Result<Place> {
        if let Some(place) = &self.place {
            return Ok(Place::Given(place.clone()));
        }
        let folder = tempfile::Builder::new().prefix("conform-").tempdir()?;
        // Compose names a project after its folder.
        let project = folder.path().join("project");
        fs::create_dir(&project)?;
        for (name, text) in &self.files {
            let path = project.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, text)?;
        }
        Ok(Place::Temporary(folder))
    }

    /// Where the command runs.
    pub(super) fn working_directory(&self, place: &Path) -> PathBuf {
        if self.place.is_some() { place.to_owned() } else { place.join("project") }
    }

    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = self.environment.clone();
        variables.insert("HOME".to_owned(), HOME.to_owned());
        variables
    }

    /// The arguments for our own loader.
    pub(super) fn request(&self, place: &Path) -> Request {
        let mut request = Request {
            working_directory: self.working_directory(place),
            environment: self.variables(),
            ..Request::default()
        };
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(value) = arguments.next() else {
                break;
            };
            match argument.as_str() {
                "-f" => request.files.push(value.into()),
                "-p" => request.project_name = Some(value.clone()),
                "--env-file" => request.env_files.push(value.into()),
                "--profile" => request.profiles.push(value.clone()),
                "--project-directory" => request.project_directory = Some(value.into()),
                _ => {}
            }
        }
        request
    }
}
