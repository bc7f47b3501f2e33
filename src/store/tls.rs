//! TLS towards Redis: which server is trusted, and which certificate is shown.
//!
//! The files are read again when they change, so that new connections use renewed certificates; otherwise the set-up is
//! kept, so that sessions are resumed. rustls is stricter than OpenSSL, which the readers use: what it refuses (X.509 v1,
//! no subjectAltName, an authority's own certificate) is accepted if the server's certificate itself is in
//! `REDIS_TLS_CA_FILE`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ring::io::der::{Tag, expect_tag_and_get_value, read_tag_and_get_value};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring as crypto, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use untrusted::{Input, Reader};
use webpki::RawPublicKeyEntity;

use super::errors::{Cause, StoreError};
use super::tls_errors::KEY_TYPES;
use crate::config::RedisTls;
use crate::http_client::install_crypto_provider;

/// The TLS set-up, and what its files were like when it was made.
pub(super) struct TlsSetup {
    pub(super) settings: RedisTls,
    made: Mutex<Option<([FileState; 3], Arc<ClientConfig>)>>,
}

/// When a file was changed, and its length.
type FileState = Option<(SystemTime, u64)>;

impl TlsSetup {
    pub(super) fn new(settings: RedisTls) -> Self {
        Self { settings, made: Mutex::default() }
    }

    /// The client's side of a connection to this host.
    pub(super) fn client(&self, host: &str) -> Result<ClientConnection, StoreError> {
        // The name that the server's certificate must carry: the one set, else the host.
        let name = self.settings.server_name.as_deref().unwrap_or(host);
        let unusable = |why: String| {
            let remedy = "check REDIS_HOST and REDIS_TLS_SERVER_NAME";
            fault(format!("cannot verify a server by the name '{name}': {why}; {remedy}"))
        };
        let server_name = ServerName::try_from(name.to_owned());
        let server_name = server_name.map_err(|_| unusable("it is not a host name".to_owned()))?;
        ClientConnection::new(self.config()?, server_name).map_err(|error| unusable(error.to_string()))
    }

    /// The set-up as the files have it now.
    fn config(&self) -> Result<Arc<ClientConfig>, StoreError> {
        let tls = &self.settings;
        let states = [&tls.ca_file, &tls.cert_file, &tls.key_file].map(|file| {
            let metadata = std::fs::metadata(file.as_ref()?).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        });
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*made
            && *of == states
        {
            return Ok(Arc::clone(config));
        }
        match (build(tls), &*made) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                *made = Some((states, Arc::clone(&config)));
                Ok(config)
            }
            // Files that are being replaced, or were replaced by mistake: what worked so far may still work.
            (Err(error), Some((_, config))) => {
                log::warn!(err:% = error; "cannot use the changed TLS files of Redis: continuing with the previous ones");
                Ok(Arc::clone(config))
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn build(tls: &RedisTls) -> Result<ClientConfig, StoreError> {
    install_crypto_provider();
    let builder =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(tls)?));
    let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, "REDIS_TLS_CERT_FILE")?;
    let unusable = |why: String| fault(format!("cannot use the private key {}: {why}", key.display()));
    let der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unusable(format!("{error}; check REDIS_TLS_KEY_FILE")))?;
    let key = crypto::default_provider().key_provider.load_private_key(der);
    let key = key.map_err(|error| unusable(format!("{error}; {KEY_TYPES}")))?;
    let identity = CertifiedKey::new(chain, key);
    // Other errors mean that rustls cannot read the certificate; the server may be able to.
    if let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = identity.keys_match() {
        return Err(fault(
            "cannot use the client certificate: it has another key; check that REDIS_TLS_KEY_FILE belongs to \
             REDIS_TLS_CERT_FILE"
                .to_owned(),
        ));
    }
    Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))))
}

fn certificates(file: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|error| fault(format!("cannot read {}: {error}; check {setting}", file.display())))
}

fn fault(message: String) -> StoreError {
    StoreError::new(Cause::Tls, message)
}

/// Verifies as rustls does, and accepts a certificate that itself is in `REDIS_TLS_CA_FILE`, whatever its name, purpose or
/// version, unless rustls can read that it has expired.
#[derive(Debug)]
struct Verifier {
    /// None with `REDIS_TLS_INSECURE`: anything is accepted.
    by_authority: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates in `REDIS_TLS_CA_FILE`.
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(tls: &RedisTls) -> Result<Self, StoreError> {
        let mut verifier = Self {
            by_authority: None,
            trusted: Vec::new(),
            algorithms: crypto::default_provider().signature_verification_algorithms,
        };
        if tls.insecure {
            return Ok(verifier);
        }
        let mut roots = RootCertStore::empty();
        let remedy = if let Some(file) = &tls.ca_file {
            verifier.trusted = certificates(file, "REDIS_TLS_CA_FILE")?;
            roots.add_parsable_certificates(verifier.trusted.iter().cloned());
            "REDIS_TLS_CA_FILE has no certificate that can be used; set a file of PEM certificates"
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "this machine has no trusted root certificates; install ca-certificates, or set REDIS_TLS_CA_FILE"
        };
        let by_authority = WebPkiServerVerifier::builder(Arc::new(roots)).build();
        verifier.by_authority = Some(by_authority.map_err(|_| fault(remedy.to_owned()))?);
        Ok(verifier)
    }

    /// The key of a certificate that is trusted by itself, which rustls may not be able to read.
    fn trusted_key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
        self.trusted.contains(certificate).then(|| public_key(certificate)).flatten()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(by_authority) = &self.by_authority else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = by_authority.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. },
            )) => verified,
            Err(_) if self.trusted.contains(certificate) => Ok(ServerCertVerified::assertion()),
            _ => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.by_authority.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let verified = verify_tls12_signature(message, certificate, signature, &self.algorithms);
        let Some(key) = self.trusted_key(certificate).filter(|_| verified.is_err()) else {
            return verified;
        };
        let mapping = self.algorithms.mapping.iter();
        let mut algorithms =
            mapping.filter(|(scheme, _)| *scheme == signature.scheme).flat_map(|(_, all)| *all);
        match RawPublicKeyEntity::try_from(&key) {
            Ok(key)
                if algorithms.any(|by| key.verify_signature(*by, message, signature.signature()).is_ok()) =>
            {
                Ok(HandshakeSignatureValid::assertion())
            }
            _ => verified,
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.trusted_key(certificate) {
            _ if self.by_authority.is_none() => Ok(HandshakeSignatureValid::assertion()),
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms),
            None => verify_tls13_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        if self.by_authority.is_none() {
            // Nothing is verified, so the server may sign as it likes.
            use SignatureScheme as Scheme;
            schemes.extend([
                Scheme::ECDSA_NISTP521_SHA512,
                Scheme::ED448,
                Scheme::RSA_PKCS1_SHA1,
                Scheme::ECDSA_SHA1_Legacy,
            ]);
        }
        schemes
    }
}

/// The `subjectPublicKeyInfo` of a certificate of any version.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let sequence = |reader: &mut Reader<'a>| expect_tag_and_get_value(reader, Tag::Sequence);
    let whole = sequence(&mut Reader::new(Input::from(certificate.as_ref()))).ok()?;
    let mut fields = Reader::new(sequence(&mut Reader::new(whole)).ok()?);
    // Version (none means 1), serial number, signature algorithm, issuer, validity, subject.
    let has_version = fields.peek(Tag::ContextSpecificConstructed0.into());
    for _ in 0..5 + usize::from(has_version) {
        read_tag_and_get_value(&mut fields).ok()?;
    }
    let (key, _) = fields.read_partial(sequence).ok()?;
    Some(key.as_slice_less_safe().into())
}
