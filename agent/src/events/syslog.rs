//! Events to a syslog server, by RFC 5424: over UDP one message is one datagram (RFC 5426), over TCP each has its length
//! before it (RFC 6587, octet counting). The message is the event's JSON.

use std::{
    io::{self, Write},
    net::{TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use super::{
    format::{Formatter, syslog_severity},
    record::Record,
    sink::Sink,
};

/// Facility "security and authorization messages".
const FACILITY: u8 = 4;
/// A server that does not take what it is sent within this is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How messages get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A connection to a syslog server, made again when it breaks.
#[derive(Debug)]
pub(super) struct Syslog {
    transport: Transport,
    server: String,
    name: String,
    formatter: Formatter,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    /// A server that cannot be reached now is tried again with every event; a name that is none is an error.
    pub(super) fn open(transport: Transport, server: String, formatter: Formatter) -> io::Result<Self> {
        let name = format!("syslog server {server}");
        let mut syslog = Self { transport, server, name, formatter, connection: None };
        match syslog.connect() {
            Ok(connection) => syslog.connection = Some(connection),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => tracing::warn!(server = syslog.server, %error, "syslog server not reached yet"),
        }
        Ok(syslog)
    }

    fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.server.to_socket_addrs()? {
            let connected = match self.transport {
                Transport::Tcp => tcp(&address).map(Connection::Tcp),
                Transport::Udp => {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    UdpSocket::bind(any)
                        .and_then(|socket| socket.connect(address).map(|()| Connection::Udp(socket)))
                }
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn message(&self, record: &Record) -> io::Result<Vec<u8>> {
        let mut message = format!(
            "<{}>1 {} {} portcullis {} {} - ",
            FACILITY * 8 + syslog_severity(record),
            record.time,
            printable(self.formatter.host(), 255),
            std::process::id(),
            printable(&record.reason, 32),
        )
        .into_bytes();
        // JSON is UTF-8, which the byte order mark says (section 6.4).
        message.extend_from_slice("\u{feff}".as_bytes());
        message.extend(self.formatter.json(record)?);
        Ok(message)
    }
}

impl Sink for Syslog {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let message = self.message(record)?;
        // Taken out, so that a connection that failed is not used again: half a message may be on its way.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        match &mut connection {
            Connection::Udp(socket) => drop(socket.send(&message)?),
            Connection::Tcp(stream) => {
                let mut framed = format!("{} ", message.len()).into_bytes();
                framed.extend(message);
                stream.write_all(&framed)?;
            }
        }
        self.connection = Some(connection);
        Ok(())
    }
}

fn tcp(address: &std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A header field: printable ASCII without spaces, `-` for nothing.
fn printable(text: &str, longest: usize) -> String {
    let field: String = text.chars().filter(char::is_ascii_graphic).take(longest).collect();
    if field.is_empty() { "-".to_owned() } else { field }
}

#[cfg(test)]
mod tests;
