//! Where records go: standard output, a file, the journal or a syslog server. A sink may block and may fail; the queue
//! in front of it copes with both.

use std::{
    io::{self, Write},
    path::PathBuf,
    str::FromStr,
};

use super::{
    file::{FileSink, Rotation},
    format::Formatter,
    journal::{self, Journal},
    record::Record,
    syslog::{Syslog, Transport},
};

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
    /// `syslog+udp://HOST:PORT` or `syslog+tcp://HOST:PORT`
    Syslog(Transport, String),
    /// Anything else.
    File(PathBuf),
}

/// `--events` names nothing that can be written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(
        "empty target, expected `-`, `journald`, `syslog+udp://HOST:PORT`, `syslog+tcp://HOST:PORT` or a file"
    )]
    Empty,
    #[error("`{0}` is none of `syslog+udp` and `syslog+tcp`")]
    Scheme(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((scheme, server)) = text.split_once("://") {
            let server = server.trim_end_matches('/').to_owned();
            return match scheme {
                "syslog+udp" => Ok(Self::Syslog(Transport::Udp, server)),
                "syslog+tcp" => Ok(Self::Syslog(Transport::Tcp, server)),
                other => Err(TargetError::Scheme(other.to_owned())),
            };
        }
        match text {
            "" => Err(TargetError::Empty),
            "-" => Ok(Self::Stdout),
            "journald" => Ok(Self::Journald),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl Target {
    /// Opens the sink. A file or a journal that cannot be reached now is an error, so that a typing mistake shows
    /// at once; one that goes away later is tried again with every record.
    pub fn open(&self, formatter: Formatter, rotation: Rotation) -> io::Result<Box<dyn Sink>> {
        Ok(match self {
            Self::Stdout => Box::new(LineSink { name: "stdout", writer: io::stdout(), formatter }),
            Self::Journald => Box::new(Journal::open(PathBuf::from(journal::SOCKET), formatter)?),
            Self::Syslog(transport, server) => Box::new(Syslog::open(*transport, server.clone(), formatter)?),
            Self::File(path) => Box::new(FileSink::open(path.clone(), formatter, rotation)?),
        })
    }
}

/// Lines to a stream.
struct LineSink<W> {
    name: &'static str,
    writer: W,
    formatter: Formatter,
}

impl<W: Write + Send> Sink for LineSink<W> {
    fn name(&self) -> &str {
        self.name
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = self.formatter.json(record)?;
        line.push(b'\n');
        self.writer.write_all(&line)?;
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests;
