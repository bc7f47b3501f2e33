//! TLS towards Redis, certificate by certificate. What ioredis accepts, by which the readers read, the service accepts, or
//! its error names a cause and a remedy, which is then tried.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use persistent_cache_service::http_client::install_crypto_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use serde_json::json;

use self::Remedy::{Name, Show, TrustItself};
use crate::support::at_once::run_at_once;
use crate::support::child::thread;
use crate::support::command::run;
use crate::support::redis::{TestRedis, private_directory};
use crate::support::sdk::ioredis_connects;
use crate::support::service::Settings;
use crate::support::tls::{Certificate, openssl};

const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";
const EC: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";

/// A certificate that the authority signs: its name here, its key, days of validity, and its extensions; without any it is
/// of version 1.
const SIGNED: [(&str, &str, i32, &[&str]); 15] = [
    ("good", EC, 2, &[NAMES]),
    ("v1", EC, 2, &[]),
    ("v1-rsa", "rsa:2048", 2, &[]),
    ("no-names", EC, 2, &["basicConstraints=CA:FALSE"]),
    ("authority", EC, 2, &["basicConstraints=critical,CA:TRUE", NAMES]),
    ("elsewhere", EC, 2, &["subjectAltName=DNS:elsewhere.example"]),
    ("expired", EC, -1, &[NAMES]),
    ("for-clients", EC, 2, &[NAMES, "extendedKeyUsage=clientAuth"]),
    ("for-servers", EC, 2, &[NAMES, "extendedKeyUsage=serverAuth"]),
    ("rsa", "rsa:2048", 2, &[NAMES]),
    ("ed25519", "ed25519", 2, &[NAMES]),
    ("p384", "ec -pkeyopt ec_paramgen_curve:secp384r1", 2, &[NAMES]),
    ("p521", "ec -pkeyopt ec_paramgen_curve:secp521r1", 2, &[NAMES]),
    ("sec1", EC, 2, &[NAMES]),
    ("pkcs1", "rsa:2048", 2, &[NAMES]),
];

/// All of them in one directory, with the authority: made once for all tests.
static CERTIFICATES: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = private_directory();
    let make = |arguments: &str| openssl(&directory, arguments);
    Certificate::make_for(&directory, &[]);
    for (name, key, days, extensions) in SIGNED {
        make(&format!("req -newkey {key} -nodes -subj /CN=localhost -keyout {name}.key -out {name}.csr"));
        let extensions = if extensions.is_empty() {
            String::new()
        } else {
            std::fs::write(directory.join(format!("{name}.ext")), extensions.join("\n")).expect("a file");
            format!("-extfile {name}.ext")
        };
        make(&format!(
            "x509 -req -days {days} -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial {extensions} -out {name}.crt"
        ));
    }
    make("ec -in sec1.key -out sec1.key");
    make("rsa -traditional -in pkcs1.key -out pkcs1.key");
    // Each as its own authority, the first as `openssl req -x509` makes it if asked for nothing else.
    let own = format!("req -x509 -newkey {EC} -nodes -days 2 -subj /CN=localhost");
    make(&format!("{own} -keyout self.key -out self.crt"));
    make(&format!("{own} -addext {NAMES} -keyout self-named.key -out self-named.crt"));
    for (name, days, extensions) in [("self-v1", 2, ""), ("self-expired", -1, "-extfile good.ext")] {
        make(&format!("req -newkey {EC} -nodes -subj /CN=localhost -keyout {name}.key -out {name}.csr"));
        make(&format!(
            "x509 -req -days {days} -in {name}.csr -signkey {name}.key {extensions} -out {name}.crt"
        ));
    }
    make(
        "x509 -req -days 2 -in good.csr -CA self-v1.crt -CAkey self-v1.key -CAcreateserial -extfile good.ext \
         -out of-v1-authority.crt",
    );
    std::fs::copy(directory.join("good.key"), directory.join("of-v1-authority.key")).expect("a copy");
    directory
});

/// A Redis that can show each of these certificates.
struct Scene {
    redis: TestRedis,
    port: u16,
}

impl Scene {
    fn new(asks_for_certificates: bool) -> Self {
        let redis = TestRedis::with_tls(asks_for_certificates);
        let port = redis.tls_port.expect("a TLS port");
        Self { redis, port }
    }

    /// The server shows this certificate from now on, and speaks these versions.
    fn show(&self, certificate: &str, protocols: &str) {
        self.redis.show(&Certificate {
            public: path(&format!("{certificate}.crt")).into(),
            key: path(&format!("{certificate}.key")).into(),
            authority: path("ca.crt").into(),
        });
        self.redis.command::<()>(&["CONFIG", "SET", "tls-protocols", protocols]);
    }

    fn settings(&self, host: &str, trusted: &str) -> Settings {
        Settings::default()
            .set("REDIS_HOST", host)
            .set("REDIS_PORT", self.port.to_string())
            .set("REDIS_TLS", "1")
            .set("REDIS_TLS_CA_FILE", path(&format!("{trusted}.crt")))
    }

    /// The settings with the authority and this certificate in the file of what is trusted.
    fn trusting(&self, host: &str, certificate: &str) -> Settings {
        let files = ["ca.crt".to_owned(), format!("{certificate}.crt")];
        let all = files.map(|file| std::fs::read_to_string(path(&file)).expect("a certificate"));
        let bundle = self.redis.directory().join("bundle.crt");
        std::fs::write(&bundle, all.concat()).expect("a file");
        self.settings(host, "ca").set("REDIS_TLS_CA_FILE", bundle.display().to_string())
    }

    /// What ioredis makes of the server.
    fn ioredis(&self, host: &str, trusted: &str) -> Result<(), String> {
        ioredis_connects(json!({"host": host, "port": self.port, "ca": path(&format!("{trusted}.crt"))}))
    }
}

fn path(file: &str) -> String {
    CERTIFICATES.join(file).display().to_string()
}

/// Whether the program reaches Redis. What it says, if it does not.
fn connects(settings: &Settings) -> Result<(), String> {
    let ended = run(settings, &["inspect", "customer-1"]);
    if ended.stdout.contains("customer-1") { Ok(()) } else { Err(ended.stderr) }
}

/// What an error names as a way out.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    /// The server's certificate in the file of what is trusted.
    TrustItself,
    /// Another certificate for the server, one of those that are accepted.
    Show(&'static str),
    /// `REDIS_TLS_SERVER_NAME`.
    Name(&'static str),
}

const BOTH: &str = "TLSv1.2 TLSv1.3";

/// The certificate, the host, what is trusted, whether ioredis accepts it.
#[rustfmt::skip]
const ACCEPTED: [(&str, &str, &str, bool); 12] = [
    ("good", "localhost", "ca", true),
    ("good", "127.0.0.1", "ca", true),
    ("rsa", "localhost", "ca", true),
    ("p384", "localhost", "ca", true),
    ("ed25519", "localhost", "ca", true),
    ("for-servers", "localhost", "ca", true),
    ("of-v1-authority", "localhost", "self-v1", true),
    ("self", "localhost", "self", true),
    ("self-named", "127.0.0.1", "self-named", true),
    ("self-v1", "localhost", "self-v1", true),
    // More than ioredis accepts.
    ("self", "127.0.0.1", "self", false),
    ("self-v1", "127.0.0.1", "self-v1", false),
];

/// The same, and what the error says and its remedies.
type Refused = (&'static str, &'static str, &'static str, bool, &'static [&'static str], &'static [Remedy]);

#[rustfmt::skip]
const REFUSED: [Refused; 16] = [
    ("v1", "localhost", "ca", true, &["not X.509 version 3"], &[TrustItself, Show("good")]),
    ("v1", "127.0.0.1", "ca", false, &["not X.509 version 3"], &[TrustItself, Show("good")]),
    ("v1-rsa", "localhost", "ca", true, &["not X.509 version 3"], &[TrustItself, Show("rsa")]),
    ("no-names", "localhost", "ca", true, &["no subjectAltName", "DNS:localhost"], &[TrustItself, Show("good")]),
    ("no-names", "127.0.0.1", "ca", false, &["no subjectAltName", "IP:127.0.0.1"], &[TrustItself, Show("good")]),
    ("authority", "localhost", "ca", true, &["CA:TRUE"], &[TrustItself, Show("good")]),
    ("p521", "localhost", "ca", true, &["P-256 or P-384"], &[Show("p384"), Show("ed25519"), Show("rsa")]),
    ("elsewhere", "localhost", "ca", false, &["elsewhere.example", "REDIS_TLS_SERVER_NAME"], &[Name("elsewhere.example")]),
    ("elsewhere", "127.0.0.1", "ca", false, &["elsewhere.example", "REDIS_TLS_SERVER_NAME"], &[Name("elsewhere.example")]),
    ("expired", "localhost", "ca", false, &["has expired", "renew it"], &[Show("good")]),
    ("self-expired", "localhost", "self-expired", false, &["has expired", "renew it"], &[]),
    ("for-clients", "localhost", "ca", false, &["not for servers", "serverAuth"], &[TrustItself, Show("for-servers")]),
    ("good", "localhost", "self", false, &["not trusted here"], &[TrustItself]),
    ("self-named", "localhost", "ca", false, &["CA:TRUE"], &[TrustItself]),
    ("self", "localhost", "ca", false, &["CA:TRUE"], &[TrustItself]),
    ("self-v1", "localhost", "ca", false, &["REDIS_TLS_CA_FILE"], &[TrustItself]),
];

#[test]
fn a_servers_certificate_is_accepted_where_ioredis_accepts_it() {
    at_once(&ACCEPTED, |scene, (certificate, host, trusted, for_ioredis)| {
        let case = format!("{certificate} at {host}, trusting {trusted}");
        scene.show(certificate, BOTH);
        let ioredis = scene.ioredis(host, trusted);
        assert_eq!(ioredis.is_ok(), *for_ioredis, "{case}: {ioredis:?}");
        for protocols in ["TLSv1.2", "TLSv1.3"] {
            scene.show(certificate, protocols);
            assert_eq!(connects(&scene.settings(host, trusted)), Ok(()), "{case}, {protocols}");
        }
    });
}

#[test]
fn a_servers_certificate_that_only_ioredis_accepts_is_an_error_with_a_remedy_that_works() {
    at_once(&REFUSED, |scene, (certificate, host, trusted, for_ioredis, words, remedies)| {
        let case = format!("{certificate} at {host}, trusting {trusted}");
        scene.show(certificate, BOTH);
        let ioredis = scene.ioredis(host, trusted);
        assert_eq!(ioredis.is_ok(), *for_ioredis, "{case}: {ioredis:?}");
        let settings = scene.settings(host, trusted);
        let error = connects(&settings).expect_err(&case);
        for word in *words {
            assert!(error.contains(word), "{case}: no '{word}' in {error}");
        }
        for remedy in *remedies {
            let settings = match remedy {
                TrustItself => {
                    assert!(error.contains("REDIS_TLS_CA_FILE"), "{case}: {error}");
                    scene.trusting(host, certificate)
                }
                Name(name) => settings.clone().set("REDIS_TLS_SERVER_NAME", *name),
                Show(another) => {
                    let is_accepted =
                        ACCEPTED.iter().any(|row| (row.0, row.1, row.2) == (*another, *host, *trusted));
                    assert!(is_accepted, "{case}, {remedy:?}");
                    continue;
                }
            };
            for protocols in ["TLSv1.2", "TLSv1.3"] {
                scene.show(certificate, protocols);
                assert_eq!(connects(&settings), Ok(()), "{case}, {remedy:?}, {protocols}");
            }
        }
    });
}

/// Four rows at a time, each with a scene of its own.
fn at_once<R: Sync>(rows: &[R], check: impl Fn(&Scene, &R) + Sync) {
    let parts: Vec<_> = rows.chunks(rows.len().div_ceil(4)).collect();
    run_at_once(
        &parts,
        |_| "certificates".to_owned(),
        |rows| {
            let scene = Scene::new(false);
            rows.iter().for_each(|row| check(&scene, row));
        },
    );
}

#[test]
fn any_certificate_of_a_server_is_accepted_without_verification() {
    let scene = Scene::new(false);
    for (certificate, ..) in SIGNED {
        scene.show(certificate, BOTH);
        let settings = scene.settings("127.0.0.1", "ca").set("REDIS_TLS_INSECURE", "1");
        assert_eq!(connects(&settings), Ok(()), "{certificate}");
    }
}

#[test]
fn a_clients_certificate_is_shown_whatever_its_kind_and_a_refusal_names_the_cause() {
    let scene = Scene::new(true);
    scene.show("good", BOTH);
    for (certificate, for_ioredis, words) in [
        ("good", true, ""),
        ("v1", true, ""),
        ("v1-rsa", true, ""),
        ("no-names", true, ""),
        ("authority", true, ""),
        ("for-clients", true, ""),
        ("ed25519", true, ""),
        ("p384", true, ""),
        ("sec1", true, ""),
        ("pkcs1", true, ""),
        ("p521", true, "P-256 or P-384"),
        ("expired", false, "REDIS_TLS_CERT_FILE"),
        ("for-servers", false, "REDIS_TLS_CERT_FILE"),
        ("self", false, "REDIS_TLS_CERT_FILE"),
        ("self-v1", false, "REDIS_TLS_CERT_FILE"),
    ] {
        let (cert, key) = (path(&format!("{certificate}.crt")), path(&format!("{certificate}.key")));
        let ioredis = ioredis_connects(json!({
            "host": "localhost", "port": scene.port, "ca": path("ca.crt"), "cert": cert, "key": key,
        }));
        assert_eq!(ioredis.is_ok(), for_ioredis, "{certificate}: {ioredis:?}");
        let settings =
            scene.settings("localhost", "ca").set("REDIS_TLS_CERT_FILE", cert).set("REDIS_TLS_KEY_FILE", key);
        match connects(&settings) {
            Ok(()) => assert_eq!(words, "", "{certificate}"),
            Err(error) => assert!(!words.is_empty() && error.contains(words), "{certificate}: {error}"),
        }
    }
    let error = connects(&scene.settings("localhost", "ca")).expect_err("no certificate is shown");
    assert!(error.contains("REDIS_TLS_CERT_FILE"), "{error}");
    scene.show("good", "TLSv1.2");
    let error = connects(&scene.settings("localhost", "ca")).expect_err("no certificate is shown");
    assert!(error.contains("REDIS_TLS_CERT_FILE"), "{error}");
}

#[test]
fn versions_and_ciphers_without_an_overlap_are_explained_and_the_remedy_works() {
    let scene = Scene::new(false);
    let settings = scene.settings("localhost", "ca");
    scene.show("rsa", "TLSv1.1");
    let error = connects(&settings).expect_err("TLS 1.1 is refused");
    assert!(error.contains("neither TLS 1.2 nor TLS 1.3") && error.contains("tls-protocols"), "{error}");
    scene.show("rsa", "TLSv1.2");
    assert_eq!(connects(&settings), Ok(()));

    for ciphers in ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA"] {
        scene.redis.command::<()>(&["CONFIG", "SET", "tls-ciphers", ciphers]);
        let error = connects(&settings).expect_err(ciphers);
        assert!(error.contains("allow ECDHE with AES-GCM in its tls-ciphers"), "{ciphers}: {error}");
        scene.redis.command::<()>(&["CONFIG", "SET", "tls-ciphers", "ECDHE+AESGCM"]);
        assert_eq!(connects(&settings), Ok(()));
    }

    let plain = settings.set("REDIS_PORT", scene.redis.port.to_string());
    let error = connects(&plain).expect_err("no TLS at this port");
    assert!(error.contains("REDIS_TLS=0"), "{error}");
}

/// A server that shows this certificate without having its key.
fn impostor(certificate: &Path, key: &Path, version: &'static SupportedProtocolVersion) -> u16 {
    install_crypto_provider();
    let chain = CertificateDer::pem_file_iter(certificate)
        .expect("a file")
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key).expect("a key");
    let identity = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity));
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread("impostor", move || {
        for mut client in listener.incoming().take(4).map_while(Result::ok) {
            let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            while tls.is_handshaking() && tls.complete_io(&mut client).is_ok() {}
        }
    });
    port
}

#[test]
fn a_certificate_that_is_trusted_itself_is_no_use_without_its_key() {
    let scene = Scene::new(false);
    let file = |name: &str| CERTIFICATES.join(name);
    for certificate in ["self-v1", "v1", "self", "no-names"] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let port = impostor(&file(&format!("{certificate}.crt")), &file("good.key"), version);
            let settings = scene.trusting("localhost", certificate).set("REDIS_PORT", port.to_string());
            let error = connects(&settings).expect_err(certificate);
            assert!(error.contains("cannot connect to Redis"), "{certificate}: {error}");
            assert!(error.contains("certificate"), "{certificate}: {error}");
        }
    }
}
