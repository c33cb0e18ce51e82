//! Where records go: standard output, a file, or the journal. A sink may block and may fail; the queue in front of
//! it copes with both.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    str::FromStr,
};

use super::{journal::Journal, record::Record};

/// Writes records, one at a time.
pub trait Sink: Send {
    /// For log lines.
    fn name(&self) -> &str;
    /// Writes one record whole or fails; a failed record is not tried again.
    fn write(&mut self, record: &Record) -> io::Result<()>;
}

/// What `--events` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `-`
    Stdout,
    /// `journald`
    Journald,
    /// Anything else.
    File(PathBuf),
}

/// An empty `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty target, expected `-`, `journald` or a file")]
pub struct EmptyTarget;

impl FromStr for Target {
    type Err = EmptyTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err(EmptyTarget),
            "-" => Ok(Self::Stdout),
            "journald" => Ok(Self::Journald),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl Target {
    /// Opens the sink. A file or a journal that cannot be reached now is an error, so that a typing mistake shows
    /// at once; one that goes away later is tried again with every record.
    pub fn open(&self) -> io::Result<Box<dyn Sink>> {
        Ok(match self {
            Self::Stdout => Box::new(LineSink { name: "stdout", writer: io::stdout() }),
            Self::Journald => Box::new(Journal::open(PathBuf::from(super::journal::SOCKET))?),
            Self::File(path) => Box::new(FileSink::open(path.clone())?),
        })
    }
}

/// JSON lines to a stream.
struct LineSink<W> {
    name: &'static str,
    writer: W,
}

impl<W: Write + Send> Sink for LineSink<W> {
    fn name(&self) -> &str {
        self.name
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.writer.write_all(&json_line(record)?)?;
        self.writer.flush()
    }
}

/// JSON lines appended to a file, which is opened again when it was rotated away or could not be written.
#[derive(Debug)]
struct FileSink {
    path: PathBuf,
    name: String,
    file: Option<File>,
    /// The last write failed and may have left half a line.
    torn: bool,
}

impl FileSink {
    fn open(path: PathBuf) -> io::Result<Self> {
        let name = path.display().to_string();
        let mut sink = Self { path, name, file: None, torn: false };
        sink.file = Some(sink.append()?);
        Ok(sink)
    }

    fn append(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)
    }

    /// Whether the path still leads to the open file.
    fn is_current(&self, file: &File) -> bool {
        match (file.metadata(), self.path.metadata()) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        }
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) if self.is_current(&file) => file,
            _ => self.append()?,
        };
        let mut line = json_line(record)?;
        if self.torn {
            line.insert(0, b'\n');
        }
        let written = file.write_all(&line);
        self.torn = written.is_err();
        written?;
        self.file = Some(file);
        Ok(())
    }
}

fn json_line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests;
