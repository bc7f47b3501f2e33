//! Credentials of a profile of the files that the AWS CLI and the SDKs share, whatever it takes to come by them: keys,
//! roles assumed one after the other, a token, a program, or those of the environment, the container or the instance.
//!
//! The files are read for each fetch, so that an edit is taken up: at the latest a minute later, or when AWS refuses
//! what is held.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::process;
use super::sts::{StsAccess, StsClient, made_up_session_name};
use super::{
    Credentials, CredentialsError, CredentialsProvider, Fetch, StaticCredentials, WebIdentityCredentials,
};
use crate::clock;
use crate::config::Secret;
use crate::config::profiles::{Base, ProfileFault, ProfileFiles, Role, Stamp};
use crate::shutdown::Stop;

/// What a `credential_process` may take. People sign in by some; a service has none.
const PROCESS_DEADLINE: Duration = Duration::from_secs(30);

/// The sources that a profile can name with `credential_source`.
pub struct NamedSources {
    /// `Environment`: none if there are no static keys in it.
    pub environment: Option<StaticCredentials>,
    /// `EcsContainer`: none outside of a container that has them.
    pub container: Option<Box<dyn Fetch>>,
    /// `Ec2InstanceMetadata`.
    pub instance_metadata: Box<dyn Fetch>,
}

/// Fetches as the profile says.
pub struct ProfileCredentials {
    name: String,
    files: ProfileFiles,
    sts: StsAccess,
    named: NamedSources,
    session_name: String,
    /// Ends a program that is running.
    stop: Stop,
    /// The files, as they were at the last fetch that succeeded.
    seen: Mutex<Option<Stamp>>,
}

impl ProfileCredentials {
    /// The profile of this name. `sts` is for roles whose profile names no region.
    pub fn new(name: String, files: ProfileFiles, sts: StsAccess, named: NamedSources, stop: Stop) -> Self {
        Self {
            name,
            files,
            sts,
            named,
            session_name: made_up_session_name(),
            stop,
            seen: Mutex::new(None),
        }
    }

    fn fault(&self, kind: &str, cause_and_remedy: &str) -> CredentialsError {
        CredentialsError {
            message: format!(
                "cannot get the credentials of profile '{}': {cause_and_remedy}",
                self.name
            ),
            kind: format!("profile_{kind}"),
        }
    }

    fn base(&self, base: Base) -> Result<Credentials, CredentialsError> {
        match base {
            Base::Keys(keys) => {
                let keys =
                    StaticCredentials::new(keys.access_key_id, keys.secret_access_key, keys.session_token);
                now(&keys)
            }
            Base::WebIdentity { token, role } => {
                let role = Role {
                    session_name: Some(self.session_name(&role).to_owned()),
                    ..role
                };
                WebIdentityCredentials::of_role(token, role, self.sts.clone()).fetch()
            }
            Base::Process(command) => self.process(&command),
            Base::Environment => {
                let keys = self.named.environment.as_ref().ok_or_else(|| {
                    let cause = "its credential_source is Environment; set AWS_ACCESS_KEY_ID and \
                                 AWS_SECRET_ACCESS_KEY, and start again";
                    self.fault("environment", cause)
                })?;
                now(keys)
            }
            Base::Container => {
                let container = self.named.container.as_ref().ok_or_else(|| {
                    let cause = "its credential_source is EcsContainer; set AWS_CONTAINER_CREDENTIALS_FULL_URI or \
                                 _RELATIVE_URI, and start again";
                    self.fault("container", cause)
                })?;
                container.fetch()
            }
            Base::InstanceMetadata => self.named.instance_metadata.fetch(),
        }
    }

    fn process(&self, command: &Secret) -> Result<Credentials, CredentialsError> {
        let fault = |cause: &str| self.fault("process", &format!("its credential_process: {cause}"));
        let command = command.read().map_err(|error| fault(&error.to_string()))?;
        process::credentials(&command, PROCESS_DEADLINE, &self.stop).map_err(|cause| fault(&cause))
    }

    fn assume(&self, role: &Role, with: &Credentials) -> Result<Credentials, CredentialsError> {
        let sts = StsClient::new(&self.sts, role.region.as_deref())
            .ok_or_else(|| self.fault("region", "its region has no STS; check it"))?;
        sts.assume_role(role, self.session_name(role), with)
    }

    fn session_name<'a>(&'a self, role: &'a Role) -> &'a str {
        role.session_name.as_deref().unwrap_or(&self.session_name)
    }
}

impl Fetch for ProfileCredentials {
    fn fetch(&self) -> Result<Credentials, CredentialsError> {
        // Looked at before they are read: a change in between is then found as one.
        let stamp = self.files.stamp();
        let chain = self
            .files
            .chain(&self.name)
            .map_err(|ProfileFault(fault)| self.fault("unusable", &fault))?;
        let roles = chain.roles;
        let of_this_profile = |error: CredentialsError| {
            if error.kind.starts_with("profile_") {
                return error;
            }
            self.fault(&error.kind, &error.message)
        };
        let mut credentials = self.base(chain.base).map_err(of_this_profile)?;
        for role in &roles {
            credentials = self.assume(role, &credentials).map_err(of_this_profile)?;
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        Ok(credentials)
    }

    fn source(&self) -> String {
        format!("credentials of profile '{}'", self.name)
    }

    fn is_stale(&self) -> bool {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|seen| seen != self.files.stamp())
    }
}

fn now(keys: &StaticCredentials) -> Result<Credentials, CredentialsError> {
    keys.current(clock::now()).map(|keys| (*keys).clone())
}

#[cfg(test)]
mod tests;
