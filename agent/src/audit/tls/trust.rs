//! Whether a careful client trusts an endpoint: a real handshake by rustls, judged by the certificates of the system.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{super::bounded::Bounded, Endpoint, ProbeError};

/// What a careful client finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Why it would turn away; `None` if it would not.
    pub problem: Option<String>,
    /// Whether there was anybody to judge by: a machine without authorities trusts nobody.
    pub judged: bool,
    /// When the server's certificate ends to be valid.
    pub expires: Option<Timestamp>,
    /// What the two agreed on.
    pub version: String,
    pub suite: String,
}

/// An open session, trusted or not.
#[derive(Debug)]
pub struct Session {
    pub trust: Trust,
    pub(in crate::audit) stream: StreamOwned<ClientConnection, Bounded>,
}

/// The authorities that this machine trusts; those that cannot be read are left out.
#[must_use]
pub fn roots_of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl Endpoint<'_> {
    /// Shakes hands. A certificate that is not to be trusted is told and accepted: nothing secret will be sent.
    pub fn greet(&self, roots: RootCertStore) -> Result<Session, ProbeError> {
        let not_tls =
            |error: rustls::Error| ProbeError::NotTls { address: self.address, what: error.to_string() };
        let name: Result<ServerName<'static>, InvalidDnsNameError> =
            ServerName::try_from(self.name.to_owned());
        let name = match name {
            Ok(name) => name,
            // Nothing to compare with; the address is better than nothing.
            Err(_) => ServerName::from(self.address.ip()),
        };
        let witness = Arc::new(Witness::new(roots));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(not_tls)?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Witness>::clone(&witness))
            .with_no_client_auth();
        let mut connection = ClientConnection::new(Arc::new(config), name).map_err(not_tls)?;
        let mut stream = self.connect()?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => self.silent(),
                _ => ProbeError::NotTls { address: self.address, what: error.to_string() },
            })?;
        }
        let trust = Trust {
            problem: witness.problem(),
            judged: witness.judge.is_some(),
            expires: connection.peer_certificates().and_then(|chain| expires(chain.first()?)),
            version: connection.protocol_version().map_or_else(String::new, |version| format!("{version:?}")),
            suite: connection
                .negotiated_cipher_suite()
                .map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        };
        Ok(Session { trust, stream: StreamOwned::new(connection, stream) })
    }
}

fn expires(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// Judges as a careful client does, remembers the judgement, and lets the handshake go on.
#[derive(Debug)]
struct Witness {
    /// `None`: the system trusts nobody.
    judge: Option<Arc<WebPkiServerVerifier>>,
    problem: Mutex<Option<String>>,
}

impl Witness {
    fn new(roots: RootCertStore) -> Self {
        let provider = Arc::new(ring::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok();
        Self { judge, problem: Mutex::new(None) }
    }

    fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(judge) = &self.judge
            && let Err(error) = judge.verify_server_cert(certificate, intermediates, name, ocsp, now)
        {
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        Ok(ServerCertVerified::assertion())
    }

    // That the server holds the key of its certificate is never taken on trust.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
