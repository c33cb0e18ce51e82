//! One request and the head of its answer (RFC 9112), over TLS or without.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::Duration,
};

use super::{bounded::Bounded, tls::Session};

/// The longest head of an answer that is read.
const LONGEST: usize = 64 << 10;
const HEADERS: usize = 128;

/// What a server says before what it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// In order, as they came; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Response {
    /// The first header of that name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Asks for a path without TLS.
pub fn get(address: SocketAddr, host: &str, path: &str, limit: Duration) -> io::Result<Response> {
    exchange(&mut Bounded::connect(address, limit)?, host, path)
}

impl Session {
    /// Asks for a path.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Response> {
        exchange(&mut self.stream, host, path)
    }
}

fn exchange(stream: &mut (impl Read + Write), host: &str, path: &str) -> io::Result<Response> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portcullis-audit\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(response) = head(&bytes)? {
            return Ok(response);
        }
        if bytes.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless head of an answer"));
        }
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => bytes.extend(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The head, once it is there whole.
fn head(bytes: &[u8]) -> io::Result<Option<Response>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let invalid = |error: httparse::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    if response.parse(bytes).map_err(invalid)?.is_partial() {
        return Ok(None);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    Ok(Some(Response {
        status: response.code.unwrap_or_default(),
        headers: response
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
            .collect(),
    }))
}
