//! The queue: its region, its endpoint and the credentials for it.

use url::Url;

use super::settings::Settings;
use super::values::{Findings, raw, shown};
use super::{CredentialSource, Secret};
use crate::sqs::region;

/// Where the queue is.
pub(super) struct QueueAddress {
    pub region: String,
    pub queue_url: String,
    pub endpoint: Url,
}

/// Region, URL and endpoint. None after a fault.
pub(super) fn address(settings: &Settings, findings: &mut Findings) -> Option<QueueAddress> {
    let given = raw!(settings, queue.queue_url);
    let queue_url = queue_url(settings, findings);
    let told = queue_url
        .as_ref()
        .and_then(|url| region::of_queue_url(url.as_str()));
    let region = region(settings, findings, told, given.value.is_some());
    let endpoint = endpoint(settings, findings, queue_url.as_ref());
    Some(QueueAddress {
        region: region?,
        queue_url: given.value?.to_owned(),
        endpoint: endpoint?,
    })
}

fn queue_url(settings: &Settings, findings: &mut Findings) -> Option<Url> {
    let raw = raw!(settings, queue.queue_url);
    let Some(value) = raw.value else {
        findings.fault(
            raw,
            "is required; set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>",
        );
        return None;
    };
    if value.starts_with("arn:") {
        findings.fault(
            raw,
            "is an ARN; set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>",
        );
        return None;
    }
    let url = findings.http_url(raw)?;
    if url.path().trim_matches('/').is_empty() {
        findings.fault(
            raw,
            "names no queue; set the whole URL, https://sqs.<region>.amazonaws.com/<account>/<name>",
        );
        return None;
    }
    Some(url)
}

fn region(
    settings: &Settings,
    findings: &mut Findings,
    told: Option<String>,
    has_queue_url: bool,
) -> Option<String> {
    let raw = raw!(settings, queue.aws_region);
    let Some(value) = raw.value else {
        if told.is_none() {
            let why = if has_queue_url {
                "is required, as QUEUE_URL does not tell it"
            } else {
                "is required"
            };
            findings.fault(
                raw,
                format!("{why}; set the queue's region, for instance us-east-1"),
            );
        }
        return told;
    };
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if !value.chars().all(plain) {
        findings.fault(
            raw,
            format!(
                "{} is not the name of a region; set one like us-east-1",
                shown(value)
            ),
        );
        return None;
    }
    let zone_less = value.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    if zone_less != value && region::is_region(zone_less) {
        findings.fault(
            raw,
            format!(
                "{} is an availability zone; set the region, {zone_less}",
                shown(value)
            ),
        );
        return None;
    }
    if let Some(told) = told.filter(|told| told != value) {
        findings.notice(
            raw,
            format!("is {value}, though QUEUE_URL is in {told}; calls are signed for {value}"),
        );
    }
    Some(value.to_owned())
}

/// `AWS_ENDPOINT_URL_SQS`, else `AWS_ENDPOINT_URL`, else the scheme and host of the queue's URL.
fn endpoint(settings: &Settings, findings: &mut Findings, queue_url: Option<&Url>) -> Option<Url> {
    for raw in [
        raw!(settings, queue.aws_endpoint_url_sqs),
        raw!(settings, queue.aws_endpoint_url),
    ] {
        if raw.value.is_some() {
            return findings.http_url(raw);
        }
    }
    let mut endpoint = queue_url?.clone();
    endpoint.set_path("/");
    Some(endpoint)
}

/// Static keys where both are given, else the Edge API. None after a fault.
pub(super) fn credentials(settings: &Settings, findings: &mut Findings) -> Option<CredentialSource> {
    let id = raw!(settings, queue.aws_access_key_id);
    let inline = raw!(settings, queue.aws_secret_access_key);
    let file = raw!(settings, queue.aws_secret_access_key_file);
    let token = raw!(settings, queue.aws_session_token);

    let has_secret = inline.value.is_some() || file.value.is_some();
    let secret_access_key = findings.token(inline, file);
    match (id.value, has_secret) {
        (Some(access_key_id), true) => {
            if access_key_id.chars().any(|letter| !letter.is_ascii_graphic()) {
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
            let session_token = findings.token(token, super::values::Raw { value: None, ..token });
            Some(CredentialSource::Static {
                access_key_id: access_key_id.to_owned(),
                secret_access_key: secret_access_key?,
                session_token,
            })
        }
        (Some(_), false) => {
            findings.fault(
                inline,
                "is required with AWS_ACCESS_KEY_ID; set it (or AWS_SECRET_ACCESS_KEY_FILE), or unset \
                 AWS_ACCESS_KEY_ID to use the Edge API's credentials",
            );
            None
        }
        (None, true) => {
            let given = if inline.value.is_some() { inline } else { file };
            findings.fault(
                id,
                format!(
                    "is required with {0}; set it, or unset {0} to use the Edge API's credentials",
                    given.variable()
                ),
            );
            None
        }
        (None, false) => {
            if token.value.is_some() {
                findings.notice(
                    token,
                    "has no effect without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the Edge API's credentials \
                     are used",
                );
            }
            notice_unsupported_sources(settings, findings);
            Some(CredentialSource::EdgeApi)
        }
    }
}

fn notice_unsupported_sources(settings: &Settings, findings: &mut Findings) {
    for raw in [
        raw!(settings, later.aws_web_identity_token_file),
        raw!(settings, later.aws_container_credentials_full_uri),
        raw!(settings, later.aws_container_credentials_relative_uri),
        raw!(settings, later.aws_profile),
    ] {
        if raw.value.is_some() {
            findings.notice(
                raw,
                "this source of AWS credentials is not supported in this version; the Edge API's credentials are used",
            );
        }
    }
}

/// Stigg's server API key and the Edge API. None after a fault.
pub(super) fn edge_api(settings: &Settings, findings: &mut Findings) -> Option<(Secret, Url)> {
    let inline = raw!(settings, stigg.server_api_key);
    let file = raw!(settings, stigg.server_api_key_file);
    if inline.value.is_none() && file.value.is_none() {
        findings.fault(
            inline,
            "is required; set it, or SERVER_API_KEY_FILE, to a server API key of the environment",
        );
    }
    let key = findings.token(inline, file);
    let raw = raw!(settings, stigg.edge_api_url);
    let url = findings.http_url(raw);
    if let Some(url) = &url
        && url.scheme() == "http"
        && !is_loopback(url)
    {
        findings.notice(raw, "is not https: SERVER_API_KEY travels unencrypted");
    }
    Some((key?, url?))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
