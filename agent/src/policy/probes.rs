//! What an audit is to ask from outside: public endpoints, and paths that must not be there. It changes nothing of what is
//! enforced.

use std::{fmt, str::FromStr};

/// What a policy says under `audit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    pub endpoints: Vec<PublicEndpoint>,
    /// Besides the well-known ones.
    pub debug_paths: Vec<String>,
}

/// A public endpoint as it is written: `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicEndpoint {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for PublicEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, 443) => write!(formatter, "https://[{}]", self.host),
            (true, port) => write!(formatter, "https://[{}]:{port}", self.host),
            (false, 443) => write!(formatter, "https://{}", self.host),
            (false, port) => write!(formatter, "https://{}:{port}", self.host),
        }
    }
}

impl FromStr for PublicEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not `https://HOST` or `https://HOST:PORT`");
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or_else(wrong)?;
                match (port.strip_prefix(':'), port) {
                    (None, "") => (host, None),
                    (None, _) => return Err(wrong()),
                    (port, _) => (host, port),
                }
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => 443,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/?#@\\".contains(c);
        if host.is_empty() || host.contains(odd) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A path as it can stand in a request.
pub fn path(text: &str) -> Result<String, String> {
    let plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if plain {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no path: it begins with `/` and has no spaces"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_people_write_them() {
        let read = |text: &str| text.parse::<PublicEndpoint>().map(|endpoint| (endpoint.host, endpoint.port));
        assert_eq!(read("https://example.com"), Ok(("example.com".to_owned(), 443)));
        assert_eq!(read("https://example.com:8443/"), Ok(("example.com".to_owned(), 8443)));
        assert_eq!(read("https://[2001:db8::1]:8443"), Ok(("2001:db8::1".to_owned(), 8443)));
        for wrong in [
            "example.com",
            "http://example.com",
            "https://",
            "https://a:b",
            "https://a:0",
            "https://a/b",
            "https://a b",
            "https://[::1]8443",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for text in ["https://[::1]:8443", "https://[::1]", "https://example.com:8443"] {
            assert_eq!(text.parse::<PublicEndpoint>().unwrap().to_string(), text);
        }
    }
}
