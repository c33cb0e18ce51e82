//! Cipher suites, by number and name as IANA registers them, as far as servers are still found with them.

use serde::Serialize;

use super::Version;

/// Why a suite should not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weakness {
    /// Nothing is encrypted.
    NoEncryption,
    /// Nobody is authenticated.
    Anonymous,
    /// Keys of 40 or 56 bits, once for export.
    Export,
    /// RC4 (RFC 7465).
    Rc4,
    /// DES, 56 bits.
    Des,
    /// Three times DES, blocks of 64 bits (CVE-2016-2183).
    TripleDes,
    /// The server's key reads everything ever recorded.
    NoForwardSecrecy,
}

impl Weakness {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NoEncryption => "does not encrypt",
            Self::Anonymous => "authenticates nobody",
            Self::Export => "has keys that were weakened for export",
            Self::Rc4 => "uses RC4",
            Self::Des => "uses DES",
            Self::TripleDes => "uses Triple DES",
            Self::NoForwardSecrecy => "has no forward secrecy",
        }
    }
}

/// A cipher suite of TLS 1.2 or older, or of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    pub number: u16,
    pub name: &'static str,
    pub weakness: Option<Weakness>,
    /// From which version on it exists; TLS 1.3 has its own.
    pub since: Version,
}

const fn weak(number: u16, name: &'static str, weakness: Weakness, since: Version) -> Suite {
    Suite { number, name, weakness: Some(weakness), since }
}

const fn strong(number: u16, name: &'static str, since: Version) -> Suite {
    Suite { number, name, weakness: None, since }
}

use Version::{Ssl3, Tls10, Tls12, Tls13};
use Weakness::{Anonymous, Des, Export, NoEncryption, NoForwardSecrecy, Rc4, TripleDes};

const SUITES: [Suite; 52] = [
    strong(0x1301, "TLS_AES_128_GCM_SHA256", Tls13),
    strong(0x1302, "TLS_AES_256_GCM_SHA384", Tls13),
    strong(0x1303, "TLS_CHACHA20_POLY1305_SHA256", Tls13),
    strong(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Tls12),
    strong(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Tls12),
    strong(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Tls12),
    strong(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Tls12),
    strong(0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Tls12),
    strong(0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Tls12),
    strong(0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", Tls12),
    strong(0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", Tls12),
    strong(0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", Tls12),
    strong(0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", Tls12),
    strong(0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Tls12),
    strong(0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", Tls12),
    strong(0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Tls10),
    strong(0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Tls10),
    strong(0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Tls10),
    strong(0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Tls10),
    strong(0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", Tls10),
    strong(0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA", Tls10),
    weak(0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", NoForwardSecrecy, Ssl3),
    weak(0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", NoForwardSecrecy, Ssl3),
    weak(0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", NoForwardSecrecy, Tls12),
    weak(0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256", NoForwardSecrecy, Tls12),
    weak(0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", NoForwardSecrecy, Tls12),
    weak(0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", NoForwardSecrecy, Tls12),
    weak(0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", TripleDes, Ssl3),
    weak(0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA", TripleDes, Ssl3),
    weak(0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA", TripleDes, Tls10),
    weak(0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", TripleDes, Tls10),
    weak(0x0009, "TLS_RSA_WITH_DES_CBC_SHA", Des, Ssl3),
    weak(0x0015, "TLS_DHE_RSA_WITH_DES_CBC_SHA", Des, Ssl3),
    weak(0x0004, "TLS_RSA_WITH_RC4_128_MD5", Rc4, Ssl3),
    weak(0x0005, "TLS_RSA_WITH_RC4_128_SHA", Rc4, Ssl3),
    weak(0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", Rc4, Tls10),
    weak(0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA", Rc4, Tls10),
    weak(0x0003, "TLS_RSA_EXPORT_WITH_RC4_40_MD5", Export, Ssl3),
    weak(0x0006, "TLS_RSA_EXPORT_WITH_RC2_CBC_40_MD5", Export, Ssl3),
    weak(0x0008, "TLS_RSA_EXPORT_WITH_DES40_CBC_SHA", Export, Ssl3),
    weak(0x0014, "TLS_DHE_RSA_EXPORT_WITH_DES40_CBC_SHA", Export, Ssl3),
    weak(0x0018, "TLS_DH_anon_WITH_RC4_128_MD5", Anonymous, Ssl3),
    weak(0x001b, "TLS_DH_anon_WITH_3DES_EDE_CBC_SHA", Anonymous, Ssl3),
    weak(0x0034, "TLS_DH_anon_WITH_AES_128_CBC_SHA", Anonymous, Ssl3),
    weak(0x003a, "TLS_DH_anon_WITH_AES_256_CBC_SHA", Anonymous, Ssl3),
    weak(0xc018, "TLS_ECDH_anon_WITH_AES_128_CBC_SHA", Anonymous, Tls10),
    weak(0xc019, "TLS_ECDH_anon_WITH_AES_256_CBC_SHA", Anonymous, Tls10),
    weak(0x0001, "TLS_RSA_WITH_NULL_MD5", NoEncryption, Ssl3),
    weak(0x0002, "TLS_RSA_WITH_NULL_SHA", NoEncryption, Ssl3),
    weak(0x003b, "TLS_RSA_WITH_NULL_SHA256", NoEncryption, Tls12),
    weak(0xc006, "TLS_ECDHE_ECDSA_WITH_NULL_SHA", NoEncryption, Tls10),
    weak(0xc010, "TLS_ECDHE_RSA_WITH_NULL_SHA", NoEncryption, Tls10),
];

/// Every number that can be offered in this version.
pub(super) fn all_for(version: Version) -> impl Iterator<Item = u16> {
    SUITES.iter().filter(move |suite| suite.is_of(version)).map(|suite| suite.number)
}

/// Those that should be refused in this version.
pub(super) fn weak_for(version: Version) -> impl Iterator<Item = &'static Suite> {
    SUITES.iter().filter(move |suite| suite.is_of(version) && suite.weakness.is_some())
}

impl Suite {
    fn is_of(&self, version: Version) -> bool {
        if version == Tls13 { self.since == Tls13 } else { self.since <= version }
    }
}
