//! TLS towards what is measured.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Both versions of TLS; sessions are kept, as AWS keeps them, so that a reconnect is cheap.
pub fn config(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let what = |path: &Path| format!("cannot read {}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| what(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| what(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}
