//! Where AWS credentials come from: the first source that is set, or the one that `CREDENTIAL_SOURCE` names.
//!
//! A source that is set by half is a fault, never passed over in silence: the next one would be somebody else's
//! credentials. What stands behind the source that was taken is not looked at.

mod endpoint;

use std::path::{Path, PathBuf};

use self::endpoint::{fits_a_header, full_uri, relative_uri};
use super::profiles::{Base, ProfileFiles, is_role_arn, is_session_name};
use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};
use super::{
    ContainerSource, CredentialSource, InstanceMetadataSource, ProfileSource, StaticKeys, StsEndpoint,
    WebIdentitySource,
};

/// `CREDENTIAL_SOURCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Auto,
    Static,
    WebIdentity,
    Container,
    Profile,
    InstanceMetadata,
    Edge,
}

/// The order of `auto`. The instance's own credentials are there only for those who ask: elsewhere each start would
/// wait for an address that nobody has.
const ORDER: [Choice; 4] = [
    Choice::Static,
    Choice::WebIdentity,
    Choice::Container,
    Choice::Profile,
];

/// What a source came to: none if it is not set at all, an error after a fault.
pub(super) type Found = Result<Option<CredentialSource>, Faulty>;

/// A fault was found, and told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faulty;

/// The source for the queue. None after a fault. `region` is the queue's, none if there was a fault in it.
pub(super) fn credentials(
    settings: &Settings,
    findings: &mut Findings,
    region: Option<&str>,
) -> Option<CredentialSource> {
    let source = if choice(settings, findings) == Choice::Edge {
        CredentialSource::EdgeApi
    } else {
        aws_source(settings, findings, region)
            .ok()?
            .unwrap_or(CredentialSource::EdgeApi)
    };
    let token = raw!(settings, credentials.aws_session_token);
    if token.value.is_some() && raw!(settings, credentials.aws_access_key_id).value.is_none() {
        findings.notice(
            token,
            format!(
                "has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {} used",
                source.are()
            ),
        );
    }
    Some(source)
}

/// The AWS source that `CREDENTIAL_SOURCE` names or, where that is `auto` or `edge`, the first that is set; `Ok(None)`
/// if none is. For the queue, and for whatever else is signed with AWS credentials of one's own: unless the choice
/// is `edge`, its faults are those that the queue's credentials told already.
pub(super) fn aws_source(settings: &Settings, findings: &mut Findings, region: Option<&str>) -> Found {
    // A choice that is not known is told where the queue's credentials are judged.
    let choice = choice(settings, &mut Findings::default());
    let reader = Reader {
        settings,
        region,
        choice,
    };
    if matches!(choice, Choice::Auto | Choice::Edge) {
        for choice in ORDER {
            let found = reader.source(choice, findings)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        return Ok(None);
    }
    let found = reader.source(choice, findings)?;
    if found.is_none() {
        let raw = raw!(settings, credentials.credential_source);
        findings.fault(
            raw,
            format!(
                "is {}, but nothing of it is set; set {}, or another CREDENTIAL_SOURCE",
                shown(raw.value.unwrap_or_default()),
                choice.needs()
            ),
        );
        return Err(Faulty);
    }
    Ok(found)
}

fn choice(settings: &Settings, findings: &mut Findings) -> Choice {
    findings.choice(
        raw!(settings, credentials.credential_source),
        [
            ("auto", Choice::Auto),
            ("static", Choice::Static),
            ("web-identity", Choice::WebIdentity),
            ("container", Choice::Container),
            ("profile", Choice::Profile),
            ("instance-metadata", Choice::InstanceMetadata),
            ("edge", Choice::Edge),
        ],
    )
}

impl Choice {
    /// What has to be set for it.
    fn needs(self) -> &'static str {
        match self {
            Self::Static => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::WebIdentity => "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN",
            Self::Container => "AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            Self::Profile | Self::InstanceMetadata | Self::Edge | Self::Auto => "nothing",
        }
    }
}

impl CredentialSource {
    /// The source in a sentence that goes on with "used".
    fn are(&self) -> &'static str {
        match self {
            Self::Static(_) => "the static keys are",
            Self::WebIdentity(_) => "the role of AWS_ROLE_ARN is",
            Self::Container(_) => "the container's credentials are",
            Self::Profile(_) => "the profile's credentials are",
            Self::InstanceMetadata(_) => "the instance's credentials are",
            Self::EdgeApi => "the Edge API's credentials are",
        }
    }

    /// The settings that decide about these credentials, for the remedy of a fault.
    pub fn variables(&self) -> &'static str {
        match self {
            Self::Static(_) => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            Self::WebIdentity(_) => "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE",
            Self::Container(_) => "the role of the ECS task or of the EKS pod identity",
            Self::Profile(_) => "AWS_PROFILE and the profile's role_arn, source_profile or keys",
            Self::InstanceMetadata(_) => "the role of the instance's profile",
            Self::EdgeApi => "SERVER_API_KEY",
        }
    }
}

/// Reads one source after the other.
struct Reader<'a> {
    settings: &'a Settings,
    region: Option<&'a str>,
    choice: Choice,
}

impl Reader<'_> {
    fn source(&self, choice: Choice, findings: &mut Findings) -> Found {
        match choice {
            Choice::Static => Ok(self.static_keys(findings)?.map(CredentialSource::Static)),
            Choice::WebIdentity => self.web_identity(findings),
            Choice::Container => Ok(self.container(findings)?.map(CredentialSource::Container)),
            Choice::Profile => self.profile(findings),
            Choice::InstanceMetadata => {
                let source = self.instance_metadata(findings)?;
                Ok(Some(CredentialSource::InstanceMetadata(source)))
            }
            Choice::Auto | Choice::Edge => Ok(None),
        }
    }

    /// Both keys or none.
    fn static_keys(&self, findings: &mut Findings) -> Result<Option<StaticKeys>, Faulty> {
        let settings = self.settings;
        let id = raw!(settings, credentials.aws_access_key_id);
        let inline = raw!(settings, credentials.aws_secret_access_key);
        let file = raw!(settings, credentials.aws_secret_access_key_file);
        let token = raw!(settings, credentials.aws_session_token);
        let has_secret = inline.value.is_some() || file.value.is_some();
        let secret_access_key = findings.token(inline, file);
        let access_key_id = match (id.value, has_secret) {
            (None, false) => return Ok(None),
            (Some(access_key_id), true) => access_key_id,
            (Some(_), false) => {
                findings.fault(
                    inline,
                    "is required with AWS_ACCESS_KEY_ID; set it (or AWS_SECRET_ACCESS_KEY_FILE), or unset \
                     AWS_ACCESS_KEY_ID to use another source of credentials",
                );
                return Err(Faulty);
            }
            (None, true) => {
                let given = if inline.value.is_some() { inline } else { file };
                findings.fault(
                    id,
                    format!(
                        "is required with {0}; set it, or unset {0} to use another source of credentials",
                        given.variable()
                    ),
                );
                return Err(Faulty);
            }
        };
        let is_plain = access_key_id.chars().all(|letter| letter.is_ascii_graphic());
        if !is_plain {
            findings.fault(
                id,
                "holds white space, a control character or a letter beyond ASCII; copy it once more",
            );
        }
        if access_key_id.starts_with("ASIA") && token.value.is_none() {
            findings.notice(
                token,
                "is not set, though AWS_ACCESS_KEY_ID is a temporary one, which needs it; SQS may refuse it",
            );
        }
        let session_token = findings.token(token, Raw { value: None, ..token });
        match secret_access_key {
            Some(secret_access_key) if is_plain && session_token.is_some() == token.value.is_some() => {
                Ok(Some(StaticKeys {
                    access_key_id: access_key_id.to_owned(),
                    secret_access_key,
                    session_token,
                }))
            }
            _ => Err(Faulty),
        }
    }

    /// Token file and role, or neither.
    fn web_identity(&self, findings: &mut Findings) -> Found {
        let settings = self.settings;
        let file = raw!(settings, credentials.aws_web_identity_token_file);
        let role = raw!(settings, credentials.aws_role_arn);
        let session = raw!(settings, credentials.aws_role_session_name);
        match (file.value, role.value) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                findings.fault(
                    file,
                    "is required with AWS_ROLE_ARN; set it, or unset AWS_ROLE_ARN (a role that is assumed with keys \
                     goes into a profile, see AWS_PROFILE)",
                );
                return Err(Faulty);
            }
            (Some(_), None) => findings.fault(
                role,
                "is required with AWS_WEB_IDENTITY_TOKEN_FILE; set the role's ARN, or CREDENTIAL_SOURCE=edge to use \
                 the Edge API's credentials",
            ),
            (Some(_), Some(_)) => {}
        }
        let token = findings.token(Raw { value: None, ..file }, file);
        let role_arn = role.value.filter(|arn| is_role_arn(arn));
        if role_arn.is_none() && role.value.is_some() {
            findings.fault(
                role,
                format!(
                    "{} is not the ARN of a role; set arn:aws:iam::<account>:role/<name>",
                    shown(role.value.unwrap_or_default())
                ),
            );
        }
        let session_is_fit = session.value.is_none_or(is_session_name);
        if !session_is_fit {
            findings.fault(
                session,
                format!(
                    "{} is not a name that STS takes; set 2 to 64 letters, digits or any of _=,.@+-",
                    shown(session.value.unwrap_or_default())
                ),
            );
        }
        let sts = self.sts(findings);
        match (token, role_arn, sts) {
            (Some(token), Some(role_arn), Ok(sts)) if session_is_fit => {
                Ok(Some(CredentialSource::WebIdentity(WebIdentitySource {
                    token,
                    role_arn: role_arn.to_owned(),
                    session_name: session.value.map(str::to_owned),
                    sts,
                })))
            }
            _ => Err(Faulty),
        }
    }

    fn sts(&self, findings: &mut Findings) -> Result<StsEndpoint, Faulty> {
        let own = raw!(self.settings, credentials.aws_endpoint_url_sts);
        let general = raw!(self.settings, queue.aws_endpoint_url);
        let url = if own.value.is_some() {
            Some(findings.http_url(own).ok_or(Faulty)?)
        } else {
            // What is wrong with it, the queue's endpoint has told.
            findings_of(general, Findings::http_url)
        };
        Ok(StsEndpoint {
            region: self.region.unwrap_or_default().to_owned(),
            url,
        })
    }

    /// The container's endpoint, if one is set.
    fn container(&self, findings: &mut Findings) -> Result<Option<ContainerSource>, Faulty> {
        let settings = self.settings;
        let full = raw!(settings, credentials.aws_container_credentials_full_uri);
        let relative = raw!(settings, credentials.aws_container_credentials_relative_uri);
        let inline = raw!(settings, credentials.aws_container_authorization_token);
        let file = raw!(settings, credentials.aws_container_authorization_token_file);
        let uri = if relative.value.is_some() {
            relative_uri(findings, relative)
        } else if full.value.is_some() {
            full_uri(findings, full)
        } else if inline.value.is_some() || file.value.is_some() {
            let given = if inline.value.is_some() { inline } else { file };
            findings.fault(
                full,
                format!("is required with {0}; set it, or unset {0}", given.variable()),
            );
            return Err(Faulty);
        } else {
            return Ok(None);
        };
        let is_given = inline.value.is_some() || file.value.is_some();
        let authorization = findings.secret(inline, file);
        if let Some(secret) = &authorization
            && !secret.read().is_ok_and(|token| fits_a_header(&token))
        {
            let given = if inline.value.is_some() { inline } else { file };
            findings.fault(
                given,
                "holds a line break or another character that no HTTP header may hold; copy it once more",
            );
            return Err(Faulty);
        }
        match uri {
            Some(uri) if authorization.is_some() == is_given => {
                Ok(Some(ContainerSource { uri, authorization }))
            }
            _ => Err(Faulty),
        }
    }

    fn instance_metadata(&self, findings: &mut Findings) -> Result<InstanceMetadataSource, Faulty> {
        let raw = raw!(self.settings, credentials.aws_ec2_metadata_service_endpoint);
        let endpoint = findings.http_url(raw).ok_or(Faulty)?;
        Ok(InstanceMetadataSource { endpoint })
    }

    /// `AWS_PROFILE`, or `default` where a profile is asked for without one.
    fn profile(&self, findings: &mut Findings) -> Found {
        let raw = raw!(self.settings, credentials.aws_profile);
        let Some(name) = raw
            .value
            .or((self.choice == Choice::Profile).then_some("default"))
        else {
            return Ok(None);
        };
        let config_raw = raw!(self.settings, credentials.aws_config_file);
        let credentials_raw = raw!(self.settings, credentials.aws_shared_credentials_file);
        let files = ProfileFiles {
            config: self.file(config_raw, ".aws/config"),
            credentials: self.file(credentials_raw, ".aws/credentials"),
        };
        let mut is_faulty = false;
        for (raw, path) in [(config_raw, &files.config), (credentials_raw, &files.credentials)] {
            if raw.value.is_some() && !path.as_deref().is_some_and(Path::exists) {
                findings.fault(raw, "there is no such file; correct the path, or unset it");
                is_faulty = true;
            }
        }
        if files.config.is_none() && files.credentials.is_none() {
            findings.fault(
                config_raw,
                "is required with AWS_PROFILE where HOME is not set; set it, or AWS_SHARED_CREDENTIALS_FILE",
            );
            is_faulty = true;
        }
        if is_faulty {
            return Err(Faulty);
        }
        let chain = files.chain(name).map_err(|fault| {
            findings.fault(raw, fault);
            Faulty
        })?;
        // Only what the profile refers to is judged; but all of it is kept, since the files may change.
        let mut unheard = Findings::default();
        let refers_to = |base: &Base| chain.base == *base;
        let environment = if refers_to(&Base::Environment) {
            let keys = self.static_keys(findings)?;
            if keys.is_none() {
                return profile_needs(findings, raw, name, "Environment", Choice::Static);
            }
            keys
        } else {
            self.static_keys(&mut unheard).ok().flatten()
        };
        let container = if refers_to(&Base::Container) {
            let container = self.container(findings)?;
            if container.is_none() {
                return profile_needs(findings, raw, name, "EcsContainer", Choice::Container);
            }
            container
        } else {
            self.container(&mut unheard).ok().flatten()
        };
        Ok(Some(CredentialSource::Profile(Box::new(ProfileSource {
            name: name.to_owned(),
            files,
            sts: self.sts(findings)?,
            environment,
            container,
            instance_metadata: self.instance_metadata(findings)?,
        }))))
    }

    /// A file as it was given, or below the home; `~` is the home in either.
    fn file(&self, given: Raw<'_>, below_home: &str) -> Option<PathBuf> {
        let home = raw!(self.settings, credentials.home).value.map(Path::new);
        match given.value {
            Some(path) => match (path.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(PathBuf::from(path)),
            },
            None => home.map(|home| home.join(below_home)),
        }
    }
}

fn profile_needs(
    findings: &mut Findings,
    raw: Raw<'_>,
    name: &str,
    credential_source: &str,
    needed: Choice,
) -> Found {
    findings.fault(
        raw,
        format!(
            "profile '{name}' has credential_source = {credential_source}; set {}",
            needed.needs()
        ),
    );
    Err(Faulty)
}

/// What a reading function makes of a setting that is judged elsewhere.
fn findings_of<T>(raw: Raw<'_>, read: impl FnOnce(&mut Findings, Raw<'_>) -> Option<T>) -> Option<T> {
    read(&mut Findings::default(), raw)
}
