//! AWS credentials: where they come from, how temporary ones are renewed, and how requests are signed with them.
//!
//! [`provider`] builds the provider of a configured source. Sources whose credentials change
//! implement [`Fetch`], and `renewal` keeps what they fetch. `endpoint` is the HTTP client of a source, and `answers` reads
//! what it answers. Secrets appear in no `Debug`, log line or error.

pub mod answers;
mod container;
mod edge;
mod endpoint;
mod imds;
mod redaction;
mod renewal;
pub mod signing;
mod static_keys;
pub mod sts;

use std::fmt;
use std::sync::Arc;

use self::container::ContainerCredentials;
use self::imds::InstanceMetadataCredentials;
use self::redaction::redact;
use self::static_keys::ProfileCredentials;
use self::sts::WebIdentityCredentials;
use crate::clock::EpochMs;
use crate::config::{CredentialSource, Proxy};

pub use self::edge::EdgeCredentials;
pub(crate) use self::redaction::quotable;
pub use self::renewal::{Fetch, RenewingCredentials};
pub use self::static_keys::StaticCredentials;

/// What a request is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Not a secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// For temporary credentials. Also a secret.
    pub session_token: Option<String>,
    /// None for static keys.
    pub expires_at: Option<EpochMs>,
}

/// No credentials are available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CredentialsError {
    /// What, from where, why, and the remedy. No secret.
    pub message: String,
    /// A short stable name of the fault.
    pub kind: String,
}

/// Provides the credentials for each call.
pub trait CredentialsProvider: Send + Sync {
    /// The credentials to sign with at `now`. Fetches, within the source's own deadline, only if it holds none.
    fn current(&self, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError>;

    /// AWS refused this key: the provider may fetch others. Has no effect if it is not the current key.
    fn invalidate(&self, access_key_id: &str, now: EpochMs);

    /// The source, and the key id if it is known, for logs. No secret.
    fn describe(&self) -> String;

    /// When the current credentials expire, if they do.
    fn expiry(&self) -> Option<EpochMs>;

    /// The settings that decide about these credentials, for the remedy of a refusal. None for static keys.
    fn decided_by(&self) -> Option<&str> {
        None
    }
}

/// A provider and, unless its keys are static, the part of it that a thread renews ahead of expiry.
pub type Provider = (Arc<dyn CredentialsProvider>, Option<Arc<RenewingCredentials>>);

/// The provider of a source.
pub fn provider(source: &CredentialSource, proxy: Option<Proxy>, edge: EdgeCredentials) -> Provider {
    own_provider(source, proxy).unwrap_or_else(|| renewing(source, Box::new(edge)))
}

/// The provider of the operator's own AWS credentials. None if the source is the Edge API.
pub fn own_provider(source: &CredentialSource, proxy: Option<Proxy>) -> Option<Provider> {
    let fetch: Box<dyn Fetch> = match source {
        CredentialSource::Static(keys) => return Some((Arc::new(StaticCredentials(keys.clone())), None)),
        CredentialSource::WebIdentity(web) => Box::new(WebIdentityCredentials::new(web.clone(), proxy)),
        CredentialSource::Container(source) => Box::new(ContainerCredentials::new(source.clone())),
        CredentialSource::Profile(profile) => Box::new(ProfileCredentials(profile.clone())),
        CredentialSource::InstanceMetadata(source) => Box::new(InstanceMetadataCredentials::new(source)),
        CredentialSource::EdgeApi => return None,
    };
    Some(renewing(source, fetch))
}

fn renewing(source: &CredentialSource, fetch: Box<dyn Fetch>) -> Provider {
    let renewing = Arc::new(RenewingCredentials::new(fetch, source.variables()));
    (Arc::<RenewingCredentials>::clone(&renewing), Some(renewing))
}

impl Credentials {
    /// The text without the secrets of these credentials: AWS quotes the session token in some refusals.
    pub fn redact(&self, text: &str) -> String {
        redact(text, &self.secrets())
    }

    fn secrets(&self) -> Vec<&str> {
        let secrets = [Some(&self.secret_access_key), self.session_token.as_ref()];
        secrets.into_iter().flatten().map(String::as_str).collect()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_appear_neither_in_debug_nor_in_redacted_text() {
        let credentials = Credentials {
            access_key_id: "AKIA1".to_owned(),
            secret_access_key: "hunter2-hunter2".to_owned(),
            session_token: Some("tok3n-of-the-session".to_owned()),
            expires_at: Some(EpochMs(5)),
        };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKIA1") && !shown.contains("hunter2") && !shown.contains("tok3n"), "{shown}");
        assert_eq!(
            credentials.redact("should have been 'x-amz-security-token:tok3n-of-the-session'"),
            "should have been 'x-amz-security-token:[redacted]'"
        );
    }
}
