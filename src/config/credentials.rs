//! Where AWS credentials come from: the first source that is set, or the one that `CREDENTIAL_SOURCE` names.
//!
//! A source that is only partly set is a fault and never skipped: the next one would be someone else's credentials.
//! Sources behind the one that is used are not checked.

use std::path::PathBuf;

use url::Url;

#[allow(clippy::wildcard_imports)] // the settings
use super::table::*;
use super::values::{Validator, http_url, is_loopback, shown};
use super::{
    ContainerSource, CredentialSource, InstanceMetadataSource, ProfileSource, StaticKeys, StsEndpoint,
    WebIdentitySource, queue,
};

/// Reads a source. None if none of its settings is set, or after a fault.
type ReadSource = fn(&mut Validator<'_>) -> Option<CredentialSource>;

/// The sources of the operator's own credentials: what `CREDENTIAL_SOURCE` calls them, and what has to be set. `auto` tries
/// them in this order, without the last: outside of EC2, each start would wait for an address that does not exist.
const SOURCES: [(&str, &str, ReadSource); 5] = [
    ("static", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", static_keys),
    ("web-identity", "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN", web_identity),
    ("container", "AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", container),
    ("profile", "AWS_PROFILE", profile),
    ("instance-metadata", "nothing", instance_metadata),
];

const STS_ENDPOINTS: [Setting; 2] = [AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL];

/// The source for the queue.
pub(super) fn credentials(validator: &mut Validator<'_>) -> CredentialSource {
    let own = if choice(validator) == "edge" { None } else { own(validator) };
    own.unwrap_or(CredentialSource::EdgeApi)
}

/// The AWS source that `CREDENTIAL_SOURCE` names, or the first that is set if it is `auto` or `edge`. For the queue, and for
/// whatever else is signed with the operator's own credentials. None if none is set, or after a fault.
pub(super) fn own(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let choice = choice(validator);
    let sources = match SOURCES.iter().position(|(name, ..)| *name == choice) {
        Some(chosen) => &SOURCES[chosen..=chosen],
        None => &SOURCES[..SOURCES.len() - 1],
    };
    let faults = validator.faults();
    for (.., read) in sources {
        let source = read(validator);
        if source.is_some() || validator.faults() > faults {
            return source;
        }
    }
    if let [(_, needed, _)] = sources {
        let what = format!("is '{choice}', but none of its settings is set");
        validator.fault(CREDENTIAL_SOURCE, format!("{what}; set {needed}, or another CREDENTIAL_SOURCE"));
    }
    None
}

fn choice(validator: &mut Validator<'_>) -> &'static str {
    let [fixed, web, container, profile, instance] = SOURCES.map(|(name, ..)| name);
    let names = ["auto", fixed, web, container, profile, instance, "edge"];
    validator.choice(CREDENTIAL_SOURCE, names.map(|name| (name, name)))
}

/// Both keys or none.
fn static_keys(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let (id, secrets) = ([AWS_ACCESS_KEY_ID], [AWS_SECRET_ACCESS_KEY, AWS_SECRET_ACCESS_KEY_FILE]);
    if validator.first_given(&id).or(validator.first_given(&secrets)).is_none() {
        if validator.is_given(AWS_SESSION_TOKEN) {
            let what =
                "has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; set them, or unset it";
            validator.notice(AWS_SESSION_TOKEN, what);
        }
        return None;
    }
    validator.require_both(&id, &secrets);
    let secret_access_key = validator.token(&secrets);
    let access_key_id = validator.token(&id).and_then(|id| id.read().ok());
    let session_token = validator.token(&[AWS_SESSION_TOKEN]);
    let (access_key_id, secret_access_key) = (access_key_id?, secret_access_key?);
    Some(CredentialSource::Static(StaticKeys { access_key_id, secret_access_key, session_token }))
}

/// Token file and role, or neither.
fn web_identity(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let (file, role) = (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN);
    validator.first_given(&[file, role])?;
    validator.require_both(&[file], &[role]);
    let token = validator.token(&[file]);
    let what = "is not the ARN of a role; set arn:aws:iam::<account>:role/<name>";
    let is_arn =
        |text: &str| text.starts_with("arn:aws") && text.contains(":iam::") && text.contains(":role/");
    let role_arn = validator.text(role, is_arn, what);
    let session_name = validator.owned(AWS_ROLE_SESSION_NAME);
    let sts = sts(validator);
    validator.notice_plaintext(&STS_ENDPOINTS, "the role's token and keys travel");
    let (token, role_arn) = (token?, role_arn?);
    Some(CredentialSource::WebIdentity(WebIdentitySource { token, role_arn, session_name, sts }))
}

/// Where STS is.
pub(super) fn sts(validator: &mut Validator<'_>) -> StsEndpoint {
    let endpoint = validator.first_given(&STS_ENDPOINTS);
    let url = endpoint.and_then(|setting| validator.http_url(setting));
    StsEndpoint { region: queue::region(validator).unwrap_or_default(), url }
}

/// The container's endpoint, if one is set.
fn container(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let (relative, full) = (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, AWS_CONTAINER_CREDENTIALS_FULL_URI);
    let tokens = [AWS_CONTAINER_AUTHORIZATION_TOKEN, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE];
    validator.require_with(&tokens, &[full, relative]);
    validator.first_given(&[full, relative])?;
    // The relative one takes precedence, as in the AWS SDKs.
    let uri = validator.read(relative, relative_uri).or_else(|| validator.read(full, full_uri));
    let authorization = validator.secret(&tokens);
    Some(CredentialSource::Container(ContainerSource { uri: uri?, authorization }))
}

/// A path on ECS's own address.
fn relative_uri(path: &str) -> Result<Url, String> {
    let url = Url::parse(&format!("http://169.254.170.2{path}")).ok().filter(|_| path.starts_with('/'));
    url.ok_or_else(|| "is not a path; set one that begins with /".to_owned())
}

/// As in the AWS SDKs: https, or http to an address that only this machine or its node answers on, because the answer
/// holds secrets.
fn full_uri(uri: &str) -> Result<Url, String> {
    let url = http_url(uri, true)?;
    let host = url.host_str().unwrap_or_default();
    let is_of_node = matches!(host, "169.254.170.2" | "169.254.170.23" | "[fd00:ec2::23]");
    if url.scheme() == "https" || is_of_node || is_loopback(&url) {
        return Ok(url);
    }
    Err(format!(
        "would send credentials unencrypted to {}: http is for loopback, ECS (169.254.170.2) and EKS (169.254.170.23, \
         fd00:ec2::23) alone; set https, or the URL that ECS or EKS gave",
        shown(host)
    ))
}

/// `AWS_PROFILE`, or `default` where a profile is asked for without a name.
fn profile(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let default = (choice(validator) == "profile").then_some("default");
    let name = validator.value(AWS_PROFILE).or(default)?.to_owned();
    let files = [AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE].map(|setting| {
        let path = validator.value(setting).unwrap_or_default();
        let path = match path.strip_prefix("~/").zip(validator.value(HOME)) {
            Some((below, home)) => PathBuf::from(home).join(below),
            None => PathBuf::from(path),
        };
        validator.notice_open(setting, &path);
        path
    });
    let source = ProfileSource { name, files };
    if let Err(error) = source.keys() {
        validator.fault(AWS_PROFILE, error);
    }
    Some(CredentialSource::Profile(source))
}

fn instance_metadata(validator: &mut Validator<'_>) -> Option<CredentialSource> {
    let endpoint = validator.http_url(AWS_EC2_METADATA_SERVICE_ENDPOINT)?;
    Some(CredentialSource::InstanceMetadata(InstanceMetadataSource { endpoint }))
}

impl CredentialSource {
    /// As `CREDENTIAL_SOURCE` calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::WebIdentity(_) => "web-identity",
            Self::Container(_) => "container",
            Self::Profile(_) => "profile",
            Self::InstanceMetadata(_) => "instance-metadata",
            Self::EdgeApi => "edge",
        }
    }

    /// The settings that decide about these credentials, for the remedy of a fault.
    pub fn variables(&self) -> &'static str {
        match self {
            Self::Static(_) => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            Self::WebIdentity(_) => "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE",
            Self::Container(_) => "the role of the ECS task or of the EKS pod identity",
            Self::Profile(_) => "AWS_PROFILE and the profile's keys",
            Self::InstanceMetadata(_) => "the role of the instance's profile",
            Self::EdgeApi => "SERVER_API_KEY",
        }
    }
}
