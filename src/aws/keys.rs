//! Keys that the operator set: in the environment, in a file, or in a profile.

use super::{Credentials, CredentialsError, Fetcher};
use crate::config::{ProfileSource, Secret, StaticKeys};

/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for temporary keys, `AWS_SESSION_TOKEN`.
pub(super) fn fixed(keys: StaticKeys) -> Fetcher {
    Fetcher { source: "static credentials".to_owned(), fetch: Box::new(move || read(&keys)) }
}

/// The keys of a profile in the files that the AWS CLI and SDKs share.
pub(super) fn of_profile(profile: ProfileSource) -> Fetcher {
    Fetcher {
        source: format!("credentials of profile '{}'", profile.name),
        fetch: Box::new(move || {
            let keys = profile.keys().map_err(|error| CredentialsError {
                message: format!("cannot get the credentials of profile '{}': {error}", profile.name),
                kind: "profile_unusable".to_owned(),
            })?;
            read(&keys)
        }),
    }
}

fn read(keys: &StaticKeys) -> Result<Credentials, CredentialsError> {
    let token = keys.session_token.as_ref();
    Ok(Credentials {
        access_key_id: keys.access_key_id.clone(),
        secret_access_key: read_secret(&keys.secret_access_key, "AWS_SECRET_ACCESS_KEY_FILE")?,
        session_token: token.map(|token| read_secret(token, "AWS_SESSION_TOKEN")).transpose()?,
        expires_at: None,
    })
}

/// The current value of a secret. It may be empty while its file is being replaced.
pub(super) fn read_secret(secret: &Secret, setting: &str) -> Result<String, CredentialsError> {
    let cause = match secret.read() {
        Ok(value) if !value.trim().is_empty() => return Ok(value.trim().to_owned()),
        Ok(_) => "it is empty".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(CredentialsError {
        message: format!("cannot read {setting}: {cause}; check the file"),
        kind: "credentials_unreadable".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret_access_key: Secret, session_token: Option<Secret>) -> Fetcher {
        fixed(StaticKeys { access_key_id: "AKIA1".to_owned(), secret_access_key, session_token })
    }

    #[test]
    fn a_rotated_secret_file_applies_at_the_next_fetch() {
        let path = std::env::temp_dir().join(format!("pcs-static-{}", std::process::id()));
        std::fs::write(&path, "first\n").unwrap();
        let fetch = keys(Secret::file(&path), None).fetch;
        assert_eq!(fetch().unwrap().secret_access_key, "first");

        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(fetch().unwrap().secret_access_key, "second");

        std::fs::write(&path, "\n").unwrap();
        let empty = fetch().unwrap_err().to_string();
        assert_eq!(empty, "cannot read AWS_SECRET_ACCESS_KEY_FILE: it is empty; check the file");

        std::fs::remove_file(&path).unwrap();
        let absent = fetch().unwrap_err().to_string();
        assert!(absent.starts_with("cannot read AWS_SECRET_ACCESS_KEY_FILE: "), "{absent}");
        assert!(absent.contains(&path.display().to_string()), "{absent}");
    }

    #[test]
    fn a_session_token_makes_them_temporary() {
        let fetch = keys(Secret::inline("s"), Some(Secret::inline("t"))).fetch;
        assert_eq!(fetch().unwrap().session_token.as_deref(), Some("t"));
    }
}
