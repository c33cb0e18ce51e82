//! Events in the system journal, by its native protocol: one datagram of fields per record, so that
//! `journalctl PORTCULLIS_REASON=no_rule` finds them.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{format::Formatter, record::Record, sink::Sink};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    formatter: Formatter,
}

impl Journal {
    pub(super) fn open(path: PathBuf, formatter: Formatter) -> io::Result<Self> {
        let socket = Some(connect(&path)?);
        Ok(Self { path, socket, formatter })
    }
}

impl Sink for Journal {
    fn name(&self) -> &'static str {
        "journald"
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        // journald may have been restarted: its old socket refuses, a new connection works.
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        socket.send(&datagram(record, &self.message(record)?)?)?;
        self.socket = Some(socket);
        Ok(())
    }
}

impl Journal {
    /// A line for people; in a format of others, what their collectors want to find there.
    fn message(&self, record: &Record) -> io::Result<String> {
        if self.formatter.is_own() {
            return Ok(record.line());
        }
        String::from_utf8(self.formatter.json(record)?).map_err(io::Error::other)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

/// The fields of one record: its message, and every field of its JSON under `PORTCULLIS_`.
fn datagram(record: &Record, message: &str) -> io::Result<Vec<u8>> {
    // syslog: 3 is an error, 4 a warning, 6 informational.
    let priority = match record.severity.as_str() {
        "critical" => "3",
        "info" => "6",
        _ => "4",
    };
    let mut bytes = Vec::with_capacity(1024);
    field(&mut bytes, "MESSAGE", message);
    field(&mut bytes, "PRIORITY", priority);
    field(&mut bytes, "SYSLOG_IDENTIFIER", "portcullis");
    flatten(&mut bytes, "PORTCULLIS", &serde_json::to_value(record)?);
    Ok(bytes)
}

fn flatten(bytes: &mut Vec<u8>, name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(bytes, &format!("{name}_{}", key.to_ascii_uppercase()), value);
            }
        }
        Value::String(text) => field(bytes, name, text),
        other => field(bytes, name, &other.to_string()),
    }
}

/// `NAME=value`, or, for a value with a line break, the name, the length (64 bits, little endian) and the value.
fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}
