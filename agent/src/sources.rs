//! Reads policy texts from files, directories and standard input. What they mean is for [`crate::policy`].

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::policy::Source;

/// More than the parser accepts; a device or a runaway file is not read to its end.
const MAX_BYTES: u64 = 8 << 20;

/// Why an argument of `--policy` gives no text.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("failed to read `{}`", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to read standard input")]
    Stdin(#[source] io::Error),
    #[error("directory `{}` holds no policies", path.display())]
    NoPolicies { path: PathBuf },
    #[error("`{name}` is not UTF-8 text")]
    NotText {
        name: String,
        #[source]
        source: std::string::FromUtf8Error,
    },
    #[error("`{name}` is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge { name: String },
    #[error("no policy given")]
    Nothing,
}

impl SourceError {
    /// How to fix it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the path; `-` reads standard input"),
                io::ErrorKind::PermissionDenied => Some("the file belongs to somebody else; run as root"),
                _ => None,
            },
            Self::Stdin(_) => None,
            Self::NoPolicies { .. } => {
                Some("policies are files ending in `.yaml` or `.yml`; directories below are not searched")
            }
            Self::NotText { .. } => Some("save the file as UTF-8"),
            Self::TooLarge { .. } => Some("is it a policy at all?"),
            Self::Nothing => Some("name a file or a directory, or `-` for standard input"),
        }
    }

    /// The error with its cause, and its hint on a line of its own.
    #[must_use]
    pub fn render(&self) -> String {
        use std::{error::Error as _, fmt::Write as _};
        let mut text = format!("error: {self}");
        // Writing to a `String` cannot fail.
        if let Some(cause) = self.source() {
            let _infallible = write!(text, ": {cause}");
        }
        if let Some(hint) = self.hint() {
            let _infallible = write!(text, "\n\nhint: {hint}");
        }
        text
    }
}

/// Reads every policy text that the paths stand for, in their order; `-` is standard input. What cannot be read
/// is left out and reported.
#[must_use]
pub fn read(paths: &[PathBuf]) -> (Vec<Source>, Vec<SourceError>) {
    let mut sources = Vec::new();
    let mut errors = Vec::new();
    if paths.is_empty() {
        errors.push(SourceError::Nothing);
    }
    let mut seen = BTreeSet::new();
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    // A file that is named twice, or lies in a directory named as well, is read once.
                    if seen.insert(file.canonicalize().unwrap_or_else(|_error| file.clone())) {
                        match read_file(&file) {
                            Ok(source) => sources.push(source),
                            Err(error) => errors.push(error),
                        }
                    }
                }
            }
            Err(error) => errors.push(error),
        }
    }
    (sources, errors)
}

/// The files that one argument stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: path.to_owned(), source };
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in path.read_dir().map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_policy = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_policy && !file.is_dir() {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() { Err(SourceError::NoPolicies { path: path.to_owned() }) } else { Ok(found) }
}

fn read_file(path: &Path) -> Result<Source, SourceError> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(SourceError::Stdin)?;
        "stdin".to_owned()
    } else {
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| SourceError::Unreadable { path: path.to_owned(), source })?;
        path.display().to_string()
    };
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(SourceError::TooLarge { name });
    }
    let text =
        String::from_utf8(bytes).map_err(|source| SourceError::NotText { name: name.clone(), source })?;
    Ok(Source { name, text })
}
