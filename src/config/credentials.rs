//! Where AWS credentials come from: the first source that is set, or the one that `CREDENTIAL_SOURCE` names.
//!
//! A source that is only partly set is a fault and never skipped: the next one would be someone else's credentials.
//! Sources behind the one that is used are not checked.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use super::profiles::ProfileFiles;
use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};
use super::{
    ContainerSource, CredentialSource, InstanceMetadataSource, ProfileSource, StaticKeys, StsEndpoint,
    WebIdentitySource,
};

/// A source; none if it is not set at all.
pub(super) type Found = Result<Option<CredentialSource>, Faulty>;

/// A fault was found and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faulty;

type ReadSource = fn(&Settings, &mut Findings, region: Option<&str>) -> Found;

const AUTO: &str = "auto";
const EDGE: &str = "edge";
/// The sources of the operator's own credentials: what `CREDENTIAL_SOURCE` calls them, and what has to be set. `auto` tries them in
/// this order, without the last: outside of EC2, each start would wait for an address that does not exist.
const SOURCES: [(&str, &str, ReadSource); 5] = [
    ("static", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", static_keys),
    ("web-identity", "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN", web_identity),
    ("container", "AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", container),
    ("profile", "AWS_PROFILE", profile),
    ("instance-metadata", "nothing", instance_metadata),
];

/// The source for the queue. None after a fault. `region` is the queue's; none if it had a fault.
pub(super) fn credentials(
    settings: &Settings,
    findings: &mut Findings,
    region: Option<&str>,
) -> Option<CredentialSource> {
    let source = match choice(settings, findings) {
        EDGE => CredentialSource::EdgeApi,
        _ => aws_source(settings, findings, region).ok()?.unwrap_or(CredentialSource::EdgeApi),
    };
    let token = raw!(settings, credentials.aws_session_token);
    if token.value.is_some() && raw!(settings, credentials.aws_access_key_id).value.is_none() {
        let what =
            "has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the source of credentials is";
        findings.notice(token, format!("{what} {}", source.name()));
    }
    Some(source)
}

/// The AWS source that `CREDENTIAL_SOURCE` names, or the first that is set if it is `auto` or `edge`; `Ok(None)` if none
/// is. For the queue, and for whatever else is signed with the operator's own credentials: unless the choice is `edge`,
/// its faults have been reported for the queue already.
pub(super) fn aws_source(settings: &Settings, findings: &mut Findings, region: Option<&str>) -> Found {
    // An unknown choice is reported for the queue.
    let choice = choice(settings, &mut Findings::default());
    let Some((_, needed, read)) = SOURCES.iter().find(|(name, ..)| *name == choice) else {
        for (_, _, read) in &SOURCES[..SOURCES.len() - 1] {
            let found = read(settings, findings, region)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        return Ok(None);
    };
    let found = read(settings, findings, region)?;
    if found.is_none() {
        let raw = raw!(settings, credentials.credential_source);
        let what = format!("is '{choice}', but nothing of it is set");
        return fault(findings, raw, format!("{what}; set {needed}, or another CREDENTIAL_SOURCE"));
    }
    Ok(found)
}

fn choice(settings: &Settings, findings: &mut Findings) -> &'static str {
    let [fixed, web, container, profile, instance] = SOURCES.map(|(name, ..)| name);
    let names = [AUTO, fixed, web, container, profile, instance, EDGE];
    findings.choice(raw!(settings, credentials.credential_source), names.map(|name| (name, name)))
}

fn fault<T>(
    findings: &mut Findings,
    raw: Raw<'_>,
    what_and_remedy: impl Display,
) -> Result<Option<T>, Faulty> {
    findings.fault(raw, what_and_remedy);
    Err(Faulty)
}

/// The value, if it is fit for its purpose.
fn checked<'a>(
    findings: &mut Findings,
    raw: Raw<'a>,
    is_fit: fn(&str) -> bool,
    what: &str,
) -> Result<Option<&'a str>, Faulty> {
    match raw.value {
        Some(value) if !is_fit(value) => fault(findings, raw, format!("{} {what}", shown(value))),
        value => Ok(value),
    }
}

/// The one of the two that is given.
fn given<'a>(inline: Raw<'a>, file: Raw<'a>) -> Option<Raw<'a>> {
    [inline, file].into_iter().find(|raw| raw.value.is_some())
}

/// Both keys or none.
fn static_keys(settings: &Settings, findings: &mut Findings, _region: Option<&str>) -> Found {
    let id = raw!(settings, credentials.aws_access_key_id);
    let inline = raw!(settings, credentials.aws_secret_access_key);
    let file = raw!(settings, credentials.aws_secret_access_key_file);
    let token = raw!(settings, credentials.aws_session_token);
    let secret_access_key = findings.token(inline, file);
    let access_key_id = match (id.value, given(inline, file).map(Raw::variable)) {
        (None, None) => return Ok(None),
        (Some(access_key_id), Some(_)) => access_key_id,
        (Some(_), None) => {
            let remedy = "is required with AWS_ACCESS_KEY_ID; set it (or AWS_SECRET_ACCESS_KEY_FILE), or unset \
                          AWS_ACCESS_KEY_ID to use another source of credentials";
            return fault(findings, inline, remedy);
        }
        (None, Some(given)) => {
            let remedy = format!("set it, or unset {given} to use another source of credentials");
            return fault(findings, id, format!("is required with {given}; {remedy}"));
        }
    };
    let is_plain = access_key_id.chars().all(|letter| letter.is_ascii_graphic());
    if !is_plain {
        let what = "holds white space, a control character or a letter beyond ASCII; copy it once more";
        findings.fault(id, what);
    }
    if access_key_id.starts_with("ASIA") && token.value.is_none() {
        let what =
            "is not set, though AWS_ACCESS_KEY_ID is a temporary one, which needs it; SQS may refuse it";
        findings.notice(token, what);
    }
    let session_token = findings.token(token, Raw { value: None, ..token });
    if !is_plain || session_token.is_some() != token.value.is_some() {
        return Err(Faulty);
    }
    Ok(Some(CredentialSource::Static(StaticKeys {
        access_key_id: access_key_id.to_owned(),
        secret_access_key: secret_access_key.ok_or(Faulty)?,
        session_token,
    })))
}

/// Token file and role, or neither.
fn web_identity(settings: &Settings, findings: &mut Findings, region: Option<&str>) -> Found {
    let file = raw!(settings, credentials.aws_web_identity_token_file);
    let role = raw!(settings, credentials.aws_role_arn);
    let session = raw!(settings, credentials.aws_role_session_name);
    match (file.value, role.value) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            let remedy = "is required with AWS_ROLE_ARN; set it, or unset AWS_ROLE_ARN (no role is assumed with keys)";
            return fault(findings, file, remedy);
        }
        (Some(_), None) => findings.fault(
            role,
            "is required with AWS_WEB_IDENTITY_TOKEN_FILE; set the role's ARN, or CREDENTIAL_SOURCE=edge to use the Edge \
             API's credentials",
        ),
        (Some(_), Some(_)) => {}
    }
    let token = findings.token(Raw { value: None, ..file }, file);
    let what = "is not the ARN of a role; set arn:aws:iam::<account>:role/<name>";
    let role_arn = checked(findings, role, is_role_arn, what);
    let what = "is not a name that STS takes; set 2 to 64 letters, digits or any of _=,.@+-";
    let session_name = checked(findings, session, is_session_name, what);
    let sts = sts(settings, findings, region)?;
    Ok(Some(CredentialSource::WebIdentity(WebIdentitySource {
        token: token.ok_or(Faulty)?,
        role_arn: role_arn?.ok_or(Faulty)?.to_owned(),
        session_name: session_name?.map(str::to_owned),
        sts,
    })))
}

fn sts(settings: &Settings, findings: &mut Findings, region: Option<&str>) -> Result<StsEndpoint, Faulty> {
    let own = raw!(settings, credentials.aws_endpoint_url_sts);
    let url = match own.value {
        Some(_) => Some(findings.http_url(own).ok_or(Faulty)?),
        // Its faults are reported for the queue.
        None => Findings::default().http_url(raw!(settings, queue.aws_endpoint_url)),
    };
    Ok(StsEndpoint { region: region.unwrap_or_default().to_owned(), url })
}

/// The container's endpoint, if one is set.
fn container(settings: &Settings, findings: &mut Findings, _region: Option<&str>) -> Found {
    let full = raw!(settings, credentials.aws_container_credentials_full_uri);
    let relative = raw!(settings, credentials.aws_container_credentials_relative_uri);
    let inline = raw!(settings, credentials.aws_container_authorization_token);
    let file = raw!(settings, credentials.aws_container_authorization_token_file);
    let given = given(inline, file);
    let (raw, uri) = match (relative.value, full.value, given.map(Raw::variable)) {
        (Some(path), _, _) => (relative, relative_uri(path)),
        (None, Some(uri), _) => (full, full_uri(uri)),
        (None, None, None) => return Ok(None),
        (None, None, Some(given)) => {
            let what = format!("is required with {given}; set it, or unset {given}");
            return fault(findings, full, what);
        }
    };
    let uri = uri.map_err(|what| findings.fault(raw, what)).ok();
    let authorization = findings.secret(inline, file);
    let is_allowed = |letter: char| letter.is_ascii_graphic() || letter == ' ' || letter == '\t';
    if let (Some(given), Some(secret)) = (given, &authorization)
        && !secret.read().is_ok_and(|token| token.chars().all(is_allowed))
    {
        let what = "holds a line break or another character that no HTTP header may hold; copy it once more";
        return fault(findings, given, what);
    }
    let uri = uri.filter(|_| authorization.is_some() == given.is_some());
    let container = uri.map(|uri| ContainerSource { uri, authorization });
    container.map(CredentialSource::Container).ok_or(Faulty).map(Some)
}

/// A path on ECS's own address.
fn relative_uri(path: &str) -> Result<Url, String> {
    let url = Url::parse(&format!("http://169.254.170.2{path}")).ok();
    url.filter(|_| path.starts_with('/'))
        .ok_or_else(|| "is not a path; set one that begins with /".to_owned())
}

/// As in the AWS SDKs: https, or http to an address that only this machine or its node answers on, because the answer
/// holds secrets.
fn full_uri(uri: &str) -> Result<Url, String> {
    let remedy = "set the URL that ECS or EKS gave";
    let url = Url::parse(uri).map_err(|error| format!("is not a URL ({error}); {remedy}"))?;
    let is_local = match url.host() {
        Some(Host::Ipv4(address)) if address.is_loopback() => true,
        Some(Host::Ipv4(address)) => matches!(address.octets(), [169, 254, 170, 2 | 23]),
        Some(Host::Ipv6(address)) if address.is_loopback() => true,
        Some(Host::Ipv6(address)) => address.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23],
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            Err("holds a user or password; remove them, and set AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned())
        }
        "http" if !is_local => Err(format!(
            "would send credentials unencrypted to {}: http is for loopback, ECS (169.254.170.2) and EKS (169.254.170.23, \
             fd00:ec2::23) alone; set https, or {remedy}",
            url.host_str().map(shown).unwrap_or_default()
        )),
        "http" | "https" => Ok(url),
        _ => Err(format!("is not an http or https URL; {remedy}")),
    }
}

/// `AWS_PROFILE`, or `default` where a profile is asked for without a name.
fn profile(settings: &Settings, findings: &mut Findings, _region: Option<&str>) -> Found {
    let raw = raw!(settings, credentials.aws_profile);
    let default = (choice(settings, &mut Findings::default()) == "profile").then_some("default");
    let Some(name) = raw.value.or(default) else {
        return Ok(None);
    };
    let home = raw!(settings, credentials.home).value.map(Path::new);
    let config = raw!(settings, credentials.aws_config_file);
    let credentials = raw!(settings, credentials.aws_shared_credentials_file);
    let file = |given: Raw<'_>, below_home: &str| match (given.value, home) {
        (None, home) => home.map(|home| home.join(below_home)),
        (Some(path), Some(home)) if path.starts_with("~/") => Some(home.join(&path[2..])),
        (Some(path), _) => Some(PathBuf::from(path)),
    };
    let files = ProfileFiles {
        config: file(config, ".aws/config"),
        credentials: file(credentials, ".aws/credentials"),
    };
    if files.config.is_none() && files.credentials.is_none() {
        let what =
            "is required with AWS_PROFILE where HOME is not set; set it, or AWS_SHARED_CREDENTIALS_FILE";
        return fault(findings, config, what);
    }
    for (raw, path) in [(config, &files.config), (credentials, &files.credentials)] {
        if raw.value.is_some() && !path.as_deref().is_some_and(Path::exists) {
            return fault(findings, raw, "there is no such file; correct the path, or unset it");
        }
    }
    if let Err(error) = files.keys(name) {
        return fault(findings, raw, error);
    }
    Ok(Some(CredentialSource::Profile(ProfileSource { name: name.to_owned(), files })))
}

fn instance_metadata(settings: &Settings, findings: &mut Findings, _region: Option<&str>) -> Found {
    let raw = raw!(settings, credentials.aws_ec2_metadata_service_endpoint);
    let endpoint = findings.http_url(raw).ok_or(Faulty)?;
    Ok(Some(CredentialSource::InstanceMetadata(InstanceMetadataSource { endpoint })))
}

/// `arn:<partition>:iam::<account>:role/<name>`.
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_role = matches!(parts.as_slice(), ["arn", partition, "iam", "", account, role]
        if partition.starts_with("aws") && !account.is_empty() && role.starts_with("role/") && role.len() > 5);
    is_role && text.chars().all(|letter| letter.is_ascii_graphic())
}

/// What STS takes as the name of a session.
fn is_session_name(text: &str) -> bool {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "_=,.@+-".contains(letter);
    (2..=64).contains(&text.len()) && text.chars().all(is_allowed)
}

impl CredentialSource {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_and_session_names_are_told_from_what_is_not_one() {
        assert!(is_role_arn("arn:aws:iam::123456789012:role/reader"));
        assert!(is_role_arn("arn:aws-cn:iam::1:role/path/name"));
        for text in ["", "reader", "arn:aws:iam::1:user/x", "arn:aws:iam::1:role/", "arn:aws:sts::1:role/x"] {
            assert!(!is_role_arn(text), "{text}");
        }
        assert!(is_session_name("pod-1@eu_=,.+"));
        assert!(!is_session_name("x") && !is_session_name("a b") && !is_session_name(&"x".repeat(65)));
    }
}
