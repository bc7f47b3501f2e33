//! Profiles: the files that the AWS CLI and the SDKs share, `~/.aws/config` and `~/.aws/credentials`.
//!
//! They are read once when the configuration is judged, and again for each fetch, so that an edit is taken up. The
//! two are one set of profiles: what the credentials file says of a profile goes before what the config file says.

mod chain;
mod ini;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use self::chain::{Base, Chain, ProfileFault, Role, is_role_arn, is_session_name};
use self::ini::{Kind, Parsed, parse};

/// Far beyond what people write; the files are read by many, and this service must not be filled by one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the two files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFiles {
    /// `AWS_CONFIG_FILE`, by default `~/.aws/config`; none without a home.
    pub config: Option<PathBuf>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, by default `~/.aws/credentials`; none without a home.
    pub credentials: Option<PathBuf>,
}

/// What tells whether the files changed: size and time of change of each that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([Option<(u64, Option<SystemTime>)>; 2]);

impl ProfileFiles {
    /// Reads both files and finds out how the credentials of `profile` are come by. A file that is not there is an
    /// empty one.
    pub fn chain(&self, profile: &str) -> Result<Chain, ProfileFault> {
        let config = read(self.config.as_deref(), Kind::Config)?;
        let credentials = read(self.credentials.as_deref(), Kind::Credentials)?;
        let mut profiles = config.profiles;
        for (name, settings) in credentials.profiles {
            profiles.entry(name).or_default().extend(settings);
        }
        if !profiles.contains_key(profile) {
            let known: Vec<&str> = profiles.keys().map(String::as_str).take(20).collect();
            let hint = if config.other_sections.iter().any(|section| section == profile) {
                format!("in the config file its section must be [profile {profile}]")
            } else if known.is_empty() {
                "there is no profile at all; check AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            return Err(ProfileFault(format!(
                "profile '{profile}' is not in {}; {hint}",
                self.names()
            )));
        }
        chain::chain(&profiles, profile)
    }

    /// The files as they are now, to be compared with a later look.
    pub fn stamp(&self) -> Stamp {
        let stamp = |path: &Option<PathBuf>| {
            let metadata = std::fs::metadata(path.as_ref()?).ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        };
        Stamp([stamp(&self.config), stamp(&self.credentials)])
    }

    fn names(&self) -> String {
        let names: Vec<String> = [&self.config, &self.credentials]
            .into_iter()
            .flatten()
            .map(|path| path.display().to_string())
            .collect();
        names.join(" or ")
    }
}

fn read(path: Option<&Path>, kind: Kind) -> Result<Parsed, ProfileFault> {
    let Some(path) = path else {
        return Ok(Parsed::default());
    };
    let fault = |what: String| ProfileFault(format!("cannot read profiles from {}: {what}", path.display()));
    let unreadable = |error: std::io::Error| fault(format!("{error}; check the path and its permissions"));
    let file = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Parsed::default()),
        Err(error) => return Err(unreadable(error)),
        Ok(metadata) if !metadata.is_file() => {
            // A pipe would be empty the second time, or block the reader for ever.
            return Err(fault("it is not a file; name one".to_owned()));
        }
        Ok(_) => std::fs::File::open(path).map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(format!(
            "it is longer than {FILE_BYTES_MAX} bytes; is it the right file?"
        )));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| fault("it is not UTF-8; is it the right file?".to_owned()))?;
    parse(&text, kind).map_err(|error| fault(error.to_string()))
}
