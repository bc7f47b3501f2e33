//! Keys that the operator set: in the environment, in a file that is read at each use, or in a profile.

use std::sync::Arc;

use super::{Credentials, CredentialsError, CredentialsProvider, Fetch};
use crate::clock::EpochMs;
use crate::config::{ProfileSource, Secret, StaticKeys};

/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for temporary keys, `AWS_SESSION_TOKEN`.
#[derive(Debug, Clone)]
pub struct StaticCredentials(pub(super) StaticKeys);

impl StaticCredentials {
    /// The key id and where its secrets are.
    pub fn new(access_key_id: String, secret_access_key: Secret, session_token: Option<Secret>) -> Self {
        Self(StaticKeys { access_key_id, secret_access_key, session_token })
    }

    /// The keys as they are now.
    pub(super) fn read(&self) -> Result<Credentials, CredentialsError> {
        let token = self.0.session_token.as_ref();
        Ok(Credentials {
            access_key_id: self.0.access_key_id.clone(),
            secret_access_key: read(&self.0.secret_access_key, "AWS_SECRET_ACCESS_KEY")?,
            session_token: token.map(|token| read(token, "AWS_SESSION_TOKEN")).transpose()?,
            expires_at: None,
        })
    }
}

impl CredentialsProvider for StaticCredentials {
    fn current(&self, _now: EpochMs) -> Result<Arc<Credentials>, CredentialsError> {
        self.read().map(Arc::new)
    }

    fn invalidate(&self, _access_key_id: &str, _now: EpochMs) {}

    fn describe(&self) -> String {
        format!("static credentials with key id {}", self.0.access_key_id)
    }

    fn expiry(&self) -> Option<EpochMs> {
        None
    }
}

fn read(secret: &Secret, name: &str) -> Result<String, CredentialsError> {
    let cause = match secret.read() {
        Ok(value) if !value.trim().is_empty() => return Ok(value.trim().to_owned()),
        Ok(_) => "it is empty".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(CredentialsError {
        message: format!("cannot read {name}: {cause}; check {name} and {name}_FILE"),
        kind: "credentials_unreadable".to_owned(),
    })
}

/// The keys of a profile in the files that the AWS CLI and SDKs share, read again at each renewal.
#[derive(Debug)]
pub struct ProfileCredentials(pub ProfileSource);

impl Fetch for ProfileCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let keys = self.0.keys().map_err(|error| CredentialsError {
            message: format!("cannot get the credentials of profile '{}': {error}", self.0.name),
            kind: "profile_unusable".to_owned(),
        })?;
        StaticCredentials(keys).read()
    }

    fn source(&self) -> String {
        format!("credentials of profile '{}'", self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_secret_file_applies_at_the_next_call() {
        let path = std::env::temp_dir().join(format!("pcs-static-{}", std::process::id()));
        std::fs::write(&path, "first\n").unwrap();
        let provider = StaticCredentials::new("AKIA1".to_owned(), Secret::file(&path), None);
        assert_eq!(provider.current(EpochMs(0)).unwrap().secret_access_key, "first");

        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(provider.current(EpochMs(0)).unwrap().secret_access_key, "second");

        std::fs::write(&path, "\n").unwrap();
        let empty = provider.current(EpochMs(0)).unwrap_err().to_string();
        assert!(empty.contains("it is empty; check AWS_SECRET_ACCESS_KEY"), "{empty}");

        std::fs::remove_file(&path).unwrap();
        let absent = provider.current(EpochMs(0)).unwrap_err().to_string();
        assert!(absent.starts_with("cannot read AWS_SECRET_ACCESS_KEY: "), "{absent}");
        assert!(absent.contains(&path.display().to_string()), "{absent}");
    }

    #[test]
    fn a_session_token_makes_them_temporary() {
        let token = Some(Secret::inline("t"));
        let provider = StaticCredentials::new("AKIA1".to_owned(), Secret::inline("s"), token);
        assert!(provider.current(EpochMs(0)).unwrap().session_token.is_some());
        assert_eq!(provider.describe(), "static credentials with key id AKIA1");
    }
}
