//! Real handshakes and real passwords over real sockets.

use std::{fs, net::SocketAddr, time::Duration};

use axum::{Router, middleware::from_fn_with_state, routing::get};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::*;
use crate::http::{self, Limits};

/// A folder with an authority, and what it has signed.
struct Folder {
    path: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Folder {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Self { path: tempfile::tempdir().unwrap(), authority };
        folder.write("ca.pem", &folder.authority.pem());
        folder.sign("server");
        folder
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes `NAME.pem` and `NAME.key`, for localhost.
    fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn config(&self, text: &str) -> Result<WebConfig, WebConfigError> {
        WebConfig::load(&self.write("web.yaml", text))
    }

    async fn serve(&self, text: &str) -> SocketAddr {
        let config = Arc::new(self.config(text).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/metrics", get(async || "numbers\n"))
            .route("/healthz", get(async || "ok\n"))
            .layer(from_fn_with_state(Arc::clone(&config), guard));
        let limits = Limits { header: Duration::from_secs(2), ..Limits::default() };
        tokio::spawn(http::serve(
            WebListener::new(listener, Some(config)),
            router,
            limits,
            std::future::pending(),
        ));
        address
    }

    /// A client that trusts the authority, and shows a certificate if it has one.
    fn client(&self, certificate: Option<&str>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |end: &str| self.path.path().join(format!("{name}.{end}"));
                let chain = vec![CertificateDer::from_pem_file(file("pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

const TLS: &str = "tls_server_config: { cert_file: server.pem, key_file: server.key }\n";

fn request(path: &str, credentials: Option<&str>) -> String {
    let authorization = credentials.map_or_else(String::new, |credentials| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials))
    });
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n")
}

/// The answer, or what went wrong before there was one.
async fn exchange(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: &str,
) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn plain(address: SocketAddr, request: &str) -> std::io::Result<String> {
    exchange(TcpStream::connect(address).await?, request).await
}

async fn tls(connector: &TlsConnector, address: SocketAddr, request: &str) -> std::io::Result<String> {
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    let stream = connector.connect(name, TcpStream::connect(address).await?).await?;
    exchange(stream, request).await
}

#[tokio::test]
async fn over_tls_only_and_a_new_certificate_needs_no_restart() {
    let folder = Folder::new();
    let address = folder.serve(TLS).await;
    let ask = request("/metrics", None);
    assert!(tls(&folder.client(None), address, &ask).await.unwrap().ends_with("numbers\n"));
    let plainly = plain(address, &ask).await.unwrap_or_default();
    assert!(!plainly.contains("numbers"), "{plainly}");

    // Of another authority: who trusts only the old one is not served by it, who trusts the new one is.
    let other = Folder::new();
    for file in ["server.pem", "server.key"] {
        fs::copy(other.path.path().join(file), folder.path.path().join(file)).unwrap();
    }
    assert!(tls(&folder.client(None), address, &ask).await.is_err());
    assert!(tls(&other.client(None), address, &ask).await.unwrap().ends_with("numbers\n"));

    // What cannot be used changes nothing.
    folder.write("server.key", "no key\n");
    assert!(tls(&other.client(None), address, &ask).await.unwrap().ends_with("numbers\n"));
}

#[tokio::test]
async fn clients_show_a_certificate_where_they_have_to() {
    let folder = Folder::new();
    folder.sign("scraper");
    let address = folder
        .serve(
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  min_version: TLS13\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
        )
        .await;
    let ask = request("/metrics", None);
    assert!(tls(&folder.client(Some("scraper")), address, &ask).await.unwrap().ends_with("numbers\n"));
    assert!(tls(&folder.client(None), address, &ask).await.is_err());
}

#[tokio::test]
async fn names_and_passwords() {
    let folder = Folder::new();
    let hash = bcrypt::hash("open sesame", 4).unwrap();
    let address = folder.serve(&format!("basic_auth_users: {{ prometheus: \"{hash}\" }}\n")).await;
    let ask = async |credentials| plain(address, &request("/metrics", credentials)).await.unwrap();
    let accepted = ask(Some("prometheus:open sesame")).await;
    assert!(accepted.ends_with("numbers\n"), "{accepted}");
    for wrong in
        [None, Some("prometheus:sesame"), Some("prometheus:"), Some("root:open sesame"), Some("nothing")]
    {
        let refused = ask(wrong).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{wrong:?}: {refused}");
        assert!(refused.to_lowercase().contains("www-authenticate: basic "), "{refused}");
        assert!(!refused.contains("numbers"));
    }
    // Probes need no password.
    assert!(plain(address, &request("/healthz", None)).await.unwrap().ends_with("ok\n"));
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_cut_off_and_holds_up_nobody() {
    let folder = Folder::new();
    let address = folder.serve(TLS).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let ask = request("/metrics", None);
    assert!(tls(&folder.client(None), address, &ask).await.unwrap().ends_with("numbers\n"));
    let mut byte = [0];
    let ended = timeout(Duration::from_secs(20), silent.read(&mut byte)).await.expect("it is cut off");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let folder = Folder::new();
    let error = |text: &str| {
        let error = folder.config(text).unwrap_err();
        Chain(&error).to_string()
    };
    assert!(error("tls: {}\n").contains("tls"));
    assert!(error("basic_auth_users: { eve: plain }\n").contains("user `eve` is not a bcrypt hash"));
    let missing = error("tls_server_config: { cert_file: gone.pem, key_file: server.key }\n");
    assert!(missing.contains("gone.pem"), "{missing}");
    let swapped = error("tls_server_config: { cert_file: server.key, key_file: server.key }\n");
    assert!(swapped.contains("no certificate or key in"), "{swapped}");
    folder.sign("other");
    let foreign = error("tls_server_config: { cert_file: server.pem, key_file: other.key }\n");
    assert!(foreign.contains("TLS cannot be set up"), "{foreign}");
    let alone = error(
        "tls_server_config: { cert_file: server.pem, key_file: server.key, client_auth_type: RequireAndVerifyClientCert }\n",
    );
    assert!(alone.contains("`client_ca_file`"), "{alone}");
    // Not verified is not authenticated.
    assert!(
        folder
            .config("tls_server_config: { cert_file: server.pem, key_file: server.key, client_auth_type: RequestClientCert }\n")
            .is_err()
    );
}
