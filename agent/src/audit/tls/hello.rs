//! The first message of a client and the first answer of a server (RFC 8446, section 4.1, and its forerunners), as far as
//! a negotiation needs them.

use std::net::IpAddr;

use super::{Answer, Version};

/// The longest record (RFC 8446, section 5.1).
const LONGEST: usize = 1 << 14;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// In the record layer, TLS 1.3 calls itself 1.2.
const LEGACY: u16 = 0x0303;

mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const GROUPS: u16 = 10;
    pub(super) const POINT_FORMATS: u16 = 11;
    pub(super) const SIGNATURES: u16 = 13;
    pub(super) const VERSIONS: u16 = 43;
    pub(super) const KEY_SHARE: u16 = 51;
}

/// What the bytes of a server come to so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Answer(Answer),
    /// Not enough of them yet.
    More,
    /// They are no TLS.
    Nonsense(String),
}

/// An offer of one version with these suites. TLS 1.3 is offered without a key: a server that speaks it asks for one,
/// which is answer enough.
pub(super) fn client_hello(version: Version, name: &str, suites: &[u16]) -> Vec<u8> {
    let legacy = version.number().min(LEGACY);
    let mut body = Vec::new();
    body.extend(legacy.to_be_bytes());
    // Random numbers protect a session, and there will be none.
    body.extend([0x50; 32]);
    vector8(&mut body, if version == Version::Tls13 { &[0x51; 32] } else { &[] });
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    vector16(&mut body, &suites);
    // No compression.
    vector8(&mut body, &[0]);
    if version > Version::Ssl3 {
        vector16(&mut body, &extensions(version, name));
    }
    let mut message = vec![CLIENT_HELLO];
    message.extend(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[1..]);
    message.extend(body);
    let mut record = vec![HANDSHAKE];
    record.extend(version.number().min(Version::Tls10.number()).to_be_bytes());
    vector16(&mut record, &message);
    record
}

fn extensions(version: Version, name: &str) -> Vec<u8> {
    let mut all = Vec::new();
    if !name.is_empty() && name.parse::<IpAddr>().is_err() {
        let mut entry = vec![0];
        vector16(&mut entry, name.as_bytes());
        let mut list = Vec::new();
        vector16(&mut list, &entry);
        put(&mut all, extension::SERVER_NAME, &list);
    }
    // x25519, P-256, P-384, P-521 and a finite field.
    let mut groups = Vec::new();
    vector16(&mut groups, &words(&[0x001d, 0x0017, 0x0018, 0x0019, 0x0100]));
    put(&mut all, extension::GROUPS, &groups);
    put(&mut all, extension::POINT_FORMATS, &[1, 0]);
    if version >= Version::Tls12 {
        // ECDSA, RSA-PSS, Ed25519 and RSA with SHA-2, and SHA-1 for those who know nothing better.
        let mut signatures = Vec::new();
        let schemes =
            [0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0807, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201];
        vector16(&mut signatures, &words(&schemes));
        put(&mut all, extension::SIGNATURES, &signatures);
    }
    if version == Version::Tls13 {
        put(&mut all, extension::VERSIONS, &[2, 0x03, 0x04]);
        put(&mut all, extension::KEY_SHARE, &[0, 0]);
    }
    all
}

/// Reads a server's first record.
pub(super) fn read(bytes: &[u8]) -> Read {
    let [kind, major, _, high, low, rest @ ..] = bytes else {
        // What begins like no TLS never becomes one.
        return match bytes.first() {
            Some(&(ALERT | HANDSHAKE)) | None => Read::More,
            Some(_) => nonsense(bytes),
        };
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if !matches!(*kind, ALERT | HANDSHAKE) || *major != 3 || length > LONGEST {
        return nonsense(bytes);
    }
    let Some(record) = rest.get(..length) else { return Read::More };
    if *kind == ALERT {
        return Read::Answer(Answer::Refuses);
    }
    server_hello(record)
        .map_or_else(|| Read::Nonsense("its first message is none of a server".to_owned()), Read::Answer)
}

fn nonsense(bytes: &[u8]) -> Read {
    let text: String = String::from_utf8_lossy(bytes).chars().take(20).filter(|c| !c.is_control()).collect();
    Read::Nonsense(format!("it begins with `{text}`"))
}

fn server_hello(record: &[u8]) -> Option<Answer> {
    let mut reader = Reader(record);
    if reader.u8()? != SERVER_HELLO {
        return None;
    }
    reader.take(3)?;
    let mut version = reader.u16()?;
    reader.take(32)?;
    let session = reader.u8()?;
    reader.take(session.into())?;
    let suite = reader.u16()?;
    reader.u8()?;
    // Servers before TLS 1.0 have none.
    if let Some(length) = reader.u16() {
        let mut extensions = Reader(reader.take(length.into())?);
        while let Some(number) = extensions.u16() {
            let length = extensions.u16()?;
            let mut data = Reader(extensions.take(length.into())?);
            if number == extension::VERSIONS {
                version = data.u16()?;
            }
        }
    }
    Some(Answer::Takes { version, suite })
}

/// Takes bytes off the front, or nothing.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
}

fn put(all: &mut Vec<u8>, number: u16, data: &[u8]) {
    all.extend(number.to_be_bytes());
    vector16(all, data);
}

fn words(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Bytes behind their length; what is sent here is never longer than the length can tell.
fn vector8(all: &mut Vec<u8>, data: &[u8]) {
    all.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
    all.extend(data);
}

fn vector16(all: &mut Vec<u8>, data: &[u8]) {
    all.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    all.extend(data);
}
