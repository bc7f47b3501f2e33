//! What a failure of TLS means, and what to do about it. Each remedy is tried by a story with that failure.

use rustls::pki_types::ServerName;
use rustls::{AlertDescription as Alert, CertificateError, OtherError};

use crate::config::RedisTls;

/// What rustls can sign and verify with.
pub(super) const KEY_TYPES: &str = "use RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519";

/// What a failure means, and what to do about it.
#[rustfmt::skip]
#[allow(clippy::wildcard_enum_match_arm)] // rustls's enums are open: the rest is described by its own text
pub(super) fn explain(failure: &rustls::Error, tls: &RedisTls) -> String {
    const SET: &str = "set REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE";
    let (cause, remedy) = match failure {
        rustls::Error::InvalidCertificate(error) => return explain_certificate(error),
        rustls::Error::InvalidMessage(_) =>
            ("it does not speak TLS at this port", "set REDIS_PORT to its TLS port, or REDIS_TLS=0"),
        rustls::Error::AlertReceived(Alert::ProtocolVersion) =>
            ("it speaks neither TLS 1.2 nor TLS 1.3", "allow them in its tls-protocols"),
        rustls::Error::AlertReceived(Alert::HandshakeFailure | Alert::InsufficientSecurity) | rustls::Error::PeerIncompatible(_) => {
            let client = if tls.cert_file.is_some() { String::new() } else { format!("; if it requires a client certificate, {SET}") };
            return format!("it has no cipher or signature algorithm in common with this service; allow ECDHE with AES-GCM in its \
                            tls-ciphers, and for its key {KEY_TYPES}{client}");
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired) => ("it requires a client certificate", SET),
        rustls::Error::AlertReceived(Alert::CertificateExpired) =>
            ("it finds that the client certificate has expired", "renew the one in REDIS_TLS_CERT_FILE"),
        rustls::Error::AlertReceived(Alert::UnsupportedCertificate) =>
            ("it finds that the client certificate is not for clients",
             "issue the one in REDIS_TLS_CERT_FILE with extendedKeyUsage=clientAuth"),
        rustls::Error::AlertReceived(Alert::UnknownCA) =>
            ("it does not trust the authority of the client certificate",
             "have the one in REDIS_TLS_CERT_FILE signed by an authority in its tls-ca-cert-file"),
        rustls::Error::AlertReceived(Alert::UnrecognisedName) =>
            ("it does not know the name that was asked for", "set REDIS_TLS_SERVER_NAME"),
        _ => return format!("{failure}; check REDIS_TLS, REDIS_TLS_CERT_FILE and REDIS_TLS_SERVER_NAME"),
    };
    format!("{cause}; {remedy}")
}

/// What this side finds wrong with the server's certificate.
#[rustfmt::skip]
#[allow(clippy::wildcard_enum_match_arm)]
fn explain_certificate(error: &CertificateError) -> String {
    let of_webpki = if let CertificateError::Other(OtherError(error)) = error { error.downcast_ref() } else { None };
    // For these, the certificate can be trusted itself instead.
    let (cause, other_remedy) = match error {
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            let kind = if matches!(expected, ServerName::IpAddress(_)) { "IP" } else { "DNS" };
            ("has no subjectAltName, so it is valid for no host", format!("subjectAltName={kind}:{}", expected.to_str()))
        }
        CertificateError::InvalidPurposeContext { .. } => ("is not for servers", "extendedKeyUsage=serverAuth".to_owned()),
        _ if of_webpki == Some(&webpki::Error::UnsupportedCertVersion) =>
            ("is not X.509 version 3", "version 3 and a subjectAltName".to_owned()),
        _ if of_webpki == Some(&webpki::Error::CaUsedAsEndEntity) => ("is that of an authority (CA:TRUE)", "CA:FALSE".to_owned()),
        CertificateError::UnknownIssuer => return "its certificate is signed by an authority that is not trusted here; set \
            REDIS_TLS_CA_FILE to the certificate of that authority, or to the server's own".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => return format!("its certificate is not valid for {} but \
            for {}; set REDIS_TLS_SERVER_NAME to a name in it", expected.to_str(), presented.join(", ")),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } =>
            return "its certificate has expired; renew it, and check this machine's clock".to_owned(),
        CertificateError::NotValidYetContext { .. } =>
            return "its certificate is not valid yet; check this machine's clock".to_owned(),
        // Of its handshake, or of an authority with the name of a trusted one.
        CertificateError::BadSignature => return "its certificate is signed with a different key than expected; set REDIS_TLS_CA_FILE to \
            the certificate of the authority that signed it, and check REDIS_HOST and REDIS_PORT".to_owned(),
        _ => return format!("its certificate cannot be used ({error}); put the server's own certificate into REDIS_TLS_CA_FILE, or \
            issue another: {KEY_TYPES}"),
    };
    format!("its certificate {cause}; put the server's own certificate into REDIS_TLS_CA_FILE, or issue it with {other_remedy}")
}
