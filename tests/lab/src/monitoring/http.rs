//! As much of an HTTP client as asking a server inside a namespace takes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::within;

const LIMIT: Duration = Duration::from_secs(10);

/// The body of a page; anything but 200 is an error with what the server said.
pub fn get(netns: &Path, port: u16, page: &str) -> Result<String> {
    // Version 1.0: the body ends with the connection.
    let request = format!("GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let text = within(netns, move || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}: {}", head.lines().next().unwrap_or_default(), body.trim());
    }
    Ok(body.to_owned())
}

/// Text as a part of an address.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_survives_the_way_into_an_address() {
        assert_eq!(escaped("a{b=\"c d\"} > 0"), "a%7Bb%3D%22c%20d%22%7D%20%3E%200");
    }
}
