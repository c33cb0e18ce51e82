//! What a TLS endpoint really offers: which versions and cipher suites it takes, and whether a careful client would trust
//! it. Versions that no library speaks any more are offered by hand, as far as the server's first answer, which needs no
//! cryptography.

mod hello;
mod suites;
mod trust;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::bounded::Bounded;

pub use self::{
    suites::{Suite, Weakness},
    trust::{Session, Trust, roots_of_the_system},
};

/// Versions of the protocol, by the number that stands for them on the wire (RFC 6101, 2246, 4346, 5246, 8446).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Version {
    #[serde(rename = "SSLv3")]
    Ssl3 = 0x0300,
    #[serde(rename = "TLSv1.0")]
    Tls10 = 0x0301,
    #[serde(rename = "TLSv1.1")]
    Tls11 = 0x0302,
    #[serde(rename = "TLSv1.2")]
    Tls12 = 0x0303,
    #[serde(rename = "TLSv1.3")]
    Tls13 = 0x0304,
}

impl Version {
    /// From the oldest on.
    pub const ALL: [Self; 5] = [Self::Ssl3, Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ssl3 => "SSLv3",
            Self::Tls10 => "TLS 1.0",
            Self::Tls11 => "TLS 1.1",
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }

    const fn number(self) -> u16 {
        self as u16
    }
}

/// How long an endpoint may take for one question, and for all of them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub question: Duration,
    pub all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { question: Duration::from_secs(3), all: Duration::from_secs(20) }
    }
}

/// An endpoint that gave no answer that means anything.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("failed to connect to `{address}`")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("`{address}` does not answer within {}", seconds(.limit))]
    Silent { address: SocketAddr, limit: Duration },
    #[error("`{address}` does not speak TLS: {what}")]
    NotTls { address: SocketAddr, what: String },
    #[error("the probe of `{address}` was given up after {}", seconds(.limit))]
    GivenUp { address: SocketAddr, limit: Duration },
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

/// What was offered and taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offers {
    /// From the oldest on.
    pub versions: Vec<Version>,
    /// What the server takes if it is given nothing better, each with the version in which it did.
    pub weak: Vec<Weak>,
}

/// A cipher suite that should not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Weak {
    pub version: Version,
    pub suite: &'static str,
    pub weakness: Weakness,
}

/// One endpoint to ask.
#[derive(Clone, Debug)]
pub struct Endpoint<'a> {
    pub address: SocketAddr,
    /// The name that is asked for (RFC 6066, section 3); none is sent for an address.
    pub name: &'a str,
    pub patience: Patience,
}

/// What the server answers to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It goes on with these.
    Takes { version: u16, suite: u16 },
    /// An alert, or it hangs up.
    Refuses,
}

impl Endpoint<'_> {
    /// Asks for each version by itself, then for each weak suite that the server does not refuse.
    pub fn offers(&self) -> Result<Offers, ProbeError> {
        let deadline = Instant::now() + self.patience.all;
        let mut versions = Vec::new();
        for version in Version::ALL {
            let suites: Vec<u16> = suites::all_for(version).collect();
            if self.takes(version, &suites, deadline)?.is_some() {
                versions.push(version);
            }
        }
        let mut weak = Vec::new();
        for &version in &versions {
            let mut left: Vec<&Suite> = suites::weak_for(version).collect();
            // Each round one fewer: the server names the one that it likes best.
            while !left.is_empty() {
                let numbers: Vec<u16> = left.iter().map(|suite| suite.number).collect();
                let Some(taken) = self.takes(version, &numbers, deadline)? else { break };
                let Some(index) = left.iter().position(|suite| suite.number == taken) else { break };
                let suite = left.remove(index);
                weak.extend(suite.weakness.map(|weakness| Weak { version, suite: suite.name, weakness }));
            }
        }
        Ok(Offers { versions, weak })
    }

    /// The suite that the server chooses in exactly this version.
    fn takes(&self, version: Version, suites: &[u16], deadline: Instant) -> Result<Option<u16>, ProbeError> {
        if suites.is_empty() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(ProbeError::GivenUp { address: self.address, limit: self.patience.all });
        }
        Ok(match self.ask(version, suites)? {
            Answer::Takes { version: chosen, suite } if chosen == version.number() => Some(suite),
            Answer::Takes { .. } | Answer::Refuses => None,
        })
    }

    fn ask(&self, version: Version, suites: &[u16]) -> Result<Answer, ProbeError> {
        let mut stream = self.connect()?;
        // What could not be written shows in what can be read: a server may refuse before it has heard all.
        let _hung_up = stream.write_all(&hello::client_hello(version, self.name, suites));
        let mut bytes = Vec::new();
        let mut piece = [0; 1024];
        loop {
            match hello::read(&bytes) {
                hello::Read::Answer(answer) => return Ok(answer),
                hello::Read::Nonsense(what) => {
                    return Err(ProbeError::NotTls { address: self.address, what });
                }
                hello::Read::More => {}
            }
            match stream.read(&mut piece) {
                // Hanging up is how some say no; a reset is how others do.
                Ok(0) => return Ok(Answer::Refuses),
                Ok(length) => bytes.extend(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(self.silent()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Answer::Refuses),
            }
        }
    }

    fn connect(&self) -> Result<Bounded, ProbeError> {
        Bounded::connect(self.address, self.patience.question)
            .map_err(|source| ProbeError::Connect { address: self.address, source })
    }

    const fn silent(&self) -> ProbeError {
        ProbeError::Silent { address: self.address, limit: self.patience.question }
    }
}

#[cfg(test)]
mod tests;
