//! TLS towards Redis: the files it takes, and what is wrong with them.

use std::path::PathBuf;

use super::super::RedisTls;
use super::{TestFile, config, faults, notices};

/// A certificate as PEM; nobody looks into it here.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[test]
fn the_authorities_file_is_taken_with_tls_however_tls_was_asked_for() {
    let file = TestFile::new("ca", CERTIFICATE);
    let ca = ("REDIS_TLS_CA_FILE", file.path());
    let ca = (ca.0, ca.1.as_str());
    let expected = Some(RedisTls { ca_file: Some(PathBuf::from(ca.1)), ..RedisTls::default() });
    assert_eq!(config(&[ca, ("REDIS_TLS", "on")]).redis.tls, expected);
    assert_eq!(config(&[ca, ("REDIS_HOST", ""), ("REDIS_URL", "rediss://db-1")]).redis.tls, expected);
    assert_eq!(
        faults(&[ca]),
        [
            "REDIS_TLS_CA_FILE: is given while TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it"
        ]
    );
}

#[test]
fn an_authorities_file_without_certificates_is_a_fault() {
    let text = TestFile::new("ca-text", b"hello\n");
    let broken = TestFile::new("ca-broken", b"-----BEGIN CERTIFICATE-----\nAAAA\n");
    for (path, fault) in [
        (
            "/nonexistent/ca.pem".to_owned(),
            "cannot read {}: no such file; check the path and its permissions",
        ),
        (text.path(), "{} holds no valid certificate; set a PEM file of one"),
    ] {
        assert_eq!(
            faults(&[("REDIS_TLS", "1"), ("REDIS_TLS_CA_FILE", &path)]),
            [format!("REDIS_TLS_CA_FILE: {}", fault.replace("{}", &path))]
        );
    }
    let faults = faults(&[("REDIS_TLS", "1"), ("REDIS_TLS_CA_FILE", &broken.path())]);
    assert!(faults[0].contains(" holds no valid certificate; "), "{faults:?}");
}

#[test]
fn tls_without_verification_is_a_notice() {
    assert_eq!(
        notices(&[("REDIS_TLS", "1"), ("REDIS_TLS_INSECURE", "1")]),
        ["REDIS_TLS_INSECURE: is on: the certificate is not verified, so anyone may pose as Redis"]
    );
    assert_eq!(notices(&[("REDIS_TLS_INSECURE", "1")]), [""; 0]);
}

#[test]
fn a_client_certificate_and_its_key_go_together_and_with_tls() {
    let certificate = TestFile::new("client-cert", CERTIFICATE);
    let key = TestFile::new("client-key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let (certificate, key) = (certificate.path(), key.path());
    let tls = config(&[
        ("REDIS_TLS", "1"),
        ("REDIS_TLS_CERT_FILE", &certificate),
        ("REDIS_TLS_KEY_FILE", &key),
        ("REDIS_TLS_SERVER_NAME", "redis.internal"),
    ])
    .redis
    .tls
    .expect("TLS");
    assert_eq!(tls.cert_file, Some(PathBuf::from(&certificate)));
    assert_eq!(tls.key_file, Some(PathBuf::from(&key)));
    assert_eq!(tls.server_name.as_deref(), Some("redis.internal"));

    assert_eq!(
        faults(&[("REDIS_TLS", "1"), ("REDIS_TLS_CERT_FILE", &certificate)]),
        ["REDIS_TLS_KEY_FILE: is required with REDIS_TLS_CERT_FILE; set it, or unset REDIS_TLS_CERT_FILE"]
    );
    assert_eq!(
        faults(&[("REDIS_TLS_CERT_FILE", &certificate), ("REDIS_TLS_KEY_FILE", &key)]),
        ["REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE"].map(|name| {
            format!(
                "{name}: is given while TLS is off; set REDIS_TLS=1 (or rediss:// in REDIS_URL), or unset it"
            )
        })
    );
    let wrong = faults(&[
        ("REDIS_TLS", "1"),
        ("REDIS_TLS_CERT_FILE", &certificate),
        ("REDIS_TLS_KEY_FILE", &certificate),
        ("REDIS_TLS_SERVER_NAME", "not a name"),
    ]);
    assert_eq!(
        wrong,
        [
            format!(
                "REDIS_TLS_KEY_FILE: {certificate} holds no private key that is not encrypted; set a PEM file of one"
            ),
            "REDIS_TLS_SERVER_NAME: 'not a name' is not a host name; set that in the certificate".to_owned(),
        ]
    );
}
