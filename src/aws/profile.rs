//! Static keys of a profile in the files that the AWS CLI and SDKs share, read again at each renewal.

use super::{Credentials, CredentialsError, Fetch, StaticCredentials};
use crate::config::ProfileSource;

/// The keys of this profile.
#[derive(Debug)]
pub struct ProfileCredentials(pub ProfileSource);

impl Fetch for ProfileCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let ProfileSource { name, files } = &self.0;
        let keys = files.keys(name).map_err(|error| CredentialsError {
            message: format!("cannot get the credentials of profile '{name}': {error}"),
            kind: "profile_unusable".to_owned(),
        })?;
        StaticCredentials(keys).read()
    }

    fn source(&self) -> String {
        format!("credentials of profile '{}'", self.0.name)
    }
}
