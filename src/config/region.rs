//! The region in a queue's URL. Pure.

use url::Url;

/// The region that a queue URL's host names, where the host follows one of AWS's forms: `sqs.<region>.…` and
/// `sqs-fips.<region>.…` (every partition, IPv4 and dual-stack, also behind the name of a VPC endpoint; the
/// emulators keep to it too), or the older `<region>.queue.…`. The oldest of all, `queue.amazonaws.com`, is in
/// us-east-1.
pub(super) fn of_queue_url(queue_url: &str) -> Option<String> {
    let host = Url::parse(queue_url).ok()?.host_str()?.to_ascii_lowercase();
    if host == "queue.amazonaws.com" {
        return Some("us-east-1".to_owned());
    }
    let labels: Vec<&str> = host.split('.').collect();
    labels.windows(2).find_map(|pair| match pair {
        ["sqs" | "sqs-fips", region] | [region, "queue"] if is_region(region) => Some((*region).to_owned()),
        _ => None,
    })
}

/// True for names like us-east-1, us-gov-west-1, ap-southeast-2: words, then a number. Anything else in that place
/// is some other host that has `sqs` in its name.
pub(super) fn is_region(name: &str) -> bool {
    let is_of = |text: &str, kind: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(kind);
    name.rsplit_once('-').is_some_and(|(words, number)| {
        words.contains('-')
            && words.split('-').all(|word| is_of(word, u8::is_ascii_lowercase))
            && is_of(number, u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_every_form_of_queue_url_that_tells_it() {
        let region = |host: &str| of_queue_url(&format!("https://{host}/123456789012/q"));
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
        assert_eq!(of_queue_url("no url"), None);
    }
}
