//! Servers of every kind: a real library, hand-made answers of old versions, and those that speak no TLS at all.

use std::{
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};

use super::*;

const PATIENCE: Patience = Patience { question: Duration::from_secs(2), all: Duration::from_secs(10) };

fn endpoint(address: SocketAddr) -> Endpoint<'static> {
    Endpoint { address, name: "localhost", patience: PATIENCE }
}

/// Gives every connection to `answer`, for as long as the test runs.
fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().take(200).for_each(|stream| answer(stream.unwrap())));
    address
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A server by rustls with a certificate for this name that ends at the end of this year.
    fn serve(
        &self,
        name: &str,
        last_year: i32,
        versions: &[&'static SupportedProtocolVersion],
    ) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        let certificate: CertificateDer<'static> =
            params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        serve(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let answer = "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=31536000\r\n\r\n";
                drop(stream.write_all(answer.as_bytes()));
            }
        })
    }
}

#[test]
fn a_modern_server_offers_what_it_speaks_and_nothing_weak() {
    let authority = Authority::new();
    for (versions, wanted) in [
        (&[&TLS12, &TLS13][..], vec![Version::Tls12, Version::Tls13]),
        (&[&TLS13], vec![Version::Tls13]),
        (&[&TLS12], vec![Version::Tls12]),
    ] {
        let offers = endpoint(authority.serve("localhost", 2040, versions)).offers().unwrap();
        assert_eq!(offers, Offers { versions: wanted, weak: Vec::new() });
    }
}

#[test]
fn a_certificate_is_trusted_for_its_name_its_time_and_its_issuer() {
    let authority = Authority::new();
    let problem = |address, roots| {
        let session = endpoint(address).greet(roots).unwrap();
        assert_eq!((&*session.trust.version, &*session.trust.suite), ("TLSv1_3", "TLS13_AES_256_GCM_SHA384"));
        session.trust.problem
    };
    let good = authority.serve("localhost", 2040, &[&TLS13]);
    assert_eq!(problem(good, authority.roots()), None);
    assert!(!endpoint(good).greet(RootCertStore::empty()).unwrap().trust.judged);
    let expires = endpoint(good).greet(authority.roots()).unwrap().trust.expires.unwrap();
    assert!(expires.to_string().starts_with("2040-12-31"), "{expires}");

    for (address, roots, word) in [
        (good, Authority::new().roots(), "certificate"),
        (authority.serve("elsewhere.example", 2040, &[&TLS13]), authority.roots(), "name"),
        (authority.serve("localhost", 2021, &[&TLS13]), authority.roots(), "expired"),
    ] {
        let problem = problem(address, roots).unwrap();
        assert!(problem.contains(word), "{problem}");
    }
}

#[test]
fn the_answer_of_a_server_that_is_not_trusted_is_read_all_the_same() {
    let authority = Authority::new();
    let address = authority.serve("elsewhere.example", 2021, &[&TLS12]);
    let mut session = endpoint(address).greet(RootCertStore::empty()).unwrap();
    let response = session.get("localhost", "/").unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(response.header("content-security-policy"), None);
}

/// What a server of these versions and suites answers to an offer: the best suite that both know.
fn old_server(version: u16, suites: &'static [u16]) -> SocketAddr {
    serve(move |mut stream| {
        let mut offer = [0; 2048];
        let length = stream.read(&mut offer).unwrap();
        let offer = &offer[..length];
        let offered = u16::from_be_bytes([offer[9], offer[10]]);
        let session = usize::from(offer[43]);
        let count = usize::from(u16::from_be_bytes([offer[44 + session], offer[45 + session]]));
        let mut numbers = offer[46 + session..46 + session + count].chunks(2);
        let chosen = numbers.find(|pair| suites.contains(&u16::from_be_bytes([pair[0], pair[1]])));
        let answer = match chosen {
            Some(suite) if offered >= version => {
                let [major, minor] = version.to_be_bytes();
                // In two pieces, and without extensions.
                let mut hello = vec![22, 3, 0, 0, 42, 2, 0, 0, 38, major, minor];
                hello.extend([7; 32]);
                hello.extend([0, suite[0], suite[1], 0]);
                stream.write_all(&hello[..7]).unwrap();
                thread::sleep(Duration::from_millis(20));
                hello.split_off(7)
            }
            _ => vec![21, 3, 0, 0, 2, 2, 40],
        };
        drop(stream.write_all(&answer));
    })
}

#[test]
fn old_versions_and_weak_suites_are_found() {
    let offers = endpoint(old_server(0x0300, &[0x0005, 0x000a, 0x0018])).offers().unwrap();
    assert_eq!(offers.versions, [Version::Ssl3]);
    let weak: Vec<_> = offers.weak.iter().map(|weak| (weak.suite, weak.weakness)).collect();
    assert_eq!(
        weak,
        [
            ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", Weakness::TripleDes),
            ("TLS_RSA_WITH_RC4_128_SHA", Weakness::Rc4),
            ("TLS_DH_anon_WITH_RC4_128_MD5", Weakness::Anonymous),
        ]
    );
    let offers = endpoint(old_server(0x0301, &[0xc013])).offers().unwrap();
    assert_eq!(offers, Offers { versions: vec![Version::Tls10], weak: Vec::new() });
}

#[test]
fn who_speaks_no_tls_is_named() {
    let address = serve(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let error = endpoint(address).offers().unwrap_err();
    assert!(matches!(&error, ProbeError::NotTls { what, .. } if what.contains("HTTP/1.1 400")), "{error}");
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert!(matches!(endpoint(closed).offers(), Err(ProbeError::Connect { .. })));
}

#[test]
fn who_hangs_or_drips_holds_nobody_for_long() {
    let patience = Patience { question: Duration::from_millis(300), all: Duration::from_secs(2) };
    let silent = serve(|stream| drop(thread::spawn(move || (thread::sleep(Duration::from_secs(5)), stream))));
    let dripping = serve(|mut stream| {
        thread::spawn(move || {
            for byte in [22, 3, 3, 63, 0].into_iter().cycle().take(100) {
                thread::sleep(Duration::from_millis(50));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
    });
    for address in [silent, dripping] {
        let endpoint = Endpoint { patience, ..endpoint(address) };
        let started = Instant::now();
        assert!(matches!(endpoint.offers(), Err(ProbeError::Silent { .. })));
        assert!(matches!(endpoint.greet(RootCertStore::empty()), Err(ProbeError::Silent { .. })));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

/// OpenSSL still speaks TLS 1.0 and 1.1 if it is told to, with suites that nobody should take.
#[test]
fn openssl_with_old_settings_is_seen_through() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-key",
            "key.pem",
            "-cert",
            "cert.pem",
        ])
        .args([
            "-min_protocol",
            "TLSv1",
            "-cipher",
            "AES128-SHA:ECDHE-RSA-AES128-SHA:AECDH-AES128-SHA:NULL-SHA:@SECLEVEL=0",
        ])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    while TcpStream::connect(address).is_err() && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(20));
    }
    let offers = endpoint(address).offers();
    drop(server.kill());
    server.wait().unwrap();
    let offers = offers.unwrap();
    assert_eq!(offers.versions, [Version::Tls10, Version::Tls11, Version::Tls12, Version::Tls13]);
    let mut weak: Vec<_> =
        offers.weak.iter().filter(|weak| weak.version == Version::Tls10).map(|weak| weak.weakness).collect();
    weak.sort_unstable();
    assert_eq!(weak, [Weakness::NoEncryption, Weakness::Anonymous, Weakness::NoForwardSecrecy]);
}
