//! Queue and the Edge API.

use super::{config, faults, notices};

#[test]
fn the_region_is_read_off_every_form_of_queue_url_that_tells_it() {
    for (queue_url, region) in [
        ("https://sqs.eu-central-1.amazonaws.com/123456789012/q", "eu-central-1"),
        ("https://sqs.us-gov-west-1.amazonaws.com/123456789012/q", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://sqs-fips.us-west-2.amazonaws.com/123456789012/q", "us-west-2"),
        ("https://sqs.ap-southeast-2.api.aws/123456789012/q", "ap-southeast-2"),
        ("https://eu-west-1.queue.amazonaws.com/123456789012/q", "eu-west-1"),
        ("https://cn-north-1.queue.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://queue.amazonaws.com/123456789012/q", "us-east-1"),
        ("https://vpce-0a1b-2c3d.sqs.eu-west-3.vpce.amazonaws.com/123456789012/q", "eu-west-3"),
        ("http://sqs.us-east-2.localhost:4566/000000000000/q", "us-east-2"),
    ] {
        assert_eq!(config(&[("QUEUE_URL", queue_url)]).region, region, "{queue_url}");
    }
}

#[test]
fn calls_go_to_the_queues_own_host_whatever_kind_of_endpoint_it_is() {
    for (queue_url, endpoint, region) in [
        (
            "https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/q",
            "https://sqs-fips.us-gov-west-1.amazonaws.com/",
            "us-gov-west-1",
        ),
        (
            "https://sqs-fips.us-east-2.api.aws/123456789012/q",
            "https://sqs-fips.us-east-2.api.aws/",
            "us-east-2",
        ),
        (
            "https://vpce-0a1b-2c3d-us-east-2a.sqs.us-east-2.vpce.amazonaws.com/123456789012/q",
            "https://vpce-0a1b-2c3d-us-east-2a.sqs.us-east-2.vpce.amazonaws.com/",
            "us-east-2",
        ),
        (
            "https://sqs.cn-northwest-1.amazonaws.com.cn/123456789012/q",
            "https://sqs.cn-northwest-1.amazonaws.com.cn/",
            "cn-northwest-1",
        ),
        (
            "https://us-west-1.queue.amazonaws.com/123456789012/q",
            "https://us-west-1.queue.amazonaws.com/",
            "us-west-1",
        ),
        (
            "http://sqs.us-east-2.localhost:4566/000000000000/q",
            "http://sqs.us-east-2.localhost:4566/",
            "us-east-2",
        ),
    ] {
        let config = config(&[("QUEUE_URL", queue_url)]);
        assert_eq!(config.sqs_endpoint.as_str(), endpoint);
        assert_eq!(config.region, region, "{queue_url}");
        assert_eq!(config.queue_url, queue_url, "the URL stays as given");
    }
}

#[test]
fn a_region_is_required_where_the_queue_url_does_not_tell_it() {
    for queue_url in
        ["http://127.0.0.1:9324/000000000000/q", "https://sqs.example.com/1/q", "https://queue.local/1/q"]
    {
        assert_eq!(
            faults(&[("QUEUE_URL", queue_url)]),
            [
                "AWS_REGION: is required, as QUEUE_URL does not name it; set the queue's region, like us-east-1"
            ]
        );
        assert_eq!(config(&[("QUEUE_URL", queue_url), ("AWS_REGION", "eu-west-1")]).region, "eu-west-1");
    }
}

#[test]
fn a_given_region_wins_over_the_queues_and_a_notice_says_so() {
    let config = config(&[("AWS_REGION", "eu-west-1")]);
    assert_eq!(config.region, "eu-west-1");
    assert_eq!(
        config.notices,
        ["AWS_REGION: is eu-west-1, though QUEUE_URL is in us-east-1; calls are signed for eu-west-1"]
    );
    assert!(notices(&[("AWS_REGION", "us-east-1")]).is_empty());
}

#[test]
fn what_is_no_region_is_a_fault_with_its_remedy() {
    assert_eq!(
        faults(&[("AWS_REGION", "US East")]),
        ["AWS_REGION: 'US East' is not the name of a region; set one like us-east-1"]
    );
}

#[test]
fn what_is_no_queue_url_is_a_fault_with_its_remedy() {
    let remedy = "set the queue's URL, https://sqs.<region>.amazonaws.com/<account>/<name>";
    for (queue_url, fault) in [
        (
            "arn:aws:sqs:us-east-1:123456789012:q",
            "is not an http or https URL; set one that starts with https://".to_owned(),
        ),
        ("https://sqs.us-east-1.amazonaws.com/", format!("names no queue; {remedy}")),
        ("my-queue", "is not an http or https URL; set one that starts with https://".to_owned()),
        (
            "ftp://sqs.us-east-1.amazonaws.com/1/q",
            "is not an http or https URL; set one that starts with https://".to_owned(),
        ),
        (
            "https://sqs.us-east-1.amazonaws.com/1/q?Action=x",
            "holds a user, password, query or fragment; remove them, as they would show in the log"
                .to_owned(),
        ),
    ] {
        assert_eq!(
            faults(&[("QUEUE_URL", queue_url), ("AWS_REGION", "us-east-1")]),
            [format!("QUEUE_URL: {fault}")],
            "{queue_url}"
        );
    }
}

#[test]
fn calls_go_to_the_endpoint_for_sqs_else_to_the_general_one_else_to_the_queues_host() {
    let queue = ("QUEUE_URL", "http://sqs.us-east-1.localhost:4566/000000000000/q");
    let general = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1000");
    let of_sqs = ("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:2000/base");
    for (set, endpoint) in [
        (vec![queue], "http://sqs.us-east-1.localhost:4566/"),
        (vec![queue, general], "http://127.0.0.1:1000/"),
        (vec![queue, general, of_sqs], "http://127.0.0.1:2000/base"),
    ] {
        let config = config(&set);
        assert_eq!(config.sqs_endpoint.as_str(), endpoint);
        assert_eq!(config.queue_url, queue.1, "the queue's URL stays as it was given");
    }
    assert_eq!(
        faults(&[("AWS_ENDPOINT_URL", "localhost:4566")]),
        ["AWS_ENDPOINT_URL: is not an http or https URL; set one that starts with https://"]
    );
}

#[test]
fn the_edge_api_takes_a_base_url_and_a_key_that_fits_a_header() {
    let config = config(&[("EDGE_API_URL", "http://127.0.0.1:8080/base")]);
    assert_eq!(config.edge_api_url.as_str(), "http://127.0.0.1:8080/base");
    assert!(config.notices.is_empty());
    assert_eq!(
        notices(&[("EDGE_API_URL", "http://edge.example")]),
        ["EDGE_API_URL: is not https: SERVER_API_KEY travels unencrypted"]
    );
    assert_eq!(
        faults(&[("SERVER_API_KEY", "one\ntwo"), ("EDGE_API_URL", "https://u:p@edge.example")]),
        [
            "SERVER_API_KEY: the text contains white space, a control character or a character that is not ASCII; \
             copy it again",
            "EDGE_API_URL: holds a user, password, query or fragment; remove them, as they would show in the log",
        ]
    );
}

#[test]
fn a_queue_without_tls_is_reported_unless_it_is_on_this_machine() {
    let region = ("AWS_REGION", "us-east-1");
    let told = |name: &str| {
        format!("{name}: is not https: messages, and a session token if there is one, travel unencrypted")
    };
    let queue = ("QUEUE_URL", "http://sqs.internal:9324/1/q");
    assert_eq!(notices(&[queue, region]), [told("QUEUE_URL")]);
    let endpoint = ("AWS_ENDPOINT_URL_SQS", "http://10.0.0.1:9324");
    assert_eq!(notices(&[endpoint, region]), [told("AWS_ENDPOINT_URL_SQS")]);
    assert_eq!(notices(&[("QUEUE_URL", "http://127.0.0.1:9324/1/q"), region]), [""; 0]);
}
