//! What the service shows to a Redis that asks for certificates.

use std::path::{Path, PathBuf};

use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::settings::Settings;
use crate::config::values::{Findings, raw};

/// Certificate and key, which go together.
pub(super) fn files(settings: &Settings, findings: &mut Findings) -> Option<(PathBuf, PathBuf)> {
    let certificate = raw!(settings, redis.redis_tls_cert_file);
    let key = raw!(settings, redis.redis_tls_key_file);
    let (certificate_file, key_file) = (findings.certificates(certificate), findings.private_key(key));
    match (certificate.value, key.value) {
        (Some(_), None) => findings.fault(
            key,
            "is required with REDIS_TLS_CERT_FILE; set it to the certificate's key",
        ),
        (None, Some(_)) => {
            findings.fault(
                certificate,
                "is required with REDIS_TLS_KEY_FILE; set it to the key's certificate",
            );
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let (certificate_file, key_file) = certificate_file.zip(key_file)?;
    if !fit(&certificate_file, &key_file) {
        findings.fault(
            key,
            format!(
                "{} is not the key of the certificate in REDIS_TLS_CERT_FILE, {}; set both to files that were made together",
                key_file.display(),
                certificate_file.display()
            ),
        );
    }
    Some((certificate_file, key_file))
}

/// False if it is certain that the key is another certificate's. What cannot be used at all is told when it is used.
fn fit(certificate: &Path, key: &Path) -> bool {
    let read = || {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, pem::Error>((chain, PrivateKeyDer::from_pem_file(key)?))
    };
    let Ok((chain, key)) = read() else {
        return true;
    };
    let provider = rustls::crypto::ring::default_provider();
    !matches!(
        CertifiedKey::from_der(chain, key, &provider),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch))
    )
}
