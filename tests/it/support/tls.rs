//! Certificates made for one test, with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tools::system_program;

/// A server certificate for 127.0.0.1 and localhost, and the authority that signed it, as PEM files.
pub struct Certificate {
    pub public: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl Certificate {
    /// Makes an authority and a certificate that it signed for this host and these names, in this directory.
    pub fn make_for(directory: &Path, names: &[&str]) -> Self {
        let mut all = vec!["IP:127.0.0.1".to_owned(), "DNS:localhost".to_owned()];
        all.extend(names.iter().map(|name| format!("DNS:{name}")));
        let file = |name: &str| directory.join(name);
        let certificate =
            Self { public: file("server.crt"), key: file("server.key"), authority: file("ca.crt") };
        let names = format!("subjectAltName={}\n", all.join(","));
        std::fs::write(file("server.ext"), names).expect("a file");
        openssl(
            directory,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tests \
             -keyout ca.key -out ca.crt",
        );
        openssl(
            directory,
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
             -keyout server.key -out server.csr",
        );
        openssl(
            directory,
            "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
             -extfile server.ext -out server.crt",
        );
        certificate
    }

    /// A server that shows it, to clients without a certificate.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_file_iter(&self.public).expect("a certificate file");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        Arc::new(config)
    }

    /// The same key with a certificate that ended yesterday.
    pub fn expired(&self) -> Self {
        let directory = self.public.parent().expect("a directory");
        openssl(
            directory,
            "x509 -req -days -1 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile server.ext \
             -out expired.crt",
        );
        Self {
            public: directory.join("expired.crt"),
            key: self.key.clone(),
            authority: self.authority.clone(),
        }
    }
}

/// Runs openssl in this directory.
pub fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new(system_program("openssl"));
    let output =
        command.args(arguments.split_whitespace()).current_dir(directory).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
