//! TLS towards Redis: whom to trust, what to show. Read from files again when they change, so that renewed
//! certificates are taken up by new connections; else kept, so that sessions are resumed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::errors::{Cause, StoreError};
use crate::config::RedisTls;
use crate::http_client::install_crypto_provider;

/// The TLS set-up, and what its files were like when it was made.
#[derive(Debug, Default)]
pub(super) struct TlsSetup {
    made: Mutex<Option<(Vec<FileState>, Arc<ClientConfig>)>>,
}

type FileState = Option<(SystemTime, u64)>;

impl TlsSetup {
    /// The set-up as the files have it now.
    pub(super) fn config(&self, tls: &RedisTls) -> Result<Arc<ClientConfig>, StoreError> {
        let states: Vec<FileState> = [&tls.ca_file, &tls.cert_file, &tls.key_file]
            .into_iter()
            .map(|file| file.as_deref().and_then(state_of))
            .collect();
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
                log::warn!(err:% = error; "cannot use the changed TLS files of Redis: going on with those before");
                Ok(Arc::clone(config))
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn state_of(file: &Path) -> FileState {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The name that the server's certificate must carry: the one set, else the host.
pub(super) fn server_name(tls: &RedisTls, host: &str) -> Result<ServerName<'static>, StoreError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| {
        fault(format!(
            "cannot verify a server by the name '{name}': it is no host name; check REDIS_HOST and \
             REDIS_TLS_SERVER_NAME"
        ))
    })
}

fn build(tls: &RedisTls) -> Result<ClientConfig, StoreError> {
    install_crypto_provider();
    let builder = if tls.insecure {
        ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified::new()))
    } else {
        ClientConfig::builder().with_root_certificates(roots(tls.ca_file.as_ref())?)
    };
    match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "REDIS_TLS_CERT_FILE")?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                fault(format!(
                    "cannot read the private key {}: {error}; check REDIS_TLS_KEY_FILE",
                    key.display()
                ))
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                fault(format!(
                    "cannot use the client certificate: {error}; check that REDIS_TLS_KEY_FILE belongs to \
                     REDIS_TLS_CERT_FILE"
                ))
            })
        }
        (Some(_) | None, None) | (None, Some(_)) => Ok(builder.with_no_client_auth()),
    }
}

fn roots(ca_file: Option<&PathBuf>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(fault(
                "this machine has no trusted root certificates; install ca-certificates, or set REDIS_TLS_CA_FILE"
                    .to_owned(),
            ));
        }
        return Ok(roots);
    };
    roots.add_parsable_certificates(certificates(file, "REDIS_TLS_CA_FILE")?);
    if roots.is_empty() {
        return Err(fault(format!(
            "{} holds no certificate that can be used; check REDIS_TLS_CA_FILE",
            file.display()
        )));
    }
    Ok(roots)
}

fn certificates(file: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| {
            fault(format!(
                "cannot read {}: {error}; check {setting}",
                file.display()
            ))
        })
}

fn fault(message: String) -> StoreError {
    StoreError::new(Cause::Tls, message)
}

/// `REDIS_TLS_INSECURE`: any certificate will do. The handshake's signatures are checked all the same.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl Unverified {
    fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
