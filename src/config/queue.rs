//! The queue: its region and its endpoint; Stigg's Edge API.

use url::Url;

use super::Secret;
use super::region;
use super::settings::Settings;
use super::values::{Findings, Raw, raw, shown};

const REMEDY: &str = "set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>";

/// Where the queue is.
pub(super) struct QueueAddress<'a> {
    pub region: String,
    pub queue_url: &'a str,
    pub endpoint: Url,
}

/// Region, URL and endpoint. None after a fault.
pub(super) fn address<'a>(settings: &'a Settings, findings: &mut Findings) -> Option<QueueAddress<'a>> {
    let given = raw!(settings, queue.queue_url);
    let queue_url = queue_url(given, findings);
    let of_url = queue_url.as_ref().and_then(|url| region::of_queue_url(url.as_str()));
    let region = region(settings, findings, of_url);
    let endpoints = [raw!(settings, queue.aws_endpoint_url_sqs), raw!(settings, queue.aws_endpoint_url)];
    let own = endpoints.into_iter().find(|raw| raw.is_given);
    let endpoint = match own {
        Some(raw) => findings.http_url(raw),
        None => queue_url.and_then(|url| url.join("/").ok()),
    };
    Some(QueueAddress { region: region?, queue_url: given.value?, endpoint: endpoint? })
}

/// The region, if the settings tell it: for commands that do not use the queue.
pub(super) fn region_if_told(settings: &Settings) -> Option<String> {
    let region = raw!(settings, queue.aws_region).value.map(str::to_owned);
    region.or_else(|| region::of_queue_url(raw!(settings, queue.queue_url).value?))
}

fn queue_url(raw: Raw<'_>, findings: &mut Findings) -> Option<Url> {
    findings.require(raw, &format!("; {REMEDY}"));
    if raw.value?.starts_with("arn:") {
        findings.fault(raw, format!("is an ARN; {REMEDY}"));
        return None;
    }
    let url = findings.http_url(raw)?;
    if url.path().trim_matches('/').is_empty() {
        findings.fault(raw, format!("names no queue; {REMEDY}"));
        return None;
    }
    Some(url)
}

fn region(settings: &Settings, findings: &mut Findings, of_url: Option<String>) -> Option<String> {
    let raw = raw!(settings, queue.aws_region);
    if of_url.is_none() {
        let what = ", as QUEUE_URL does not tell it; set the queue's region, like us-east-1";
        findings.require(raw, what);
    }
    if !raw.is_given {
        return of_url;
    }
    let given = findings.read(raw, region_name)?;
    if let Some(of_url) = of_url.filter(|of_url| *of_url != given) {
        let what = format!("is {given}, though QUEUE_URL is in {of_url}; calls are signed for {given}");
        findings.notice(raw, what);
    }
    Some(given)
}

/// The name of a region, as it was given.
pub(super) fn region_name(value: &str) -> Result<String, String> {
    let zone_less = value.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    if zone_less != value && region::is_region(zone_less) {
        return Err(shown(value) + " is an availability zone; set the region, " + zone_less);
    }
    let is_plain = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    let fault = || shown(value) + " is not the name of a region; set one like us-east-1";
    value.chars().all(is_plain).then(|| value.to_owned()).ok_or_else(fault)
}

/// Stigg's server API key and the Edge API. None after a fault.
pub(super) fn edge_api(settings: &Settings, findings: &mut Findings) -> Option<(Secret, Url)> {
    let inline = raw!(settings, stigg.server_api_key);
    let file = raw!(settings, stigg.server_api_key_file);
    if !file.is_given {
        let what = "; set it, or SERVER_API_KEY_FILE, to a server API key of the environment";
        findings.require(inline, what);
    }
    let key = findings.token(inline, file);
    let raw = raw!(settings, stigg.edge_api_url);
    let url = findings.http_url(raw);
    let is_plain = |url: &Url| url.scheme() == "http" && !is_loopback(url);
    if url.as_ref().is_some_and(is_plain) {
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
