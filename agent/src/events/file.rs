//! Lines appended to a file, which never takes more room than it may: a full one is put aside under a number, and the
//! oldest goes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{format::Formatter, record::Record, sink::Sink};

/// How much room a file and those put aside may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file. One event is written even if it is longer.
    pub max_bytes: u64,
    /// How many full files are kept beside the one that is written: `FILE.1` is the newest.
    pub keep: u32,
}

impl Rotation {
    /// 100 MiB, and five more of it.
    pub const DEFAULT: Self = Self { max_bytes: 100 << 20, keep: 5 };
}

/// The file is opened again when somebody else rotated it away, or when it could not be written.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    name: String,
    formatter: Formatter,
    rotation: Rotation,
    open: Option<Open>,
    /// The last write failed and may have left half a line.
    torn: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl FileSink {
    pub(super) fn open(path: PathBuf, formatter: Formatter, rotation: Rotation) -> io::Result<Self> {
        let name = path.display().to_string();
        let open = Some(append(&path)?);
        Ok(Self { path, name, formatter, rotation, open, torn: false })
    }

    /// The file with room for so many bytes more.
    fn with_room(&mut self, length: u64) -> io::Result<Open> {
        let open = match self.open.take() {
            Some(open) if is_current(&self.path, &open.file) => open,
            _ => append(&self.path)?,
        };
        if open.bytes == 0 || open.bytes + length <= self.rotation.max_bytes {
            return Ok(open);
        }
        self.rotate()?;
        append(&self.path)
    }

    /// From the oldest on, so that whatever fails leaves no file overwritten by a newer one.
    fn rotate(&self) -> io::Result<()> {
        let aside = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        if self.rotation.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.rotation.keep).rev() {
            match fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = self.formatter.json(record)?;
        line.push(b'\n');
        if self.torn {
            line.insert(0, b'\n');
        }
        let length = line.len() as u64;
        let mut open = self.with_room(length)?;
        let written = open.file.write_all(&line);
        self.torn = written.is_err();
        written?;
        open.bytes += length;
        self.open = Some(open);
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

/// Whether the path still leads to the open file.
fn is_current(path: &Path, file: &File) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}
