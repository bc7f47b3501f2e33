//! Where AWS credentials come from, how temporary ones stay fresh, and how requests are signed with them.
//!
//! A provider hands out what it holds without waiting wherever it can. Nothing here reads the clock: callers say
//! what time it is. No secret shows in a `Debug`, a description or an error.

pub mod container;
pub mod document;
pub mod edge;
pub mod fixed;
pub mod imds;
mod process;
pub mod profile;
pub mod provider;
mod redaction;
pub mod renewing;
pub mod signing;
pub mod sts;
pub mod web_identity;

use std::fmt;
use std::sync::Arc;

use self::redaction::redact;
use crate::entitlement::EpochMs;

pub use self::container::ContainerCredentials;
pub use self::edge::EdgeCredentials;
pub use self::fixed::StaticCredentials;
pub use self::imds::InstanceMetadataCredentials;
pub use self::profile::{NamedSources, ProfileCredentials};
pub use self::provider::{Provider, own_provider, provider};
pub(crate) use self::redaction::quotable;
pub use self::renewing::{Fetch, Renewal, RenewingCredentials};
pub use self::web_identity::WebIdentityCredentials;

/// What a call is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The key id: not a secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// A secret too; temporary credentials have one.
    pub session_token: Option<String>,
    /// When they stop working; none for static ones.
    pub expires_at: Option<EpochMs>,
}

/// No credentials could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CredentialsError {
    /// What, from where, why, and the remedy. No secret.
    pub message: String,
    /// A short stable name of the fault.
    pub kind: String,
}

/// A source of credentials that is asked before each call.
pub trait CredentialsProvider: Send + Sync {
    /// The credentials to sign with at `now`. May fetch, within the source's own deadline, if none are at hand.
    fn current(&self, now: EpochMs) -> Result<Arc<Credentials>, CredentialsError>;

    /// AWS refused this key: the source may fetch anew, at most every few seconds. Nothing happens if it is not
    /// the key that is held.
    fn invalidate(&self, access_key_id: &str, now: EpochMs);

    /// The source, and the key id if one is known: for logs. No secret.
    fn describe(&self) -> String;

    /// When what is held stops working, if it does.
    fn expiry(&self) -> Option<EpochMs>;

    /// What decides about these credentials, for the remedy of a refusal: names of settings, as in "check …".
    /// None for keys that the operator gave himself: they are named one by one.
    fn decided_by(&self) -> Option<&str> {
        None
    }
}

impl Credentials {
    /// The text without the secrets of these credentials, whoever put them there: AWS quotes the session token
    /// in the words of some refusals.
    pub fn redact(&self, text: &str) -> String {
        let secrets = [Some(&self.secret_access_key), self.session_token.as_ref()];
        redact(text, secrets.into_iter().flatten().map(String::as_str))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"[redacted]")
            .field(
                "session_token",
                &self.session_token.as_ref().map(|_| "[redacted]"),
            )
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_show_neither_in_debug_nor_in_redacted_text() {
        let credentials = Credentials {
            access_key_id: "AKIA1".to_owned(),
            secret_access_key: "hunter2-hunter2".to_owned(),
            session_token: Some("tok3n-of-the-session".to_owned()),
            expires_at: Some(EpochMs(5)),
        };
        let shown = format!("{credentials:?}");
        assert!(
            shown.contains("AKIA1")
                && !shown.contains("hunter2-hunter2")
                && !shown.contains("tok3n-of-the-session"),
            "{shown}"
        );
        assert_eq!(
            credentials.redact("should have been 'x-amz-security-token:tok3n-of-the-session'"),
            "should have been 'x-amz-security-token:[redacted]'"
        );
    }
}
