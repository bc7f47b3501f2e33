//! Static keys of a profile in the files that the AWS CLI and SDKs share, `~/.aws/config` and `~/.aws/credentials`.
//!
//! The credentials file takes precedence over the config file. The format is INI with nested
//! settings (`s3 =` and indented lines below it), which no INI library knows; `parse` is all that three settings need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Secret, StaticKeys};

/// Far beyond what people write.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Other ways in which a profile can provide credentials.
const UNSUPPORTED: [&str; 9] = [
    "web_identity_token_file",
    "role_arn",
    "source_profile",
    "credential_source",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "sso_account_id",
    "login_session",
];

/// Settings of one profile, names in lower case.
type ProfileSettings = BTreeMap<String, String>;

/// Where the two files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFiles {
    /// `AWS_CONFIG_FILE`, by default `~/.aws/config`; none without a home.
    pub config: Option<PathBuf>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, by default `~/.aws/credentials`; none without a home.
    pub credentials: Option<PathBuf>,
}

/// A profile without usable keys: which, why, and the remedy. No secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProfileError(String);

impl ProfileFiles {
    /// The keys of this profile, as the files have them now. A file that does not exist counts as empty.
    pub fn keys(&self, profile: &str) -> Result<StaticKeys, ProfileError> {
        let mut profiles = BTreeMap::new();
        for (path, is_config) in [(&self.config, true), (&self.credentials, false)] {
            if let Some(path) = path {
                parse(&read(path)?, is_config, &mut profiles);
            }
        }
        let Some(settings) = profiles.get(profile) else {
            let known: Vec<&str> = profiles.keys().map(String::as_str).take(20).collect();
            let files = [&self.config, &self.credentials].into_iter().flatten();
            let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
            return Err(ProfileError(format!(
                "profile '{profile}' is not in {}, which {}; its section is [profile {profile}] in the config file and \
                 [{profile}] in the credentials file",
                files.join(" or "),
                if known.is_empty() { "have none".to_owned() } else { format!("have {}", known.join(", ")) },
            )));
        };
        keys_of(settings).map_err(|what| ProfileError(format!("profile '{profile}' {what}")))
    }
}

/// The keys of a profile. A role is an error even beside keys: in every SDK the role takes precedence.
fn keys_of(settings: &ProfileSettings) -> Result<StaticKeys, String> {
    let get = |name: &str| settings.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let (id, secret) = (get("aws_access_key_id"), get("aws_secret_access_key"));
    let unsupported = UNSUPPORTED.iter().find(|name| get(name).is_some());
    match (id, secret, unsupported) {
        (Some(id), Some(secret), _) if get("role_arn").is_none() => Ok(StaticKeys {
            access_key_id: id.to_owned(),
            secret_access_key: Secret::inline(secret),
            session_token: get("aws_session_token").map(Secret::inline),
        }),
        (_, _, Some(name)) => {
            let remedy = match *name {
                "web_identity_token_file" => "set AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN instead",
                "credential_process" => {
                    "let that program write aws_access_key_id, aws_secret_access_key and aws_session_token into the \
                     profile, which is read again every minute"
                }
                _ => {
                    "run the service with a role of its own (web identity, the container's role or \
                     CREDENTIAL_SOURCE=instance-metadata), or write keys into the profile"
                }
            };
            Err(format!("has {name}, and this service takes only static keys from a profile; {remedy}"))
        }
        (Some(_), _, _) => Err("has aws_access_key_id without aws_secret_access_key; add it".to_owned()),
        (_, Some(_), _) => Err("has aws_secret_access_key without aws_access_key_id; add it".to_owned()),
        _ => Err("holds no keys; add aws_access_key_id and aws_secret_access_key".to_owned()),
    }
}

/// The text of a file; empty if it does not exist. It is read again and again, so a pipe will not do.
fn read(path: &Path) -> Result<String, ProfileError> {
    let fault = |what: &str| ProfileError(format!("cannot read profiles from {}: {what}", path.display()));
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Ok(file) if !file.is_file() || file.len() > FILE_BYTES_MAX => {
            Err(fault("it is not a file of at most 1 MiB; is it the right path?"))
        }
        _ => match std::fs::read(path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(fault(&format!("{error}; check the path and its permissions"))),
        },
    }
}

/// Adds the profiles of a file. A line that sets nothing is skipped.
fn parse(text: &str, is_config: bool, profiles: &mut BTreeMap<String, ProfileSettings>) {
    let mut section: Option<String> = None;
    // Of the setting above. What is indented deeper is nested in it, or the rest of its value.
    let mut indentation = usize::MAX;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let setting = line.trim();
        if setting.is_empty() || setting.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = setting.strip_prefix('[') {
            section = header.split_once(']').and_then(|(name, _)| profile_name(name.trim(), is_config));
            if let Some(name) = &section {
                profiles.entry(name.clone()).or_default();
            }
            indentation = usize::MAX;
            continue;
        }
        let spaces = line.len() - line.trim_start().len();
        if spaces > indentation {
            continue;
        }
        indentation = spaces;
        if let (Some(profile), Some((name, value))) = (&section, setting.split_once('=')) {
            let comment = value.match_indices(['#', ';']).find(|(at, _)| value[..*at].ends_with([' ', '\t']));
            let value = comment.map_or(value, |(at, _)| &value[..at]).trim();
            profiles
                .entry(profile.clone())
                .or_default()
                .insert(name.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
}

/// The profile of a section: `[default]` and `[profile NAME]` in the config file, `[NAME]` in the credentials file.
fn profile_name(section: &str, is_config: bool) -> Option<String> {
    let name = if is_config && section != "default" {
        section.strip_prefix("profile").filter(|name| name.starts_with([' ', '\t']))?
    } else {
        section
    };
    Some(name.trim().trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, is_config: bool) -> Vec<(String, Vec<(String, String)>)> {
        let mut profiles = BTreeMap::new();
        parse(text, is_config, &mut profiles);
        profiles.into_iter().map(|(name, settings)| (name, settings.into_iter().collect())).collect()
    }

    fn one(name: &str, settings: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (name.to_owned(), settings)
    }

    fn error_of(settings: &str) -> String {
        let mut profiles = BTreeMap::new();
        parse(&format!("[a]\n{settings}"), false, &mut profiles);
        keys_of(&profiles["a"]).unwrap_err()
    }

    #[test]
    fn sections_are_profiles_by_the_files_own_naming() {
        let text = "[default]\na = 1\n[profile one]\nb=2\n[ profile  \"two words\" ]\nc = 3\n[sso-session x]\nd = 4\n[one]\ne = 5\n";
        assert_eq!(
            parsed(text, true),
            [one("default", &[("a", "1")]), one("one", &[("b", "2")]), one("two words", &[("c", "3")])]
        );
        assert_eq!(
            parsed("[default]\n[one] # mine\nb = 2\n", false),
            [one("default", &[]), one("one", &[("b", "2")])]
        );
    }

    #[test]
    fn comments_blank_lines_case_and_a_byte_order_mark_do_not_matter() {
        let text = "\u{feff}# top\r\n\r\n[default]\r\n; note\r\n  # indented note\r\nAWS_Access_Key_Id = AKIA1 ; mine\r\nsecret=a#b;c=d\t# not this\r\nempty =\r\nno setting\r\n";
        assert_eq!(
            parsed(text, false),
            [one("default", &[("aws_access_key_id", "AKIA1"), ("empty", ""), ("secret", "a#b;c=d")])]
        );
    }

    #[test]
    fn a_nested_setting_is_not_the_profiles_but_an_indented_section_is() {
        let text =
            "[profile p]\nregion = eu-west-1\ns3 =\n  region = us-east-1\n  max_queue_size=100\nlast = 3\n";
        assert_eq!(parsed(text, true), [one("p", &[("last", "3"), ("region", "eu-west-1"), ("s3", "")])]);
        let indented = "[p]\n  a = 1\n  b = 2\n[q]\nc = 3\n";
        assert_eq!(parsed(indented, false), [one("p", &[("a", "1"), ("b", "2")]), one("q", &[("c", "3")])]);
    }

    #[test]
    fn sections_of_one_name_are_one_and_the_last_value_counts() {
        assert_eq!(
            parsed("[a]\nx = 1\ny = 1\n[b]\n[a]\ny = 2\n", false),
            [one("a", &[("x", "1"), ("y", "2")]), one("b", &[])]
        );
    }

    #[test]
    fn the_credentials_file_goes_before_the_config_file() {
        let directory = std::env::temp_dir();
        let files = ["config", "credentials"].map(|name| {
            let path = directory.join(format!("pcs-both-{}-{name}", std::process::id()));
            let section = if name == "config" { "profile a" } else { "a" };
            std::fs::write(&path, format!("[{section}]\naws_access_key_id = {name}\n")).unwrap();
            path
        });
        std::fs::write(&files[0], "[profile a]\naws_access_key_id = A\naws_secret_access_key = s\n").unwrap();
        let [config, credentials] = files.clone();
        let both = ProfileFiles { config: Some(config), credentials: Some(credentials) };
        let keys = both.keys("a").unwrap();
        assert_eq!(keys.access_key_id, "credentials");
        assert_eq!(keys.secret_access_key, Secret::inline("s"));
        for file in files {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn what_gives_no_static_keys_says_why_and_what_to_do() {
        let keys = "aws_access_key_id = A\naws_secret_access_key = hunter2\n";
        let with_keys = |settings: &str| format!("{keys}{settings}");
        for (settings, words) in [
            (String::new(), "holds no keys; add aws_access_key_id"),
            ("aws_access_key_id = A\n".to_owned(), "without aws_secret_access_key"),
            ("aws_secret_access_key = hunter2\n".to_owned(), "without aws_access_key_id"),
            (
                "role_arn = x\nsource_profile = b\n".to_owned(),
                "has role_arn, and this service takes only static keys from a profile; run the service with a role",
            ),
            (with_keys("role_arn = x\nsource_profile = a\n"), "has role_arn, and"),
            (
                "role_arn = x\nweb_identity_token_file = /t\n".to_owned(),
                "set AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN instead",
            ),
            ("credential_source = Environment\n".to_owned(), "has credential_source, and"),
            (
                "credential_process = /bin/x --token hunter2\n".to_owned(),
                "let that program write aws_access_key_id",
            ),
            ("sso_session = work\n".to_owned(), "has sso_session, and"),
            ("login_session = arn\n".to_owned(), "run the service with a role"),
        ] {
            let error = error_of(&settings);
            assert!(error.contains(words) && !error.contains("hunter2"), "{settings} -> {error}");
        }
        let mut beside = ProfileSettings::new();
        for (name, value) in
            [("aws_access_key_id", "A"), ("aws_secret_access_key", "s"), ("sso_session", "x")]
        {
            beside.insert(name.to_owned(), value.to_owned());
        }
        assert_eq!(keys_of(&beside).unwrap().access_key_id, "A");
    }
}
