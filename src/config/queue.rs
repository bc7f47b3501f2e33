//! The queue: its region and its endpoint; Stigg's Edge API.

use url::Url;

use super::Secret;
use super::settings::Settings;
use super::values::{Findings, raw, shown};
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

/// The region, as far as the settings tell it: for those who do without the queue.
pub(super) fn region_if_told(settings: &Settings) -> Option<String> {
    let told = raw!(settings, queue.queue_url)
        .value
        .and_then(region::of_queue_url);
    raw!(settings, queue.aws_region).value.map(str::to_owned).or(told)
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

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
