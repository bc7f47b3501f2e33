//! What a profile comes to: credentials to begin with, and roles to assume one after the other. Pure.
//!
//! Read as the SDKs read it: a `role_arn` is assumed with the credentials of its `source_profile` or
//! `credential_source`; a profile that is only somebody's source gives its keys before its role; within a profile a web
//! identity goes before keys, and keys before a `credential_process`. What needs a person (a one-time code, a browser)
//! is refused with what to do instead.

use std::collections::BTreeMap;

use super::ini::Settings;
use crate::config::{Secret, StaticKeys};

/// More roles in a row than anyone has.
const ROLES_MAX: usize = 10;

/// How the credentials of a profile are come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The first ones.
    pub base: Base,
    /// Roles to assume with them, in this order; the last one's credentials are the profile's.
    pub roles: Vec<Role>,
}

/// Credentials to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Keys in the file.
    Keys(StaticKeys),
    /// A role by a token, `web_identity_token_file`.
    WebIdentity {
        /// Re-read for each fetch.
        token: Secret,
        /// The role.
        role: Role,
    },
    /// What a program prints, `credential_process`. The command line may hold a secret.
    Process(Secret),
    /// `credential_source = Environment`.
    Environment,
    /// `credential_source = EcsContainer`.
    Container,
    /// `credential_source = Ec2InstanceMetadata`.
    InstanceMetadata,
}

/// A role to assume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// `role_arn`.
    pub arn: String,
    /// `role_session_name`.
    pub session_name: Option<String>,
    /// `external_id`.
    pub external_id: Option<String>,
    /// `duration_seconds`, 900 to 43200.
    pub duration_secs: Option<u32>,
    /// `region` of the profile, where STS is asked.
    pub region: Option<String>,
}

/// A profile that cannot be used: which, why, and the remedy. No secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProfileFault(pub String);

type Profiles = BTreeMap<String, Settings>;

/// The chain of a profile that is there.
pub fn chain(profiles: &Profiles, selected: &str) -> Result<Chain, ProfileFault> {
    let mut name = selected.to_owned();
    let mut visited: Vec<String> = Vec::new();
    let mut roles = Vec::new();
    let base = loop {
        let Some(settings) = profiles.get(&name) else {
            let from = visited.last().map_or(selected, String::as_str);
            return Err(ProfileFault(format!(
                "profile '{from}' has source_profile = {name}, which is in neither file; correct the name or add \
                 [profile {name}]"
            )));
        };
        let profile = Profile {
            name: &name,
            settings,
        };
        let is_source = !visited.is_empty();
        if visited.contains(&name) || visited.len() >= ROLES_MAX {
            return Err(ProfileFault(format!(
                "profile '{selected}' never comes to credentials: its source_profile leads through {} to {name} \
                 again; end the chain with a profile that has keys",
                visited.join(", ")
            )));
        }
        if is_source && let Some(keys) = profile.keys()? {
            break Base::Keys(keys);
        }
        let Some(role) = profile.role_to_assume()? else {
            break profile.base()?;
        };
        roles.push(role);
        let next = match (profile.get("source_profile"), profile.get("credential_source")) {
            (Some(_), Some(_)) => {
                return profile.fault("has source_profile and credential_source; remove one of the two");
            }
            (None, None) => {
                return profile.fault(
                    "has role_arn without credentials to assume it with; add source_profile, credential_source or \
                     web_identity_token_file",
                );
            }
            (None, Some(_)) => break profile.base()?,
            (Some(source), None) if source == name => break profile.base()?,
            (Some(source), None) => source.to_owned(),
        };
        visited.push(std::mem::replace(&mut name, next));
    };
    roles.reverse();
    Ok(Chain { base, roles })
}

/// One profile of the files.
struct Profile<'a> {
    name: &'a str,
    settings: &'a Settings,
}

impl Profile<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.settings
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn fault<T>(&self, what_and_remedy: &str) -> Result<T, ProfileFault> {
        Err(ProfileFault(format!("profile '{}' {what_and_remedy}", self.name)))
    }

    /// The role, unless it goes by a web identity, which needs no other credentials.
    fn role_to_assume(&self) -> Result<Option<Role>, ProfileFault> {
        if self.get("web_identity_token_file").is_some() {
            return Ok(None);
        }
        self.role()
    }

    fn role(&self) -> Result<Option<Role>, ProfileFault> {
        let Some(arn) = self.get("role_arn") else {
            return Ok(None);
        };
        if self.get("mfa_serial").is_some() {
            return self.fault(
                "has mfa_serial: a service has nobody who could enter the code; assume the role without MFA, or use \
                 credential_process",
            );
        }
        if !is_role_arn(arn) {
            return self.fault(
                "has a role_arn that is not an ARN of a role; write arn:aws:iam::<account>:role/<name>",
            );
        }
        let duration_secs = match self.get("duration_seconds").map(str::parse::<u32>) {
            None => None,
            Some(Ok(secs)) if (900..=43_200).contains(&secs) => Some(secs),
            Some(_) => {
                return self.fault(
                    "has a duration_seconds that is not a whole number from 900 to 43200; correct it",
                );
            }
        };
        let session_name = self.get("role_session_name").map(str::to_owned);
        if !session_name.as_deref().is_none_or(is_session_name) {
            return self.fault(
                "has a role_session_name that STS refuses; use 2 to 64 letters, digits or any of _=,.@+-",
            );
        }
        let region = self.get("region").map(str::to_owned);
        if region.as_deref().is_some_and(|region| !is_plain(region)) {
            return self.fault("has a region that is not the name of one; write one like us-east-1");
        }
        Ok(Some(Role {
            arn: arn.to_owned(),
            session_name,
            external_id: self.get("external_id").map(str::to_owned),
            duration_secs,
            region,
        }))
    }

    fn keys(&self) -> Result<Option<StaticKeys>, ProfileFault> {
        match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (None, None) => Ok(None),
            (Some(_), None) => self.fault("has aws_access_key_id without aws_secret_access_key; add it"),
            (None, Some(_)) => self.fault("has aws_secret_access_key without aws_access_key_id; add it"),
            (Some(id), Some(secret)) => Ok(Some(StaticKeys {
                access_key_id: id.to_owned(),
                secret_access_key: Secret::inline(secret),
                session_token: self.get("aws_session_token").map(Secret::inline),
            })),
        }
    }

    /// Credentials of this profile that need no other ones.
    fn base(&self) -> Result<Base, ProfileFault> {
        if let Some(source) = self.get("credential_source") {
            if self.get("role_arn").is_none() {
                return self.fault("has credential_source without role_arn, which it is for; add role_arn");
            }
            return match source {
                "Environment" => Ok(Base::Environment),
                "EcsContainer" => Ok(Base::Container),
                "Ec2InstanceMetadata" => Ok(Base::InstanceMetadata),
                _ => self.fault(
                    "has a credential_source that is not known; use Environment, EcsContainer or \
                     Ec2InstanceMetadata",
                ),
            };
        }
        if let Some(file) = self.get("web_identity_token_file") {
            return match self.role()? {
                Some(role) => Ok(Base::WebIdentity {
                    token: Secret::file(file),
                    role,
                }),
                None => self.fault("has web_identity_token_file without role_arn; add it"),
            };
        }
        if let Some(keys) = self.keys()? {
            return Ok(Base::Keys(keys));
        }
        if let Some(command) = self.get("credential_process") {
            return Ok(Base::Process(Secret::inline(command)));
        }
        let needs_a_person = ["sso_session", "sso_start_url", "sso_account_id", "login_session"];
        if let Some(setting) = needs_a_person.into_iter().find(|name| self.get(name).is_some()) {
            return self.fault(&format!(
                "has {setting}: a service has nobody who could sign in; add to another profile credential_process = \
                 aws configure export-credentials --profile {} --format process, or use keys or a role",
                self.name
            ));
        }
        self.fault(
            "holds no credentials; add aws_access_key_id and aws_secret_access_key, role_arn with source_profile, or \
             credential_process",
        )
    }
}

/// `arn:<partition>:iam::<account>:role/<name>`.
pub fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", partition, "iam", "", account, resource]
        if partition.starts_with("aws") && !account.is_empty() && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty()))
        && text.chars().all(|letter| letter.is_ascii_graphic())
}

/// It becomes part of a host's name.
fn is_plain(region: &str) -> bool {
    region
        .chars()
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
}

/// What STS takes as the name of a session.
pub fn is_session_name(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_=,.@+-".contains(letter))
}

#[cfg(test)]
mod tests {
    use super::super::ini::{Kind, parse};
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

    fn chain_of(config: &str, selected: &str) -> Result<Chain, String> {
        let profiles = parse(config, Kind::Config).unwrap().profiles;
        chain(&profiles, selected).map_err(|fault| fault.to_string())
    }

    fn keys(id: &str) -> Base {
        Base::Keys(StaticKeys {
            access_key_id: id.to_owned(),
            secret_access_key: Secret::inline("s"),
            session_token: None,
        })
    }

    fn role(name: &str) -> Role {
        Role {
            arn: format!("arn:aws:iam::123456789012:role/{name}"),
            session_name: None,
            external_id: None,
            duration_secs: None,
            region: None,
        }
    }

    #[test]
    fn keys_are_taken_as_they_are() {
        let config = "[default]\naws_access_key_id = A\naws_secret_access_key = s\naws_session_token = t\n";
        let chain = chain_of(config, "default").unwrap();
        assert!(chain.roles.is_empty());
        let Base::Keys(keys) = chain.base else {
            panic!("{:?}", chain.base)
        };
        assert_eq!(keys.session_token, Some(Secret::inline("t")));
    }

    #[test]
    fn roles_are_assumed_from_the_farthest_source_on() {
        let config = format!(
            "[profile a]\nrole_arn = arn:aws:iam::123456789012:role/a\nsource_profile = b\nexternal_id = x-1\n\
             role_session_name = me\nduration_seconds = 900\nregion = eu-west-1\n\
             [profile b]\nrole_arn = {ROLE}\nsource_profile = c\n\
             [profile c]\naws_access_key_id = A\naws_secret_access_key = s\n"
        );
        let outer = Role {
            session_name: Some("me".to_owned()),
            external_id: Some("x-1".to_owned()),
            duration_secs: Some(900),
            region: Some("eu-west-1".to_owned()),
            ..role("a")
        };
        assert_eq!(
            chain_of(&config, "a"),
            Ok(Chain {
                base: keys("A"),
                roles: vec![role("reader"), outer]
            })
        );
    }

    #[test]
    fn a_source_gives_its_keys_before_its_role_and_a_profile_may_be_its_own_source() {
        let config = format!(
            "[profile a]\nrole_arn = {ROLE}\nsource_profile = b\n\
             [profile b]\nrole_arn = {ROLE}\nsource_profile = b\naws_access_key_id = B\naws_secret_access_key = s\n"
        );
        let one_role = Chain {
            base: keys("B"),
            roles: vec![role("reader")],
        };
        assert_eq!(chain_of(&config, "a"), Ok(one_role.clone()));
        assert_eq!(chain_of(&config, "b"), Ok(one_role));
    }

    #[test]
    fn the_other_bases_come_under_their_documented_names() {
        for (source, base) in [
            ("Environment", Base::Environment),
            ("EcsContainer", Base::Container),
            ("Ec2InstanceMetadata", Base::InstanceMetadata),
        ] {
            let config = format!("[profile a]\nrole_arn = {ROLE}\ncredential_source = {source}\n");
            let expected = Chain {
                base,
                roles: vec![role("reader")],
            };
            assert_eq!(chain_of(&config, "a"), Ok(expected));
        }
        let by_token = format!("[profile a]\nrole_arn = {ROLE}\nweb_identity_token_file = /t\n");
        assert_eq!(
            chain_of(&by_token, "a"),
            Ok(Chain {
                base: Base::WebIdentity {
                    token: Secret::file("/t"),
                    role: role("reader")
                },
                roles: vec![]
            })
        );
        let by_process = "[profile a]\ncredential_process = /bin/x --y\n";
        assert_eq!(
            chain_of(by_process, "a").unwrap().base,
            Base::Process(Secret::inline("/bin/x --y"))
        );
    }

    #[test]
    fn what_cannot_come_to_credentials_says_why_and_what_to_do() {
        for (settings, words) in [
            ("", "holds no credentials; add aws_access_key_id"),
            ("aws_access_key_id = A\n", "without aws_secret_access_key"),
            ("aws_secret_access_key = hunter2\n", "without aws_access_key_id"),
            (
                "role_arn = arn:aws:iam::1:role/r\n",
                "without credentials to assume it with",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = b\ncredential_source = Environment\n",
                "remove one of the two",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = b\nmfa_serial = x\n",
                "nobody who could enter the code",
            ),
            ("role_arn = reader\nsource_profile = b\n", "not an ARN of a role"),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = b\nduration_seconds = 60\n",
                "from 900 to 43200",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = b\nrole_session_name = a b\n",
                "that STS refuses",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = nowhere\n",
                "source_profile = nowhere, which is in neither file",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\ncredential_source = Lambda\n",
                "use Environment, EcsContainer or Ec2InstanceMetadata",
            ),
            (
                "role_arn = arn:aws:iam::1:role/r\nsource_profile = b\nregion = evil.example/\n",
                "not the name of one",
            ),
            ("web_identity_token_file = /t\n", "without role_arn"),
            ("credential_source = Environment\n", "without role_arn"),
            ("sso_session = work\n", "export-credentials --profile a"),
            (
                "login_session = arn:aws:iam::1:user/x\n",
                "nobody who could sign in",
            ),
        ] {
            let fault = chain_of(&format!("[profile a]\n{settings}[profile b]\n"), "a").unwrap_err();
            assert!(fault.contains(words), "{settings} -> {fault}");
            assert!(
                fault.starts_with("profile 'a' ") && !fault.contains("hunter2"),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_chain_that_bites_its_tail_is_refused_with_its_way() {
        let config = format!(
            "[profile a]\nrole_arn = {ROLE}\nsource_profile = b\n[profile b]\nrole_arn = {ROLE}\nsource_profile = c\n\
             [profile c]\nrole_arn = {ROLE}\nsource_profile = b\n"
        );
        assert_eq!(
            chain_of(&config, "a").unwrap_err(),
            "profile 'a' never comes to credentials: its source_profile leads through a, b, c to b again; end the \
             chain with a profile that has keys"
        );
    }

    #[test]
    fn arns_and_session_names_are_told_from_what_is_not_one() {
        assert!(is_role_arn(ROLE) && is_role_arn("arn:aws-cn:iam::1:role/path/name"));
        for text in [
            "",
            "reader",
            "arn:aws:iam::1:user/x",
            "arn:aws:iam::1:role/",
            "arn:aws:sts::1:role/x",
        ] {
            assert!(!is_role_arn(text), "{text}");
        }
        assert!(is_session_name("pod-1@eu_=,.+"));
        assert!(!is_session_name("x") && !is_session_name("a b") && !is_session_name(&"x".repeat(65)));
    }
}
