//! `HTTPS_PROXY` and `NO_PROXY`; and calls that are not encrypted.

use url::Url;

use super::super::Proxy;
use super::{config, notices, settings};

fn proxy(value: &str) -> Proxy {
    config(&[("HTTPS_PROXY", value)]).proxy.unwrap()
}

#[test]
fn there_is_none_unless_one_is_set() {
    assert_eq!(config(&[]).proxy, None);
    assert_eq!(config(&[("HTTPS_PROXY", " ")]).proxy, None);
    assert_eq!(config(&[("NO_PROXY", "example.com")]).proxy, None);
}

#[test]
fn its_address_is_taken_with_and_without_scheme_and_port() {
    for (value, shown) in [
        ("http://proxy.internal:3128", "http://proxy.internal:3128"),
        ("http://proxy.internal:3128/", "http://proxy.internal:3128"),
        ("proxy.internal:3128", "http://proxy.internal:3128"),
        ("proxy.internal", "http://proxy.internal:80"),
        ("https://proxy.internal", "https://proxy.internal:443"),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
    ] {
        assert_eq!(proxy(value).address(), shown, "{value}");
    }
}

#[test]
fn user_and_password_are_never_shown() {
    let proxy = proxy("http://us%40er:p%2Fss%3Aw0rd@proxy.internal:3128");
    let login = proxy.of_ureq();
    assert_eq!(login.username().zip(login.password()), Some(("us@er", "p/ss:w0rd")));
    let shown = format!("{proxy:?} {}", proxy.address());
    for secret in ["us@er", "us%40er", "w0rd"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn what_is_no_http_proxy_is_a_notice_that_repeats_no_password() {
    for value in [
        "socks5://user:s3cret@proxy:1080",
        "socks5h://proxy:1080",
        "ftp://user:s3cret@proxy:21",
        "http://user:s3cret@proxy:3128/path",
        "http://user:s3/cret@proxy:3128",
        "http://user:s3?cret@proxy:3128",
        "http://user:s3cret@proxy:port",
        "http://user:s3 cret@proxy:3128",
        "http://",
        "proxy server:3128",
    ] {
        let config = config(&[("HTTPS_PROXY", value)]);
        assert_eq!(config.proxy, None, "{value}");
        let [notice] = config.notices.as_slice() else {
            panic!("{value}: {:?}", config.notices);
        };
        let begins =
            "HTTPS_PROXY: has no effect, https calls are made directly: set http://host:port or http://user:";
        assert!(notice.starts_with(begins) && notice.contains("SOCKS is not supported"), "{value}: {notice}");
        assert!(!notice.contains("s3"), "{notice}");
    }
}

#[test]
fn the_lower_case_names_are_taken_where_the_others_are_not_set() {
    let lower = config(&[("https_proxy", "lower:1"), ("no_proxy", "example.com")]);
    let proxy = lower.proxy.unwrap();
    assert_eq!(proxy.address(), "http://lower:1");
    assert!(!proxy.is_for(&Url::parse("https://example.com").unwrap()));

    let both = config(&[("https_proxy", "lower:1"), ("HTTPS_PROXY", "upper:2")]);
    assert_eq!(both.proxy.unwrap().address(), "http://upper:2");

    let environment = [
        ("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/q"),
        ("SERVER_API_KEY", "k"),
        ("REDIS_HOST", "r"),
        ("https_proxy", "lower:1"),
    ];
    let flag = settings(&["--https-proxy", "flag:3"], &environment);
    assert_eq!(flag.validate().unwrap().proxy.unwrap().address(), "http://flag:3");
}

#[test]
fn the_exceptions_are_names_with_all_below_them_addresses_ranges_and_ports() {
    for (no_proxy, called, without_proxy) in [
        ("example.com", "https://example.com/", true),
        ("example.com", "https://EXAMPLE.com./", true),
        ("example.com", "https://api.example.com:8443/", true),
        ("example.com", "https://notexample.com/", false),
        ("example.com", "https://example.com.evil.org/", false),
        (".example.com", "https://api.example.com/", true),
        (".example.com", "https://example.com/", true),
        ("*.example.com", "https://a.b.example.com/", true),
        ("*", "https://example.org/", true),
        ("a.org, Example.COM", "https://example.com/", true),
        ("a.org example.com", "https://example.com/", true),
        ("example.com:8443", "https://example.com:8443/", true),
        ("example.com:8443", "https://example.com/", false),
        ("example.com:443", "https://example.com/", true),
        ("10.0.0.0/8", "https://10.200.3.4/", true),
        ("10.0.0.0/8", "https://11.0.0.1/", false),
        ("10.0.0.0/8", "https://ten.example.com/", false),
        ("0.0.0.0/0", "https://11.0.0.1/", true),
        ("192.168.1.7", "https://192.168.1.7/", true),
        ("192.168.1.7", "https://192.168.1.70/", false),
        ("192.168.1.7:443", "https://192.168.1.7/", true),
        ("2.3", "https://10.1.2.3/", false),
        (".3", "https://10.1.2.3/", false),
        ("2.3", "https://v2.3.example/", false),
        ("fd00::/8", "https://[fdab::1]/", true),
        ("fd00::/8", "https://[fe80::1]/", false),
        ("::1", "https://[::1]/", true),
        ("[::1]:8443", "https://[::1]:8443/", true),
        ("", "https://example.org/", false),
    ] {
        let config = config(&[("HTTPS_PROXY", "proxy:3128"), ("NO_PROXY", no_proxy)]);
        let goes_through = config.proxy.unwrap().is_for(&Url::parse(called).unwrap());
        assert_eq!(goes_through, !without_proxy, "NO_PROXY={no_proxy}, {called}");
    }
}

#[test]
fn only_https_goes_through_the_proxy() {
    let proxy = proxy("proxy:3128");
    assert!(proxy.is_for(&Url::parse("https://example.org").unwrap()));
    assert!(!proxy.is_for(&Url::parse("http://example.org").unwrap()));
}

/// The log limits what one place repeats: forty notices hid those of the settings behind NO_PROXY.
#[test]
fn exceptions_that_are_not_understood_are_one_notice_however_many_they_are() {
    let values: Vec<String> = (0..40).map(|number| format!("10.0.{number}.*")).collect();
    let notices = notices(&[("HTTPS_PROXY", "proxy:3128"), ("NO_PROXY", &values.join(","))]);
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("10.0.5.*, …' is skipped; set"), "{notices:?}");
}

#[test]
fn an_exception_that_is_not_understood_is_skipped_with_a_notice() {
    let proxy = ("HTTPS_PROXY", "proxy:3128");
    let remedy =
        "is skipped; set names (example.com), addresses, ranges (10.0.0.0/8) or *, with commas in between";
    let values = "*.local, 169.254/16,10.0.0.0/33,https://x,example.com,a:b:c,<local>";
    let with_faults = config(&[proxy, ("NO_PROXY", values)]);
    let skipped = "'169.254/16, 10.0.0.0/33, https://x, a:b:c, <local>'";
    assert_eq!(with_faults.notices, [format!("NO_PROXY: {skipped} {remedy}")]);
    for direct in ["https://example.com", "https://printer.local"] {
        assert!(!with_faults.proxy.as_ref().unwrap().is_for(&Url::parse(direct).unwrap()));
    }
    assert!(notices(&[proxy, ("NO_PROXY", "localhost,.svc,.cluster.local,169.254.169.254")]).is_empty());
    assert!(notices(&[("NO_PROXY", values)]).is_empty(), "without a proxy it has no effect");
}

#[test]
fn what_travels_over_plain_http_is_one_notice_for_each_peer() {
    const QUEUE: (&str, &str) = ("QUEUE_URL", "http://sqs.us-east-1.amazonaws.com/1/q");
    let of_queue = "is not https: messages, and a session token if there is one, travel unencrypted";
    assert_eq!(notices(&[QUEUE]), [format!("QUEUE_URL: {of_queue}")]);
    assert_eq!(notices(&[("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9324"), QUEUE]), [""; 0]);
    assert_eq!(
        notices(&[("AWS_ENDPOINT_URL", "http://aws.example")]),
        [format!("AWS_ENDPOINT_URL: {of_queue}")]
    );

    let file = super::TestFile::new("identity-token", b"eyJ.eyJ.sig");
    let path = file.path();
    let role = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str()),
        ("AWS_ENDPOINT_URL_STS", "http://sts.example"),
    ];
    assert_eq!(
        notices(&role),
        ["AWS_ENDPOINT_URL_STS: is not https: the role's token and keys travel unencrypted"]
    );
    assert_eq!(notices(&[role[2]]), [""; 0], "nobody asks STS");
}
