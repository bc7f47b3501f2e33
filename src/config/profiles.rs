//! Static keys of a profile in the files that the AWS CLI and SDKs share, `~/.aws/config` and `~/.aws/credentials`.
//!
//! The format is a dialect of INI: comments may follow values, and settings may be nested. Nesting is ignored, as the
//! names that count here are never nested.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::values::read_file;
use super::{ProfileSource, Secret, StaticKeys};

/// Settings by profile, their names in lower case.
type Profiles = BTreeMap<String, BTreeMap<String, String>>;

impl ProfileSource {
    /// The keys, as the files have them now: the credentials file takes precedence, and a file that does not exist counts
    /// as empty. The error is cause and remedy, and holds no secret.
    pub fn keys(&self) -> Result<StaticKeys, String> {
        let mut profiles = Profiles::new();
        for (path, is_config) in self.files.iter().zip([true, false]) {
            match read_file(path) {
                Ok(text) => parse(&String::from_utf8_lossy(&text), is_config, &mut profiles),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let path = path.display();
                    return Err(format!("cannot read {path}: {error}; check the path and its permissions"));
                }
            }
        }
        let name = &self.name;
        let Some(settings) = profiles.get(name) else {
            let [config, credentials] = self.files.each_ref().map(|path| path.display());
            return Err(format!(
                "profile '{name}' is neither in {config} as [profile {name}] nor in {credentials} as [{name}]; add it, or \
                 set AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE to the file that has it"
            ));
        };
        let get = |name: &str| settings.get(name).map(String::as_str).filter(|value| !value.is_empty());
        match (get("aws_access_key_id"), get("aws_secret_access_key"), get("role_arn")) {
            (Some(id), Some(secret), None) => Ok(StaticKeys {
                access_key_id: id.to_owned(),
                secret_access_key: Secret::inline(secret),
                session_token: get("aws_session_token").map(Secret::inline),
            }),
            // In every SDK, a role takes precedence over keys beside it.
            _ => Err(format!(
                "profile '{name}' must have aws_access_key_id and aws_secret_access_key, and no role_arn: this service takes \
                 only static keys from a profile; write them into it, or run the service with a role of its own \
                 (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, the container's role or \
                 CREDENTIAL_SOURCE=instance-metadata)"
            )),
        }
    }
}

/// Adds the profiles of a file. A line that sets nothing is skipped.
fn parse(text: &str, is_config: bool, profiles: &mut Profiles) {
    let mut settings = None;
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split_once(']').and_then(|(name, _)| profile_name(name.trim(), is_config));
            settings = name.map(|name| profiles.entry(name.to_owned()).or_default());
        } else if let (Some(settings), Some((name, value))) = (&mut settings, line.split_once('=')) {
            let comment = value.match_indices(['#', ';']).find(|(at, _)| value[..*at].ends_with([' ', '\t']));
            let value = comment.map_or(value, |(at, _)| &value[..at]).trim();
            settings.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
}

/// The profile of a section: `[default]` and `[profile NAME]` in the config file, `[NAME]` in the credentials file.
fn profile_name(section: &str, is_config: bool) -> Option<&str> {
    let name = if is_config && section != "default" {
        section.strip_prefix("profile").filter(|name| name.starts_with([' ', '\t']))?
    } else {
        section
    };
    Some(name.trim().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

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
    fn a_nested_setting_ends_no_profile_and_a_section_may_be_indented() {
        let text = "[profile p]\ns3 =\n  max_queue_size=100\nlast = 3\n";
        assert_eq!(parsed(text, true), [one("p", &[("last", "3"), ("max_queue_size", "100"), ("s3", "")])]);
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

    /// The keys of profile `a` in files with these sections.
    fn keys(config: &str, credentials: &str) -> Result<StaticKeys, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = |name| std::env::temp_dir().join(format!("pcs-{}-{number}-{name}", std::process::id()));
        let (of_config, of_credentials) = (path("config"), path("credentials"));
        std::fs::write(&of_config, format!("[profile a]\n{config}")).unwrap();
        std::fs::write(&of_credentials, format!("[a]\n{credentials}")).unwrap();
        let files = [of_config.clone(), of_credentials.clone()];
        let source = ProfileSource { name: "a".to_owned(), files };
        let keys = source.keys();
        std::fs::remove_file(of_config).unwrap();
        std::fs::remove_file(of_credentials).unwrap();
        keys
    }

    #[test]
    fn the_credentials_file_goes_before_the_config_file() {
        let config = "aws_access_key_id = A\naws_secret_access_key = s\nsso_session = x\n";
        let keys = keys(config, "aws_access_key_id = credentials\n").unwrap();
        assert_eq!(keys.access_key_id, "credentials");
        assert_eq!(keys.secret_access_key, Secret::inline("s"));
    }

    #[test]
    fn what_gives_no_static_keys_says_why_and_what_to_do() {
        let both = "aws_access_key_id = A\naws_secret_access_key = hunter2\n";
        for settings in [
            String::new(),
            "aws_access_key_id = A\n".to_owned(),
            "aws_secret_access_key = hunter2\n".to_owned(),
            "role_arn = x\nsource_profile = b\n".to_owned(),
            format!("{both}role_arn = x\nsource_profile = a\n"),
            "role_arn = x\nweb_identity_token_file = /t\n".to_owned(),
            "credential_source = Environment\n".to_owned(),
            "credential_process = /bin/x --token hunter2\n".to_owned(),
            "sso_session = work\n".to_owned(),
        ] {
            let error = keys(&settings, "").unwrap_err();
            for words in [
                "profile 'a' must have aws_access_key_id and aws_secret_access_key, and no role_arn: this service",
                "only static keys from a profile; write them into it, or run the service with a role of its own",
            ] {
                assert!(error.contains(words) && !error.contains("hunter2"), "{settings} -> {error}");
            }
        }
    }
}
