//! The queue: its region and its endpoint; Stigg's Edge API.

use url::Url;

use super::EdgeAccess;
use super::region;
#[allow(clippy::wildcard_imports)] // the settings
use super::table::*;
use super::values::Validator;

const REMEDY: &str = "set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>";

/// Region and endpoint; the queue's URL is judged, too. None after a fault.
pub(super) fn address(validator: &mut Validator<'_>) -> (Option<String>, Option<Url>) {
    validator.require(&[QUEUE_URL], &format!("; {REMEDY}"));
    let queue_url = validator.http_url(QUEUE_URL);
    if queue_url.as_ref().is_some_and(|url| url.path().trim_matches('/').is_empty()) {
        validator.fault(QUEUE_URL, format!("names no queue; {REMEDY}"));
    }
    let region = region(validator);
    let given = region_name(validator, AWS_REGION);
    let of_url = validator.value(QUEUE_URL).and_then(region::of_queue_url);
    if let (Some(given), Some(of_url)) = (given, of_url)
        && given != of_url
    {
        let what = format!("is {given}, though QUEUE_URL is in {of_url}; calls are signed for {given}");
        validator.notice(AWS_REGION, what);
    }
    let endpoint = match validator.first_given(&[AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL]) {
        Some(setting) => validator.http_url(setting),
        None => queue_url.and_then(|url| url.join("/").ok()),
    };
    let what = "messages, and a session token if there is one, travel";
    validator.notice_plaintext(&[AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, QUEUE_URL], what);
    (region, endpoint)
}

/// The queue's region. None after a fault; only [`address`] judges its name.
pub(super) fn region(validator: &mut Validator<'_>) -> Option<String> {
    let of_url = validator.value(QUEUE_URL).and_then(region::of_queue_url);
    if of_url.is_none() {
        let what = ", as QUEUE_URL does not name it; set the queue's region, like us-east-1";
        validator.require(&[AWS_REGION], what);
    }
    validator.owned(AWS_REGION).or(of_url)
}

/// The name of a region.
pub(super) fn region_name(validator: &mut Validator<'_>, setting: Setting) -> Option<String> {
    let is_plain = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    let what = "is not the name of a region; set one like us-east-1";
    validator.text(setting, |name| name.chars().all(is_plain), what)
}

/// Stigg's server API key and the Edge API. None after a fault.
pub(super) fn edge_api(validator: &mut Validator<'_>) -> Option<EdgeAccess> {
    let keys = [SERVER_API_KEY, SERVER_API_KEY_FILE];
    validator.require(&keys, "; set it, or SERVER_API_KEY_FILE, to a server API key of the environment");
    let key = validator.token(&keys);
    let url = validator.http_url(EDGE_API_URL);
    validator.notice_plaintext(&[EDGE_API_URL], "SERVER_API_KEY travels");
    Some(EdgeAccess { key: key?, url: url? })
}
