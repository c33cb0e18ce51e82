//! The file: its keys, and what they lead to.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::{Loaded, auth::Users};

/// The web configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("invalid web configuration in `{}`: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("no certificate or key in `{}`", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("TLS cannot be set up with `{}`", path.display())]
    Tls { path: PathBuf, source: rustls::Error },
    #[error("client certificates cannot be checked with `{}`", path.display())]
    Clients { path: PathBuf, source: VerifierBuilderError },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tls_server_config: Option<Tls>,
    #[serde(default)]
    basic_auth_users: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    client_auth_type: ClientAuth,
    client_ca_file: Option<PathBuf>,
    #[serde(default)]
    min_version: Version,
}

/// Only those that check something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Version {
    #[default]
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

pub(super) fn read(path: &Path) -> Result<Loaded, WebConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| WebConfigError::Read { path: path.to_owned(), source })?;
    let wrong = |message: String| WebConfigError::Syntax { path: path.to_owned(), message };
    let file: File = if text.trim().is_empty() {
        File::default()
    } else {
        serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?
    };
    let mut files = vec![path.to_owned()];
    let tls = match file.tls_server_config {
        None => None,
        Some(tls) => {
            if (tls.client_auth_type == ClientAuth::NoClientCert) != tls.client_ca_file.is_none() {
                return Err(wrong(
                    "`client_ca_file` and a `client_auth_type` that verifies go together".to_owned(),
                ));
            }
            // As the exporters do: from where the configuration lies.
            let tls = tls.relative_to(path.parent().unwrap_or(Path::new("")));
            files.extend([tls.cert_file.clone(), tls.key_file.clone()]);
            files.extend(tls.client_ca_file.clone());
            Some(Arc::new(tls.server_config()?))
        }
    };
    let users = Users::new(file.basic_auth_users).map_err(wrong)?;
    Ok(Loaded { tls, users, files })
}

impl Tls {
    fn relative_to(mut self, folder: &Path) -> Self {
        for file in [&mut self.cert_file, &mut self.key_file].into_iter().chain(&mut self.client_ca_file) {
            *file = folder.join(&file);
        }
        self
    }

    fn server_config(&self) -> Result<ServerConfig, WebConfigError> {
        let failed = |source| WebConfigError::Tls { path: self.cert_file.clone(), source };
        let versions: &[&SupportedProtocolVersion] = match self.min_version {
            Version::Tls12 => &[&TLS12, &TLS13],
            Version::Tls13 => &[&TLS13],
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(failed)?
            .with_client_cert_verifier(self.client_verifier(provider)?);
        let key = PrivateKeyDer::from_pem_file(&self.key_file)
            .map_err(|source| WebConfigError::Pem { path: self.key_file.clone(), source })?;
        builder.with_single_cert(certificates(&self.cert_file)?, key).map_err(failed)
    }

    fn client_verifier(
        &self,
        provider: Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, WebConfigError> {
        let Some(path) = &self.client_ca_file else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|source| WebConfigError::Tls { path: path.clone(), source })?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_auth_type {
            ClientAuth::RequireAndVerifyClientCert => builder,
            _ => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|source| WebConfigError::Clients { path: path.clone(), source })
    }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    let failed = |source| WebConfigError::Pem { path: path.to_owned(), source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = found.map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(found)
}
