//! The queue: its region and its endpoint; Stigg's Edge API.

use url::Url;

use super::EdgeAccess;
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
    let of_url = validator.value(QUEUE_URL).and_then(region_of_queue_url);
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
    let of_url = validator.value(QUEUE_URL).and_then(region_of_queue_url);
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

/// The region that a queue URL's host names, where the host follows one of AWS's forms: `sqs.<region>.…` and
/// `sqs-fips.<region>.…` (every partition, IPv4 and dual-stack, also behind the name of a VPC endpoint; the emulators keep to it
/// too), or the older `<region>.queue.…`. The oldest of all, `queue.amazonaws.com`, is in us-east-1.
fn region_of_queue_url(queue_url: &str) -> Option<String> {
    let host = Url::parse(queue_url).ok()?.host_str()?.to_ascii_lowercase();
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    // us-east-1, us-gov-west-1: anything else in that place is some other host that has `sqs` in its name.
    let is_region =
        |name: &str| name.matches('-').count() >= 2 && name.ends_with(|letter: char| letter.is_ascii_digit());
    let labels: Vec<&str> = host.split('.').collect();
    labels.windows(2).find_map(|pair| match pair {
        ["sqs" | "sqs-fips", region] | [region, "queue"] if is_region(region) => Some((*region).to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_every_form_of_queue_url_that_tells_it() {
        let region = |host: &str| region_of_queue_url(&format!("https://{host}/123456789012/q"));
        for (host, expected) in [
            ("sqs.eu-central-1.amazonaws.com", "eu-central-1"),
            ("SQS.EU-Central-1.amazonaws.com", "eu-central-1"),
            ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
            ("sqs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("sqs.eu-west-1.api.aws", "eu-west-1"),
            ("sqs-fips.us-east-2.api.aws", "us-east-2"),
            ("sqs.cn-northwest-1.api.amazonwebservices.com.cn", "cn-northwest-1"),
            ("eu-west-2.queue.amazonaws.com", "eu-west-2"),
            ("cn-north-1.queue.amazonaws.com.cn", "cn-north-1"),
            ("queue.amazonaws.com", "us-east-1"),
            ("vpce-0a1b-2c3d.sqs.us-east-2.vpce.amazonaws.com", "us-east-2"),
            ("vpce-0a1b-2c3d-us-east-2a.sqs.us-east-2.vpce.amazonaws.com", "us-east-2"),
            ("vpce-0a1b-2c3d.sqs-fips.us-west-2.vpce.amazonaws.com", "us-west-2"),
            ("vpce-0a1b.sqs.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
            ("sqs.us-east-1.localhost:4566", "us-east-1"),
        ] {
            assert_eq!(region(host).as_deref(), Some(expected), "{host}");
        }
        for host in
            ["127.0.0.1:5000", "[::1]:5000", "sqs.internal.example", "sqs.local-1.example", "example.com"]
        {
            assert_eq!(region(host), None, "{host}");
        }
        assert_eq!(region_of_queue_url("no url"), None);
    }
}
